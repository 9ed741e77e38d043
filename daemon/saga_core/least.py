"""The smallest of many things whose rank keeps changing, at O(log n) per change."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar


class Named(Protocol):
    """What has a name that never changes."""

    @property
    def id(self) -> str: ...


T = TypeVar("T", bound=Named)


class Least(Generic[T]):
    """Things by name. `rank` must be a total order: it ends with the name."""

    def __init__(self, rank: Callable[[T], tuple[Any, ...]]) -> None:
        self._rank = rank
        self._all: dict[str, T] = {}
        self._heap: list[tuple[Any, ...]] = []
        """Holds the current rank of everything but what is in `_changed`, and ranks that are past."""
        self._changed: dict[str, T] = {}

    def __len__(self) -> int:
        return len(self._all)

    def add(self, item: T) -> None:
        self._all[item.id] = self._changed[item.id] = item

    def remove(self, name: str) -> None:
        self._all.pop(name, None)
        self._changed.pop(name, None)

    def touch(self, item: T) -> None:
        """The rank of `item` changed. O(1): it is put in its place when somebody asks."""
        if item.id in self._all:
            self._changed[item.id] = item

    def least(self) -> T:
        """The item with the smallest rank; O(log n) per change since the last call. There must be one."""
        for changed in self._changed.values():
            heapq.heappush(self._heap, self._rank(changed))
        self._changed.clear()
        if len(self._heap) > 4 * len(self._all) + 64:
            self._heap = [self._rank(item) for item in self._all.values()]
            heapq.heapify(self._heap)
        while True:
            top = self._heap[0]
            item = self._all.get(top[-1])
            if item is not None and self._rank(item) == top:
                return item
            heapq.heappop(self._heap)

    def check(self) -> None:
        """Raise AssertionError where the heap would answer wrongly."""
        if self._all:
            assert self._rank(self.least()) == min(map(self._rank, self._all.values()))
