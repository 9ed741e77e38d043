"""A head of straw and a daemon in a process of its own, for tests of the node daemon."""

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Self

import aiohttp
import psutil
import zmq
import zmq.asyncio
from zmq.auth.asyncio import AsyncioAuthenticator

from saga_core import access, wire
from saga_node import guard

DEADLINE_S = 15.0
SETTINGS: dict[str, Any] = {
    "workers.engine": "fake",
    "workers.model": "m",
    "workers.max_model_len": 4096,
    "workers.kv_tokens": 8192,
    "node.probe_every_s": 0.1,
    "node.silent_probes": 2,
    "node.backoff_s": 0.2,
    "node.head_timeout_s": 0.5,
    "node.register_timeout_s": 10.0,
    "head.stop_grace_s": 1.0,
}


async def until(fact: Callable[[], Any], what: str, deadline_s: float = DEADLINE_S) -> Any:
    """The first true value of `fact`."""
    end = time.monotonic() + deadline_s
    while not (value := fact()):
        assert time.monotonic() < end, f"not within {deadline_s} s: {what}"
        await asyncio.sleep(0.02)
    return value


class Keys:
    def __init__(self) -> None:
        self.public, self.secret = zmq.curve_keypair()

    def callback(self, domain: str, key: bytes) -> bool:
        """ZAP's question: may the holder of this key enter?"""
        return key == self.public


class StrawHead:
    """Takes nodes in, acknowledges reports, remembers what they say."""

    def __init__(
        self, folder: Path, *, head: Keys | None = None, nodes: Keys | None = None, number: int = 1
    ) -> None:
        self.folder, self.number = folder, number
        self.keys, self.nodes = head or Keys(), nodes or Keys()
        self.heard: list[wire.ToHead] = []
        self.resident: dict[tuple[str, str], int] = {}
        self.quiet = False
        self._known: set[bytes] = set()

    async def __aenter__(self) -> Self:
        self._context = zmq.asyncio.Context()
        self._auth = AsyncioAuthenticator(self._context)
        self._auth.start()
        self._auth.configure_curve_callback(credentials_provider=self.nodes)
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.curve_server = True
        self._socket.curve_secretkey = self.keys.secret
        self._socket.curve_publickey = self.keys.public
        self._socket.router_handover = True
        self._socket.linger = 0
        self.port = self._socket.bind_to_random_port("tcp://127.0.0.1")
        self._task = asyncio.create_task(self._serve())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        self._auth.stop()
        self._context.destroy(linger=0)
        await asyncio.sleep(0)

    def write(
        self, *, head: Keys | None = None, nodes: Keys | None = None, epoch: int = 0, **settings: Any
    ) -> None:
        """The cluster folder's files; other keys than the true ones may be given."""
        head, nodes = head or self.keys, nodes or self.nodes
        self.folder.mkdir(exist_ok=True)
        (self.folder / access.SETTINGS).write_text(json.dumps(SETTINGS | settings))
        data = access.encode(
            access.Access(
                name="test",
                pid=os.getpid(),
                host="here",
                started_at=0.0,
                epoch=epoch,
                url="http://127.0.0.1:1",
                api_key="a",
                admin_key="b",
                control=f"tcp://127.0.0.1:{self.port}",
                head_public=head.public.decode(),
                node_public=nodes.public.decode(),
                node_secret=nodes.secret.decode(),
            )
        )
        fresh = self.folder / "access.new"
        fresh.write_bytes(data)
        fresh.replace(self.folder / access.FILE)

    async def send(self, node: str, *frames: wire.Message | bytes) -> None:
        encoded = [f if isinstance(f, bytes) else wire.encode(f) for f in frames]
        await self._socket.send_multipart([node.encode(), *encoded])

    async def run_program(self, node: str, number: int, *argv: str, cwd: Path, **env: str) -> Path:
        log = self.folder / "programs" / f"{number}.log"
        await self.send(
            node,
            wire.RunProgram(
                workflow=number,  # type: ignore[arg-type]
                attempt=1,
                incarnation=self.report.incarnation,
                argv=list(argv),
                cwd=str(cwd),
                env=env,
                log=str(log),
            ),
        )
        return log

    async def _serve(self) -> None:
        while True:
            node, frame = await self._socket.recv_multipart()
            message = wire.decode_to_head(frame)
            self.heard.append(message)
            if isinstance(message, wire.Hello):
                self._known.add(node)
                await self.send(
                    node.decode(),
                    wire.Welcome(
                        protocol=wire.PROTOCOL,
                        cluster="test",
                        incarnation=message.incarnation,
                        head=self.number,
                        report_every_s=0.2,
                    ),
                )
            elif isinstance(message, wire.Report):
                for fact in message.resident:
                    self.resident[fact.worker, fact.session] = fact.tokens
                answer = wire.Ack(incarnation=message.incarnation, head=self.number, seq=message.seq)
                await self.send(node.decode(), answer if node in self._known else wire.WhoAreYou())

    @property
    def report(self) -> wire.Report:
        """The newest."""
        return next(m for m in reversed(self.heard) if isinstance(m, wire.Report))

    def worker(self, name: str) -> wire.WorkerFact | None:
        if not any(isinstance(m, wire.Report) for m in self.heard):
            return None
        return next((w for w in self.report.workers if w.worker == name), None)

    def program(self, number: int) -> wire.ProgramFact | None:
        return next((p for p in self.report.programs if p.workflow == number), None)

    def reasons(self, name: str) -> list[str]:
        """Every reason ever given for a worker."""
        reports = (m for m in self.heard if isinstance(m, wire.Report))
        return [w.reason for r in reports for w in r.workers if w.worker == name and w.reason]

    async def ready(self, name: str, *, after: int = 0) -> wire.WorkerFact:
        """The worker, ready, in an incarnation above `after`."""

        def fact() -> wire.WorkerFact | None:
            w = self.worker(name)
            return w if w is not None and w.state == "ready" and w.incarnation > after else None

        found = await until(fact, f"{name} ready after incarnation {after}: {self.reasons(name)[-1:]}")
        assert found is not None
        return found

    async def exited(self, number: int) -> wire.ProgramFact:
        def fact() -> wire.ProgramFact | None:
            p = self.program(number)
            return p if p is not None and p.exited else None

        found = await until(fact, f"program {number} over")
        assert found is not None
        return found


class NodeProcess:
    """`python -m saga_node` with everything it starts under one mark of ours."""

    def __init__(self, folder: Path, runtime: Path, name: str = "n1") -> None:
        self.folder, self.runtime, self.name = folder, runtime, name
        self.mark = f"test-{secrets.token_hex(6)}"
        self._groups: set[int] = set()
        self.errors = folder.parent / f"{name}-{self.mark}.err"

    async def start(self, **env: str) -> None:
        with self.errors.open("wb") as errors:
            self.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "saga_node", "--cluster-dir", str(self.folder), "--node", self.name),
                *("--log-level", "debug"),
                env=os.environ | {"XDG_RUNTIME_DIR": str(self.runtime), guard.MARK: self.mark} | env,
                stderr=errors,
            )

    @property
    def log(self) -> str:
        return self.errors.read_text()

    def living(self) -> list[int]:
        """Everything that it started and that lives, the guard included.

        By the groups seen so far as well: a process that renames itself (vLLM's engine) may overwrite its marks.
        """
        for pid in guard.members([self.mark], []):
            with contextlib.suppress(ProcessLookupError):
                self._groups.add(os.getpgid(pid))
        self._groups.discard(os.getpgrp())
        return guard.members([self.mark], self._groups) + [p.pid for p in self.guards()]

    def guards(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if guard.__file__ in (line := process.cmdline()) and line[-1].startswith(str(self.runtime)):
                    found.append(process)
        return found

    async def nothing_left(self, within_s: float) -> None:
        await until(lambda: not self.living(), f"no process left of {self.name}", within_s)
        await until(lambda: not list(self.runtime.iterdir()), "no file left", within_s)

    async def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return await asyncio.wait_for(self.process.wait(), DEADLINE_S)

    async def clean(self) -> None:
        """Whatever the test did, leave nothing."""
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()
        await asyncio.to_thread(guard.kill, [self.mark], self._groups, 5.0)
        for process in self.guards():
            with contextlib.suppress(psutil.Error):
                process.wait(5)


@contextlib.asynccontextmanager
async def started(
    head: StrawHead, runtime: Path, *, write: bool = True, **settings: Any
) -> AsyncIterator[NodeProcess]:
    """A daemon in the head's folder; its log is shown when the test fails."""
    if write:
        head.write(**settings)
    node = NodeProcess(head.folder, runtime)
    await node.start()
    try:
        yield node
    except BaseException:
        sys.stderr.write(node.log)
        raise
    finally:
        await node.clean()


@contextlib.contextmanager
def short_folder():  # type: ignore[no-untyped-def]
    """A folder whose path is short enough for sockets."""
    folder = Path(tempfile.mkdtemp(prefix="sg", dir="/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def complete(worker: wire.WorkerFact, session: str, prompt: str, max_tokens: int = 4) -> dict[str, Any]:
    """One completion on a worker, as the gateway would ask for it."""
    headers = {"Authorization": f"Bearer {worker.key}", "X-Session-ID": session}
    body = {"model": worker.model, "prompt": prompt, "max_tokens": max_tokens, "ignore_eos": True}
    async with (
        aiohttp.ClientSession(headers=headers) as http,
        http.post(f"http://{worker.host}:{worker.port}/v1/completions", json=body) as response,
    ):
        assert response.status == 200, await response.text()
        answer: dict[str, Any] = await response.json()
        return answer


async def misbehave(worker: wire.WorkerFact, mode: str) -> None:
    headers = {"Authorization": f"Bearer {worker.key}"}
    async with (
        aiohttp.ClientSession(headers=headers) as http,
        http.post(f"http://{worker.host}:{worker.port}/fake/mode", json={"mode": mode}) as response,
    ):
        assert response.status == 200, await response.text()
