"""What the KV of a session in a tool is worth, by profile. Pure; the formulas are those of `saga_core.kv.retention`.

Who is over, paused or waiting for an engine is no question of rules: `saga_core.worths` says so from facts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import NamedTuple

from saga_core.aeg import Estimate
from saga_core.costs import CostTable
from saga_core.kv.retention import Worth, density_of_context, ttl_lru

LOOK_S = 1.0
"""A worth that changes as time passes is not looked at again sooner."""


@dataclass(frozen=True, slots=True)
class Away:
    """A session between two steps."""

    context_tokens: int
    since: float
    """When its latest step ended, in seconds."""
    for_s: float
    """How long ago that is."""
    back: Callable[[float], Estimate]
    """Seconds until its next step, given so many seconds away."""


class Rating(NamedTuple):
    """What it is worth now, and in how many seconds it is to be asked about again (inf: never)."""

    worth: Worth
    again_s: float


Retention = Callable[[CostTable, Away], Rating]


def by_density(costs: CostTable, away: Away) -> Rating:
    """Ours: seconds that it takes to compute again over the seconds until it is asked for (policy study, section 5).

    By the median of what is left: as good as the mean or better (section 6). Asked again when the time away has
    doubled; where less than that is left, when half of it has passed.
    """
    left_s = away.back(away.for_s).median
    again_s = away.for_s if left_s >= away.for_s else left_s / 2
    return Rating(density_of_context(costs, away.context_tokens, left_s), max(LOOK_S, again_s))


def by_ttl(costs: CostTable, away: Away) -> Rating:  # noqa: ARG001
    """Continuum: kept for the 90th percentile of its tool's latencies, none where none is known; LRU beside that."""
    expected = away.back(0.0)
    ttl_s = expected.high if expected.samples else 0.0
    left_s = ttl_s - away.for_s
    worth = ttl_lru(away.since, away.since + ttl_s, away.since + away.for_s)
    return Rating(worth, left_s if left_s > 0.0 else inf)
