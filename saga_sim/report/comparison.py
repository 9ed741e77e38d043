"""Profiles compared workflow by workflow: ratios of completion times with a confidence interval.

Ratio: time under the baseline / time here; above 1 is faster. All means are geometric.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from math import exp, log
from statistics import fmean, stdev

import msgspec

from saga_sim.report import notation
from saga_sim.report.data import Outcome, ReportData

# Two-sided 95 % points of Student's t for 1..30 degrees of freedom (any table of the distribution).
STUDENT_95 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
NORMAL_95 = 1.959964
SAME = 0.01
"""Ratios this near to 1 count as the same."""

Chosen = Callable[[Outcome], bool]


class Basis(StrEnum):
    """What varies in a confidence interval."""

    SEEDS = "seeds"
    WORKFLOWS = "workflows"


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
    by_seed: list[list[tuple[float, float]]] = []
    asked = 0
    for ours, theirs in zip(data.of(profile), data.of(data.baseline), strict=True):
        both = [pair for pair in zip(ours.outcomes, theirs.outcomes, strict=True) if chosen(pair[0])]
        asked += len(both)
        by_seed.append([pair for pair in map(_pair, both) if pair is not None])
    pairs = [pair for seed in by_seed for pair in seed]
    if not pairs:
        return None
    per_seed = [mean_ratio([ratio for _, ratio in seed]) for seed in by_seed if seed]
    basis, logs = _sample(per_seed, by_seed)
    low, high = interval(logs)
    return Comparison(
        profile=profile,
        ratio=mean_ratio(per_seed),
        low=low,
        high=high,
        basis=basis,
        per_seed=tuple(per_seed),
        pairs=tuple(pairs),
        left_out=asked - len(pairs),
    )


def _pair(both: tuple[Outcome, Outcome]) -> tuple[float, float] | None:
    ours, theirs = both[0].completion_s, both[1].completion_s
    return (theirs, theirs / ours) if ours and theirs else None


def _sample(
    per_seed: Sequence[float], by_seed: Sequence[Sequence[tuple[float, float]]]
) -> tuple[Basis, list[float]]:
    """Seeds are independent, workflows of one run are not: seeds, unless they all gave the same run."""
    if len(set(per_seed)) > 1:
        return Basis.SEEDS, [log(ratio) for ratio in per_seed]
    return Basis.WORKFLOWS, [log(ratio) for _, ratio in next(filter(None, by_seed))]


def mean_ratio(ratios: Sequence[float]) -> float:
    """The geometric mean."""
    return exp(fmean(map(log, ratios)))


def student_95(freedom: int) -> float:
    """The two-sided 95 % point: from the table, beyond it by the first term of Cornish and Fisher's expansion."""
    if freedom <= len(STUDENT_95):
        return STUDENT_95[freedom - 1]
    return NORMAL_95 + (NORMAL_95**3 + NORMAL_95) / (4 * freedom)


def interval(logs: Sequence[float]) -> tuple[float | None, float | None]:
    """The 95 % confidence interval (Student) of the mean of logarithms, as ratios."""
    if len(logs) < 2:
        return None, None
    middle, reach = fmean(logs), student_95(len(logs) - 1) * stdev(logs) / len(logs) ** 0.5
    return exp(middle - reach), exp(middle + reach)
