"""How much a workflow takes in all, given what it has taken: residual life over the chain of levels."""

from __future__ import annotations

from collections.abc import Mapping
from math import exp, log

from saga_core.aeg.curves import BEYOND
from saga_core.aeg.levels import NAMES, SHRINK, Key, Keys, Level
from saga_core.aeg.words import Estimate

BAND_Z = 2.563
"""Standard deviations between the 10th and the 90th percentile of a normal distribution."""
REST = 0.02
"""Weight below which the levels above are not asked."""
LEAST = 1e-9
"""Attained work that is still none."""
WIDTH = 1.7
"""Half of the band where nothing is known, in logarithms: 1.28 standard deviations of 1.3, as in the recordings."""
ENOUGH = 12
"""Samples from which a level says how wide the band is: fewer have no 10th percentile."""
MOST_SPREAD = 2.5
"""A band wider than this raises the mean no further: e^(s^2/2) of three strange workflows would be without measure."""
MOST_LOG = log(1e12)
"""Beyond any true amount of seconds or steps. Hints that were wrong by any factor correct the next one by as much."""

DECLARED = -2
"""Depth of a spot that the client declared."""
Spot = tuple[float, float, float, int, int]
"""Logarithms of the 10th, 50th and 90th percentile; samples; depth of the level that spoke loudest (-1: none)."""


def whole(levels: Mapping[Key, Level], chain: Keys, attained: float, *, steps: bool = False) -> Spot:
    """The total work (or steps), given that it is more than `attained`."""
    floor = log(attained) if attained > LEAST else log(LEAST)
    left, mid, samples, loudest, loud, learned = 1.0, 0.0, 0, -1, 0.0, 0
    below = above = WIDTH
    wide = False
    for key in chain:
        level = levels.get(key)
        if level is None or level.learned == learned:  # or the same workflows as one level below
            continue
        learned = level.learned
        curve = level.steps if steps else level.work
        first = curve.above(floor)
        n = len(curve.values) - first
        if not n:
            continue
        share, middle = left * n / (n + SHRINK[key[0]]), curve.quantile(first, 0.5)
        mid += share * middle
        left -= share
        samples = max(samples, n)
        if share > loud:
            loud, loudest = share, key[0]
        if n >= ENOUGH and not wide:
            below, above = middle - curve.quantile(first, 0.1), curve.quantile(first, 0.9) - middle
            wide = True
        if left < REST and wide:
            break
    if not samples:
        guess = max(floor, 0.0) + BEYOND
        return guess - WIDTH, guess, guess + WIDTH, 0, -1
    mid /= 1.0 - left
    return mid - below, mid, mid + above, samples, loudest


def estimate(spot: Spot, attained: float) -> Estimate:
    """The spot in its own unit, never below what is attained."""
    low, mid, high, samples, depth = spot
    if high > MOST_LOG:
        low, mid, high = min(low, MOST_LOG), min(mid, MOST_LOG), MOST_LOG
    spread = min(max(high - low, 0.0) / BAND_Z, MOST_SPREAD)
    middle = max(exp(mid), attained)
    return Estimate(
        mean=max(exp(mid + spread * spread / 2), attained),
        low=max(exp(low), attained),
        high=max(exp(high), middle),
        source=_source(depth),
        samples=samples,
        median=middle,
    )


def rest(total: Estimate, attained: float) -> Estimate:
    """What is left of a total."""
    return Estimate(
        max(total.mean - attained, 0.0),
        max(total.low - attained, 0.0),
        max(total.high - attained, 0.0),
        total.source,
        total.samples,
        max(total.median - attained, 0.0),
    )


def _source(depth: int) -> str:
    if depth >= 0:
        return NAMES[depth]
    return "declared" if depth == DECLARED else "nothing known: as much again"


NOTHING = estimate(whole({}, (), 0.0), 0.0)
"""Of what is not known at all."""
