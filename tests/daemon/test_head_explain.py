"""The gate as a person sees it: a head process, an engine double with a tiny pool, sessions held, paused and resumed."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest
from head_rig import DEADLINE_S, HeadProcess, RigNode, running_head

from saga_core.aeg import Kind
from saga_core.config import Config
from saga_core.explanation import Explanation
from saga_core.head import Head
from saga_core.views import ClusterView
from saga_fake.config import FakeConfig
from saga_fake.server import FakeServer
from saga_head.metrics import Metrics

POOL_TOKENS = 1000
SETTINGS: dict[str, object] = {
    "profile": "saga-blind",
    "admission.low": 0.95,
    "admission.high": 1.0,
    "admission.reserve_tokens": 0,
    "admission.half_life_s": 3600.0,
    "admission.adaptive": False,
}


@dataclass
class Agents:
    """Workflows of one session each, asking for prompts of so many words."""

    head: HeadProcess
    accepted: list[dict] = field(default_factory=list)

    async def start(self) -> int:
        _, accepted = await self.head.call(
            "POST", "/saga/v1/workflows", {"kind": "replay", "agent_type": "a"}
        )
        self.accepted.append(accepted)
        return accepted["id"]

    async def ask(self, number: int, words: int) -> dict[str, str]:
        """The reply's headers, once it is here. No two workflows have a prefix in common."""
        accepted = self.accepted[number - 1]
        body = {"model": "m", "prompt": f"wor{number} " * words, "max_tokens": 2}
        key = {"Authorization": f"Bearer {accepted['api_key']}"}
        async with self.head.http.post(
            accepted["base_url"] + "/completions", json=body, headers=key
        ) as answer:
            assert answer.status == 200, await answer.text()
            await answer.read()
            return {name.lower(): value for name, value in answer.headers.items()}

    async def finish(self, number: int) -> None:
        await self.head.call("POST", f"/saga/v1/workflows/{number}/finish", {"state": "done"})

    async def explain(self, path: str) -> Explanation:
        status, found = await self.head.call("GET", f"/saga/v1/{path}/explanation")
        assert status == 200, found
        return msgspec.convert(found, Explanation)

    async def verdicts(self, number: int) -> list[str]:
        return [made.verdict for made in (await self.explain(f"workflows/{number}")).decisions]

    async def until_verdicts(self, number: int, *wanted: str) -> None:
        """Wait until these were decided about the workflow."""
        async with asyncio.timeout(DEADLINE_S):
            while await self.verdicts(number) != list(wanted):
                await asyncio.sleep(0.02)

    async def cluster(self) -> ClusterView:
        return msgspec.convert((await self.head.call("GET", "/saga/v1/cluster"))[1], ClusterView)

    async def metric(self, name: str) -> float:
        async with self.head.http.get(self.head.access.url + "/metrics") as answer:
            text = await answer.text()
        found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
        assert found is not None, f"no {name} in\n{text}"
        return float(found[1])


@pytest.fixture
async def agents(tmp_path: Path) -> AsyncIterator[Agents]:
    engine = FakeServer(FakeConfig(models=("m",), api_key="k", speed=100.0))
    async with running_head(tmp_path, SETTINGS) as head, engine:
        node = RigNode(head.access)
        await node.serve(engine.url)
        node.workers = [msgspec.structs.replace(w, capacity_tokens=POOL_TOKENS) for w in node.workers]
        await node.report()
        reports = asyncio.create_task(node.reporting())
        found = Agents(head)
        async with asyncio.timeout(DEADLINE_S):
            while (await found.cluster()).workers[0].capacity_tokens != POOL_TOKENS:
                await asyncio.sleep(0.02)
        yield found
        reports.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await reports
        await node.close()


async def test_sessions_are_held_paused_and_resumed_and_everybody_can_see_it(agents: Agents) -> None:
    two, one, three = [await agents.start() for _ in range(3)]
    await agents.ask(one, 600)
    await agents.ask(two, 200)
    paused = asyncio.create_task(agents.ask(two, 500))  # some 1,100 of 1,000 tokens: the earlier one waits
    await agents.until_verdicts(two, "let in", "paused", "held")
    held = asyncio.create_task(agents.ask(three, 700))
    await agents.until_verdicts(three, "held")

    await _all_is_shown(agents, one, two, three)

    await agents.finish(one)
    headers = await paused
    assert headers["x-saga-decision"].startswith("resumed at home after ")
    assert not held.done()
    await agents.finish(two)
    await held
    assert (await agents.verdicts(three)) == ["held", "let in"]
    assert await agents.metric('saga_gate_sessions_held{model="m"}') == 0
    assert await agents.metric('saga_gate_sessions_paused{model="m"}') == 0
    assert await agents.metric('saga_decisions_total{verdict="resumed"}') == 1
    assert await agents.verdicts(two) == ["let in", "paused", "held", "resumed"], "also when it is over"
    assert (await agents.explain(f"workflows/{two}")).account is None


async def _all_is_shown(agents: Agents, one: int, two: int, three: int) -> None:
    """While one is paused and one is held: in the explanation, the views and the metrics."""
    told = await agents.explain(f"workflows/{two}")
    assert (told.profile, told.order) == ("saga-blind", "newest")
    pause, hold = told.decisions[1:]
    assert "above 1; without it 60" in pause.why
    assert "left below 0.95; 0 smaller keys before it" in hold.why
    assert hold.otherwise.startswith("at once under sticky: live contexts would need 1,")
    (session,) = told.sessions
    assert (session.gate, session.ahead, session.returns_s) == ("paused", 0, None)
    assert session.waits_s is not None
    assert session.waits_s >= 0.0
    assert told.account is not None
    assert told.account.attained_s > 0.0
    assert told.account.total.mean >= told.account.attained_s
    assert told.account.remaining.low <= told.account.remaining.mean
    step = await agents.explain(f"steps/{hold.step}")
    assert [made.verdict for made in step.decisions] == ["held"]
    assert step.workflow is not None
    assert step.workflow.id == two

    (inside,) = (await agents.explain(f"workflows/{one}")).sessions
    assert (inside.gate, inside.ahead, inside.waits_s) == ("in", None, None)
    assert inside.returns_s is not None

    (other,) = (await agents.explain(f"workflows/{three}")).sessions
    assert (other.gate, other.ahead) == ("held", 0), "the newest"

    view = await agents.cluster()
    assert (view.totals.steps_held, view.totals.sessions_held, view.totals.sessions_paused) == (2, 2, 1)
    (worker,) = view.workers
    assert (worker.limit_tokens, worker.factor) == (POOL_TOKENS, 1.0)
    assert worker.need_tokens is not None
    assert 590 <= worker.need_tokens <= 620
    assert (worker.live_sessions, worker.held_sessions) == (1, 1)
    rows = {row.id: row for row in view.workflows}
    assert rows[two].paused == 1
    assert rows[two].held_s is not None
    assert rows[three].paused == 0
    assert rows[three].held_s is not None
    assert rows[one].held_s is None

    assert await agents.metric('saga_gate_steps_held{model="m"}') == 2
    assert await agents.metric('saga_gate_sessions_paused{model="m"}') == 1
    assert await agents.metric('saga_decisions_total{verdict="paused"}') == 1
    assert await agents.metric('saga_worker_limit_tokens{model="m",worker="n1/0"}') == POOL_TOKENS
    assert await agents.metric('saga_worker_limit_factor{model="m",worker="n1/0"}') == 1.0
    assert await agents.metric('saga_virtual_seconds_total{model="m"}') > 0.0
    assert await agents.metric("saga_fairness_violations_total") == 0.0


def test_predictions_are_measured_over_all_agent_types_with_bounded_labels() -> None:
    head = Head(Config())
    learner = head.accounts.learner
    for number in range(1, 9):
        learner.began(number, Kind("t", f"agent-{number % 2}"))
        for step in range(6):
            learner.returned(number, "main", at=10.0 * step + 2.0)
            learner.stepped(
                number, "main", at=10.0 * step, work_s=1.0, prompt_tokens=100, output_tokens=10, tool="bash"
            )
        learner.ended(number, complete=True)
    text = Metrics(head).text().decode()
    assert re.search(r'^saga_predictions{what="next tool"} 48.0$', text, re.MULTILINE)
    right = re.search(r'^saga_prediction_within{what="next tool"} (\S+)$', text, re.MULTILINE)
    assert right is not None
    assert float(right[1]) > 0.9
    assert "agent-1" not in text, "names of strangers are no labels"
    for name in ("saga_prediction_error", "saga_prediction_rule_error"):
        for what in ("return", "work at 0%", "next tool"):
            assert f'{name}{{what="{what}"}}' in text


async def test_only_the_admin_may_ask_why(agents: Agents) -> None:
    number = await agents.start()
    await agents.ask(number, 10)
    key = agents.head.access.api_key
    for path in (f"workflows/{number}/explanation", "steps/1/explanation"):
        for bearer in (key, agents.accepted[0]["api_key"], ""):
            status, body = await agents.head.call("GET", f"/saga/v1/{path}", key=bearer)
            assert status == 401, path
            assert "admin key" in body["error"]["message"]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("workflows/99/explanation", "no workflow 99 is known"),
        ("workflows/x/explanation", "no workflow x is known"),
        ("steps/99/explanation", "nothing is known of step '99'"),
        ("steps/x/explanation", "nothing is known of step 'x'"),
        (f"steps/{'9' * 400}/explanation", "nothing is known of step '999"),
    ],
)
async def test_unknown_ids_are_explained(agents: Agents, path: str, words: str) -> None:
    status, body = await agents.head.call("GET", f"/saga/v1/{path}")
    assert status == 404
    assert words in body["error"]["message"]
