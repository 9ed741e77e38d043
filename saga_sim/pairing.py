"""The same workflows under two profiles, pair by pair: how many times as fast, and how sure that is.

Ratio: time under the baseline / time here; above 1 is faster. All means are geometric. The 95 % confidence interval is
Student's: over seeds, each with the mean logarithm of its pairs, since seeds are independent and the workflows of one
run are not; with a single run (or seeds that all drew the same one) over its workflows, which is too narrow, and said.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from math import exp, log
from statistics import fmean, stdev

import msgspec

from saga_sim.runs import ReplayResult, RunState

# Two-sided 95 % points of Student's t for 1..30 degrees of freedom (any table of the distribution).
STUDENT_95 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
NORMAL_95 = 1.959964

Pair = tuple[float, float]
"""Time under the baseline and time here, in seconds."""


class Basis(StrEnum):
    """What varies in a confidence interval."""

    SEEDS = "seeds"
    WORKFLOWS = "workflows"


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """A mean ratio with its 95 % confidence interval; None with a single pair. per_seed: of the seeds with pairs."""

    ratio: float
    low: float | None
    high: float | None
    basis: Basis
    per_seed: tuple[float, ...]


class Ratio(msgspec.Struct, frozen=True, kw_only=True):
    """How much shorter workflows took than under the baseline: geometric mean of the pairs, per seed and over all.

    above 1: better than the baseline; None: no workflow finished under both. low, high: the extremes over seeds.
    ci_low, ci_high: 95 % confidence, over what `basis` says. left_out: pairs of which one did not finish.
    """

    profile: str
    baseline: str
    geomean: float | None
    low: float | None
    high: float | None
    ci_low: float | None
    ci_high: float | None
    basis: Basis
    seeds: int
    pairs: int
    left_out: int


def compared(
    profile: str, baseline: str, ours: Sequence[ReplayResult], theirs: Sequence[ReplayResult]
) -> Ratio:
    """`ours` under `profile` against `theirs` under the baseline, run by run in the order of seeds."""
    by_seed = [pairs(mine, other) for mine, other in zip(ours, theirs, strict=True)]
    found = sum(map(len, by_seed))
    spread = ratio_spread(by_seed)
    return Ratio(
        profile=profile,
        baseline=baseline,
        geomean=None if spread is None else spread.ratio,
        low=None if spread is None else min(spread.per_seed),
        high=None if spread is None else max(spread.per_seed),
        ci_low=None if spread is None else spread.low,
        ci_high=None if spread is None else spread.high,
        basis=Basis.WORKFLOWS if spread is None else spread.basis,
        seeds=len(by_seed),
        pairs=found,
        left_out=sum(len(result.runs) for result in ours) - found,
    )


def pairs(ours: ReplayResult, theirs: ReplayResult) -> list[Pair]:
    """The workflows that finished in both runs."""
    return [
        (other.completion_s, run.completion_s)
        for run, other in zip(ours.runs, theirs.runs, strict=True)
        if run.state is RunState.FINISHED and other.state is RunState.FINISHED
    ]


def ratio_spread(by_seed: Sequence[Sequence[Pair]]) -> Spread | None:
    """The mean ratio of all seeds and how sure it is; None without a pair."""
    logs = [[log(theirs / ours) for theirs, ours in seed] for seed in by_seed if seed]
    if not logs:
        return None
    means = [fmean(seed) for seed in logs]
    basis = Basis.SEEDS if len(set(means)) > 1 else Basis.WORKFLOWS
    low, high = interval(means if basis is Basis.SEEDS else logs[0])
    return Spread(
        ratio=exp(fmean(means)), low=low, high=high, basis=basis, per_seed=tuple(exp(mean) for mean in means)
    )


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
