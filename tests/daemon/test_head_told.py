"""What clients say, from the header to the fact, through a real head process and an engine double."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
from head_rig import HeadProcess, RigNode, running_head, until
from msgspec.structs import replace as changed

from saga_core.accounts import Account
from saga_core.events import StepArrived, StepFinished, WorkflowSubmitted
from saga_core.told import Told
from saga_fake.config import FakeConfig
from saga_fake.engine import EngineShape
from saga_fake.server import FakeServer
from saga_head import journal

TOOLS = [
    {"type": "function", "function": {"name": "bash", "parameters": {"type": "object", "properties": {}}}}
]
BODY = {"model": "m", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}


@pytest.fixture
async def head(tmp_path: Path) -> AsyncIterator[HeadProcess]:
    async with running_head(tmp_path, {"profile": "las"}) as found:
        yield found


def facts(head: HeadProcess) -> list[object]:
    path = max((head.folder / "journal").glob("journal-*.log"))
    return [fact for _, _, fact in journal.read(path)]


async def written(head: HeadProcess, steps: int) -> None:
    """The last 10 ms before a kill are not on the disk yet."""
    await until(
        lambda: sum(isinstance(fact, StepFinished) for fact in facts(head)) == steps,
        f"{steps} steps in the journal",
    )


async def step(head: HeadProcess, body: dict[str, object], **headers: str) -> tuple[int, dict]:
    """A call of workflow `k` of the cluster's own key."""
    said = {"authorization": f"Bearer {head.access.api_key}", "x-saga-workflow-id": "k"} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    url = f"{head.access.url}/v1/chat/completions"
    async with head.http.post(url, json=body, headers=said) as response:
        return response.status, await response.json()


async def test_what_is_said_is_kept_and_what_makes_no_sense_is_refused(
    head: HeadProcess, tmp_path: Path
) -> None:
    node = RigNode(head.access)
    shape = replace(EngineShape(), priority=True)
    async with FakeServer(FakeConfig(models=("m",), api_key="k", speed=100.0, shape=shape)) as engine:
        try:
            await node.serve(engine.url)
            node.workers = [changed(worker, ordered=True) for worker in node.workers]
            await node.report()
            status, answer = await step(head, BODY, x_saga_work_s="much")
            assert status == 400
            assert answer["error"]["code"] == "invalid_header"
            assert "x-saga-work-s: 'much' is not valid (valid: seconds above 0" in answer["error"]["message"]
            first = {"x_saga_work_s": "2.5", "x_saga_instance": "i-1", "x_saga_parent_session_id": "root"}
            assert (await step(head, BODY | {"tools": TOOLS, "priority": -9}, **first))[0] == 200
            assert (await step(head, BODY, x_saga_tool="bash"))[0] == 200
            await written(head, 2)
        finally:
            await node.close()
    arrived = [fact for fact in facts(head) if isinstance(fact, StepArrived)]
    assert len(arrived) == 2, "the refused one is not there"
    assert arrived[0].told == Told(work_s=2.5, instance="i-1")
    assert arrived[0].parent == "root"
    assert len(arrived[0].prefix) == 16
    assert (arrived[1].told, arrived[1].tool, arrived[1].prefix) == (None, "bash", ""), (
        "a prefix is made once"
    )


async def test_hints_in_dynamos_words_are_kept_as_far_as_the_tenant_may(head: HeadProcess) -> None:
    node = RigNode(head.access)
    hints = {"priority": 9, "osl": 40, "total_requests": 6, "speculative_prefill": True, "later": [1]}
    body = BODY | {"nvext": {"agent_hints": hints}}
    async with FakeServer(FakeConfig(models=("m",), api_key="k", speed=100.0)) as engine:
        try:
            await node.serve(engine.url)
            assert (await step(head, body, x_saga_workflow_id="a"))[0] == 200
            status, answer = await head.call("PATCH", "/saga/v1/tenants/default", {"priority": 3})
            assert (status, answer["priority"]) == (200, 3)
            assert (await step(head, body, x_saga_workflow_id="b"))[0] == 200
            assert (await step(head, body, x_saga_workflow_id="b"))[0] == 200
            assert (await step(head, body, x_saga_workflow_id="c", x_saga_priority="-2"))[0] == 200
            status, answer = await step(head, body, x_saga_workflow_id="d", x_saga_priority="4")
            assert (status, answer["error"]["code"]) == (400, "invalid_header")
            assert "-10 to 3" in answer["error"]["message"]
            await written(head, 4)
        finally:
            await node.close()
    arrived = [fact for fact in facts(head) if isinstance(fact, StepArrived)]
    assert [fact.told for fact in arrived] == [
        Told(steps=6),
        Told(steps=6, priority=3),
        None,
        Told(steps=6, priority=-2),
    ]
    assert {fact.expected_tokens for fact in arrived} == {40}


async def test_engines_that_do_not_listen_keep_their_profile(head: HeadProcess) -> None:
    node = RigNode(head.access)
    async with FakeServer(FakeConfig(models=("m",), api_key="k", speed=100.0)) as engine:
        try:
            await node.serve(engine.url)

            async def put(profile: str) -> tuple[int, dict]:
                return await head.call("PUT", "/saga/v1/profile", {"profile": profile})

            status, answer = await put("program-fcfs")
            assert status == 400
            assert "and n1/0 serve them as they come" in answer["error"]["message"]
            assert (await put("saga"))[0] == 200
            node.workers = [changed(worker, ordered=True) for worker in node.workers]
            await node.report()
            deadline = asyncio.get_running_loop().time() + 5
            while (await put("program-fcfs"))[0] != 200:
                assert asyncio.get_running_loop().time() < deadline
        finally:
            await node.close()


async def test_a_submission_says_it_too(head: HeadProcess) -> None:
    graph = [{"tool": "bash", "next": [[0, 0.5]]}]
    said = {"work_s": 3.0, "steps": 7, "instance": "i-2", "deadline_s": 60.0, "graph": graph}
    status, _ = await head.call("POST", "/saga/v1/workflows", {"kind": "replay", **said})
    assert status == 201
    (fact,) = [fact for fact in facts(head) if isinstance(fact, WorkflowSubmitted)]
    assert (fact.work_s, fact.steps, fact.instance, fact.deadline_s) == (3.0, 7, "i-2", 60.0)
    assert fact.graph[0].tool == "bash"
    for wrong, says in (
        ({"work_s": -1.0}, "work_s"), ({"steps": 1 << 40}, "steps"), ({"instance": "x" * 500}, "instance"),
        ({"graph": [{"next": [[5, 1.0]]}]}, "graph"), ({"deadline_s": 1e300}, "deadline_s"),
    ):  # fmt: skip
        status, answer = await head.call("POST", "/saga/v1/workflows", {"kind": "replay", **wrong})
        assert (status, says in json.dumps(answer)) == (400, True), answer


async def test_a_killed_head_knows_what_each_workflow_has_had(head: HeadProcess) -> None:
    """Twice, the second time from what the first recovery has gone on with."""
    node = RigNode(head.access)
    async with FakeServer(FakeConfig(models=("m",), api_key="k", speed=100.0)) as engine:
        try:
            await node.serve(engine.url)
            for _ in range(3):
                assert (await step(head, BODY))[0] == 200
            await written(head, 3)
            await head.kill()
        finally:
            await node.close()
        first = recovered(head)
        assert (first.steps, first.account.attained_s > 0.0) == (3, True)
        await head.start()
        node = RigNode(head.access)
        try:
            await node.serve(engine.url)
            assert (await step(head, BODY))[0] == 200
            await written(head, 4)
            await head.kill()
        finally:
            await node.close()
    second = recovered(head)
    assert second.steps == 4
    assert second.account.attained_s > first.account.attained_s
    assert second.account.born_v == first.account.born_v
    assert second.learned == 4, "the learner goes on where it was"


class Recovered(NamedTuple):
    """What a head would start with."""

    steps: int
    account: Account
    learned: int


def recovered(head: HeadProcess) -> Recovered:
    found = journal.Journal(head.folder / "journal")
    try:
        book = found.recover("las")
    finally:
        found.close()
    (workflow,) = book.workflows.values()
    account = book.accounts.of(workflow.id)
    assert account is not None
    book.accounts.check()
    return Recovered(workflow.steps, account, book.accounts.learner.memory.live[workflow.id].steps)
