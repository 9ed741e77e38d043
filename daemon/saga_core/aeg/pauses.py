"""When a session comes back from its tool: what is left of the pauses that lasted longer than this one already has.

Two rules from the policy study (sections 5 and 6): the latest 200 return times per tool, with one pseudo-sample at twice
the elapsed time; and where a tool's recent predictions lose to Lindy's rule (expect as long again), Lindy's rule.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from math import log

from saga_core.aeg.rings import Ring
from saga_core.aeg.words import Estimate

PAUSES = 200
"""Study, section 6: 30, 200 and 1000 differ by at most 0.02 in the Bélády ratio."""
TRUSTED = 8
"""Study, section 5: fewer samples ask the pool of all programs."""
LINDY_S = 1.0
"""Study, section 5: expected after no time at all where nothing is known."""
LINDY_BAND = (0.1, 9.0)
"""Residuals of a Pareto tail of index 1 at its 10th and 90th percentile, as shares of the elapsed time."""
FADE = 0.05
"""Weight of the newest error in the running ones: some 20 pauses."""
MARGIN = 1.1
"""Lindy must be this much better before it takes over, so that noise does not switch."""
POINTS = (0.1, 0.3, 0.5, 0.7, 0.9)

Residual = tuple[float, float, float, float]
"""10th, 50th, 90th percentile and mean of the time left."""


@dataclass(slots=True, eq=False)
class Pauses:
    """Return times of one tool, and how well they have predicted."""

    ring: Ring = field(default_factory=lambda: Ring(PAUSES))
    error: float = 0.0
    """Mean |log((1 + predicted) / (1 + left))| of late."""
    lindy_error: float = 0.0

    @property
    def trusted(self) -> bool:
        return len(self.ring.ordered) >= TRUSTED

    @property
    def beaten(self) -> bool:
        """Would Lindy's rule have done better lately?"""
        return self.error > MARGIN * self.lindy_error + 0.01

    def left(self, elapsed_s: float) -> Residual:
        """Time to the return, given that `elapsed_s` have passed."""
        ordered = self.ring.ordered
        first = self.ring.above(elapsed_s)
        if first == len(ordered) or (elapsed_s >= LINDY_S and self.beaten):
            return lindy(elapsed_s)
        pseudo = 2.0 * elapsed_s if elapsed_s > 0.0 else ordered[-1]
        place = max(first, bisect_right(ordered, pseudo))
        n = len(ordered) - first
        marks = []
        for point in POINTS:
            rank = first + int(point * (n + 1))
            value = ordered[rank] if rank < place else pseudo if rank == place else ordered[rank - 1]
            marks.append(value - elapsed_s)
        # The mean of five percentiles: the tail beyond the 95th is nobody's plan.
        return marks[0], marks[2], marks[4], sum(marks) / len(marks)

    def judge(self, pause_s: float) -> tuple[float, float, bool]:
        """Error at the pause's beginning, Lindy's, and whether the band held it; before the ring learns it."""
        low, middle, high, _ = self.left(0.0)
        self._compare(pause_s)
        happened = log(1.0 + pause_s)
        mine, theirs = abs(log(1.0 + middle) - happened), abs(log(1.0 + LINDY_S) - happened)
        return mine, theirs, low <= pause_s <= high

    def _compare(self, pause_s: float) -> None:
        """Compare both rules at a point inside the pause that has just ended: the latest power of 4 seconds."""
        point = 0.0 if pause_s <= 1.0 / 64 else _milestone(pause_s)
        truth = log(1.0 + pause_s - point)
        mine = abs(log(1.0 + self.left_by_ring(point)) - truth)
        theirs = abs(log(1.0 + (point if point > 0.0 else LINDY_S)) - truth)
        self.error += FADE * (mine - self.error)
        self.lindy_error += FADE * (theirs - self.lindy_error)

    def left_by_ring(self, elapsed_s: float) -> float:
        """Median residual, whoever has predicted better lately."""
        ordered = self.ring.ordered
        first = self.ring.above(elapsed_s)
        n = len(ordered) - first
        return ordered[first + n // 2] - elapsed_s if n else max(elapsed_s, LINDY_S)

    def survive(self, elapsed_s: float) -> float:
        """Share of pauses longer than `elapsed_s`; with one pseudo-sample, so never 0."""
        n = len(self.ring.ordered)
        return (n - self.ring.above(elapsed_s) + 1.0) / (n + 1.0)


def _milestone(pause_s: float) -> float:
    point = 1.0 / 64
    while point * 4.0 < pause_s:
        point *= 4.0
    return point


def lindy(elapsed_s: float) -> Residual:
    """As long again; with a band as wide as it is ignorant."""
    expected = max(LINDY_S, elapsed_s)
    low, high = LINDY_BAND
    return low * expected, expected, high * expected, expected


def estimate(residual: Residual, source: str, samples: int) -> Estimate:
    low, middle, high, mean = residual
    return Estimate(mean, low, high, source, samples, middle)
