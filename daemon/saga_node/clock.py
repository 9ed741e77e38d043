"""The daemon's clock."""

from __future__ import annotations

import time


class Clock:
    """Seconds since 1970 that never run backwards: the wall's time at the start, and monotonic from there."""

    def __init__(self) -> None:
        self._wall, self._start = time.time(), time.monotonic()

    def __call__(self) -> float:
        return self._wall + time.monotonic() - self._start
