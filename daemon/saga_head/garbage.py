"""When Python's cyclic collector looks at what the head holds: briefly, and at nothing twice.

Rules of this file
  1. What the head keeps (workflows, sessions, what was learned) has no cycles: counts free it. Nor do its calls leave
     any to speak of (docs/benchmarks.md). The collector is for what libraries leave, and finds it while it is young.
  2. Nothing is collected while a recovery loads, and what it has loaded is frozen: not looked at any more.
  3. What a full collection finds alive is frozen too, so that the next one has only to look at what is new since.
     Whatever is frozen is still freed by counts.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

THRESHOLDS: Final = (700, 4, 1)
"""Of the three generations (Python 3.11's own: 700, 10, 10): so a full collection has at most some 7,000 new objects to
look at, of 0.1 to 0.7 µs each (docs/benchmarks.md), and takes less than the 5 ms for which an epoch may hold the loop."""


@contextmanager
def loading() -> Iterator[None]:
    """Within, nothing is collected: what is loaded stays."""
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
    gc.collect()  # of nothing: Python puts off a full collection until there is a quarter more than at the last one
    before = gc.get_threshold()
    gc.set_threshold(*THRESHOLDS)
    gc.callbacks.append(_freeze)
    try:
        yield
    finally:
        gc.callbacks.remove(_freeze)
        gc.set_threshold(*before)
        gc.unfreeze()


def _freeze(phase: str, info: Mapping[str, int]) -> None:
    """Told by the collector when it begins and ends."""
    if phase == "stop" and info["generation"] == 2:
        gc.freeze()
