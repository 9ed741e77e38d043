"""Many things in the order of a rank that keeps changing: a change costs O(1), and is put in place when somebody asks."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterator
from typing import Generic

from saga_core.least import T

Rank = tuple[float, str]
"""A total order: it ends with the name."""


class Ranked(Generic[T]):
    """Things by name, the smallest rank first. Between a change and the next question the order is as it was."""

    __slots__ = ("_changed", "_order", "_placed", "_rank")

    def __init__(self, rank: Callable[[T], Rank]) -> None:
        self._rank = rank
        self._order: list[tuple[float, str, T]] = []
        self._placed: dict[str, tuple[float, str, T]] = {}
        self._changed: dict[str, T | None] = {}
        """Those to be put in place; None: to be taken out."""

    def __len__(self) -> int:
        self.settle()
        return len(self._order)

    def touch(self, item: T) -> None:
        """It is here, and its rank may have changed. O(1)."""
        self._changed[item.id] = item

    def remove(self, name: str) -> None:
        """It is not here any more; a stranger does nothing. O(1)."""
        if name in self._placed:
            self._changed[name] = None
        else:
            self._changed.pop(name, None)

    def settle(self) -> None:
        """Put every change in place: O(log n) comparisons each, and moving the list's tail."""
        for name, item in self._changed.items():
            before = self._placed.pop(name, None)
            if before is not None:
                del self._order[bisect_left(self._order, before)]
            if item is not None:
                entry = self._placed[name] = (*self._rank(item), item)
                insort(self._order, entry)
        self._changed.clear()

    def __iter__(self) -> Iterator[T]:
        """The smallest rank first. Nothing may be settled meanwhile; changes may be noted."""
        self.settle()
        return (item for _, _, item in self._order)

    def __reversed__(self) -> Iterator[T]:
        """The largest rank first, likewise."""
        self.settle()
        return (item for _, _, item in reversed(self._order))

    def last(self) -> T | None:
        """The one with the largest rank."""
        self.settle()
        return self._order[-1][2] if self._order else None

    def check(self, names: set[str]) -> None:
        """Raise AssertionError where these are not the `names`, or their order is broken."""
        here = self._placed.keys() - {n for n, item in self._changed.items() if item is None}
        assert here | {n for n, item in self._changed.items() if item is not None} == names
        assert self._order == sorted(self._placed.values())
