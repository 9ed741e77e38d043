"""A node as a machine: `handle(event, now)` in, actions out. Its shell is `saga_node`.

Its workers are `node_workers`, its programs `node_programs`; here is what it hears from the head and says to it. The
head is told everything in each report; nothing the node says must arrive.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import assert_never

from msgspec.structs import replace

from saga_core import wire
from saga_core.config import NodeConfig
from saga_core.ids import NodeId, WorkerId
from saga_core.node_desk import NodeDesk
from saga_core.node_moves import Moves
from saga_core.node_programs import Programs
from saga_core.node_words import (
    Action,
    EndKnown,
    Event,
    FindHead,
    HeadSaid,
    Ignored,
    KvMoved,
    ProgramExited,
    Quit,
    Residency,
    SendHead,
    StopAsked,
    Tick,
    WorkerExited,
    WorkerLoad,
    WorkerSilent,
    WorkerUp,
)
from saga_core.node_workers import Worker, Workers

HELLO_EVERY_S = 1.0


class Node:
    """What one node daemon knows and wants."""

    def __init__(
        self,
        node: NodeId,
        workers: Mapping[WorkerId, str],
        config: NodeConfig,
        *,
        incarnation: int,
        host: str,
        version: str,
        now: float,
        ends_at: float | None = None,
        cpus: int = 0,
        memory_bytes: int = 0,
    ) -> None:
        """`workers` maps each worker to the name of the model it serves.

        ends_at: when the allocation ends, on the caller's own clock. Clocks of machines differ: the head is told how
        much is left. cpus, memory_bytes: what programs may ask for in all; 0: nobody knows.
        """
        self.id, self.config, self.incarnation = node, config, incarnation
        self.desk = NodeDesk(now)
        self.fleet = Workers(self.desk, config, node, incarnation, workers)
        self.moves = Moves(self.desk, node, incarnation, self.fleet)
        self.programs = Programs(self.desk, incarnation=incarnation, slots=config.program_slots)
        self.stopping = False
        self.ends_at = ends_at
        self.head = 0
        self.registered = False
        self._hello = wire.Hello(
            protocol=wire.PROTOCOL,
            version=version,
            node=node,
            incarnation=incarnation,
            host=host,
            program_slots=config.program_slots,
            cpus=cpus,
            memory_bytes=memory_bytes,
        )
        self._acked = 0
        self._base = 0
        """The last report before the latest welcome: acknowledgements up to it mean nothing any more."""
        self._every_s = 1.0
        self._said_at = float("-inf")
        self._heard_at = now
        self._found_at = now
        self._ever = False

    @property
    def workers(self) -> dict[WorkerId, Worker]:
        return self.fleet.all

    @property
    def has_news(self) -> bool:
        """Whether something is known of the workers that no report has carried yet."""
        return self.desk.has_news

    def handle(self, event: Event, *, now: float) -> list[Action]:
        """Let `event` have happened at `now` (seconds, never running backwards); say what to do."""
        self.desk.out, self.desk.now = [], now
        match event:
            case Tick():
                self._on_tick()
            case HeadSaid():
                self._on_head(event.message)
            case WorkerUp():
                self.fleet.on_up(event)
            case WorkerExited():
                self.fleet.on_exited(event)
            case WorkerLoad():
                self.fleet.on_load(event)
            case WorkerSilent():
                self.fleet.on_silent(event)
            case Residency():
                self.fleet.on_residency(event)
            case KvMoved():
                self.moves.on_moved(event)
            case ProgramExited():
                self.programs.on_exited(event)
            case EndKnown():
                self.ends_at, self.desk.dirty = event.ends_at, True
            case StopAsked():
                self._quit(event.reason, 0)
            case _:
                assert_never(event)
        if self.desk.dirty and self.registered and not self.stopping:
            self._report()
        return self.desk.out

    def _on_tick(self) -> None:
        if not self.stopping:
            self.fleet.keep_running()
            self.moves.tick()
            self._talk()

    # -- the head ------------------------------------------------------------------------

    def _on_head(self, message: wire.ToNode) -> None:
        if self.stopping:
            return
        self._heard_at = self.desk.now
        match message:
            case wire.Welcome():
                self._on_welcome(message)
            case wire.Refused():
                self._quit(f"the head refused this node: {message.reason}", 1)
            case wire.Ack():
                self._on_ack(message)
            case wire.WhoAreYou():
                self._say_hello()
            case wire.RunProgram():
                self.programs.run(message)
            case wire.StopProgram():
                self.programs.stop(message)
            case wire.ForgetProgram():
                self.programs.forget(message)
            case wire.Worths():
                self.fleet.value(message, self.head)
            case wire.RestartWorker():
                self.fleet.restart(message)
            case wire.MoveHalf():
                self.moves.ask(message, self.head)
            case wire.EndMove():
                self.moves.end(message)
            case wire.Shutdown():
                self._quit(message.reason, 0)
            case _:
                assert_never(message)

    def _on_welcome(self, welcome: wire.Welcome) -> None:
        if welcome.incarnation != self.incarnation or welcome.head < self.head:
            self.desk.out.append(Ignored("stale", f"welcome of head {welcome.head}"))
            return
        if welcome.head != self.head:
            self.fleet.void_worths()
            self.moves.void()
        self.registered, self._ever = True, True
        self._every_s, self.head = welcome.report_every_s, welcome.head
        self._acked, self._base = 0, self.desk.seq
        for worker in self.workers.values():
            # To a head that knows nothing, everything is news; zeros as well, it may know something.
            self.fleet.tell_all(worker)
        self.desk.dirty = True

    def _on_ack(self, ack: wire.Ack) -> None:
        if ack.incarnation != self.incarnation or not self._base < ack.seq <= self.desk.seq:
            self.desk.out.append(Ignored("stale", f"acknowledgement of report {ack.seq}"))
        elif ack.head < self.head:
            self.desk.out.append(Ignored("stale", f"acknowledgement of head {ack.head}"))
        elif ack.head != self.head:  # the head was restarted and a welcome is lost or late
            self._say_hello()
        else:
            self._acked = max(self._acked, ack.seq)
            self.fleet.settle(self._acked)

    def _say_hello(self) -> None:
        self.registered = False
        self._said_at = self.desk.now
        self.desk.out.append(SendHead(replace(self._hello, ends_in_s=self._ends_in_s())))

    def _talk(self) -> None:
        quiet_s = self.desk.now - self._heard_at
        if quiet_s > (self.config.orphan_timeout_s if self._ever else self.config.register_timeout_s):
            what = "no head for" if self._ever else "no head took this node in within"
            self._quit(f"{what} {quiet_s:.0f} s", 1)
            return
        if (
            quiet_s > self.config.head_timeout_s
            and self.desk.now - self._found_at > self.config.head_timeout_s
        ):
            self._found_at, self.registered = self.desk.now, False
            self.desk.out.append(FindHead())
        if not self.registered and self.desk.now - self._said_at >= HELLO_EVERY_S:
            self._say_hello()
        elif self.registered and self.desk.now - self._said_at >= self._every_s:
            self._report()

    def _report(self) -> None:
        self.desk.seq += 1
        self.desk.dirty = self.desk.has_news = False
        self._said_at = self.desk.now
        self.desk.out.append(
            SendHead(
                wire.Report(
                    node=self.id,
                    incarnation=self.incarnation,
                    seq=self.desk.seq,
                    workers=self.fleet.facts(),
                    programs=list(self.programs.facts.values()),
                    resident=self.fleet.changes(),
                    since=self._acked,
                    ends_in_s=self._ends_in_s(),
                )
            )
        )

    def _ends_in_s(self) -> float | None:
        return None if self.ends_at is None else self.ends_at - self.desk.now

    def _quit(self, reason: str, exit_code: int) -> None:
        if self.stopping:
            return
        self.stopping = True
        self.desk.out.append(
            SendHead(wire.Goodbye(node=self.id, incarnation=self.incarnation, reason=reason))
        )
        self.desk.out.append(Quit(reason, exit_code))

    def check(self) -> None:
        """Raise AssertionError where the state contradicts itself."""
        self.fleet.check(self._acked)
        self.programs.check()
        self.moves.check()
        assert self._acked <= self.desk.seq
