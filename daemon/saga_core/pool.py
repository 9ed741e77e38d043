"""The ready workers of one model: what placement asks for, at a cost that does not grow with their number.

Rules of this file
  1. `Pool.workers` are those that take steps: the ready ones whose node stays.
  2. A ready worker whose node drains takes steps only while no other worker is ready: a step is better served there
     than nowhere. Then its sessions go on, and `Steps` says who else may come.
  3. `version` grows whenever `workers` or their ends change: who follows the pool looks at nothing else.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from hashlib import blake2b
from typing import TYPE_CHECKING

from saga_core.ids import WorkerId
from saga_core.least import Least
from saga_core.states import WorkerState

if TYPE_CHECKING:
    from saga_core.fleet import Worker

RING_POINTS = 64
"""Points per worker on the hash ring: about 10 % spread of shares (Karger et al. 1997, measured)."""
GONE = "its worker is gone"


class Pool:
    """The ready workers of one model."""

    def __init__(self) -> None:
        self.workers: dict[WorkerId, Worker] = {}
        self.leaving: dict[WorkerId, Worker] = {}
        """Ready ones whose node drains."""
        self.ends: dict[WorkerId, float] = {}
        """When workers end, of those that are known to."""
        self.turn = 0
        self.version = 0
        """Grows when a worker comes or goes."""
        self._least: Least[Worker] = Least(lambda worker: worker.rank)
        self._ring: list[tuple[int, WorkerId]] = []
        self._ring_sorted = True
        self._order: list[WorkerId] = []

    def __len__(self) -> int:
        return len(self.workers)

    @property
    def last_resort(self) -> bool:
        """Whether nobody is ready but workers whose nodes drain."""
        return bool(self.leaving) and bool(self.workers) and self.workers.keys() <= self.leaving.keys()

    def offer(self, worker: Worker) -> None:
        """`worker` is ready: it takes steps, or if its node drains it does where there is no other."""
        if not worker.leaving:
            stayed = self.leaving.pop(worker.id, None) is not None
            self.add(worker)
            if stayed or self.leaving:
                self._send_away()
        else:
            self.leaving[worker.id] = worker
            self._send_away()
            self._fall_back()
        self._follow_end(worker)

    def add(self, worker: Worker) -> None:
        """Take a ready worker in; twice does nothing."""
        if worker.id in self.workers:
            return
        self.workers[worker.id] = worker
        self.version += 1
        insort(self._order, worker.id)
        self._ring += [(point, worker.id) for point in _points(worker.id)]
        self._ring_sorted = False
        self._least.add(worker)

    def remove(self, worker: WorkerId) -> None:
        """Take a worker out; a stranger does nothing."""
        self.leaving.pop(worker, None)
        self.ends.pop(worker, None)
        self._take_out(worker)
        self._fall_back()

    def _take_out(self, worker: WorkerId) -> None:
        if self.workers.pop(worker, None) is None:
            return
        self.version += 1
        self._least.remove(worker)
        self._order.remove(worker)
        self._ring = [entry for entry in self._ring if entry[1] != worker]

    def _send_away(self) -> None:
        """Where somebody stays, those that leave take no more steps; and those that are shut in any case."""
        someone = not self.workers.keys() <= self.leaving.keys()
        for worker in [worker for worker in self.leaving.values() if worker.id in self.workers]:
            if someone or worker.shut:
                self._take_out(worker.id)

    def _fall_back(self) -> None:
        """Where nobody stays, those that leave take steps."""
        if self.workers.keys() <= self.leaving.keys():
            for worker in self.leaving.values():
                if not worker.shut:
                    self.add(worker)

    def _follow_end(self, worker: Worker) -> None:
        if self.ends.get(worker.id) == worker.ends_at:
            return
        self.version += 1
        if worker.ends_at is None:
            del self.ends[worker.id]
        else:
            self.ends[worker.id] = worker.ends_at

    def why_left(self, worker: WorkerId | None) -> str:
        """Why steps do not go to `worker` any more."""
        found = self.leaving.get(worker) if worker is not None else None
        return GONE if found is None else found.leaving

    def touch(self, worker: Worker) -> None:
        """The rank of `worker` changed."""
        self._least.touch(worker)

    def least_loaded(self) -> Worker:
        """The worker with the smallest `rank`. The pool must not be empty."""
        return self._least.least()

    def nth(self, turn: int) -> Worker:
        """The worker whose turn it is, in the order of names."""
        return self.workers[self._order[turn % len(self._order)]]

    def hashed(self, key: str) -> Worker:
        """The owner of `key` by consistent hashing: it moves only when its owner comes or goes."""
        if not self._ring_sorted:  # once for all that joined since somebody asked
            self._ring.sort()
            self._ring_sorted = True
        at = bisect_left(self._ring, (_hash(key), WorkerId("")))
        return self.workers[self._ring[at % len(self._ring)][1]]

    def check(self) -> None:
        """Raise AssertionError where an index contradicts the workers."""
        assert sorted(self.workers) == self._order
        assert len(self._ring) == RING_POINTS * len(self.workers)
        ready = self.workers | self.leaving
        assert all(w.state is WorkerState.READY for w in ready.values())
        assert self.ends == {w.id: w.ends_at for w in ready.values() if w.ends_at is not None}
        assert {w.id for w in ready.values() if w.leaving} == self.leaving.keys()
        if any(not w.leaving for w in ready.values()):
            assert not self.workers.keys() & self.leaving.keys(), "a node drains and takes steps"
        else:
            open_ = {w.id for w in self.leaving.values() if not w.shut}
            assert self.workers.keys() == open_, "nobody takes steps"
        self._least.check()


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")


def _points(worker: WorkerId) -> list[int]:
    return [_hash(f"{worker}#{point}") for point in range(RING_POINTS)]
