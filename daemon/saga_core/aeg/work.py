"""How much a workflow takes in all, given what it has taken: residual life over the chain of levels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import exp, log

from saga_core.aeg.levels import NAMES, SHRINK, Key, Level
from saga_core.aeg.words import Estimate

BAND_Z = 2.563
"""Standard deviations between the 10th and the 90th percentile of a normal distribution."""
ENOUGH = 0.02
"""Weight below which the levels above are not asked."""
LEAST = 1e-9
"""Attained work that is still none."""
LINDY = log(2)
"""Where nobody went on for so long: expect as much again."""
SPREAD = 1.3
"""log-scale standard deviation of the work of coding agents' workflows (1.2 to 1.3 in the recordings)."""
MOST_SPREAD = 2.5
"""A band wider than this raises the mean no further: e^(s^2/2) of three strange workflows would be without measure."""

DECLARED = -2
"""Depth of a spot that the client declared."""
Spot = tuple[float, float, float, int, int]
"""Logarithms of the 10th, 50th and 90th percentile; samples; depth of the level that spoke loudest (-1: none)."""


def whole(levels: Mapping[Key, Level], chain: Sequence[Key], attained: float, *, steps: bool = False) -> Spot:
    """The total work (or steps), given that it is more than `attained`."""
    floor = log(attained) if attained > LEAST else log(LEAST)
    left, low, mid, high, samples, loudest, loud = 1.0, 0.0, 0.0, 0.0, 0, -1, 0.0
    for key in chain:
        level = levels.get(key)
        if level is None:
            continue
        ring = level.steps if steps else level.work
        ordered, first = ring.ordered, ring.above(floor)
        n = len(ordered) - first
        if n:
            share = left * n / (n + SHRINK[level.depth])
            low += share * ordered[first + n // 10]
            mid += share * ordered[first + n // 2]
            high += share * ordered[first + n * 9 // 10]
            samples = max(samples, n)
            left -= share
            if share > loud:
                loud, loudest = share, level.depth
            if left < ENOUGH:
                break
    return _filled(left, floor, (low, mid, high, samples, loudest))


def _filled(left: float, floor: float, spot: Spot) -> Spot:
    """The weight nobody claimed goes to the Lindy guess."""
    low, mid, high, samples, loudest = spot
    if samples == 0:
        guess = max(floor, 0.0) + LINDY
        return guess - SPREAD, guess, guess + SPREAD, 0, -1
    return low / (1 - left), mid / (1 - left), high / (1 - left), samples, loudest


def estimate(spot: Spot, attained: float) -> Estimate:
    """The spot in its own unit, never below what is attained."""
    low, mid, high, samples, depth = spot
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
