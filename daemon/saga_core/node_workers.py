"""The workers of a node: started, watched, started again; what is resident in them, and what it is worth.

Rules of this file
  1. A worker that should run is started, watched, and started again with growing pauses; every start is a new
     incarnation, and what an older one says is ignored. They count up from the daemon's own incarnation, so that they
     grow over its restarts as well.
  2. Residency is told as changes: a session's tokens are news until a report that carries them is acknowledged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from saga_core import wire
from saga_core.config import NodeConfig
from saga_core.ids import NodeId, SessionId, WorkerId
from saga_core.kv.retention import OVER
from saga_core.node_desk import NodeDesk
from saga_core.node_words import (
    Ignored,
    KillWorker,
    Residency,
    SendHead,
    SetWorths,
    SpawnWorker,
    WorkerExited,
    WorkerLoad,
    WorkerSilent,
    WorkerUp,
)
from saga_core.states import WorkerState

DOUBLINGS = 16
"""The pause before a restart doubles this often at most: far beyond any sensible limit."""
RESIDENT_PER_REPORT = 10_000
"""Residency changes in one report; the rest follows in the next."""


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
    holes: int = 0
    healed: int = 0
    """Times that its KV events were lost or wrong, and that it was asked instead."""
    worths: int = 0
    """Version of the head's worths up to which the engine has been told; 0: of nothing."""
    valued: dict[SessionId, None] = field(default_factory=dict)
    """Sessions that it holds a worth of."""
    fact: wire.WorkerFact | None = None
    """What a report says of it; None: it has changed since the last one."""


class Workers:
    """All of this node, whether they run or not."""

    def __init__(
        self,
        desk: NodeDesk,
        config: NodeConfig,
        node: NodeId,
        incarnation: int,
        models: Mapping[WorkerId, str],
    ) -> None:
        self.desk, self.config, self.node, self.incarnation = desk, config, node, incarnation
        self.all = {name: Worker(name, model, incarnation=incarnation) for name, model in models.items()}

    def keep_running(self) -> None:
        """Start those that do not run and may, and give up starts that take too long."""
        for worker in self.all.values():
            if worker.state is not WorkerState.READY:
                self._keep_running(worker)

    def _keep_running(self, worker: Worker) -> None:
        if not worker.alive:
            if self.desk.now >= worker.again_at:
                self._spawn(worker)
            return
        late = self.desk.now - worker.spawned_at > self.config.start_timeout_s
        if worker.state is WorkerState.STARTING and late:
            self._kill(worker, f"not ready after {self.config.start_timeout_s:g} s")

    def _spawn(self, worker: Worker) -> None:
        worker.incarnation += 1
        worker.alive, worker.state = True, WorkerState.STARTING
        worker.spawned_at, worker.silent, worker.up, worker.load = self.desk.now, 0, None, None
        worker.stirs = 0
        worker.worths, worker.valued = 0, {}
        worker.holes = worker.healed = 0
        self._changed(worker)
        self.desk.out.append(SpawnWorker(worker.id, worker.incarnation))

    def _kill(self, worker: Worker, reason: str) -> None:
        worker.state, worker.reason = WorkerState.LOST, reason
        self._changed(worker)
        self.desk.out.append(KillWorker(worker.id, worker.incarnation, reason))

    def _changed(self, worker: Worker) -> None:
        """The head is to hear of `worker` at once."""
        worker.fact = None
        self.desk.dirty = self.desk.has_news = True

    def _current(self, worker: WorkerId, incarnation: int, what: str) -> Worker | None:
        found = self.all.get(worker)
        if found is None or found.incarnation != incarnation or not found.alive:
            self.desk.out.append(Ignored("stale", f"{what} of {worker} incarnation {incarnation}"))
            return None
        return found

    def on_up(self, event: WorkerUp) -> None:
        worker = self._current(event.worker, event.incarnation, "readiness")
        if worker is None or worker.state is not WorkerState.STARTING:
            return
        worker.state, worker.up, worker.reason, worker.ready_at = WorkerState.READY, event, "", self.desk.now
        self._changed(worker)

    def on_exited(self, event: WorkerExited) -> None:
        worker = self._current(event.worker, event.incarnation, "exit")
        if worker is None:
            return
        worker.again_at = self.desk.now + self._pause_s(worker)
        if worker.state is not WorkerState.LOST:  # a kill of ours has given its reason already
            worker.reason = event.reason
        worker.alive, worker.state, worker.up, worker.load = False, WorkerState.LOST, None, None
        self.void(worker)
        self._changed(worker)

    def _pause_s(self, worker: Worker) -> float:
        """How long to wait before the next start of a worker that has just ended.

        One that had been ready starts again at once, but not over and over.
        """
        was_ready = worker.up is not None
        if was_ready and self.desk.now - worker.ready_at >= self.config.backoff_max_s:
            worker.failures = 0
        worker.failures += 1
        if was_ready and worker.failures == 1:
            return 0.0
        doubled: float = self.config.backoff_s * 2 ** min(worker.failures - 1, DOUBLINGS)
        return min(doubled, self.config.backoff_max_s)

    def on_load(self, event: WorkerLoad) -> None:
        worker = self._current(event.worker, event.incarnation, "load")
        if worker is None:
            return
        if event.tokens is not None:
            self._watch_progress(worker, event)
        worker.load, worker.silent, worker.fact = event, 0, None
        self.desk.has_news = True

    def _watch_progress(self, worker: Worker, load: WorkerLoad) -> None:
        """An engine that has requests and does nothing hangs, however well its server answers.

        Everything that is read counts as progress: a long prompt takes blocks long before it gives tokens.
        """
        if load != worker.load:
            worker.stirs += 1
        if load != worker.load or not (load.running or load.waiting):
            worker.stirred_at = self.desk.now
        elif worker.state is WorkerState.READY and self.desk.now - worker.stirred_at > self.config.stall_s:
            count = load.running + load.waiting
            self._kill(worker, f"it hangs: {count} requests, nothing done for {self.config.stall_s:g} s")

    def restart(self, want: wire.RestartWorker) -> None:
        worker = self.all.get(want.worker)
        if worker is None or want.incarnation != worker.incarnation or worker.state is not WorkerState.READY:
            self.desk.out.append(Ignored("stale", f"request to restart {want.worker}"))
        else:
            self._kill(worker, want.reason)

    def on_silent(self, event: WorkerSilent) -> None:
        worker = self._current(event.worker, event.incarnation, "silence")
        if worker is None or worker.state is not WorkerState.READY:
            return
        worker.silent += 1
        if worker.silent >= self.config.silent_probes:
            self._kill(worker, f"no answer to {worker.silent} probes: {event.reason}")

    def on_residency(self, event: Residency) -> None:
        worker = self._current(event.worker, event.incarnation, "residency")
        if worker is None:
            return
        if event.reset:
            self.void(worker)
        if (event.holes, event.healed) != (worker.holes, worker.healed):
            worker.holes, worker.healed, worker.fact = event.holes, event.healed, None
        for session, tokens in event.tokens.items():
            worker.resident[session] = tokens
            worker.news[session] = self.desk.seq + 1
        self.desk.has_news = True

    def void(self, worker: Worker) -> None:
        worker.resident = dict.fromkeys(worker.resident, 0)
        self.tell_all(worker)

    def tell_all(self, worker: Worker) -> None:
        worker.news = dict.fromkeys(worker.resident, self.desk.seq + 1)
        self.desk.has_news = True

    # -- what their KV is worth ----------------------------------------------------------

    def value(self, want: wire.Worths, head: int) -> None:
        """Tell an engine what sessions' KV is worth, if `want` builds upon what it has been told."""
        worker = self.all.get(want.worker)
        if (
            worker is None
            or want.head != head
            or want.incarnation != worker.incarnation
            or worker.state is not WorkerState.READY
        ):
            self.desk.out.append(Ignored("stale", f"worths {want.version} for {want.worker}"))
            return
        if worker.up is None or not worker.up.values:
            self.desk.out.append(Ignored("takes no worths", f"worths {want.version} for {want.worker}"))
            return
        if want.since <= worker.worths < want.version:
            self._set_worths(worker, want)
        self.desk.out.append(SendHead(self._valued(worker, head)))

    def _set_worths(self, worker: Worker, want: wire.Worths) -> None:
        changes = dict.fromkeys(worker.valued) if not want.since else {}
        changes |= {s: worth for s, worth in want.worths.items() if worth is None or worth[1] == worth[1]}
        worker.worths = want.version
        for session, worth in changes.items():
            if worth is None or worth[0] == OVER[0]:
                worker.valued.pop(session, None)
            else:
                worker.valued[session] = None
        if changes or want.soon:
            self.desk.out.append(SetWorths(worker.id, worker.incarnation, changes, tuple(want.soon)))

    def _valued(self, worker: Worker, head: int) -> wire.Valued:
        return wire.Valued(
            node=self.node,
            incarnation=self.incarnation,
            head=head,
            worker=worker.id,
            version=worker.worths,
        )

    def void_worths(self) -> None:
        """Another head: what the one before said is void."""
        for worker in self.all.values():
            if worker.valued and worker.state is WorkerState.READY:
                self.desk.out.append(SetWorths(worker.id, worker.incarnation, dict.fromkeys(worker.valued)))
            worker.worths, worker.valued = 0, {}

    # -- what the head is told -----------------------------------------------------------

    def facts(self) -> list[wire.WorkerFact]:
        """One of each."""
        return [_fact(worker) for worker in self.all.values()]

    def settle(self, acked: int) -> None:
        """What the head knows is news no more; sessions with nothing resident are forgotten then."""
        for worker in self.all.values():
            if not worker.news:
                continue
            for session in [s for s, seq in worker.news.items() if seq <= acked]:
                del worker.news[session]
                if not worker.resident[session]:
                    del worker.resident[session]

    def changes(self) -> list[wire.ResidentFact]:
        changes: list[wire.ResidentFact] = []
        for worker in self.all.values():
            for session in worker.news:
                if len(changes) >= RESIDENT_PER_REPORT:
                    worker.news[session] = self.desk.seq + 1
                    self.desk.has_news = True
                    continue
                changes.append(wire.ResidentFact(worker.id, session, worker.resident[session]))
        return changes

    def check(self, acked: int) -> None:
        """Raise AssertionError where the state contradicts itself. `acked`: the last report that was acknowledged."""
        for worker in self.all.values():
            assert (worker.state is WorkerState.READY) <= (worker.up is not None)
            assert (worker.state is WorkerState.LOST) or worker.alive
            assert worker.fact in {None, _made(worker)}, f"{worker.id} would be told as it was"
            assert all(acked < seq <= self.desk.seq + 1 for seq in worker.news.values()), worker.id
            assert worker.news.keys() <= worker.resident.keys(), worker.id
            assert self.desk.has_news or all(seq <= self.desk.seq for seq in worker.news.values()), worker.id
            assert self.desk.has_news or worker.fact is not None, worker.id
            assert all(n or s in worker.news for s, n in worker.resident.items()), "a zero that was told"


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
        kv_token_bytes=up.kv_token_bytes if up is not None else 0,
        capabilities=up.capabilities if up is not None else (),
        gpus=up.gpus if up is not None else 1,
        adapters=up.adapters if up is not None else (),
        holes=worker.holes,
        healed=worker.healed,
        running=load.running if load is not None else 0,
        waiting=load.waiting if load is not None else 0,
        kv_usage=load.kv_usage if load is not None else 0.0,
        stirs=worker.stirs,
        reason=worker.reason,
    )
