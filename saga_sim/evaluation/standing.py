"""What an evaluation says of one profile under one condition."""

from __future__ import annotations

import msgspec

from saga_sim.evaluation.plan import Half, Load
from saga_sim.evaluation.twists import SHIFTS, twist
from saga_sim.pairing import Basis

COLD = 100
"""Workflows at the beginning of a run that count as its cold start. The learner knows a set's class after a few dozen (docs/aeg.md)."""


class Condition(msgspec.Struct, frozen=True, kw_only=True):
    """What cells have in common that may be compared: everything but profile and seed."""

    work: str
    load: Load
    level: float
    workers: int
    workflows: int
    half: Half = Half.ALL
    twist: str = ""

    @property
    def early(self) -> int:
        """How many workflows came early: before the change where there is one, else while there was little to learn from."""
        return self.workflows // 2 if twist(self.twist).kind in SHIFTS else min(COLD, self.workflows // 2)


class Versus(msgspec.Struct, frozen=True, kw_only=True):
    """One profile against a baseline, over the workflows that finished under both, seed by seed.

    geomean: of the workflows' ratios; low, high: its 95 % confidence interval over what `basis` says. mean, p50, p95, p99:
    ratios of those figures of completion time. throughput: ratio of workflows per minute. pairs: compared; left_out: not,
    as one of both did not finish. early, late: the geomean over the workflows that came early (`Condition.early`) and over the others.
    """

    baseline: str
    geomean: float
    low: float | None
    high: float | None
    basis: Basis
    per_seed: tuple[float, ...]
    mean: float
    p50: float
    p95: float
    p99: float
    throughput: float | None
    pairs: int
    left_out: int
    early: float | None = None
    late: float | None = None


class Tenant(msgspec.Struct, frozen=True, kw_only=True):
    """One tenant or one class of workflows, means over seeds."""

    name: str
    slo_share: float
    slowdown_mean: float | None


class Forecast(msgspec.Struct, frozen=True, kw_only=True):
    """Predictions of one sort, over seeds weighted by their number. error, rule_error, within: as of `saga_core.aeg.Score`."""

    what: str
    count: int
    error: float
    rule_error: float
    within: float


class Bound(msgspec.Struct, frozen=True, kw_only=True):
    """The fairness bound against what was seen, over all seeds: `saga_core.fairness.FairnessFigures` says what each is."""

    workflows: int
    violations: int
    overdue: int
    lateness_p99: float
    lateness_max: float
    inverted_max_s: float
    unserved_max_s: float


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """One profile under one condition; figures are means over seeds, None where nothing can be said.

    again_share: of busy time, spent on prefilling anew. useful_share: of the cached KV, that of unfinished workflows.
    slo_share: workflows within the objective; slo_least: the least of any tenant and seed. slowdown_max: of any workflow
    in any seed. starved_share: took ten times their time alone, or did not finish. jain: over tenants. classes: by agent type.
    steady_per_min: between the first and the last fifth of the ends. bound: held against the fairness bound. scores: of predictions. belady: seconds of recomputing over the oracle's, on the run's own accesses. pressure: as it came out.
    """

    condition: Condition
    profile: str
    seeds: tuple[int, ...]
    finished: int
    workflows: int
    tct_mean_s: float | None
    tct_geomean_s: float | None
    tct_p50_s: float | None
    tct_p95_s: float | None
    tct_p99_s: float | None
    ttft_p95_s: float | None
    workflows_per_min: float | None
    pressure: float | None
    busy_share: float | None
    again_share: float | None
    useful_share: float | None
    preemptions: float | None
    belady: float | None
    slo: float
    slo_share: float | None
    slo_least: float
    slowdown_mean: float | None
    slowdown_max: float | None
    jain: float | None
    tenants: tuple[Tenant, ...]
    versus: tuple[Versus, ...]
    classes: tuple[Tenant, ...] = ()
    starved_share: float | None = None
    steady_per_min: float | None = None
    bound: Bound | None = None
    scores: tuple[Forecast, ...] = ()

    def forecast(self, what: str) -> Forecast | None:
        """How good predictions of that sort were; None where there were none."""
        return next((found for found in self.scores if found.what == what), None)

    def against(self, baseline: str) -> Versus | None:
        """The comparison with that baseline; None if there is none."""
        return next((found for found in self.versus if found.baseline == baseline), None)
