"""The smallest size that is enough, found with few questions: doubling, then bisection.

More need not be better (placement moves with the size of a cluster), so the answer is a size that is enough while the
one below is not and the one above is too, all three asked. What was asked and contradicts a threshold there is told.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(slots=True)
class Search:
    """Doubling, then bisection, over sizes 1 to `most`. `meets` is asked at most once per size."""

    meets: Callable[[int], bool]
    most: int
    tried: dict[int, bool] = field(default_factory=dict)

    def answer(self) -> int | None:
        """A size as the rule of this file says; None: no size that was tried is one."""
        low = 0
        while (high := self._doubled(low)) is not None:
            found = self._bisected(high)
            if found == self.most or self._asked(found + 1):
                return found
            low = found + 1
        return None

    def against(self, answer: int | None) -> list[int]:
        """Sizes tried that contradict a threshold at `answer`: smaller ones that reach it, larger ones that do not."""
        limit = self.most + 1 if answer is None else answer
        return sorted(size for size, met in self.tried.items() if met != (size >= limit))

    def left(self) -> int:
        """At most how many more sizes are to be tried if what follows shows a threshold."""
        missed = max((size for size, met in self.tried.items() if not met), default=0)
        met = [size for size, met in self.tried.items() if met and size > missed]
        if met:
            return (min(met) - missed - 1).bit_length() + 1
        top = min(self.most, max(1, 2 * missed))
        doublings = max(0, (self.most - 1).bit_length() - (top - 1).bit_length()) + 1
        return doublings + (self.most // 2).bit_length() + 1

    def _asked(self, size: int) -> bool:
        if size not in self.tried:
            self.tried[size] = self.meets(size)
        return self.tried[size]

    def _doubled(self, low: int) -> int | None:
        """A size above `low` that reaches it."""
        known = [size for size, met in self.tried.items() if met and size > low]
        if known:
            return min(known)
        size = low
        while size < self.most:
            size = min(self.most, max(1, 2 * size))
            if self._asked(size):
                return size
        return None

    def _bisected(self, high: int) -> int:
        """A size that reaches it with one below that does not: between the last that misses below `high`, and `high`."""
        low = max((size for size, met in self.tried.items() if not met and size < high), default=0)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self._asked(middle) else (middle, high)
        return high
