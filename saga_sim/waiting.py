"""The waiting line of an engine under `--scheduling-policy priority`; first come, first served needs a deque only."""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import Generic, Protocol, TypeVar


class Ranked(Protocol):
    """A request as this module sees it: the smaller in (priority, arrived_at, key), the sooner its turn."""

    priority: int
    arrived_at: float
    key: int


R = TypeVar("R", bound=Ranked)


class ByPriority(Generic[R]):
    """Requests by (priority, arrival), as vLLM's `PriorityRequestQueue`. Its words are a deque's.

    What is put back in front (`appendleft`: a preempted request) gets the place that its rank gives it, like any other.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[int, float, int, R]] = []

    def __len__(self) -> int:
        return len(self._heap)

    def __getitem__(self, index: int) -> R:
        """The next one, at index 0; the others are in no order."""
        return self._heap[index][3]

    def append(self, request: R) -> None:
        heappush(self._heap, (request.priority, request.arrived_at, request.key, request))

    appendleft = append

    def popleft(self) -> R:
        return heappop(self._heap)[3]

    def remove(self, request: R) -> None:
        """Take one out, wherever it is. ValueError when it is not there."""
        self._heap.remove((request.priority, request.arrived_at, request.key, request))
        heapify(self._heap)
