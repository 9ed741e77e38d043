"""Draining in a real head with real engine doubles: no call fails."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest
from head_rig import HeadProcess, engine, node, running_head, until, workflow

from saga_core import wire

PROMPT = {"model": "m", "messages": [{"role": "user", "content": "hello " * 400}], "max_tokens": 4}


async def ask(head: HeadProcess, accepted: dict, **more: object) -> tuple[int, str, str]:
    """Status, worker and reason of one call."""
    url = accepted["base_url"] + "/chat/completions"
    headers = {"Authorization": f"Bearer {accepted['api_key']}"}
    async with head.http.post(url, json=PROMPT | more, headers=headers) as response:
        await response.read()
        said = response.headers
        return response.status, said.get("x-saga-worker", ""), said.get("x-saga-decision", "")


async def view(head: HeadProcess, name: str) -> dict:
    status, cluster = await head.call("GET", "/saga/v1/cluster")
    assert status == 200
    return next(n for n in cluster["nodes"] if n["id"] == name)


@pytest.mark.parametrize("profile", ["saga", "saga-paper"])
async def test_sessions_move_off_a_draining_node_and_no_call_fails(tmp_path: Path, profile: str) -> None:
    async with (
        running_head(tmp_path, {"profile": profile}) as head,
        engine() as one,
        engine() as two,
        node(head, one.url) as first,
        node(head, two.url, name="n2"),
    ):
        flows = [await workflow(head) for _ in range(6)]
        before = [await ask(head, flow) for flow in flows]
        assert {worker for _, worker, _ in before} == {"n1/0", "n2/0"}
        status, drained = await head.call(
            "POST", "/saga/v1/nodes/n1/drain", {"reason": "test", "remove": True}
        )
        assert (status, drained["duty"], drained["why"]) == (200, "draining", "test")
        after = [await ask(head, flow) for flow in flows]
        assert {(status, worker) for status, worker, _ in after} == {(200, "n2/0")}
        moved = [why for (_, was, _), (_, _, why) in zip(before, after, strict=True) if was == "n1/0"]
        assert moved
        assert all("its node drains: test" in why for why in moved), moved
        await until(lambda: first.saw(wire.Shutdown), "the empty node is told to end")
        await first.say(wire.Goodbye(node=first.id, incarnation=first.incarnation, reason="told to"))
        await until_async(lambda: _left(head, "n1"), "the node has left")


async def until_async(fact, what: str) -> None:
    for _ in range(400):
        if await fact():
            return
        await asyncio.sleep(0.02)
    raise AssertionError(what)


async def _left(head: HeadProcess, name: str) -> bool:
    return (await view(head, name))["state"] == "left"


async def test_a_drain_outlives_kill_9_of_the_head(tmp_path: Path) -> None:
    async with running_head(tmp_path) as head, engine() as one, engine() as two:
        async with node(head, one.url), node(head, two.url, name="n2"):
            await head.call("POST", "/saga/v1/nodes/n1/drain", {"reason": "disk"})
            journal = head.folder / "journal" / "journal-00000000.log"
            await until(lambda: b"NodeDraining" in journal.read_bytes(), "kept")
            await head.kill(signal.SIGKILL)
        await head.start()
        async with node(head, one.url), node(head, two.url, name="n2"):
            assert (await view(head, "n1"))["why"] == "disk"
            assert {(await ask(head, await workflow(head)))[1] for _ in range(3)} == {"n2/0"}
            status, again = await head.call("POST", "/saga/v1/nodes/n1/undrain")
            assert (status, again["duty"]) == (200, "active")
            assert (await ask(head, await workflow(head)))[1] == "n1/0"


async def test_mistakes_are_explained(tmp_path: Path) -> None:
    async with running_head(tmp_path) as head, engine() as one, node(head, one.url):
        for path, body, says in (
            ("n9/drain", {}, "unknown node 'n9' (have: n1)"),
            ("n1/drain", {"within_s": -1}, "out of range"),
            ("n1/drain", {"withn_s": 1}, "withn_s"),
            ("n1/undrain", {}, "node n1 does not drain"),
        ):
            status, answer = await head.call("POST", f"/saga/v1/nodes/{path}", body)
            assert (status, says in answer["error"]["message"]) == (400, True), answer
        status, answer = await head.call("POST", "/saga/v1/nodes/n1/drain", {"reason": "a\nb"})
        assert answer["why"] == "a?b", "it ends in a reply header"


async def test_a_cluster_that_is_taken_down_lets_workflows_end(tmp_path: Path) -> None:
    async with running_head(tmp_path) as head, engine() as one, node(head, one.url) as rig:
        flow = await workflow(head)
        assert (await head.call("POST", "/saga/v1/shutdown", {"drain": True, "within_s": 60}))[0] == 202

        async def closed() -> bool:
            return (await head.call("POST", "/saga/v1/workflows", {"kind": "replay"}))[0] == 503

        await until_async(closed, "new workflows are refused")
        headers = {"Authorization": f"Bearer {head.access.api_key}", "x-saga-workflow-id": "new"}
        url = head.access.url + "/v1/chat/completions"
        async with head.http.post(url, json=PROMPT, headers=headers) as response:
            assert response.status == 503
            assert "takes no new workflows" in (await response.json())["error"]["message"]
        assert (await ask(head, flow))[0] == 200, "the one that is there goes on"
        assert (await head.call("POST", f"/saga/v1/workflows/{flow['id']}/finish", {}))[0] == 200
        await until(lambda: rig.saw(wire.Shutdown), "then the nodes are told")
        await rig.say(wire.Goodbye(node=rig.id, incarnation=rig.incarnation))
        assert head.process is not None
        assert await asyncio.wait_for(head.process.wait(), 20) == 0
