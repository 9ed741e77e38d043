"""The figures of live runs: what each arm took, and how many times as fast as the first one, round by round.

An arm is a profile with what it is given: `saga`, `saga+declared` (workflows say what work they are),
`saga+warm` (it has seen another draw of the workload before). No process is started here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import exp, log
from statistics import fmean

import msgspec

from saga_core.errors import UserError
from saga_core.policy import ordering
from saga_core.policy.profiles import PROFILES
from saga_sim.pairing import Pair, ratio_spread
from saga_sim.runs import Summary

DECLARED, WARM = "declared", "warm"
MINUTE_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """A profile and what it is given."""

    profile: str
    declared: bool = False
    warm: bool = False

    @property
    def name(self) -> str:
        """As it is written: `saga+warm`."""
        added = [word for word, given in ((DECLARED, self.declared), (WARM, self.warm)) if given]
        return "+".join([self.profile, *added])

    @property
    def learns(self) -> bool:
        """Whether what workflows are expected to take moves anything under this profile."""
        found = PROFILES[self.profile]
        return found.epochs or found.due is ordering.virtual_finish


def arm(name: str) -> Arm:
    """Of `saga`, `saga+declared`, `saga+warm` or both. Raises UserError for any other addition."""
    profile, *added = name.split("+")
    if profile not in PROFILES or set(added) - {DECLARED, WARM} or len(set(added)) < len(added):
        raise UserError(
            f"profile {name!r} is not known (have: {', '.join(PROFILES)}; each with +{DECLARED}, +{WARM} or both)"
        )
    return Arm(profile=profile, declared=DECLARED in added, warm=WARM in added)


def arms(names: str, *, declared: bool = False, warm: bool = False) -> list[Arm]:
    """The arms of a comma-separated list; declared, warm: for all of them whom it can move."""
    found = [arm(name.strip()) for name in names.split(",") if name.strip()]
    given = [
        Arm(
            profile=a.profile,
            declared=a.declared or (declared and a.learns),
            warm=a.warm or (warm and a.learns),
        )
        for a in found
    ]
    if not given or len(set(given)) < len(given):
        raise UserError(f"--profile {names!r}: name each one once, and at least one")
    return given


class LiveRun(msgspec.Struct, frozen=True, kw_only=True):
    """One arm once. tct_s: of the workflows that finished, by their names. lost: a line for each that failed.

    others_cores: CPU cores that processes other than the cluster and this one took meanwhile, on average.
    homes: workflows by the worker of their latest step. took_s: all of it, with starting and ending the cluster, and with the warm-up.
    """

    arm: str
    round: int
    """From 1."""
    at: float
    """When it began, in seconds since 1970."""
    summary: Summary
    tct_s: dict[str, float]
    others_cores: float
    took_s: float
    homes: dict[str, int] = {}
    lost: list[str] = []

    @property
    def workflows_per_min(self) -> float:
        return MINUTE_S * self.summary.finished / self.summary.wall_s if self.summary.wall_s else 0.0


class LiveRow(msgspec.Struct, frozen=True, kw_only=True):
    """One arm over its rounds: arithmetic means, of tct_geomean_s the geometric one.

    ratio: how many times as fast as the first arm, the geometric mean of the paired completion times; None: of the
    first arm, and where nothing finished under both. ratios: by round. low, high: 95 % confidence (`saga_sim.pairing`).
    """

    arm: str
    runs: int
    makespan_s: float
    tct_mean_s: float | None
    tct_geomean_s: float | None
    tct_p95_s: float | None
    cached_share: float | None
    regenerated_tokens: int | None
    workflows_per_min: float
    others_cores: float
    finished: int
    workflows: int
    ratio: float | None = None
    ratios: dict[int, float] = {}
    low: float | None = None
    high: float | None = None


class LiveBench(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of `saga bench live`. interrupted: before all rounds were through; these are the runs that were."""

    engine: str
    workload: str
    workflows: int
    over_s: float | None
    """In which they arrive; None: as recorded."""
    workers: int
    kv_tokens: int
    pressure: float
    """Longest contexts of all workflows together, over all KV memory."""
    preset: str
    seed: int
    rounds: int
    version: str
    cores: int
    runs: list[LiveRun]
    rows: list[LiveRow]
    interrupted: bool = False

    @property
    def ok(self) -> bool:
        return not self.interrupted and not any(run.lost for run in self.runs)


def rows(runs: Sequence[LiveRun]) -> list[LiveRow]:
    """A row for each arm, in the order in which they ran first; each against the first one."""
    names = list(dict.fromkeys(run.arm for run in runs))
    return [_row(name, names[0], runs) for name in names]


def _row(name: str, first: str, runs: Sequence[LiveRun]) -> LiveRow:
    own = [run for run in runs if run.arm == name]
    told = [run.summary for run in own]
    paired = dict(_pairs(name, first, runs)) if name != first else {}
    spread = ratio_spread(list(paired.values()))
    geomeans = _known([s.tct_geomean_s for s in told])
    return LiveRow(
        arm=name,
        runs=len(own),
        makespan_s=fmean(s.wall_s for s in told),
        tct_mean_s=_mean([s.tct_mean_s for s in told]),
        tct_geomean_s=exp(fmean(map(log, geomeans))) if geomeans else None,
        tct_p95_s=_mean([s.tct_p95_s for s in told]),
        cached_share=_mean([s.cached_share for s in told]),
        regenerated_tokens=_whole(_mean([s.regenerated_tokens for s in told])),
        workflows_per_min=fmean(run.workflows_per_min for run in own),
        others_cores=fmean(run.others_cores for run in own),
        finished=sum(s.finished for s in told),
        workflows=sum(s.workflows for s in told),
        ratio=spread.ratio if spread else None,
        ratios=dict(zip(paired, spread.per_seed, strict=True)) if spread else {},
        low=spread.low if spread else None,
        high=spread.high if spread else None,
    )


def _pairs(name: str, first: str, runs: Sequence[LiveRun]) -> Iterator[tuple[int, list[Pair]]]:
    """Of each round, the workflows that finished under both; rounds without one are left out."""
    theirs = {run.round: run.tct_s for run in runs if run.arm == first}
    for run in runs:
        other = theirs.get(run.round, {})
        both = [(other[w], tct_s) for w, tct_s in run.tct_s.items() if w in other]
        if run.arm == name and both:
            yield run.round, both


def turns(arms: Sequence[Arm], rounds: int) -> list[tuple[int, Arm]]:
    """Every run in its order, with its round from 1: each second round backwards, so that drift favours nobody."""
    return [
        (turn + 1, each)
        for turn in range(rounds)
        for each in (arms if turn % 2 == 0 else list(reversed(arms)))
    ]


def left_s(plan: Sequence[tuple[int, Arm]], runs: Sequence[LiveRun]) -> float | None:
    """How long the rest of `plan` will take by what its first `runs` took; None: nothing ran yet."""
    if not runs:
        return None
    known = {name: fmean(r.took_s for r in runs if r.arm == name) for name in {r.arm for r in runs}}
    usual = fmean(known.values())
    return sum(known.get(each.name, usual) for _, each in plan[len(runs) :])


def _known(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _mean(values: Sequence[float | None]) -> float | None:
    found = _known(values)
    return fmean(found) if found else None


def _whole(value: float | None) -> int | None:
    return None if value is None else round(value)
