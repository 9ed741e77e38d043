"""A node as a machine: `handle(event, now)` in, actions out. Its shell is `saga_node`.

Rules of this file
  1. A worker that should run is started, watched, and started again with growing pauses;
     every start is a new incarnation, and what an older one says is ignored. They count up
     from the daemon's own incarnation, so that they grow over its restarts as well.
  2. A program is started at most once per `(workflow, attempt)`, however often it is asked for.
  3. The head is told everything in each report; nothing the node says must arrive.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import assert_never

from msgspec.structs import replace

from saga_core import wire
from saga_core.config import NodeConfig
from saga_core.ids import NodeId, SessionId, WorkerId, WorkflowId
from saga_core.kv.retention import OVER
from saga_core.node_words import (
    Action,
    EndKnown,
    EndProgram,
    Event,
    FindHead,
    HeadSaid,
    Ignored,
    KillWorker,
    ProgramExited,
    Quit,
    Residency,
    SendHead,
    SetWorths,
    SpawnWorker,
    StartProgram,
    StopAsked,
    Tick,
    WorkerExited,
    WorkerLoad,
    WorkerSilent,
    WorkerUp,
)
from saga_core.states import WorkerState

HELLO_EVERY_S = 1.0
DOUBLINGS = 16
"""The pause before a restart doubles this often at most: far beyond any sensible limit."""
TOMBSTONES = 10_000
"""Ended programs remembered, so that a late request to run one again is recognised."""
RESIDENT_PER_REPORT = 10_000
"""Residency changes in one report; the rest follows in the next."""


# -- state -------------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class Worker:
    """One engine server that should run here."""

    id: WorkerId
    model: str
    state: WorkerState = WorkerState.LOST
    incarnation: int = 0
    alive: bool = False
    """Its process exists: spawned and not yet reported gone."""
    up: WorkerUp | None = None
    load: WorkerLoad | None = None
    reason: str = ""
    failures: int = 0
    """Starts in a row that ended before the worker had been ready for `backoff_max_s`."""
    silent: int = 0
    stirs: int = 0
    """Readings that differed from the one before, of an engine that counts its tokens."""
    stirred_at: float = 0.0
    """When the latest of them was taken, or one without requests."""
    spawned_at: float = 0.0
    ready_at: float = 0.0
    again_at: float = 0.0
    resident: dict[SessionId, int] = field(default_factory=dict)
    """Tokens per session; a zero stays until the head knows it."""
    news: dict[SessionId, int] = field(default_factory=dict)
    """What of `resident` the head has not acknowledged, with the number of the report that first carries it."""
    worths: int = 0
    """Version of the head's worths up to which the engine has been told; 0: of nothing."""
    valued: dict[SessionId, None] = field(default_factory=dict)
    """Sessions that it holds a worth of."""
    fact: wire.WorkerFact | None = None
    """What a report says of it; None: it has changed since the last one."""


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
    ) -> None:
        """`workers` maps each worker to the name of the model it serves.

        ends_at: when the allocation ends, on the caller's own clock. Clocks of machines differ: the head is told how
        much is left.
        """
        self.id, self.config, self.incarnation = node, config, incarnation
        self.workers = {w: Worker(w, model, incarnation=incarnation) for w, model in workers.items()}
        self.programs: dict[tuple[WorkflowId, int], wire.ProgramFact] = {}
        self._ending: set[tuple[WorkflowId, int]] = set()
        """Running programs that were told to end."""
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
        )
        self._tombs: OrderedDict[tuple[WorkflowId, int], wire.ProgramFact] = OrderedDict()
        self._seq = 0
        self._acked = 0
        self._base = 0
        """The last report before the latest welcome: acknowledgements up to it mean nothing any more."""
        self._dirty = False
        self.has_news = True
        """Something is known of the workers that no report has carried yet."""
        self._every_s = 1.0
        self._said_at = float("-inf")
        self._heard_at = now
        self._found_at = now
        self._ever = False
        self._out: list[Action] = []
        self._now = now

    def handle(self, event: Event, *, now: float) -> list[Action]:
        """Let `event` have happened at `now` (seconds, never running backwards); say what to do."""
        self._out, self._now = [], now
        match event:
            case Tick():
                self._on_tick()
            case HeadSaid():
                self._on_head(event.message)
            case WorkerUp():
                self._on_up(event)
            case WorkerExited():
                self._on_exited(event)
            case WorkerLoad():
                self._on_load(event)
            case WorkerSilent():
                self._on_silent(event)
            case Residency():
                self._on_residency(event)
            case ProgramExited():
                self._on_program_exited(event)
            case EndKnown():
                self.ends_at, self._dirty = event.ends_at, True
            case StopAsked():
                self._quit(event.reason, 0)
            case _:
                assert_never(event)
        if self._dirty and self.registered and not self.stopping:
            self._report()
        return self._out

    # -- workers -------------------------------------------------------------------------

    def _on_tick(self) -> None:
        if self.stopping:
            return
        for worker in self.workers.values():
            if worker.state is not WorkerState.READY:
                self._keep_running(worker)
        self._talk()

    def _keep_running(self, worker: Worker) -> None:
        if not worker.alive:
            if self._now >= worker.again_at:
                self._spawn(worker)
            return
        late = self._now - worker.spawned_at > self.config.start_timeout_s
        if worker.state is WorkerState.STARTING and late:
            self._kill(worker, f"not ready after {self.config.start_timeout_s:g} s")

    def _spawn(self, worker: Worker) -> None:
        worker.incarnation += 1
        worker.alive, worker.state = True, WorkerState.STARTING
        worker.spawned_at, worker.silent, worker.up, worker.load = self._now, 0, None, None
        worker.stirs = 0
        worker.worths, worker.valued = 0, {}
        self._changed(worker)
        self._out.append(SpawnWorker(worker.id, worker.incarnation))

    def _kill(self, worker: Worker, reason: str) -> None:
        worker.state, worker.reason = WorkerState.LOST, reason
        self._changed(worker)
        self._out.append(KillWorker(worker.id, worker.incarnation, reason))

    def _changed(self, worker: Worker) -> None:
        """The head is to hear of `worker` at once."""
        worker.fact = None
        self._dirty = self.has_news = True

    def _current(self, worker: WorkerId, incarnation: int, what: str) -> Worker | None:
        found = self.workers.get(worker)
        if found is None or found.incarnation != incarnation or not found.alive:
            self._out.append(Ignored("stale", f"{what} of {worker} incarnation {incarnation}"))
            return None
        return found

    def _on_up(self, event: WorkerUp) -> None:
        worker = self._current(event.worker, event.incarnation, "readiness")
        if worker is None or worker.state is not WorkerState.STARTING:
            return
        worker.state, worker.up, worker.reason, worker.ready_at = WorkerState.READY, event, "", self._now
        self._changed(worker)

    def _on_exited(self, event: WorkerExited) -> None:
        worker = self._current(event.worker, event.incarnation, "exit")
        if worker is None:
            return
        worker.again_at = self._now + self._pause_s(worker)
        if worker.state is not WorkerState.LOST:  # a kill of ours has given its reason already
            worker.reason = event.reason
        worker.alive, worker.state, worker.up, worker.load = False, WorkerState.LOST, None, None
        self._void(worker)
        self._changed(worker)

    def _pause_s(self, worker: Worker) -> float:
        """How long to wait before the next start of a worker that has just ended.

        One that had been ready starts again at once, but not over and over.
        """
        was_ready = worker.up is not None
        if was_ready and self._now - worker.ready_at >= self.config.backoff_max_s:
            worker.failures = 0
        worker.failures += 1
        if was_ready and worker.failures == 1:
            return 0.0
        doubled: float = self.config.backoff_s * 2 ** min(worker.failures - 1, DOUBLINGS)
        return min(doubled, self.config.backoff_max_s)

    def _on_load(self, event: WorkerLoad) -> None:
        worker = self._current(event.worker, event.incarnation, "load")
        if worker is None:
            return
        if event.tokens is not None:
            self._watch_progress(worker, event)
        worker.load, worker.silent, worker.fact = event, 0, None
        self.has_news = True

    def _watch_progress(self, worker: Worker, load: WorkerLoad) -> None:
        """An engine that has requests and does nothing hangs, however well its server answers.

        Everything that is read counts as progress: a long prompt takes blocks long before it gives tokens.
        """
        if load != worker.load:
            worker.stirs += 1
        if load != worker.load or not (load.running or load.waiting):
            worker.stirred_at = self._now
        elif worker.state is WorkerState.READY and self._now - worker.stirred_at > self.config.stall_s:
            count = load.running + load.waiting
            self._kill(worker, f"it hangs: {count} requests, nothing done for {self.config.stall_s:g} s")

    def _restart(self, want: wire.RestartWorker) -> None:
        worker = self.workers.get(want.worker)
        if worker is None or want.incarnation != worker.incarnation or worker.state is not WorkerState.READY:
            self._out.append(Ignored("stale", f"request to restart {want.worker}"))
        else:
            self._kill(worker, want.reason)

    def _on_silent(self, event: WorkerSilent) -> None:
        worker = self._current(event.worker, event.incarnation, "silence")
        if worker is None or worker.state is not WorkerState.READY:
            return
        worker.silent += 1
        if worker.silent >= self.config.silent_probes:
            self._kill(worker, f"no answer to {worker.silent} probes: {event.reason}")

    def _on_residency(self, event: Residency) -> None:
        worker = self._current(event.worker, event.incarnation, "residency")
        if worker is None:
            return
        if event.reset:
            self._void(worker)
        for session, tokens in event.tokens.items():
            worker.resident[session] = tokens
            worker.news[session] = self._seq + 1
        self.has_news = True

    def _void(self, worker: Worker) -> None:
        worker.resident = dict.fromkeys(worker.resident, 0)
        self._tell_all(worker)

    def _tell_all(self, worker: Worker) -> None:
        worker.news = dict.fromkeys(worker.resident, self._seq + 1)
        self.has_news = True

    # -- programs ------------------------------------------------------------------------

    def _run(self, want: wire.RunProgram) -> None:
        name = (want.workflow, want.attempt)
        if want.incarnation != self.incarnation or name in self.programs:
            self._out.append(Ignored("stale", f"request to run workflow {want.workflow}"))
            return
        if name in self._tombs:  # the head has lost the fact that it told us to forget
            self.programs[name] = self._tombs.pop(name)
            self._dirty = True
            return
        if sum(not fact.exited for fact in self.programs.values()) >= self.config.program_slots:
            self._out.append(Ignored("no slot", f"request to run workflow {want.workflow}"))
            return
        self.programs[name] = wire.ProgramFact(workflow=want.workflow, attempt=want.attempt)
        self._dirty = True
        self._out.append(StartProgram(want))

    def _on_program_exited(self, event: ProgramExited) -> None:
        name = (event.workflow, event.attempt)
        fact = self.programs.get(name)
        if fact is None or fact.exited:
            self._out.append(Ignored("stale", f"exit of workflow {event.workflow}"))
            return
        self._ending.discard(name)
        self.programs[name] = wire.ProgramFact(
            workflow=event.workflow,
            attempt=event.attempt,
            exited=True,
            exit_code=event.exit_code,
            reason=event.reason,
        )
        self._dirty = True

    def _stop(self, want: wire.StopProgram) -> None:
        name = (want.workflow, want.attempt)
        fact = self.programs.get(name)
        if fact is None:
            # Never started here, or already forgotten: say that it is over, and never start it.
            never = wire.ProgramFact(
                workflow=want.workflow, attempt=want.attempt, exited=True, reason="it was not running"
            )
            self.programs[name] = self._tombs.pop(name, never)
            self._dirty = True
        elif not fact.exited and name not in self._ending:
            self._ending.add(name)
            self._out.append(EndProgram(want.workflow, want.attempt, want.grace_s))

    def _forget(self, want: wire.ForgetProgram) -> None:
        name = (want.workflow, want.attempt)
        fact = self.programs.get(name)
        if fact is not None and fact.exited:
            self._tombs[name] = self.programs.pop(name)
        while len(self._tombs) > TOMBSTONES:
            self._tombs.popitem(last=False)

    # -- the head ------------------------------------------------------------------------

    def _on_head(self, message: wire.ToNode) -> None:
        if self.stopping:
            return
        self._heard_at = self._now
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
                self._run(message)
            case wire.StopProgram():
                self._stop(message)
            case wire.ForgetProgram():
                self._forget(message)
            case wire.Worths():
                self._value(message)
            case wire.RestartWorker():
                self._restart(message)
            case wire.Shutdown():
                self._quit(message.reason, 0)
            case _:
                assert_never(message)

    def _on_welcome(self, welcome: wire.Welcome) -> None:
        if welcome.incarnation != self.incarnation or welcome.head < self.head:
            self._out.append(Ignored("stale", f"welcome of head {welcome.head}"))
            return
        if welcome.head != self.head:
            self._void_worths()
        self.registered, self._ever = True, True
        self._every_s, self.head = welcome.report_every_s, welcome.head
        self._acked, self._base = 0, self._seq
        for worker in self.workers.values():
            # To a head that knows nothing, everything is news; zeros as well, it may know something.
            self._tell_all(worker)
        self._dirty = True

    def _on_ack(self, ack: wire.Ack) -> None:
        if ack.incarnation != self.incarnation or not self._base < ack.seq <= self._seq:
            self._out.append(Ignored("stale", f"acknowledgement of report {ack.seq}"))
        elif ack.head < self.head:
            self._out.append(Ignored("stale", f"acknowledgement of head {ack.head}"))
        elif ack.head != self.head:  # the head was restarted and a welcome is lost or late
            self._say_hello()
        else:
            self._acked = max(self._acked, ack.seq)
            self._settle()

    def _value(self, want: wire.Worths) -> None:
        """Tell an engine what sessions' KV is worth, if `want` builds upon what it has been told."""
        worker = self.workers.get(want.worker)
        if (
            worker is None
            or want.head != self.head
            or want.incarnation != worker.incarnation
            or worker.state is not WorkerState.READY
        ):
            self._out.append(Ignored("stale", f"worths {want.version} for {want.worker}"))
            return
        if worker.up is None or not worker.up.values:
            self._out.append(Ignored("takes no worths", f"worths {want.version} for {want.worker}"))
            return
        if want.since <= worker.worths < want.version:
            self._set_worths(worker, want)
        self._out.append(SendHead(self._valued(worker)))

    def _set_worths(self, worker: Worker, want: wire.Worths) -> None:
        changes = dict.fromkeys(worker.valued) if not want.since else {}
        changes |= {s: worth for s, worth in want.worths.items() if worth is None or worth[1] == worth[1]}
        worker.worths = want.version
        for session, worth in changes.items():
            if worth is None or worth[0] == OVER[0]:
                worker.valued.pop(session, None)
            else:
                worker.valued[session] = None
        if changes:
            self._out.append(SetWorths(worker.id, worker.incarnation, changes))

    def _valued(self, worker: Worker) -> wire.Valued:
        return wire.Valued(
            node=self.id,
            incarnation=self.incarnation,
            head=self.head,
            worker=worker.id,
            version=worker.worths,
        )

    def _void_worths(self) -> None:
        """Another head: what the one before said is void."""
        for worker in self.workers.values():
            if worker.valued and worker.state is WorkerState.READY:
                self._out.append(SetWorths(worker.id, worker.incarnation, dict.fromkeys(worker.valued)))
            worker.worths, worker.valued = 0, {}

    def _say_hello(self) -> None:
        self.registered = False
        self._said_at = self._now
        self._out.append(SendHead(replace(self._hello, ends_in_s=self._ends_in_s())))

    def _settle(self) -> None:
        """What the head knows is news no more; sessions with nothing resident are forgotten then."""
        for worker in self.workers.values():
            if not worker.news:
                continue
            for session in [s for s, seq in worker.news.items() if seq <= self._acked]:
                del worker.news[session]
                if not worker.resident[session]:
                    del worker.resident[session]

    def _talk(self) -> None:
        quiet_s = self._now - self._heard_at
        if quiet_s > (self.config.orphan_timeout_s if self._ever else self.config.register_timeout_s):
            what = "no head for" if self._ever else "no head took this node in within"
            self._quit(f"{what} {quiet_s:.0f} s", 1)
            return
        if quiet_s > self.config.head_timeout_s and self._now - self._found_at > self.config.head_timeout_s:
            self._found_at, self.registered = self._now, False
            self._out.append(FindHead())
        if not self.registered and self._now - self._said_at >= HELLO_EVERY_S:
            self._say_hello()
        elif self.registered and self._now - self._said_at >= self._every_s:
            self._report()

    def _report(self) -> None:
        self._seq += 1
        self._dirty = self.has_news = False
        self._said_at = self._now
        self._out.append(
            SendHead(
                wire.Report(
                    node=self.id,
                    incarnation=self.incarnation,
                    seq=self._seq,
                    workers=[_fact(w) for w in self.workers.values()],
                    programs=list(self.programs.values()),
                    resident=self._changes(),
                    since=self._acked,
                    ends_in_s=self._ends_in_s(),
                )
            )
        )

    def _ends_in_s(self) -> float | None:
        return None if self.ends_at is None else self.ends_at - self._now

    def _changes(self) -> list[wire.ResidentFact]:
        changes: list[wire.ResidentFact] = []
        for worker in self.workers.values():
            for session in worker.news:
                if len(changes) >= RESIDENT_PER_REPORT:
                    worker.news[session] = self._seq + 1
                    self.has_news = True
                    continue
                changes.append(wire.ResidentFact(worker.id, session, worker.resident[session]))
        return changes

    def _quit(self, reason: str, exit_code: int) -> None:
        if self.stopping:
            return
        self.stopping = True
        self._out.append(SendHead(wire.Goodbye(node=self.id, incarnation=self.incarnation, reason=reason)))
        self._out.append(Quit(reason, exit_code))

    def check(self) -> None:
        """Raise AssertionError where the state contradicts itself."""
        for worker in self.workers.values():
            assert (worker.state is WorkerState.READY) <= (worker.up is not None)
            assert (worker.state is WorkerState.LOST) or worker.alive
            assert worker.fact in {None, _made(worker)}, f"{worker.id} would be told as it was"
            assert all(self._acked < seq <= self._seq + 1 for seq in worker.news.values()), worker.id
            assert worker.news.keys() <= worker.resident.keys(), worker.id
            assert self.has_news or all(seq <= self._seq for seq in worker.news.values()), worker.id
            assert self.has_news or worker.fact is not None, worker.id
            assert all(n or s in worker.news for s, n in worker.resident.items()), "a zero that was told"
        assert self._acked <= self._seq
        assert all(not self.programs[name].exited for name in self._ending)
        assert not self.programs.keys() & self._tombs.keys()
        assert len(self._tombs) <= TOMBSTONES


def _fact(worker: Worker) -> wire.WorkerFact:
    if worker.fact is None:
        worker.fact = _made(worker)
    return worker.fact


def _made(worker: Worker) -> wire.WorkerFact:
    up, load = worker.up, worker.load
    return wire.WorkerFact(
        worker=worker.id,
        incarnation=worker.incarnation,
        state=worker.state,
        model=up.model if up is not None else worker.model,
        host=up.host if up is not None else "",
        port=up.port if up is not None else 0,
        key=up.key if up is not None else "",
        capacity_tokens=up.capacity_tokens if up is not None else 0,
        max_model_len=up.max_model_len if up is not None else 0,
        max_seqs=up.max_seqs if up is not None else 0,
        host_tokens=up.host_tokens if up is not None else 0,
        ordered=up is not None and up.ordered,
        values=up is not None and up.values,
        capabilities=up.capabilities if up is not None else (),
        running=load.running if load is not None else 0,
        waiting=load.waiting if load is not None else 0,
        kv_usage=load.kv_usage if load is not None else 0.0,
        stirs=worker.stirs,
        reason=worker.reason,
    )
