"""One head process: a folder, a lock, the journal, two sockets, and the loop that joins them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NoReturn

from aiohttp import web

from saga_core import access, wire
from saga_core.book import Book
from saga_core.config import Config
from saga_core.errors import ClusterError
from saga_core.events import CloseAsked, HeadStarted, Tick
from saga_core.head import Head
from saga_core.ids import NodeId
from saga_core.states import NodeState
from saga_core.views import ShutdownRequest
from saga_head import leftovers, tracing
from saga_head.claim import LOOK_EVERY_S, Fence, Superseded
from saga_head.compaction import Compactor
from saga_head.control import Control
from saga_head.gateway.limits import Limits
from saga_head.gateway.server import Gateway
from saga_head.journal import Journal
from saga_head.keys import Callers, Keys, load_keys
from saga_head.shell import Shell
from saga_head.tenants import FILE as TENANTS_FILE
from saga_head.tenants import Tenants
from saga_head.transport import Transport
from saga_shell import cluster, log
from saga_shell.clock import Clock
from saga_shell.files import write_private

EPOCH_S = 0.1
"""One scheduling round (SAGA paper: 100 ms)."""
SYNC_EVERY_S = 1.0
"""How much of the step history a loss of power may cost; acceptances are synced at once."""
NODES_LEAVE_S = 20.0
"""How long a shutdown waits for nodes to stop their workers and say goodbye."""
DRAIN_S = 10.0
"""How long answers may be read to their ends, once no workflow is left."""
PROMISED_S = 60.0
"""At a hand-over: for calls to get a worker whose clients were told to wait."""
SUPERSEDED_EXIT = 3
"""Exit code of a head whose folder a newer one has: a supervisor that sees it starts no other (job_templates)."""


def saga_version() -> str:
    """Version of the installed distribution."""
    try:
        return version("saga-llm")
    except PackageNotFoundError:
        return "0+unknown"


@dataclass(slots=True)
class _Ports:
    """Ports of the last run: clients and nodes that outlived it find the new head there."""

    http: int = 0
    control: int = 0


def _last_ports(folder: Path) -> _Ports:
    try:
        old = cluster.read_access(folder)
    except ClusterError:
        old = None
    if old is None:
        return _Ports()
    return _Ports(int(old.url.rpartition(":")[2]), int(old.control.rpartition(":")[2]))


class App:
    """Everything one head process holds."""

    def __init__(self, folder: Path, fence: Fence, address: str = "", *, contested: bool = False) -> None:
        """`address`: the name or number that others connect to; empty: `head.host`, or the machine's name.

        contested: the head before may live, and write.
        """
        self.folder = folder
        self.config = cluster.read_config(folder) or Config()
        self.address = address or _reachable(self.config.head.host)
        self.keys: Keys = load_keys(folder)
        self.fence = fence
        self.journal = Journal(folder / "journal")
        book = self.journal.recover(self.config.profile, self.config.costs)
        self.journal.may_write = self._check
        if contested:
            _begin_anew(self.journal, book)
        self.compactor = Compactor(self.journal.folder, self.config.profile, self.config.costs)
        self.clock = Clock(not_before=self.journal.last_at)
        self.head = Head(self.config, book=book)
        self.transport = Transport(self.keys, self.config.head.register_timeout_s, self._received)
        callers = Callers(self.keys.api_key)
        tenants = Tenants(folder / TENANTS_FILE, callers, self.head.book, self.clock)
        self.spans = tracing.start(self.config, self.head.book, saga_version())
        send = self.transport.send
        self.shell = Shell(self.head, self.journal, callers, self.clock, send, tenants, self.spans)
        self.shell.logs = folder / "workflows"
        self.shell.may_act = self._check
        self.started_at = self.clock()
        self._stopping: asyncio.Event = asyncio.Event()
        self._leave = False
        self._drain_s = 0.0
        self._hands_over = False

    def _check(self) -> None:
        """Before this head acts: may it? Where a newer one has the folder, it ends here and now (`claim`, rule 3)."""
        try:
            self.fence.check()
        except ClusterError as error:
            _end_at_once(error)

    async def _watch_claim(self) -> None:
        """Look at the claim off the loop: a shared file system may take its time."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                await loop.run_in_executor(None, self.fence.look)
            except Superseded as error:
                _end_at_once(error)
            except ClusterError as error:  # for now; `_check` has the last word when the lease is over
                log.warning("claim", problem=error)
            await asyncio.sleep(LOOK_EVERY_S)

    def _received(self, message: wire.ToHead) -> None:
        self.shell.handle(message)

    async def run(self) -> None:
        """Serve until told to stop."""
        ports = _last_ports(self.folder)
        control = Control(
            self.shell, self.keys.admin_key, saga_version(), self.started_at, self._asked_to_stop
        )
        runner = web.AppRunner(control.app(), access_log=None, handle_signals=False)
        await runner.setup()
        server = runner.server
        assert server is not None
        limits = Limits(body_bytes=self.config.head.max_body_bytes)
        gateway = Gateway(self.shell, server, limits, responses=self.shell.responses)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)
        tick: asyncio.Task[None] | None = None
        watch: asyncio.Task[None] | None = None
        sweep = asyncio.create_task(leftovers.sweep(self.folder, self._up))
        try:
            incarnation = max(self.head.book.head + 1, int(self.clock() * 1000))
            http = await self._listen(gateway, ports.http)
            self.shell.url = f"http://{self.address}:{http}"
            self.shell.handle(HeadStarted(incarnation=incarnation, version=saga_version()))
            control_port = self._listen_control(ports.control)
            await self.journal.sync()
            self._publish(control_port)
            log.info("serving", url=self.shell.url, control=control_port, folder=self.folder)
            tick = asyncio.create_task(self._epochs())
            watch = asyncio.create_task(self._watch_claim())
            stop = asyncio.create_task(self._stopping.wait())
            await asyncio.wait({tick, watch, stop}, return_when=asyncio.FIRST_COMPLETED)
            stop.cancel()
            for broken in [task for task in (tick, watch) if task.done()]:
                broken.result()
            if self._hands_over:
                await self._hand_over(gateway, tick, watch)
            else:
                await self._wind_down(gateway)
        finally:
            for task in (tick, watch, sweep):
                if task is not None:
                    task.cancel()
            await gateway.close()
            await runner.cleanup()
            self.transport.close()
            self.journal.close()
            await self.compactor.close()
            if self.spans is not None:
                tracing.close(self.spans)

    async def _listen(self, gateway: Gateway, last: int) -> int:
        """Take the configured port, or the last one again, or any free one."""
        host, wanted = self.config.head.host, self.config.head.port
        for port in [wanted] if wanted else [last, 0] if last else [0]:
            try:
                return await gateway.start(host, port)
            except OSError as error:
                problem = error
        raise ClusterError(
            f"gateway port {host}:{wanted}: {os.strerror(problem.errno or 0)}; "
            "choose another by head.port (`saga up --port`), 0 takes a free one"
        ) from problem

    def _listen_control(self, last: int) -> int:
        host, wanted = self.config.head.host, self.config.head.control_port
        if not wanted and last:
            with contextlib.suppress(ClusterError):
                return self.transport.start(host, last)
        return self.transport.start(host, wanted)

    def _publish(self, control_port: int) -> None:
        found = access.Access(
            name=self.config.name,
            pid=os.getpid(),
            host=os.uname().nodename,
            started_at=self.started_at,
            epoch=self.fence.claim.epoch,
            job=os.environ.get("SLURM_JOB_ID", ""),
            job_node=os.environ.get("SLURMD_NODENAME", ""),
            restarts=_restarts(),
            url=self.shell.url,
            api_key=self.keys.api_key,
            admin_key=self.keys.admin_key,
            control=f"tcp://{self.address}:{control_port}",
            head_public=self.keys.head_public,
            node_public=self.keys.node_public,
            node_secret=self.keys.node_secret,
        )
        write_private(self.folder / access.FILE, access.encode(found))

    def _up(self) -> set[NodeId]:
        """Nodes whose daemons live."""
        return {node.id for node in self.head.fleet.nodes.values() if node.state is NodeState.UP}

    async def _epochs(self) -> None:
        """Time passes: a tick and a group commit per epoch, the disk once a second."""
        synced_at = self.clock()
        while True:
            await asyncio.sleep(EPOCH_S)
            self.shell.handle(Tick())
            self.journal.flush()
            if self.clock() - synced_at >= SYNC_EVERY_S:
                synced_at = self.clock()
                await self._sync()

    async def _sync(self) -> None:
        try:
            await self.journal.sync()
            if self.journal.size > self.config.head.snapshot_bytes:
                self.journal.turn()
                await self.journal.sync()
                self.compactor.begin(self.journal.number)
        except OSError as error:
            log.warning("journal", problem=error)

    def _on_signal(self) -> None:
        """The head ends alone, and at once, also where it was waiting for workflows to end."""
        self._drain_s = 0.0
        self._stopping.set()

    def _asked_to_stop(self, wanted: ShutdownRequest) -> None:
        """`saga down`: the whole cluster ends, nodes included."""
        self._hands_over = wanted.hand_over
        self._leave = not wanted.hand_over
        self._drain_s = wanted.within_s if wanted.drain or wanted.hand_over else 0.0
        self._stopping.set()

    async def _let_end(self, gateway: Gateway) -> None:
        """No new workflows; those that are there may end, and answers be read to their ends."""
        self.shell.handle(CloseAsked())
        began = self.clock()
        while self.head.busy and self.clock() - began < self._drain_s:  # noqa: ASYNC110 - once in a life
            await asyncio.sleep(EPOCH_S)
        if self._drain_s:
            await gateway.drain(DRAIN_S)

    async def _hand_over(self, gateway: Gateway, *acting: asyncio.Task[None]) -> None:
        """Leave the folder to the next head, at once; answers that workers are at are read to their ends here.

        What they come to is nobody's record: to the next head these steps are over (docs/adr/0007).
        """
        began = self.clock()
        log.info("handing-over", answers=gateway.exchanges, within_s=self._drain_s)
        gateway.let_go()
        while gateway.promised and self.clock() - began < min(PROMISED_S, self._drain_s):  # noqa: ASYNC110 - once
            await asyncio.sleep(EPOCH_S)
        for task in acting:
            task.cancel()
        self.shell.retire()
        try:
            await self.journal.sync()
        except OSError as error:
            log.warning("journal", problem=error)
        self.journal.close()
        self.transport.close()
        self.fence.release()
        log.info("handed-over", answers=gateway.exchanges)
        while gateway.exchanges and self.clock() - began < self._drain_s:  # noqa: ASYNC110 - once
            await asyncio.sleep(EPOCH_S)
        await asyncio.sleep(EPOCH_S)  # for the last bytes, of the answer to who asked for this as well

    async def _wind_down(self, gateway: Gateway) -> None:
        """A signal ends the head alone; `saga down` ends the nodes first."""
        log.info("stopping", cluster=self._leave, drain_s=self._drain_s)
        if self._drain_s:
            await self._let_end(gateway)
        if not self._leave:
            return
        for node in self.head.fleet.nodes.values():
            if node.state is NodeState.UP:
                self.transport.send(node.id, wire.Shutdown(reason="the cluster is taken down"))
        deadline = self.clock() + NODES_LEAVE_S
        while self.clock() < deadline and any(
            node.state is NodeState.UP for node in self.head.fleet.nodes.values()
        ):
            await asyncio.sleep(EPOCH_S)
            self.shell.handle(Tick())
        self._check()
        (self.folder / access.FILE).unlink(missing_ok=True)


def _begin_anew(journal: Journal, book: Book) -> None:
    try:
        journal.rotate(book)
    except OSError as error:
        raise ClusterError(f"journal in {journal.folder}: {error.strerror or error}") from error


def _end_at_once(error: ClusterError) -> NoReturn:
    """Nothing more is written, not even what waits in buffers; connections end with the process."""
    log.error("superseded", reason=error)
    print(f"saga_head: {error}", file=sys.stderr, flush=True)  # noqa: T201 - as every end with an error
    os._exit(SUPERSEDED_EXIT)


def _restarts() -> int:
    told = os.environ.get("SLURM_RESTART_COUNT", "")
    return int(told) if told.isdecimal() else 0


def _reachable(host: str) -> str:
    """A name others can connect to for an address we listen on."""
    return os.uname().nodename if host in ("0.0.0.0", "::") else host  # noqa: S104
