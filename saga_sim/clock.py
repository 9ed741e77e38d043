"""Virtual time: a heap of what happens when. Equal times happen in the order in which they were put there."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

Deed = Callable[[Any], None]


class Clock:
    """Runs deeds in the order of their times. Nothing else moves `now`."""

    def __init__(self) -> None:
        self.now = 0.0
        self.events = 0
        """Deeds done."""
        self._heap: list[tuple[float, int, Deed, Any]] = []
        self._seq = 0

    def at(self, when: float, deed: Deed, what: Any = None) -> None:
        """Do `deed(what)` at `when` (seconds; what is past is done next)."""
        self._seq += 1
        when = when if when > self.now else self.now  # noqa: FURB136 - millions of times
        heappush(self._heap, (when, self._seq, deed, what))

    def after(self, seconds: float, deed: Deed, what: Any = None) -> None:
        """Do `deed(what)` in so many `seconds` (0 or more)."""
        self._seq += 1
        heappush(self._heap, (self.now + seconds, self._seq, deed, what))

    def step(self) -> bool:
        """Do the next deed; False when there is none."""
        try:
            self.now, _, deed, what = heappop(self._heap)
        except IndexError:
            return False
        self.events += 1
        deed(what)
        return True
