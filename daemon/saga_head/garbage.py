"""When Python's cyclic collector looks at what the head holds: briefly, and never at what a recovery has loaded.

Rules of this file
  1. What the head keeps (workflows, sessions, what was learned) has no cycles: it is freed by counts. The collector is
     for what libraries leave behind, and that is young.
  2. Nothing is collected while a recovery loads, and what it has loaded is frozen: not looked at any more.
  3. A full collection that took long freezes what it found alive, so that the next one has that behind it. Whatever is
     frozen is still freed by counts.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from time import thread_time
from typing import Final

LONG_S: Final = 0.002
"""Processor time of a full collection from which on it freezes. The next one takes at most that, a quarter more (Python
waits for so much growth), and what is new: below the 5 ms that an epoch may take (docs/benchmarks.md)."""
THRESHOLDS: Final = (700, 10, 4)
"""As Python 3.11, but a full collection is due after 4 of the middle generation instead of 10: so it has at most some
40,000 new objects to look at, of 50 to 100 ns each (docs/benchmarks.md)."""


@contextmanager
def loading() -> Iterator[None]:
    """Within, nothing is collected: what is loaded stays, and looking at it again and again is half the time it takes."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextmanager
def brief() -> Iterator[None]:
    """Within, no collection takes long; what is there at the beginning is never looked at again."""
    gc.collect()
    gc.freeze()
    before, watch = gc.get_threshold(), _Watch()
    gc.set_threshold(*THRESHOLDS)
    gc.callbacks.append(watch)
    try:
        yield
    finally:
        gc.callbacks.remove(watch)
        gc.set_threshold(*before)
        gc.unfreeze()


class _Watch:
    """Told by the collector when it begins and ends."""

    def __init__(self) -> None:
        self._began = 0.0

    def __call__(self, phase: str, info: Mapping[str, int]) -> None:
        if info["generation"] < 2:
            return
        if phase == "start":
            self._began = thread_time()
        elif thread_time() - self._began > LONG_S:
            gc.freeze()
