"""Sessions' KV on its way between engines, by real daemons: it arrives, a drained session finds it, and nothing is left."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from head_rig import HeadProcess, running_head
from node_kit import NodeProcess, StrawHead, complete, short_folder, started, until

from saga_core import wire
from saga_core.access import MOVING
from saga_head import leftovers
from saga_node.mover import SHARED_MEMORY

SETTINGS: dict[str, object] = {
    "workers.engine": "fake", "workers.model": "m", "workers.max_model_len": 4096, "workers.kv_tokens": 16384,
    "migration.patience_s": 20.0,
}  # fmt: skip
VLLM = {"workers.engine": "vllm", "workers.model": "nano", "workers.max_model_len": 8000}
TEXT = "".join(f"{n} is not {n + 1}. " for n in range(200))


def in_memory() -> set[Path]:
    return set(SHARED_MEMORY.glob(f"saga-kv-{os.getuid()}-*"))


def files(folder: Path) -> list[Path]:
    """Of moves, in the cluster folder and in shared memory."""
    return [p for top in (folder / MOVING, *in_memory()) for p in top.rglob("*") if p.is_file()]


# -- one daemon ------------------------------------------------------------------------------


@pytest.fixture
async def head():
    with short_folder() as folder:
        async with StrawHead(folder / "c") as found:
            (folder / "run").mkdir()
            yield found


@pytest.fixture
def runtime(head):
    return head.folder.parent / "run"


def half(which, head, worker, move=1, other="n1", session="1.main"):
    return wire.MoveHalf(
        head=head.number, move=move, half=which, worker=worker.worker, incarnation=worker.incarnation,
        session=session, other=other,
    )  # fmt: skip


export, adopt = (partial(half, which) for which in wire.Half)


async def said(head, which, move=1):
    def found():
        heard = (m for m in head.heard if isinstance(m, wire.HalfMoved))
        return next((m for m in heard if (m.move, m.half) == (move, which)), None)

    return await until(found, f"{which} of move {move}")


async def test_it_moves_between_two_workers_of_a_node_in_shared_memory(head, runtime):
    before = in_memory()
    async with started(head, runtime, **SETTINGS | {"workers.count": 2}) as node:
        old, new = await head.ready("n1/0"), await head.ready("n1/1")
        assert old.kv_token_bytes == new.kv_token_bytes > 0
        await complete(old, "1.main", TEXT)
        await head.send("n1", export(head, old))
        sent = await said(head, wire.Half.EXPORT)
        assert (sent.reason, sent.tokens > 200) == ("", True)
        (file,) = files(head.folder)
        assert file.stat().st_mode & 0o777 == 0o600
        assert file.parent.stat().st_mode & 0o777 == 0o700
        assert file.parent in in_memory() - before
        await head.send("n1", adopt(head, new))
        taken = await said(head, wire.Half.ADOPT)
        assert (taken.reason, taken.tokens) == ("", sent.tokens)
        found = (await complete(new, "1.main", TEXT))["usage"]["prompt_tokens_details"]
        assert found["cached_tokens"] >= sent.tokens - 32
        await until(lambda: head.resident.get(("n1/1", "1.main")) == sent.tokens, "its node tells of it")
        await head.send("n1", wire.EndMove(head=head.number, move=1))
        await until(lambda: not files(head.folder), "the file is gone")
        await node.stop()
    assert in_memory() == before


async def test_what_cannot_be_done_is_said_and_leaves_no_file(head, runtime):
    async with started(head, runtime, **SETTINGS):
        worker = await head.ready("n1/0")
        await head.send("n1", export(head, worker, 1, other="n2"))
        assert (await said(head, wire.Half.EXPORT, 1)).reason.endswith("nothing of session 1.main is here")
        await head.send("n1", adopt(head, worker, 2, other="n2"))
        assert "No such file" in (await said(head, wire.Half.ADOPT, 2)).reason
        await head.send("n1", adopt(head, worker, 3, other="../n2"))
        assert "names no folder" in (await said(head, wire.Half.ADOPT, 3)).reason
        assert not files(head.folder)


async def test_kill_9_of_the_daemon_leaves_no_file(head, runtime):
    before = in_memory()
    async with started(head, runtime, **SETTINGS) as node:
        worker = await head.ready("n1/0")
        await complete(worker, "1.main", TEXT)
        for move, to in ((1, "n1"), (2, "n2")):
            await head.send("n1", export(head, worker, move, other=to))
            assert not (await said(head, wire.Half.EXPORT, move)).reason
        assert len(files(head.folder)) == 2
        node.process.kill()
        await node.process.wait()
        await node.nothing_left(10)
        await until(lambda: not files(head.folder) and in_memory() == before, "no file left")


async def test_a_worker_that_dies_while_it_is_asked_is_an_answer(head, runtime):
    async with started(head, runtime, **SETTINGS) as node:
        worker = await head.ready("n1/0")
        await complete(worker, "1.main", TEXT)
        (pid,) = [p for p in node.living() if b"saga_fake" in Path(f"/proc/{p}/cmdline").read_bytes()]
        os.kill(pid, signal.SIGSTOP)
        await head.send("n1", export(head, worker, other="n2"))
        await asyncio.sleep(0)
        os.kill(pid, signal.SIGKILL)
        assert (await said(head, wire.Half.EXPORT)).reason
        assert not files(head.folder)


def test_what_a_dead_machine_left_is_removed_by_the_head(tmp_path):
    for node in ("n1", "n2"):
        (tmp_path / node).mkdir()
        (tmp_path / node / "1-1.kv").write_bytes(b"x")
    leftovers.remove(tmp_path, {"n2"})
    assert [p.name for p in tmp_path.iterdir()] == ["n2"]
    leftovers.remove(tmp_path / "nowhere", set())


# -- the whole way ---------------------------------------------------------------------------


@dataclass
class House:
    """A head and two nodes of one worker each."""

    head: HeadProcess
    nodes: dict[str, NodeProcess]
    model: str

    async def ready(self, deadline_s: float) -> None:
        async with asyncio.timeout(deadline_s):
            while sum(w["state"] == "ready" for w in (await self.view())["workers"]) < 2:
                await asyncio.sleep(0.1)

    async def view(self) -> dict:
        return (await self.head.call("GET", "/saga/v1/cluster"))[1]

    async def workflow(self) -> dict:
        status, accepted = await self.head.call("POST", "/saga/v1/workflows", {"kind": "replay"})
        assert status == 201
        return accepted

    async def step(self, flow: dict) -> tuple[str, dict]:
        """The same prompt again; the worker that served it, and its usage."""
        url, headers = flow["base_url"] + "/completions", {"Authorization": f"Bearer {flow['api_key']}"}
        body = {"model": self.model, "prompt": TEXT, "max_tokens": 2, "temperature": 0}
        async with self.head.http.post(url, json=body, headers=headers) as answer:
            assert answer.status == 200, await answer.text()
            return answer.headers["x-saga-worker"], (await answer.json())["usage"]

    async def drain(self, node: str) -> None:
        status, _ = await self.head.call("POST", f"/saga/v1/nodes/{node}/drain", {})
        assert status < 300

    async def metric(self, name: str) -> float:
        async with self.head.http.get(self.head.access.url + "/metrics") as answer:
            lines = (await answer.text()).splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


@contextlib.asynccontextmanager
async def house(tmp_path: Path, **settings: object) -> AsyncIterator[House]:
    folder = tmp_path / "cluster"
    folder.mkdir()
    with contextlib.ExitStack() as stack:
        nodes = {
            name: NodeProcess(folder, stack.enter_context(short_folder()), name) for name in ("n1", "n2")
        }
        async with running_head(folder, SETTINGS | settings) as head:
            try:
                for node in nodes.values():
                    await node.start()
                yield House(head, nodes, str((SETTINGS | settings)["workers.model"]))
            except BaseException:
                for node in nodes.values():
                    sys.stderr.write(node.log)
                sys.stderr.write("".join(head.lines))
                raise
            finally:
                for node in nodes.values():
                    await node.clean()


async def moves_with_a_drain(found: House) -> None:
    """A session's next step after the drain of its node finds at its new home what it had at the old one."""
    flow = await found.workflow()
    home, usage = await found.step(flow)
    assert not usage["prompt_tokens_details"]["cached_tokens"]
    await found.drain(home.partition("/")[0])
    new, usage = await found.step(flow)
    assert {home, new} == {"n1/0", "n2/0"}
    assert usage["prompt_tokens_details"]["cached_tokens"] >= 0.95 * usage["prompt_tokens"] - 64
    assert await found.metric('saga_migrations_total{outcome="done"}') == 1
    assert await found.metric('saga_migrated_total{unit="tokens"}') > 0
    _, told = await found.head.call("GET", f"/saga/v1/workflows/{flow['id']}/explanation")
    (made,) = [d for d in told["decisions"] if d["verdict"] == "migrated"]
    assert f"from {home}" in made["why"]
    await until(lambda: not files(found.head.folder), "the file is gone")


async def test_after_a_drain_the_next_step_finds_its_kv_at_its_new_home(tmp_path):
    async with house(tmp_path) as found:
        await found.ready(30)
        await moves_with_a_drain(found)


@pytest.mark.vllm
@pytest.mark.timeout(400)
async def test_the_same_on_two_real_vllm_workers(tmp_path):
    async with house(tmp_path, **VLLM) as found:
        await found.ready(300)
        await moves_with_a_drain(found)
