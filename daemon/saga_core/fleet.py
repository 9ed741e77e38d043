"""The mirrored half of the head: nodes and workers, as their reports say.

Rules of this file
  1. Everything here is soft state: after a restart of the head it is empty, and the
     nodes' next reports fill it again.
  2. `Pool` keeps what placement asks for at a cost that does not grow with the number
     of workers: the least loaded one, a hash ring, a turn counter.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from dataclasses import dataclass, field
from hashlib import blake2b

from saga_core.ids import NodeId, SessionId, WorkerId
from saga_core.states import NodeState, WorkerState
from saga_core.wire import WorkerFact

RING_POINTS = 64
"""Points per worker on the hash ring: about 10 % spread of shares (Karger et al. 1997, measured)."""
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
    max_seqs: int = DEFAULT_MAX_SEQS
    running: int = 0
    waiting: int = 0
    kv_usage: float = 0.0
    reason: str = ""
    placed: int = 0
    """Steps that the head has sent here and that are not finished: newer than any report."""
    homes: int = 0
    """Live sessions whose home this is."""
    done: int = 0
    resident: dict[SessionId, int] = field(default_factory=dict)
    suspect_at: float | None = None
    """When a connection to it failed; it is not used again before a later report says ready."""

    @property
    def load(self) -> float:
        """[0, 1]: the larger of pinned KV and of the share of its sequence slots in use.

        The paper does not define load; this is the definition of an independent port of it.
        """
        return min(1.0, max(self.kv_usage, self.placed / self.max_seqs))

    @property
    def rank(self) -> tuple[float, int, int, WorkerId]:
        """Order of "least loaded"; ties go to fewer steps, then fewer homes, then the name."""
        return (self.load, self.placed, self.homes, self.id)

    def accept(self, fact: WorkerFact) -> None:
        """Mirror what its node says."""
        self.incarnation, self.state, self.model = fact.incarnation, fact.state, fact.model
        self.host, self.port, self.key = fact.host, fact.port, fact.key
        self.capacity_tokens, self.max_model_len = fact.capacity_tokens, fact.max_model_len
        self.max_seqs = fact.max_seqs or DEFAULT_MAX_SEQS
        self.running, self.waiting, self.kv_usage = fact.running, fact.waiting, fact.kv_usage
        self.reason = fact.reason


@dataclass(slots=True, eq=False)
class Node:
    """One node daemon, as the head knows it."""

    id: NodeId
    incarnation: int
    host: str
    end_at: float | None
    seen_at: float
    state: NodeState = NodeState.UP
    seq: int = 0
    workers: dict[WorkerId, Worker] = field(default_factory=dict)
    programs: int = 0
    """Programs that run or were asked to run here."""


class Pool:
    """The ready workers of one model."""

    def __init__(self) -> None:
        self.workers: dict[WorkerId, Worker] = {}
        self.turn = 0
        self._heap: list[tuple[float, int, int, WorkerId]] = []
        self._ring: list[tuple[int, WorkerId]] = []
        self._order: list[WorkerId] = []

    def __len__(self) -> int:
        return len(self.workers)

    def add(self, worker: Worker) -> None:
        """Take a ready worker in; twice does nothing."""
        if worker.id in self.workers:
            return
        self.workers[worker.id] = worker
        insort(self._order, worker.id)
        for point in _points(worker.id):
            insort(self._ring, (point, worker.id))
        self.touch(worker)

    def remove(self, worker: WorkerId) -> None:
        """Take a worker out; a stranger does nothing."""
        if self.workers.pop(worker, None) is None:
            return
        self._order.remove(worker)
        self._ring = [entry for entry in self._ring if entry[1] != worker]

    def touch(self, worker: Worker) -> None:
        """The load of `worker` changed. O(log n); stale entries fall out when they reach the top."""
        if worker.id not in self.workers:
            return
        heapq.heappush(self._heap, worker.rank)
        if len(self._heap) > 4 * len(self.workers) + 64:
            self._heap = [w.rank for w in self.workers.values()]
            heapq.heapify(self._heap)

    def least_loaded(self) -> Worker:
        """The worker with the smallest `rank`. The pool must not be empty."""
        while True:
            top = self._heap[0]
            worker = self.workers.get(top[3])
            if worker is not None and worker.rank == top:
                return worker
            heapq.heappop(self._heap)

    def nth(self, turn: int) -> Worker:
        """The worker whose turn it is, in the order of names."""
        return self.workers[self._order[turn % len(self._order)]]

    def hashed(self, key: str) -> Worker:
        """The owner of `key` by consistent hashing: it moves only when its owner comes or goes."""
        at = bisect_left(self._ring, (_hash(key), WorkerId("")))
        return self.workers[self._ring[at % len(self._ring)][1]]

    def check(self) -> None:
        """Raise AssertionError where an index contradicts the workers."""
        assert sorted(self.workers) == self._order
        assert len(self._ring) == RING_POINTS * len(self.workers)
        assert all(w.state is WorkerState.READY for w in self.workers.values())
        if self.workers:
            assert self.least_loaded().rank == min(w.rank for w in self.workers.values())


class Fleet:
    """All nodes and workers, and one pool per model."""

    def __init__(self) -> None:
        self.nodes: dict[NodeId, Node] = {}
        self.workers: dict[WorkerId, Worker] = {}
        self.pools: dict[str, Pool] = {}

    def pool(self, model: str) -> Pool:
        found = self.pools.get(model)
        if found is None:
            found = self.pools[model] = Pool()
        return found

    def models(self) -> list[str]:
        """Every model that some worker serves or has served, sorted."""
        return sorted(self.pools)

    def check(self) -> None:
        """Raise AssertionError where the mirror contradicts itself."""
        for model, pool in self.pools.items():
            pool.check()
            assert all(w.model == model for w in pool.workers.values())
        for node in self.nodes.values():
            for worker in node.workers.values():
                assert self.workers[worker.id] is worker
                assert worker.placed >= 0
                assert worker.homes >= 0


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")


def _points(worker: WorkerId) -> list[int]:
    return [_hash(f"{worker}#{point}") for point in range(RING_POINTS)]
