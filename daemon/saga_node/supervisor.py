"""Workers: started, made sure of, watched, ended. When to start or end one is the machine's decision, not ours.

Rules of this file
  1. Every start that was asked for is answered by one `WorkerExited`, whatever happened before.
  2. A key belongs to one start of one worker: it stands in its environment, and is sent to a listener only
     after that was seen to be a process of ours.
  3. A taken port is not a failed start: another one is tried at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from saga_core.config import NodeConfig
from saga_core.errors import ClusterError, SagaError
from saga_core.ids import WorkerId
from saga_core.node_words import Residency, SetWorths, WorkerExited, WorkerLoad, WorkerSilent, WorkerUp
from saga_node import places
from saga_node.attendance import Attendance
from saga_node.engines import Engine, Seat
from saga_node.logfile import LogFile
from saga_node.processes import Processes, Tree
from saga_node.runner import exit_reason
from saga_node.tasks import Tasks
from saga_shell import log
from saga_vllm import cleanup
from saga_vllm.control import Control
from saga_vllm.diagnose import TAIL_BYTES, plugin_fault, reason_from_log

KILL_GRACE_S = 5.0
"""Between TERM and KILL of a worker; vLLM ends in 1 to 2 s."""
PORT_TRIES = 5
"""Losing the race for a port five times in a row is somebody's intent, or a machine without free ports."""
PORT_TAKEN = "the port was taken"
"""How `saga_vllm.diagnose` begins when the log says so."""

WorkerEvent = WorkerUp | WorkerExited | WorkerLoad | WorkerSilent | Residency


@dataclass(slots=True, eq=False)
class Start:
    """One incarnation of a worker."""

    worker: WorkerId
    incarnation: int
    index: int
    tree: Tree | None = None
    killed: str = ""
    """Why we end it; empty while we do not."""
    ending: asyncio.Event = field(default_factory=asyncio.Event)
    attendance: Attendance | None = None
    was_ready: bool = False
    plugin_fault: str = ""
    """What the log of its end says of our plugin."""
    belongings: frozenset[Path] = field(default_factory=frozenset)


class Supervisor:
    """The workers of this node."""

    def __init__(
        self,
        engine: Engine,
        processes: Processes,
        *,
        config: NodeConfig,
        shares: list[tuple[tuple[int, ...], tuple[str, ...]]],
        host: str,
        log_folder: Path,
        tell: Callable[[WorkerEvent], None],
        free_port: Callable[[str], int] = places.free_port,
    ) -> None:
        """`shares` are the cores and GPUs of each worker, by the number at the end of its name."""
        self._engine, self._processes, self._config = engine, processes, config
        self._shares, self._host, self._log_folder = shares, host, log_folder
        self._tell, self._free_port = tell, free_port
        self._starts: dict[WorkerId, Start] = {}
        self._no_control = engine.no_control
        """Why engines are started without session control; empty: they are started with it."""
        self._tasks = Tasks()

    def spawn(self, worker: WorkerId, incarnation: int) -> None:
        """Start it; `WorkerUp` and, in the end, `WorkerExited` follow."""
        start = Start(worker, incarnation, int(worker.rpartition("/")[2]))
        self._starts[worker] = start
        self._tasks.start(self._live(start), f"worker {worker}")

    def kill(self, worker: WorkerId, incarnation: int, reason: str) -> None:
        """End its whole tree: TERM, KILL after `KILL_GRACE_S`. Nothing when it is over."""
        start = self._starts.get(worker)
        if start is None or start.incarnation != incarnation or start.killed:
            return
        start.killed = reason
        start.ending.set()
        log.info("worker-ending", worker=worker, incarnation=incarnation, reason=reason)
        if start.tree is not None:
            self._tasks.start(self._end(start.tree, start), f"end of worker {worker}")

    def set_worths(self, action: SetWorths) -> None:
        """Tell an engine what sessions' KV is worth; nothing when it is over, or has no session control."""
        start = self._starts.get(action.worker)
        if start is not None and start.incarnation == action.incarnation and start.attendance is not None:
            start.attendance.set_worths(action)

    def control(self, worker: WorkerId, incarnation: int) -> Control | None:
        """The way to its engine's session control; None when it is over, or has none."""
        start = self._starts.get(worker)
        if start is None or start.incarnation != incarnation or start.attendance is None:
            return None
        return start.attendance.control

    async def close(self) -> None:
        """End all of them, together."""
        for start in list(self._starts.values()):
            self.kill(start.worker, start.incarnation, "the node daemon ends")
        await self._tasks.finished()

    def news(self) -> list[Residency]:
        """What became resident or left since the last call."""
        found = [start.attendance.news() for start in self._starts.values() if start.attendance is not None]
        return [news for news in found if news is not None]

    # -- one incarnation -----------------------------------------------------------------

    async def _live(self, start: Start) -> None:
        log.info("worker-starting", worker=start.worker, incarnation=start.incarnation)
        try:
            reason = await self._prepared_and_run(start)
        except (SagaError, OSError) as error:
            reason = str(error)
        reason = start.killed or reason
        log.info("worker-exited", worker=start.worker, incarnation=start.incarnation, reason=reason)
        del self._starts[start.worker]
        self._tell(WorkerExited(start.worker, start.incarnation, reason))

    async def _prepared_and_run(self, start: Start) -> str:
        await self._prepare(start)
        reason = ""
        for _ in range(PORT_TRIES):
            if start.killed:
                return start.killed
            reason = await self._run(start)
            if self._plugin_failed(start):
                log.error("session-control-off", worker=start.worker, reason=self._no_control)
                continue
            if not reason.startswith(PORT_TAKEN):
                return reason
            log.warning("worker-port-taken", worker=start.worker)
        return f"{reason} ({PORT_TRIES} times in a row)"

    def _plugin_failed(self, start: Start) -> bool:
        """Whether the engine died of our plugin before it was ready; then it is started without it from now on."""
        if start.was_ready or start.killed or self._no_control:
            return False
        self._no_control = start.plugin_fault
        return bool(self._no_control)

    async def _prepare(self, start: Start) -> None:
        """Building a model takes a while: not longer than the worker is wanted."""
        preparing = asyncio.ensure_future(self._engine.prepare(self._processes, self._log_folder))
        ending = asyncio.ensure_future(start.ending.wait())
        await asyncio.wait([preparing, ending], return_when=asyncio.FIRST_COMPLETED)
        ending.cancel()
        preparing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await preparing

    async def _run(self, start: Start) -> str:
        """Start it on a fresh seat and see it through; why it ended."""
        scratch = Path(tempfile.mkdtemp(prefix=f"{start.index}-", dir=self._processes.folder))
        try:
            seat = self._seat(start, scratch)
            output = LogFile(self._log_folder / f"worker-{start.worker.replace('/', '-')}.log")
            try:
                output.write(f"--- saga: {start.worker} incarnation {start.incarnation}, port {seat.port}\n")
                return await self._run_logged(start, seat, output)
            finally:
                output.close()
        finally:
            left = await asyncio.to_thread(cleanup.sweep, start.belongings, scratch)
            log.debug("worker-swept", worker=start.worker, removed=len(left))
            shutil.rmtree(scratch, ignore_errors=True)

    def _seat(self, start: Start, scratch: Path) -> Seat:
        cores, gpus = self._shares[start.index]
        return Seat(
            host=self._host,
            port=self._free_port(self._host),
            key=secrets.token_urlsafe(32),
            scratch=scratch,
            cores=cores,
            gpus=gpus,
            incarnation=start.incarnation,
            control=not self._no_control,
        )

    async def _run_logged(self, start: Start, seat: Seat, output: LogFile) -> str:
        launch = self._engine.render(seat)
        env = launch.environment(os.environ)
        try:
            tree = await self._processes.start(launch.argv, env=env, output=output.fd, dies_with_us=True)
        except OSError as error:
            raise ClusterError(f"cannot start {launch.argv[0]}: {error.strerror or error}") from None
        start.tree = tree
        attendance = start.attendance = self._attendance(start, seat, tree)
        watching = self._tasks.start(
            self._watch(start, seat, tree, attendance), f"watch of worker {start.worker}"
        )
        if start.killed:  # asked for while it was being started
            self._tasks.start(self._end(tree, start), f"end of worker {start.worker}")
        try:
            exit_code = await tree.process.wait()
        finally:
            attendance.over()
            watching.cancel()
            await asyncio.wait([watching])
            await tree.kill()
            self._processes.forget(tree)
            start.tree = None
        tail = output.tail(TAIL_BYTES)
        start.plugin_fault = plugin_fault(tail)
        return _cause(exit_code, tail)

    def _attendance(self, start: Start, seat: Seat, tree: Tree) -> Attendance:
        return Attendance(
            start.worker,
            start.incarnation,
            engine=self._engine,
            seat=seat,
            pid=tree.pid,
            probe_every_s=self._config.probe_every_s,
            why_no_control=self._no_control,
            tell=self._tell,
        )

    async def _watch(self, start: Start, seat: Seat, tree: Tree, attendance: Attendance) -> None:
        began = asyncio.get_running_loop().time()
        ready = await attendance.ready()
        await self._look_at(tree, start)
        took_s = asyncio.get_running_loop().time() - began
        log.info("worker-ready", worker=start.worker, port=seat.port, pid=tree.pid, took_s=took_s)
        start.was_ready = True
        await attendance.attend(ready)

    async def _end(self, tree: Tree, start: Start) -> None:
        await self._look_at(tree, start)
        await tree.end(KILL_GRACE_S)

    async def _look_at(self, tree: Tree, start: Start) -> None:
        """Note what it has in shared memory: once it is dead, nobody can tell whose that is."""
        start.belongings |= await asyncio.to_thread(cleanup.belongings, tree.pid)
        self._processes.remember(start.belongings)


def _cause(exit_code: int, tail: str) -> str:
    """Why a worker ended, for a person: the log knows why it gave up, not that it was shot."""
    if exit_code <= 0:
        return exit_reason(exit_code) or "it ended by itself (exit code 0)"
    return f"{reason_from_log(tail)} (exit code {exit_code})"
