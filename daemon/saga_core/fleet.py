"""The mirrored half of the head: nodes and workers, as their reports say.

Rules of this file
  1. Everything here is soft state: after a restart of the head it is empty, and the
     nodes' next reports fill it again.
  2. Who takes steps stands in the `Pool` of its model.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from saga_core.adapters import Adapters
from saga_core.ids import NodeId, SessionId, WorkerId
from saga_core.pool import Pool
from saga_core.states import NodeState, WorkerState
from saga_core.wire import Capability, WorkerFact

__all__ = ["Fleet", "Node", "Pool", "Worker"]

MOST_GPUS = 1024
"""Of one worker (`workers.tp`): more is nonsense."""
DEFAULT_MAX_SEQS = 256
"""vLLM 0.32's own default of --max-num-seqs, where a worker does not say."""


@dataclass(slots=True, eq=False)
class Worker:
    """One engine server, as the head knows it."""

    id: WorkerId
    node: NodeId
    model: str
    incarnation: int = 0
    state: WorkerState = WorkerState.STARTING
    host: str = ""
    port: int = 0
    key: str = ""
    capacity_tokens: int = 0
    max_model_len: int = 0
    host_tokens: int = 0
    gpus: int = 1
    ordered: bool = False
    """Whether it serves the smallest priority first."""
    values: bool = False
    """Whether its engine takes what sessions' KV is worth."""
    kv_token_bytes: int = 0
    """Of one token's KV in a file; 0: it cannot be moved."""
    capabilities: tuple[Capability, ...] = ()
    holes: int = 0
    healed: int = 0
    adapters: tuple[str, ...] | None = None
    """Names that it serves beside `model` (`Adapters.follow`); None: it has not been ready yet."""
    max_seqs: int = DEFAULT_MAX_SEQS
    running: int = 0
    waiting: int = 0
    kv_usage: float = 0.0
    reason: str = ""
    placed: int = 0
    """Steps that the head has sent here and that are not finished: newer than any report."""
    homes: int = 0
    """Live sessions whose home this is; `Fleet.move_home` keeps it."""
    done: int = 0
    prompt_tokens: int = 0
    """Of its finished steps; `cached_tokens` of them were there already."""
    cached_tokens: int = 0
    resident: dict[SessionId, int] = field(default_factory=dict)
    """Tokens per live session; `Fleet.hold`, `release` and `void` keep it."""
    leaving: str = ""
    """Why it takes no new sessions, while other workers are ready; empty: it takes them."""
    closed: bool = False
    """It takes no new workflows, whoever else is ready."""
    shut: bool = False
    """It takes no steps at all: what is there is broken off."""
    ends_at: float | None = None
    """When its node ends; None: nobody knows."""
    stirs: int = 0
    """As its node says: grows while its engine does something; 0: nobody knows."""
    stirred_at: float = 0.0
    """When that grew, or when the first of our steps was placed on it."""
    suspect_at: float | None = None
    """When a connection to it failed; it is not used again before a later report says ready."""

    @property
    def load(self) -> float:
        """[0, 1]: the larger of pinned KV and of the share of its sequence slots in use.

        The paper does not define load; this is the definition of an independent port of it.
        """
        slots = self.placed / self.max_seqs
        load = slots if slots > self.kv_usage else self.kv_usage  # noqa: FURB136 - asked several times per step
        return load if load < 1.0 else 1.0  # noqa: FURB136

    @property
    def memory_tokens(self) -> int:
        """What contexts may take before something is computed again: host memory is loaded faster than that.

        Policy study, section 7: the cliff moves to about 1 + host / pool, and a limit that leaves host memory out
        is too strict. 0: not known.
        """
        return self.capacity_tokens + self.host_tokens if self.capacity_tokens else 0

    @property
    def rank(self) -> tuple[float, int, int, WorkerId]:
        """Order of "least loaded"; ties go to fewer steps, then fewer homes, then the name."""
        return (self.load, self.placed, self.homes, self.id)

    def accept(self, fact: WorkerFact) -> None:
        """Mirror what its node says; figures outside their range would upset every comparison."""
        self.incarnation, self.state, self.model = fact.incarnation, fact.state, fact.model
        self.host, self.port, self.key = fact.host, fact.port, fact.key
        self.capacity_tokens, self.max_model_len = max(0, fact.capacity_tokens), max(0, fact.max_model_len)
        self.host_tokens, self.ordered = max(0, fact.host_tokens), fact.ordered
        self.values, self.capabilities = fact.values, fact.capabilities
        self.kv_token_bytes = max(0, fact.kv_token_bytes)
        self.holes, self.healed = fact.holes, fact.healed
        self.max_seqs = fact.max_seqs if fact.max_seqs > 0 else DEFAULT_MAX_SEQS
        self.running, self.waiting = max(0, fact.running), max(0, fact.waiting)
        self.kv_usage = min(1.0, max(0.0, fact.kv_usage))  # in this order NaN becomes 0
        self.reason = fact.reason
        self.gpus = min(max(1, fact.gpus), MOST_GPUS)
        self.stirs = fact.stirs


@dataclass(slots=True, eq=False)
class Node:
    """One node daemon, as the head knows it."""

    id: NodeId
    incarnation: int
    host: str
    seen_at: float
    ends_at: float | None = None
    """When its wall time ends, by the head's clock; None: never, as far as anybody knows."""
    state: NodeState = NodeState.UP
    seq: int = 0
    workers: dict[WorkerId, Worker] = field(default_factory=dict)
    told: int = 0
    """The report that our picture of its residency is complete up to; 0: we have none."""
    programs: int = 0
    """Programs that run or were asked to run here."""
    program_slots: int = 64
    cpus: int = 0
    """That its programs may ask for in all; 0: it does not say, and they may ask for any."""
    memory_bytes: int = 0

    @property
    def busy(self) -> bool:
        """Whether steps are counted on its workers."""
        return any(worker.placed for worker in self.workers.values())


class Fleet:
    """All nodes and workers, and one pool per model."""

    def __init__(self) -> None:
        self.nodes: dict[NodeId, Node] = {}
        self.workers: dict[WorkerId, Worker] = {}
        self.pools: dict[str, Pool] = {}
        self.adapters = Adapters(self.workers)
        self._homes: dict[WorkerId, int] = {}
        """Sessions per home, also for workers that are not here (yet, or any more)."""
        self._holders: dict[SessionId, set[WorkerId]] = {}
        """The inverse of `Worker.resident`."""

    def pool(self, model: str) -> Pool:
        found = self.pools.get(model)
        if found is None:
            found = self.pools[model] = Pool()
        return found

    def models(self) -> list[str]:
        """Every model that some worker serves, ready or not, sorted."""
        return sorted(self.pools)

    def names(self) -> list[str]:
        """Everything that can be asked for: models, and adapters of them."""
        return sorted([*self.pools, *self.adapters.models])

    # -- workers -------------------------------------------------------------------------

    def add(self, node: Node, worker: WorkerId, model: str) -> Worker:
        """Know a new worker of `node`."""
        added = Worker(worker, node.id, model, homes=self._homes.get(worker, 0))
        node.workers[worker] = self.workers[worker] = added
        self.pool(model)
        self.adapters.void()
        return added

    def remove(self, node: Node, worker: Worker) -> None:
        """Forget a worker that its node no longer has."""
        self.void(worker)
        self.pool(worker.model).remove(worker.id)
        del node.workers[worker.id], self.workers[worker.id]
        self.adapters.void()
        self._drop_pool(worker.model)

    def forget(self, node: Node) -> None:
        """`node` is of no interest any more; nothing may be counted on its workers."""
        for worker in list(node.workers.values()):
            self.remove(node, worker)
        del self.nodes[node.id]

    def serve(self, worker: Worker, model: str) -> None:
        """`worker` serves `model` from now on."""
        old = worker.model
        if old == model:
            return
        self.pool(old).remove(worker.id)
        worker.model = model
        self.pool(model)
        self.adapters.void()
        self._drop_pool(old)

    def _drop_pool(self, model: str) -> None:
        """A model that nobody serves any more is unknown again."""
        if all(worker.model != model for worker in self.workers.values()):
            self.pools.pop(model, None)

    def touch(self, worker: Worker) -> None:
        """Something in the rank of `worker` changed."""
        self.pools[worker.model].touch(worker)

    # -- sessions ------------------------------------------------------------------------

    def move_home(self, old: WorkerId | None, new: WorkerId | None) -> None:
        """A session's home was `old` and is now `new`; None where there is none."""
        if old == new:
            return
        if old is not None:
            self._count_home(old, -1)
        if new is not None:
            self._count_home(new, 1)

    def _count_home(self, name: WorkerId, by: int) -> None:
        count = self._homes.get(name, 0) + by
        if count:
            self._homes[name] = count
        else:
            del self._homes[name]
        worker = self.workers.get(name)
        if worker is not None:
            worker.homes = count
            self.touch(worker)

    def homes(self) -> dict[WorkerId, int]:
        """Sessions per home."""
        return dict(self._homes)

    def hold(self, worker: Worker, session: SessionId, tokens: int) -> None:
        """`tokens` of `session` are resident in `worker`; 0: nothing is."""
        if tokens > 0:
            worker.resident[session] = tokens
            self._holders.setdefault(session, set()).add(worker.id)
        elif worker.resident.pop(session, None) is not None:
            self._let_go(session, worker)

    def void(self, worker: Worker) -> None:
        """The KV memory of `worker` is gone."""
        for session in worker.resident:
            self._let_go(session, worker)
        worker.resident.clear()

    def release(self, session: SessionId) -> None:
        """`session` is over: its KV is of no more interest, wherever it is."""
        for name in self._holders.pop(session, ()):
            self.workers[name].resident.pop(session, None)

    def _let_go(self, session: SessionId, worker: Worker) -> None:
        holders = self._holders[session]
        holders.discard(worker.id)
        if not holders:
            del self._holders[session]

    def check(self) -> None:
        """Raise AssertionError where the mirror contradicts itself."""
        for model, pool in self.pools.items():
            pool.check()
            assert all(w.model == model for w in pool.workers.values())
        assert set(self.pools) == {w.model for w in self.workers.values()}, "a model without a worker"
        holders: dict[SessionId, set[WorkerId]] = {}
        for worker in self.workers.values():
            assert worker is self.nodes[worker.node].workers[worker.id], worker.id
            assert worker.homes == self._homes.get(worker.id, 0), worker.id
            for session in worker.resident:
                holders.setdefault(session, set()).add(worker.id)
        assert holders == self._holders, "residency and its inverse disagree"
        for node in self.nodes.values():
            for worker in node.workers.values():
                assert self.workers[worker.id] is worker
                assert worker.placed >= 0
