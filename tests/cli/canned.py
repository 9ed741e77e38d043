"""Views as a head would show them, with names that try to do harm."""

from __future__ import annotations

from saga_core.access import Access
from saga_core.views import ClusterView, NodeView, SessionView, Totals, WorkerView, WorkflowView

NOW = 1_800_000_000.0

NODES = [
    NodeView(
        id="local",
        state="up",
        host="login-node-with-a-long-name.cluster.example.org",
        incarnation=3,
        seen_s=0.4,
        programs=2,
    ),
    NodeView(id="gpu017", state="lost", host="gpu017", incarnation=1, seen_s=12.0, programs=0, end_s=5400.0),
]

WORKERS = [
    WorkerView(
        id="local/0", node="local", state="ready", model="agent", incarnation=5, load=0.62, kv_usage=0.35,
        resident_tokens=24_000, capacity_tokens=32_768, running=3, waiting=1, steps_done=1234,
    ),
    WorkerView(
        id="local/1", node="local", state="lost", model="agent", incarnation=6, load=0.0, kv_usage=0.0,
        resident_tokens=0, capacity_tokens=0, running=0, waiting=0, steps_done=0, reason="killed by signal 9",
    ),
]  # fmt: skip


def workflow(number: int, state: str, **changes) -> WorkflowView:
    values = {
        "name": "agent.py", "tenant": "default", "agent_type": "agent.py", "kind": "program",
        "submitted_at": NOW - 192, "started_at": NOW - 190.5, "ended_at": None, "steps": 12, "running_steps": 1,
        "home": "local/0", "prompt_tokens": 84_200, "cached_tokens": 60_000, "output_tokens": 3100, "tct_s": None,
    } | changes  # fmt: skip
    return WorkflowView(id=number, state=state, **values)


SESSIONS = [
    SessionView(
        id="1.main", state="reasoning", home="local/0", steps=11, context_tokens=9200, resident_tokens=8192
    ),
    SessionView(id="1.reviewer", state="tool", home=None, steps=1, context_tokens=800, resident_tokens=0),
]

WORKFLOWS = [
    workflow(1, "running", sessions=SESSIONS),
    workflow(
        2, "done", kind="replay", name="django__django-11099/with-a-very-long-instance-name-indeed",
        agent_type="swe-agent", ended_at=NOW - 100, tct_s=92.0, running_steps=0,
    ),
    workflow(
        3, "failed", name="\x1b[2Jevil\nname", ended_at=NOW - 50, tct_s=142.0, running_steps=0, exit_code=3,
        reason="exit code 3", cached_tokens=0, prompt_tokens=0, output_tokens=0, steps=0, home=None,
    ),
    workflow(4, "accepted", name="", agent_type="", started_at=None, steps=0, running_steps=0, home=None,
             prompt_tokens=0, cached_tokens=0, output_tokens=0, submitted_at=NOW - 3),
]  # fmt: skip

TOTALS = Totals(
    workflows={"accepted": 1, "running": 1, "done": 1, "failed": 1, "cancelled": 0}, steps_done=24,
    steps_refused=1, steps_waiting=2, prompt_tokens=168_400, cached_tokens=120_000, output_tokens=6200,
    stale_messages=0,
)  # fmt: skip

CLUSTER = ClusterView(
    name="saga-test", version="0.1.0", profile="saga-paper", url="http://127.0.0.1:8000", up_s=3725.0,
    models=["agent"], nodes=NODES, workers=WORKERS, totals=TOTALS, workflows=WORKFLOWS,
)  # fmt: skip

EMPTY = ClusterView(
    name="saga-test", version="0.1.0", profile="saga-paper", url="http://127.0.0.1:8000", up_s=0.3, models=[],
    nodes=[], workers=[], workflows=[],
    totals=Totals(workflows={}, steps_done=0, steps_refused=0, steps_waiting=0, prompt_tokens=0, cached_tokens=0,
                  output_tokens=0, stale_messages=0),
)  # fmt: skip


def access_of(url: str, admin_key: str) -> Access:
    return Access(
        name="saga-test", pid=1, host="here", started_at=NOW - 3725, url=url, api_key="sk-tenant-test",
        admin_key=admin_key, control="tcp://127.0.0.1:1", head_public="p", node_public="n", node_secret="s",
    )  # fmt: skip
