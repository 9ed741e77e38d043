"""One clock for decisions: it never runs backwards, and it means the same after a restart."""

from __future__ import annotations

import time


class Clock:
    """Seconds since the epoch as of the start, counted on by the monotonic clock."""

    def __init__(self, not_before: float = 0.0) -> None:
        """`not_before`: the last time in the journal; a wall clock set back does not undo it."""
        self._offset = max(time.time(), not_before) - time.monotonic()

    def __call__(self) -> float:
        return self._offset + time.monotonic()
