"""How often Python's cyclic collector looks at a simulated world."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

YOUNG_OBJECTS = 1_000_000
"""Objects made and not yet freed before the collector looks at them; Python's own is 700."""


@contextmanager
def seldom_collected() -> Iterator[None]:
    """Within, the collector looks seldom.

    What a run makes is freed by counts; cycles are cut where their makers end (`Contexts.close`). With Python's own
    threshold, looking again and again at a growing cluster takes a third of the time (2,000 workers with 16,000
    workflows: 4.9 s of 15 s).
    """
    before = gc.get_threshold()
    gc.set_threshold(YOUNG_OBJECTS, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
