"""Views as a head would show them, with names that try to do harm."""

from __future__ import annotations

import msgspec

from saga_core.access import Access
from saga_core.aeg.scores import Score
from saga_core.explanation import (
    AccountView,
    CandidateView,
    DecisionView,
    EstimateView,
    Explanation,
    ForecastView,
)
from saga_core.views import (
    ClusterView,
    NodeView,
    SessionView,
    Totals,
    WorkerView,
    WorkflowView,
)

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

HELD = msgspec.structs.replace(
    WORKFLOWS[0],
    held_s=192.0,
    paused=1,
    priority=5,
    sessions=[
        msgspec.structs.replace(SESSIONS[0], state="queued", gate="paused", waits_s=192.0),
        msgspec.structs.replace(SESSIONS[1], gate="in"),
    ],
)
PAUSED = msgspec.structs.replace(WORKFLOWS[0], id=5, state="tool", paused=1)
GATED = msgspec.structs.replace(
    CLUSTER,
    profile="saga",
    workers=[
        msgspec.structs.replace(
            WORKERS[0], need_tokens=38_200, limit_tokens=37_683, factor=1.15, live_sessions=7, held_sessions=2
        ),
        msgspec.structs.replace(WORKERS[0], id="local/1", need_tokens=900, factor=1.0, live_sessions=1),
    ],
    totals=msgspec.structs.replace(TOTALS, steps_held=4, sessions_held=3, sessions_paused=2),
    workflows=[HELD, PAUSED],
)
"""A cluster whose profile counts memory, with somebody waiting."""


def estimate(
    mean: float, low: float, high: float, source: str = "program", samples: int = 212
) -> EstimateView:
    return EstimateView(mean=mean, low=low, high=high, source=source, samples=samples)


EXPLANATION = Explanation(
    profile="saga", order="least left newest first", workflow=HELD,
    decisions=[
        DecisionView(
            at=NOW - 400, since_at=NOW - 520, times=7, verdict="placed", session="1.main", step=41, worker="local/0",
            why="home: 8,192 of its 9,200 tokens are there",
            otherwise="re-prefill elsewhere 8.1 s > queue 2.3 s (5 wait here)", key=0.0,
        ),
        DecisionView(
            at=NOW - 300, since_at=NOW - 300, times=1, verdict="paused", session="1.main", step=None, worker="local/0",
            why="local/0 needs 38,200 of 37,683 tokens, above 1; without it 27,000; largest key of 5 that compute nothing",
            otherwise="all on local/0 would compute again what others evict; coming back costs it at most 8.1 s", key=147.4,
        ),
        DecisionView(
            at=NOW - 192, since_at=NOW - 192, times=1, verdict="held", session="1.\x1b[2Jevil", step=48, worker="local/0",
            why="needs 11,200 tokens, local/0 has 3,100 of 37,683 left below 0.95; 3 smaller keys before it",
            otherwise="at once under sticky: live contexts would need 41,000 of 37,683", key=147.4,
            candidates=[CandidateView(worker="local/0", score=0.94), CandidateView(worker="local/1", score=1.01)],
        ),
    ],
    account=AccountView(
        weight=1.0, attained_s=12.3, born_s=102.4, virtual_s=131.0, finish_s=147.4,
        total=estimate(45.0, 20.1, 98.0), remaining=estimate(32.7, 7.8, 85.7), steps=estimate(14.2, 4.0, 31.0),
    ),
    sessions=[
        ForecastView(
            id="1.main", gate="paused", waits_s=192.0, key=147.4, ahead=3, needs_tokens=11_200, next_tool="bash",
            next_tool_probability=0.83, returns_s=None, growth_tokens=estimate(700, 100, 4000),
            output_tokens=estimate(160, 40, 900), end_probability=0.04,
        ),
        ForecastView(
            id="1.reviewer", gate="in", waits_s=None, key=1_800_000_123.4, ahead=None, needs_tokens=2800, next_tool="-",
            next_tool_probability=0.6, returns_s=estimate(4.2, 0.8, 21.0), growth_tokens=estimate(700, 100, 4000),
            output_tokens=estimate(160, 40, 900), end_probability=0.31,
        ),
    ],
    scores=[
        Score(what="next tool", count=4100, error=0.08, rule_error=0.31, within=0.92),
        Score(what="work at 25%", count=212, error=0.41, rule_error=0.63, within=0.78),
    ],
)  # fmt: skip
STEP = Explanation(
    profile="saga", order="least left newest first", step=48,
    decisions=[
        DecisionView(
            at=NOW - 2, since_at=NOW - 2, times=1, verdict="let in", session="step-48", step=48, worker="local/1",
            why="needs 2,400 tokens, local/1 has 30,000 of 32,768 left below 0.95", otherwise="", key=0.0,
        ),
    ],
)  # fmt: skip
"""A step of no workflow."""

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
