"""Profiles compared workflow by workflow: ratios of completion times with a confidence interval.

Ratio: time under the baseline / time here; above 1 is faster. All means are geometric.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import exp, log
from statistics import fmean

import msgspec

from saga_sim.pairing import Basis, Pair, ratio_spread
from saga_sim.report import notation
from saga_sim.report.data import Outcome, ReportData

SAME = 0.01
"""Ratios this near to 1 count as the same."""

Chosen = Callable[[Outcome], bool]


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """One profile against the baseline over all pairs of workflows that finished under both.

    low, high: 95 % confidence; None with a single pair. per_seed: the ratio of each seed.
    pairs: (time under the baseline in s, ratio). left_out: pairs of which one did not finish.
    """

    profile: str
    ratio: float
    low: float | None
    high: float | None
    basis: Basis
    per_seed: tuple[float, ...]
    pairs: tuple[tuple[float, float], ...]
    left_out: int

    @property
    def words(self) -> str:
        """`1.23 (1.15 to 1.31)`."""
        if self.low is None or self.high is None:
            return notation.ratio(self.ratio)
        return f"{notation.ratio(self.ratio)} ({notation.ratio(self.low)} to {notation.ratio(self.high)})"

    @property
    def faster(self) -> int:
        return sum(ratio > 1 + SAME for _, ratio in self.pairs)

    @property
    def slower(self) -> int:
        return sum(ratio < 1 - SAME for _, ratio in self.pairs)

    @property
    def wins(self) -> bool:
        """Faster, and the interval leaves no room for chance."""
        return self.low is not None and self.low > 1

    @property
    def loses(self) -> bool:
        return self.high is not None and self.high < 1


def compare(data: ReportData, profile: str, chosen: Chosen = lambda _: True) -> Comparison | None:
    """`profile` against the baseline, over the chosen workflows; None if no pair finished."""
    by_seed: list[list[Pair]] = []
    asked = 0
    for ours, theirs in zip(data.of(profile), data.of(data.baseline), strict=True):
        both = [pair for pair in zip(ours.outcomes, theirs.outcomes, strict=True) if chosen(pair[0])]
        asked += len(both)
        by_seed.append([pair for pair in map(_pair, both) if pair is not None])
    spread = ratio_spread(by_seed)
    if spread is None:
        return None
    pairs = [(theirs, theirs / ours) for seed in by_seed for theirs, ours in seed]
    return Comparison(
        profile=profile,
        ratio=spread.ratio,
        low=spread.low,
        high=spread.high,
        basis=spread.basis,
        per_seed=spread.per_seed,
        pairs=tuple(pairs),
        left_out=asked - len(pairs),
    )


def _pair(both: tuple[Outcome, Outcome]) -> Pair | None:
    ours, theirs = both[0].completion_s, both[1].completion_s
    return (theirs, ours) if ours and theirs else None


def mean_ratio(ratios: Sequence[float]) -> float:
    """The geometric mean."""
    return exp(fmean(map(log, ratios)))
