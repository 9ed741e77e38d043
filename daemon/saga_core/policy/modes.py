"""What a cluster is for: each mode is how much of the memory sessions work in at once (docs/modes.md).

More than `balanced` is past the cliff on some sets: 1.0 and 1.05, the policy study's best, wrote a quarter less on
iso-bench-trae. Less leaves room for what grows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from saga_core.policy.admission import Admission


class Band(NamedTuple):
    """`low` and `high` of `Admission`."""

    low: float
    high: float


_USUAL = Band(Admission().low, Admission().high)
BALANCED = "balanced"
MODES: Mapping[str, Band] = {
    "latency": Band(0.7, 0.8),
    BALANCED: _USUAL,
    "throughput": Band(0.85, 0.95),
}


def in_mode(mode: str, admission: Admission) -> Admission:
    """`admission` in that mode; a band that the settings have changed stays as they say."""
    if Band(admission.low, admission.high) != _USUAL:
        return admission
    band = MODES[mode]
    return replace(admission, low=band.low, high=band.high)
