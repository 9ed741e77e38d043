"""Axes: where a value lies on the paper, and the round values that are written beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import pairwise
from math import ceil, floor, log, log10

from saga_sim.report import notation

MOST_TICKS = 7
CLOSEST = 0.11
"""No two ticks stand nearer than this part of the axis: their labels would touch."""
TIME_STEPS_S = (
    0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400,
    172800, 604800,
)  # fmt: skip
FINE_TIMES_S = tuple(
    size * unit
    for unit, sizes in (
        (0.001, (1, 2, 5, 10, 20, 50, 100, 200, 500)),
        (1, (1, 2, 5, 10, 20, 30)),
        (60, (1, 2, 5, 10, 20, 30)),
        (3600, (1, 2, 5, 10)),
        (86400, (1, 2, 5, 10, 20, 50, 100)),
    )
    for size in sizes
)
TIMES_S = (
    FINE_TIMES_S,
    (0.001, 0.01, 0.1, 0.5, 1, 5, 10, 60, 300, 600, 3600, 18000, 86400, 864000),
    (0.001, 0.01, 0.1, 1, 10, 60, 600, 3600, 36000, 360000),
    (0.001, 0.1, 10, 600, 36000),
)
RATIOS = (
    (0.96, 0.98, 1, 1.02, 1.04),
    (0.7, 0.8, 0.9, 0.95, 1, 1.05, 1.1, 1.2, 1.3),
    (0.5, 0.6, 0.8, 1, 1.25, 1.5, 1.75, 2),
    (0.125, 0.25, 0.5, 0.7, 1, 1.4, 2, 4, 8),
    (0.0625, 0.125, 0.25, 0.5, 1, 2, 4, 8, 16),
    (0.01, 0.1, 0.3, 1, 3, 10, 100),
    (0.001, 0.01, 0.1, 1, 10, 100, 1000),
    (0.0001, 0.01, 1, 100, 10000),
)


@dataclass(frozen=True, slots=True)
class Axis:
    """A range of values, its ticks, and what it says. `place` gives 0 at `low` and 1 at `high`."""

    label: str
    low: float
    high: float
    ticks: tuple[float, ...]
    write: Callable[[float], str]
    logarithmic: bool = False

    def place(self, value: float) -> float:
        """Where a value lies, held within the axis."""
        value = min(max(value, self.low), self.high)
        if self.logarithmic:
            return log(value / self.low) / log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


def shares(label: str) -> Axis:
    """0 to 100 %."""
    return Axis(label, 0.0, 1.0, (0.0, 0.25, 0.5, 0.75, 1.0), notation.tick_share)


def counts(label: str, most: float) -> Axis:
    """From nothing to a round number that holds `most`."""
    step = _round_step(max(most, 1.0) / 4)
    high = step * max(1, ceil(max(most, 1.0) / step - 1e-9))
    return Axis(label, 0.0, high, _multiples(step, high), notation.tick_count)


def time(label: str, until_s: float) -> Axis:
    """From 0 to `until_s`, at round durations."""
    until_s = max(until_s, 0.1)
    step = next((s for s in TIME_STEPS_S if until_s / s < MOST_TICKS - 1), None)
    step = step or 604800 * ceil(until_s / 604800 / (MOST_TICKS - 2))
    return Axis(label, 0.0, until_s, _multiples(step, until_s), notation.tick_seconds)


def log_time(label: str, values: Iterable[float]) -> Axis:
    """All the values, on a logarithmic axis of durations."""
    low, high = _widened(values, least=1.6)
    return _logarithmic(label, low, high, TIMES_S, notation.tick_seconds)


def ratios(label: str, values: Iterable[float]) -> Axis:
    """All the values and 1 on a logarithmic axis."""
    low, high = _widened([1.0, *values], least=1.12)
    return _logarithmic(label, low, high, RATIOS, notation.tick_ratio)


def _logarithmic(
    label: str, low: float, high: float, choices: Iterable[tuple[float, ...]], write: Callable[[float], str]
) -> Axis:
    """With the densest of the choices of ticks whose labels do not touch."""
    bare = Axis(label, low, high, (), write, logarithmic=True)
    ticks: tuple[float, ...] = ()
    for choice in choices:
        ticks = tuple(value for value in choice if low <= value <= high)
        places = [bare.place(value) for value in ticks]
        if len(ticks) > 1 and all(b - a >= CLOSEST for a, b in pairwise(places)):
            break
    return replace(bare, ticks=ticks)


def _widened(values: Iterable[float], *, least: float) -> tuple[float, float]:
    """The range of positive values with some room, spanning at least that factor."""
    known = [value for value in values if value > 0] or [1.0]
    low, high = min(known) / 1.05, max(known) * 1.05
    room = max(1.0, (least / (high / low)) ** 0.5)
    return low / room, high * room


def _multiples(step: float, high: float) -> tuple[float, ...]:
    return tuple(step * index for index in range(floor(high / step + 1e-9) + 1))


def _round_step(value: float) -> float:
    """The next of 1, 2, 5, 10, 20, 50 …"""
    unit: float = 10 ** floor(log10(max(value, 1.0)))
    return next(unit * size for size in (1, 2, 5, 10) if unit * size >= value * (1 - 1e-9))
