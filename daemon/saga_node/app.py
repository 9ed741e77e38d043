"""The node daemon: receive, let the machine decide, perform. Everything here does; nothing here chooses."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import socket
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, assert_never
from urllib.parse import urlsplit

from saga_core.access import FILE, SETTINGS, Access
from saga_core.config import Config, NodeConfig, with_settings
from saga_core.errors import ClusterError, SagaError
from saga_core.ids import NodeId, worker_id
from saga_core.node import Node
from saga_core.node_words import (
    Action,
    EndKnown,
    EndProgram,
    Event,
    FindHead,
    HeadSaid,
    Ignored,
    KillWorker,
    MoveKv,
    Quit,
    RemoveKv,
    SendHead,
    SetWorths,
    SpawnWorker,
    StartProgram,
    StopAsked,
    Tick,
)
from saga_core.policy.profiles import PROFILES
from saga_node import engines, notices, places, room
from saga_node.endpoint import Address, Endpoint
from saga_node.mover import Mover
from saga_node.processes import Processes
from saga_node.runner import Runner
from saga_node.supervisor import Supervisor
from saga_node.tasks import Tasks
from saga_node.transport import Link
from saga_shell import cluster, log
from saga_shell.clock import Clock

TICK_S = 0.1
"""The scheduling epoch of the design; residency is told as often."""
LOOK_EVERY_TICKS = 5
"""Without a connection to the head: so often a newer one is looked for."""
DISTRIBUTION = "saga-llm"
REFUSED = "the head refused our key: {} is of another cluster"
REFUSED_PAUSE_S = 1.0
"""A head that starts anew writes its access file within this time of taking its port."""

Inbox = asyncio.Queue[Event]


class Daemon:
    """The shell around one `Node`."""

    def __init__(
        self,
        name: NodeId,
        folder: Path,
        access: Access,
        config: Config,
        inbox: Inbox,
        processes: Processes,
        ends_in_s: float | None = None,
    ) -> None:
        """UserError: the settings cannot be served here."""
        self._folder, self._config, self._inbox, self._processes = folder, config, inbox, processes
        self._clock = Clock()
        self._quit: Quit | None = None
        engine = engines.engine(config.workers, ordered=PROFILES[config.profile].engine_order)
        self._supervisor = Supervisor(
            engine,
            processes,
            config=config.node,
            shares=engines.shares(config.workers),
            host=places.own_address(access.control),
            log_folder=folder / "log",
            tell=inbox.put_nowait,
        )
        # A program waits for a head as long as we do.
        self._endpoint = Endpoint(self._head_address, config.node.orphan_timeout_s)
        self._endpoint.moved(_address(access))
        self._mover = Mover(name, folder, processes, self._supervisor.control, inbox.put_nowait)
        self._runner = Runner(
            processes, config.node.program_slots, inbox.put_nowait, here=self._endpoint.here
        )
        now = self._clock()
        self.node = _node(name, engine.served_name, config, now, end_of_allocation(ends_in_s, now))
        self._link = Link(
            name, access, hear=lambda said: inbox.put_nowait(HeadSaid(said)), refused=self._on_refused
        )
        self._again: asyncio.TimerHandle | None = None
        self._tasks = Tasks()

    async def run(self) -> int:
        """Serve until the machine says Quit; its exit code. Nothing of ours is left then."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._on_bug)
        notices.hear(self._on_notice)
        self._tasks.start(self._tick(), "tick")
        await self._endpoint.start()
        try:
            while self._quit is None:
                event = await self._inbox.get()
                for action in self.node.handle(event, now=self._clock()):
                    self._perform(action)
        finally:
            self._tasks.cancel()
            await self._end()
        log.info("node-ended", node=self.node.id, exit_code=self._quit.exit_code, reason=self._quit.reason)
        return self._quit.exit_code

    async def _tick(self) -> None:
        for number in itertools.count():
            self._processes.check_guard()
            if number % LOOK_EVERY_TICKS == 0 and self._link.ever_connected and not self._link.connected:
                self._look_for_newer()
            for news in self._supervisor.news():
                self._inbox.put_nowait(news)
            self._inbox.put_nowait(Tick())
            await asyncio.sleep(TICK_S)

    async def _end(self) -> None:
        if self._again is not None:
            self._again.cancel()
        grace_s = self._config.head.stop_grace_s
        await self._mover.close()
        await asyncio.gather(self._link.close(), self._runner.close(grace_s), self._supervisor.close())
        await self._endpoint.close()

    def _perform(self, action: Action) -> None:
        match action:
            case SpawnWorker():
                self._supervisor.spawn(action.worker, action.incarnation)
            case KillWorker():
                self._supervisor.kill(action.worker, action.incarnation, action.reason)
            case SendHead():
                self._link.send(action.message)
            case StartProgram():
                self._runner.start(action.program)
            case EndProgram():
                self._runner.end(action.workflow, action.attempt, action.grace_s)
            case SetWorths():
                self._supervisor.set_worths(action)
            case MoveKv():
                self._mover.move(action.want)
            case RemoveKv():
                self._mover.remove(action)
            case FindHead():
                self._find_head()
            case Quit():
                self._quit = action
                log.info("node-ending", node=self.node.id, reason=action.reason)
            case Ignored():
                log.debug("ignored", reason=action.reason, what=action.what)
            case _:
                assert_never(action)

    def _on_notice(self) -> None:
        """Somebody will take this machine away soon; an end that is nearer stands."""
        notice_at = self._clock() + self._config.node.notice_s
        ends_at = notice_at if self.node.ends_at is None else min(notice_at, self.node.ends_at)
        log.warning("notice", node=self.node.id, ends_in_s=ends_at - self._clock())
        self._inbox.put_nowait(EndKnown(ends_at))

    def _on_bug(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Something of ours failed: say so in full, and end rather than go on half blind."""
        loop.default_exception_handler(context)
        self._leave(f"bug: {context['message']}: {context.get('exception')!r}")

    def _leave(self, reason: str) -> None:
        """End with exit code 1."""
        self._quit = self._quit or Quit(reason, 1)
        self._inbox.put_nowait(Tick())

    def _find_head(self) -> None:
        if (access := self._known_head()) is not None:
            self._link.find(access)
            self._endpoint.moved(_address(access))

    def _look_for_newer(self) -> None:
        """The connection is gone; a successor need not wait until the machine calls that a silence."""
        with contextlib.suppress(ClusterError):
            access = cluster.read_access(self._folder)
            if access is not None and access.epoch > self._link.access.epoch:
                self._link.find(access)
                self._endpoint.moved(_address(access))

    def _known_head(self) -> Access | None:
        """What the folder says of the head, if that is not one before ours."""
        where = self._folder / FILE
        try:
            access = cluster.read_access(self._folder)
        except ClusterError as error:
            log.warning("head-unknown", reason=error)
            return None
        if access is None:
            log.warning("head-unknown", reason=f"{where} is gone: the head is down")
        elif access.epoch < self._link.access.epoch:
            log.warning("head-unknown", reason=f"{where} is of a head before ours")
        else:
            return access
        return None

    def _head_address(self) -> Address | None:
        access = self._known_head()
        return None if access is None else _address(access)

    def _on_refused(self) -> None:
        """The head, or who listens in its place, takes no word from us."""
        log.error("head-refused-key", reason=REFUSED.format(self._folder / FILE), times=self._link.refusals)
        if self._again is None:
            self._again = asyncio.get_running_loop().call_later(REFUSED_PAUSE_S, self._ask_again)

    def _ask_again(self) -> None:
        self._again = None
        before = self._link.access
        self._find_head()
        if self._link.access is not before:
            return
        if self._link.ever_connected:  # a head that is being replaced; the machine knows how long to wait
            self._link.reopen(before)
        else:
            self._leave(REFUSED.format(self._folder / FILE))


def _address(access: Access) -> Address:
    """Of the head's gateway. The file is the head's own word: what it holds has a host and a port."""
    url = urlsplit(access.url)
    return url.hostname or "", url.port or 0


def end_of_allocation(ends_in_s: float | None, now: float) -> float | None:
    """When this node ends, in seconds since the epoch: as was said, else as Slurm says; None: never.

    Slurm says it since 22.05, in its own clock, which is this machine's (sites keep them alike for munge's sake).
    """
    if ends_in_s is not None:
        return now + ends_in_s
    told = os.environ.get("SLURM_JOB_END_TIME", "")
    return float(told) if told.isdecimal() else None


def _node(name: NodeId, served_name: str, config: Config, now: float, ends_at: float | None) -> Node:
    return Node(
        name,
        {worker_id(name, index): served_name for index in range(config.workers.count)},
        config.node,
        incarnation=int(time.time() * 1000),
        host=socket.gethostname(),
        version=_version(),
        now=now,
        ends_at=ends_at,
        cpus=room.cores(),
        memory_bytes=room.memory_bytes(os.environ),
    )


def _version() -> str:
    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:  # run from a source tree
        return "0"


async def serve(
    folder: Path, name: NodeId, ends_in_s: float | None = None, settings: Mapping[str, str] | None = None
) -> int:
    """Be the node daemon `name` of the cluster in `folder` until told to end; the exit code.

    settings: of this node alone, by dotted name, over those of the cluster.
    ends_in_s: when the machine is taken away; None: as Slurm says, or never. SIGUSR1 says that it is taken away in
    `node.notice_s` (Slurm's --signal, a preemption): the head then drains it.
    """
    inbox: Inbox = asyncio.Queue()
    loop = asyncio.get_running_loop()
    notices.hold()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, inbox.put_nowait, StopAsked(signal.Signals(number).name))
    try:
        found = await _found(folder, inbox)
        if found is None:
            return 0
        access, config = found
        config = with_settings(config, settings or {}, where="--set")
        return await _serve(folder, name, inbox, access, config, ends_in_s)
    except SagaError as error:
        log.error("node-failed", node=name, reason=error)
        return 1


async def _serve(
    folder: Path, name: NodeId, inbox: Inbox, access: Access, config: Config, ends_in_s: float | None
) -> int:
    log.info("node-starting", node=name, pid=os.getpid(), control=access.control, cluster=access.name)
    processes = Processes(places.make_run_folder())
    try:
        return await Daemon(name, folder, access, config, inbox, processes, ends_in_s).run()
    finally:
        await processes.close()


async def _found(folder: Path, inbox: Inbox) -> tuple[Access, Config] | None:
    """The head's address and the settings, as soon as they are there; None: told to end before."""
    waits_s = NodeConfig().register_timeout_s
    end = time.monotonic() + waits_s
    while inbox.empty():
        access, config = cluster.read_access(folder), cluster.read_config(folder)
        if access is not None and config is not None:
            return access, config
        waits_s = config.node.register_timeout_s if config is not None else waits_s
        if time.monotonic() > end + waits_s - NodeConfig().register_timeout_s:
            missing = FILE if access is None else SETTINGS
            raise ClusterError(
                f"no {missing} in {folder} after {waits_s:g} s: is the head running? (saga up)"
            )
        await asyncio.sleep(TICK_S)
    return None
