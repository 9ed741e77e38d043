"""What a cluster of real daemons survives: killed and hanging nodes, killed and hanging workers. No call fails."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
from head_rig import HeadProcess, running_head
from node_kit import NodeProcess, short_folder

NOTICED_S = 5.0
"""Within which the head knows of a dead node (docs/architecture.md)."""
SETTINGS: dict[str, object] = {
    "profile": "saga", "workers.engine": "fake", "workers.model": "m", "workers.max_model_len": 4096,
    "workers.kv_tokens": 8192, "node.probe_every_s": 0.2, "node.head_timeout_s": 1.0, "node.backoff_s": 0.2,
    "node.stall_s": 1.5,
}  # fmt: skip
PROMPT = {"model": "m", "messages": [{"role": "user", "content": "hello " * 200}], "max_tokens": 4}


class Cluster:
    """A head and two nodes of one worker each, all of them processes."""

    def __init__(self, head: HeadProcess, nodes: dict[str, NodeProcess]) -> None:
        self.head, self.nodes = head, nodes

    async def view(self) -> dict:
        status, view = await self.head.call("GET", "/saga/v1/cluster")
        assert status == 200
        return view

    async def until(self, what: str, fact, deadline_s: float = 30.0) -> float:
        """Wait until `fact` holds of the view; how long that took."""
        began = time.monotonic()
        while not fact(view := await self.view()):
            assert time.monotonic() < began + deadline_s, (what, view["nodes"], view["workers"])
            await asyncio.sleep(0.05)
        return time.monotonic() - began

    async def node_is(self, name: str, state: str, deadline_s: float = 30.0) -> float:
        found = lambda v: any(n["id"] == name and n["state"] == state for n in v["nodes"])  # noqa: E731
        return await self.until(f"{name} {state}", found, deadline_s)

    async def ready(self, count: int = 2) -> None:
        await self.until("ready", lambda v: sum(w["state"] == "ready" for w in v["workers"]) == count)

    async def incarnation(self, worker: str) -> int:
        return next(w["incarnation"] for w in (await self.view())["workers"] if w["id"] == worker)

    async def workflow(self) -> dict:
        status, accepted = await self.head.call("POST", "/saga/v1/workflows", {"kind": "replay"})
        assert status == 201
        return accepted

    async def step(self, flow: dict) -> str:
        """One call, which may not fail; the worker that served it."""
        url, headers = flow["base_url"] + "/chat/completions", {"Authorization": f"Bearer {flow['api_key']}"}
        async with self.head.http.post(url, json=PROMPT, headers=headers) as response:
            text = await response.text()
            assert response.status == 200, text
            return response.headers["x-saga-worker"]

    async def at(self, worker: str) -> dict:
        """A workflow that lives there."""
        for _ in range(20):
            flow = await self.workflow()
            if await self.step(flow) == worker:
                return flow
        raise AssertionError(f"nobody is let in at {worker}")

    def engine(self, node: str) -> psutil.Process:
        """The process of the node's worker."""
        for pid in self.nodes[node].living():
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(pid)
                if "saga_fake" in process.cmdline():
                    return process
        raise AssertionError(f"no engine at {node}")

    async def misbehave(self, node: str, mode: str) -> None:
        engine = self.engine(node)
        line = engine.cmdline()
        port, key = line[line.index("--port") + 1], engine.environ()["VLLM_API_KEY"]
        host = line[line.index("--host") + 1]
        headers = {"Authorization": f"Bearer {key}"}
        url = f"http://{host}:{port}/fake/mode"
        async with self.head.http.post(url, json={"mode": mode}, headers=headers) as response:
            assert response.status == 200


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    folder = tmp_path / "cluster"
    folder.mkdir()
    with contextlib.ExitStack() as stack:
        nodes = {
            name: NodeProcess(folder, stack.enter_context(short_folder()), name) for name in ("n1", "n2")
        }
        async with running_head(folder, SETTINGS) as head:
            try:
                for node in nodes.values():
                    await node.start()
                found = Cluster(head, nodes)
                await found.ready()
                yield found
            except BaseException:
                for node in nodes.values():
                    sys.stderr.write(node.log)
                raise
            finally:
                for node in nodes.values():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(node.process.pid, signal.SIGCONT)
                    await node.clean()


async def test_a_killed_node_daemon_is_noticed_and_its_sessions_go_elsewhere(cluster: Cluster) -> None:
    flow = await cluster.at("n1/0")
    cluster.nodes["n1"].process.kill()
    noticed_s = await cluster.node_is("n1", "lost")
    assert noticed_s < NOTICED_S
    assert await cluster.step(flow) == "n2/0"
    before = next(n["incarnation"] for n in (await cluster.view())["nodes"] if n["id"] == "n1")
    await cluster.nodes["n1"].process.wait()
    await cluster.nodes["n1"].start()
    await cluster.ready()
    view = await cluster.view()
    after = next(n for n in view["nodes"] if n["id"] == "n1")
    assert (after["state"], after["incarnation"] > before) == ("up", True), "it takes its name over"
    assert await cluster.step(flow)


async def test_a_hanging_node_daemon_is_lost_and_found_again(cluster: Cluster) -> None:
    flow = await cluster.at("n1/0")
    os.kill(cluster.nodes["n1"].process.pid, signal.SIGSTOP)
    assert await cluster.node_is("n1", "lost") < NOTICED_S
    assert await cluster.step(flow) == "n2/0"
    incarnation = await cluster.incarnation("n1/0")
    os.kill(cluster.nodes["n1"].process.pid, signal.SIGCONT)
    await cluster.node_is("n1", "up")
    await cluster.ready()
    assert await cluster.incarnation("n1/0") == incarnation, "its worker was never gone"


async def test_a_killed_worker_is_started_again(cluster: Cluster) -> None:
    flow = await cluster.at("n1/0")
    before = await cluster.incarnation("n1/0")
    cluster.engine("n1").kill()
    assert await cluster.step(flow), "elsewhere, or at its successor"
    again = lambda v: any(  # noqa: E731
        w["id"] == "n1/0" and w["state"] == "ready" and w["incarnation"] > before for w in v["workers"]
    )
    await cluster.until("n1/0 again", again)


async def test_an_engine_that_hangs_behind_a_server_that_answers_is_killed(cluster: Cluster) -> None:
    """Its step has given no byte, so it goes elsewhere, and the client sees nothing but the time."""
    flow = await cluster.at("n1/0")
    before = await cluster.incarnation("n1/0")
    await cluster.misbehave("n1", "stall")
    assert await cluster.step(flow) == "n2/0"
    again = lambda v: any(  # noqa: E731
        w["id"] == "n1/0" and w["state"] == "ready" and w["incarnation"] > before for w in v["workers"]
    )
    await cluster.until("n1/0 again", again)
    assert "it hangs: 1 requests, nothing done for 1.5 s" in cluster.nodes["n1"].log


def notice(node: NodeProcess) -> None:
    """As Slurm's --signal or a preemption sends it: to every process of the step."""
    daemon = psutil.Process(node.process.pid)
    for process in (daemon, *daemon.children(recursive=True)):
        process.send_signal(signal.SIGUSR1)


async def test_a_notice_drains_a_node_and_its_end_costs_no_call(cluster: Cluster) -> None:
    """Sessions are away before the machine is, and what serves them does not die of it."""
    flow = await cluster.at("n1/0")
    before = await cluster.view()
    notice(cluster.nodes["n1"])
    await cluster.until(
        "drains", lambda v: any(n["id"] == "n1" and n["duty"] != "active" for n in v["nodes"])
    )
    assert await cluster.step(flow) == "n2/0"
    await cluster.until("drained", lambda v: any(n["duty"] == "drained" for n in v["nodes"]))
    after = {w["id"]: (w["incarnation"], w["state"]) for w in (await cluster.view())["workers"]}
    assert after == {w["id"]: (w["incarnation"], "ready") for w in before["workers"]}
    view = next(n for n in (await cluster.view())["nodes"] if n["id"] == "n1")
    assert view["why"].startswith("its wall time ends in ")
    assert 0 < view["end_s"] <= 60
    assert await cluster.nodes["n1"].stop() == 0
    await cluster.node_is("n1", "left")
    assert await cluster.step(flow) == "n2/0"


async def test_a_successor_takes_over_before_its_predecessor_ends(cluster: Cluster) -> None:
    """As two chained allocations: alone, the one that ends goes on serving; then its sessions go over."""
    assert await cluster.nodes["n2"].stop() == 0
    await cluster.node_is("n2", "left")
    flow = await cluster.at("n1/0")
    notice(cluster.nodes["n1"])
    await cluster.until(
        "drains", lambda v: any(n["id"] == "n1" and n["duty"] == "draining" for n in v["nodes"])
    )
    assert await cluster.step(flow) == "n1/0", "there is no other"
    assert await cluster.step(await cluster.workflow()) == "n1/0", "nor for who is new"
    await cluster.nodes["n2"].start()
    await cluster.ready()
    assert await cluster.step(flow) == "n2/0"
    await cluster.until(
        "drained", lambda v: any(n["id"] == "n1" and n["duty"] == "drained" for n in v["nodes"])
    )
    assert await cluster.nodes["n1"].stop() == 0
    assert await cluster.step(flow) == "n2/0"


async def test_a_removed_node_ends_by_itself_and_can_come_again(cluster: Cluster) -> None:
    flow = await cluster.at("n1/0")
    status, _ = await cluster.head.call("POST", "/saga/v1/nodes/n1/drain", {"remove": True})
    assert status == 200
    assert await cluster.step(flow) == "n2/0"
    assert await asyncio.wait_for(cluster.nodes["n1"].process.wait(), 30) == 0
    await cluster.node_is("n1", "left")
    status, gone = await cluster.head.call("POST", "/saga/v1/nodes/n1/drain", {"remove": True})
    assert (status, gone) == (200, None)
    assert [n["id"] for n in (await cluster.view())["nodes"]] == ["n2"], "forgotten"
    await cluster.nodes["n1"].start()
    await cluster.ready()
    assert await cluster.at("n1/0")


async def test_usage_and_backlog_are_told(cluster: Cluster) -> None:
    flow = await cluster.workflow()
    await cluster.step(flow)
    status, usage = await cluster.head.call("GET", "/saga/v1/usage?since=0")
    assert status == 200
    assert [t["tenant"] for t in usage["tenants"]] == ["default"]
    assert 0 < usage["tenants"][0]["gpu_s"] == pytest.approx(usage["workflows"][0]["gpu_s"])
    assert usage["workflows"][0]["id"] == flow["id"]
    status, error = await cluster.head.call("GET", "/saga/v1/usage?since=yesterday")
    assert (status, "is no time" in error["error"]["message"]) == (400, True)
    view = await cluster.view()
    assert [(b["model"], b["ready"], b["wanted"]) for b in view["backlog"]] == [("m", 2, 1)]
    await cluster.until("idle", lambda v: v["idle_s"] is not None)
    async with cluster.head.http.get(cluster.head.access.url + "/metrics") as response:
        lines = (await response.text()).splitlines()
    assert 'saga_workers_wanted{model="m"} 1.0' in lines
    assert 'saga_workers_ready{model="m"} 2.0' in lines
