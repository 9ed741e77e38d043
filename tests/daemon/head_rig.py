"""A real head process, and a node that is only its messages: what the head's own tests need."""

import asyncio
import contextlib
import itertools
import json
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import aiohttp
import zmq
import zmq.asyncio

from saga_core import access, wire
from saga_core.ids import NodeId, SessionId, WorkerId
from saga_core.states import WorkerState
from saga_fake.config import FakeConfig
from saga_fake.server import FakeServer

DEADLINE_S = 20.0


async def until(fact: Callable[[], object], what: str, deadline_s: float = DEADLINE_S) -> None:
    """Wait for a fact, with a deadline."""
    end = time.monotonic() + deadline_s
    while not fact():
        assert time.monotonic() < end, f"not within {deadline_s} s: {what}"
        await asyncio.sleep(0.02)


class HeadProcess:
    """`python -m saga_head` on a folder."""

    def __init__(
        self, folder: Path, settings: dict[str, object] | None = None, more: tuple[str, ...] = ()
    ) -> None:
        """`more`: further arguments."""
        self.folder, self.settings, self.more = folder, settings, more
        (folder / access.SETTINGS).write_text(json.dumps(settings or {}))
        self.process: asyncio.subprocess.Process | None = None
        self.http = aiohttp.ClientSession()

    async def start(self) -> None:
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "saga_head", "--cluster-dir", str(self.folder), *self.more,
            stderr=asyncio.subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        self.lines: list[str] = []
        self._reader = asyncio.create_task(self._read())
        await until(self._serving, "the head publishes access.json")

    async def _read(self) -> None:
        assert self.process is not None
        assert self.process.stderr is not None
        async for raw in self.process.stderr:
            self.lines.append(raw.decode())

    def _serving(self) -> bool:
        assert self.process is not None
        assert self.process.returncode is None, "".join(self.lines)
        return (self.folder / access.FILE).exists() and self.access.pid == self.process.pid

    @property
    def access(self) -> access.Access:
        path = self.folder / access.FILE
        return access.decode(path.read_bytes(), str(path))

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    async def kill(self, number: int = signal.SIGKILL) -> int:
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(number)
        code = await asyncio.wait_for(self.process.wait(), DEADLINE_S)
        await self._reader
        return code

    async def call(
        self, method: str, path: str, body: object = None, key: str | None = None
    ) -> tuple[int, dict]:
        headers = {"Authorization": f"Bearer {self.access.admin_key if key is None else key}"}
        url = path if path.startswith("http") else self.access.url + path
        async with self.http.request(method, url, json=body, headers=headers) as response:
            return response.status, await response.json()

    async def close(self) -> None:
        await self.http.close()
        if self.process is not None:
            await self.kill()


class RigNode:
    """Speaks for a node: hello, reports, and keeps what it hears."""

    def __init__(self, found: access.Access, node: str = "n1", *, secret: str | None = None) -> None:
        self.id = NodeId(node)
        self.incarnation = time.time_ns() // 1_000_000
        self.heard: list[wire.ToNode] = []
        self._seq = itertools.count(1)
        self.workers: list[wire.WorkerFact] = []
        self.programs: list[wire.ProgramFact] = []
        self._context = zmq.asyncio.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.linger = 0
        self._socket.setsockopt_string(zmq.IDENTITY, node)
        public, own = found.node_public.encode(), found.node_secret.encode()
        if secret == "stranger":
            public, own = zmq.curve_keypair()
        self._socket.curve_publickey, self._socket.curve_secretkey = public, own
        self._socket.curve_serverkey = found.head_public.encode()
        self._socket.connect(found.control)
        self._task = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        while True:
            frames = await self._socket.recv_multipart()
            message = wire.decode_to_node(frames[-1])
            self.heard.append(message)
            if isinstance(message, wire.WhoAreYou):
                await self.hello()

    def saw(self, kind: type) -> list:
        return [m for m in self.heard if isinstance(m, kind)]

    async def say(self, message: wire.Message) -> None:
        await self._socket.send(wire.encode(message))

    async def raw(self, data: bytes) -> None:
        await self._socket.send(data)

    async def hello(self, protocol: int = wire.PROTOCOL) -> None:
        await self.say(
            wire.Hello(protocol=protocol, version="0", node=self.id, incarnation=self.incarnation, host="h")
        )

    async def report(self, *resident: wire.ResidentFact) -> None:
        await self.say(
            wire.Report(
                node=self.id, incarnation=self.incarnation, seq=next(self._seq),
                workers=self.workers, programs=self.programs, resident=list(resident),
            )
        )  # fmt: skip

    async def serve(self, *urls: str, model: str = "m", key: str = "k") -> None:
        """Say that these engines are my ready workers."""
        self.workers = [
            wire.WorkerFact(
                worker=WorkerId(f"{self.id}/{i}"), incarnation=self.incarnation, state=WorkerState.READY,
                model=model, host="127.0.0.1", port=int(url.rpartition(":")[2]), key=key,
                capacity_tokens=32768, max_model_len=4096, max_seqs=64,
            )
            for i, url in enumerate(urls)
        ]  # fmt: skip
        await self.hello()
        await until(lambda: self.saw(wire.Welcome), "a welcome")
        await self.report()
        await until(lambda: self.saw(wire.Ack), "an ack")

    async def reporting(self) -> None:
        """Report until cancelled, as a node does."""
        while True:
            await self.report()
            await asyncio.sleep(0.3)

    def resident(self, index: int, session: str, tokens: int) -> wire.ResidentFact:
        return wire.ResidentFact(WorkerId(f"{self.id}/{index}"), SessionId(session), tokens)

    async def close(self) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        self._socket.close()
        self._context.term()


@contextlib.asynccontextmanager
async def running_head(
    folder: Path, settings: dict[str, object] | None = None, more: tuple[str, ...] = ()
) -> AsyncIterator[HeadProcess]:
    head = HeadProcess(folder, settings, more)
    try:
        await head.start()
        yield head
    finally:
        await head.close()


@contextlib.asynccontextmanager
async def node(head: HeadProcess, *urls: str, name: str = "n1") -> AsyncIterator[RigNode]:
    """A node with these engines, reporting as nodes do."""
    found = RigNode(head.access, name)
    reports: asyncio.Task[None] | None = None
    try:
        await found.serve(*urls)
        reports = asyncio.create_task(found.reporting())
        yield found
    finally:
        if reports is not None:
            reports.cancel()
        await found.close()


def engine(speed: float = 100.0) -> FakeServer:
    """An engine double, for a node to serve."""
    return FakeServer(FakeConfig(models=("m",), api_key="k", speed=speed))


async def workflow(head: HeadProcess, **more: object) -> dict:
    """A submitted one: its id, address and key."""
    status, accepted = await head.call("POST", "/saga/v1/workflows", {"kind": "replay", **more})
    assert status == 201, accepted
    return accepted
