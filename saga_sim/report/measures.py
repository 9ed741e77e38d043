"""The rows of the metrics table: what each is called, where it comes from, how it is written, which way is better."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from saga_sim.report import notation
from saga_sim.report.data import Metrics, Run

LOWER, HIGHER, NEITHER = -1, 1, 0


@dataclass(frozen=True, slots=True)
class Measure:
    """One figure of a profile. `better`: -1 lower, 1 higher, 0 a fact about the run."""

    name: str
    of: Callable[[Metrics], float | None]
    write: Callable[[float | None], str]
    better: int

    def values(self, runs: Sequence[Run]) -> list[float]:
        """One per seed, unknown ones left out."""
        return [value for value in (self.of(run.metrics) for run in runs) if value is not None]

    def mean(self, runs: Sequence[Run]) -> float | None:
        """Over the seeds."""
        values = self.values(runs)
        return fmean(values) if values else None


def _cached(metrics: Metrics) -> float | None:
    known = metrics.cached_tokens is not None and metrics.prompt_tokens
    return (
        metrics.cached_tokens / metrics.prompt_tokens if known and metrics.cached_tokens is not None else None
    )


def _regenerated(metrics: Metrics) -> float | None:
    if metrics.regenerated_tokens is None or not metrics.prompt_tokens:
        return None
    return metrics.regenerated_tokens / metrics.prompt_tokens


def _preemptions(metrics: Metrics) -> float | None:
    return metrics.preemptions


def _retries(metrics: Metrics) -> float | None:
    return metrics.retries


MEASURES = (
    Measure("Completion time, mean", lambda m: m.tct_mean_s, notation.seconds, LOWER),
    Measure("Completion time, geometric mean", lambda m: m.tct_geomean_s, notation.seconds, LOWER),
    Measure("Completion time, p50", lambda m: m.tct_p50_s, notation.seconds, LOWER),
    Measure("Completion time, p95", lambda m: m.tct_p95_s, notation.seconds, LOWER),
    Measure("Completion time, p99", lambda m: m.tct_p99_s, notation.seconds, LOWER),
    Measure("Time to first token, mean", lambda m: m.ttft_mean_s, notation.seconds, LOWER),
    Measure("Time to first token, p95", lambda m: m.ttft_p95_s, notation.seconds, LOWER),
    Measure("Workflows per minute", lambda m: m.workflows_per_min, notation.rate, HIGHER),
    Measure("Cached share of prompt tokens", _cached, notation.share, HIGHER),
    Measure("Regenerated share of prompt tokens", _regenerated, notation.share, LOWER),
    Measure("Regeneration's share of busy time", lambda m: m.again_share, notation.share, LOWER),
    Measure("Useful share of cached KV", lambda m: m.useful_share, notation.share, HIGHER),
    Measure("Belady ratio (computed again / an oracle's)", lambda m: m.belady_ratio, notation.ratio, LOWER),
    Measure("Slowdown, mean", lambda m: m.slowdown_mean, notation.ratio, LOWER),
    Measure("Slowdown, p95", lambda m: m.slowdown_p95, notation.ratio, LOWER),
    Measure("Slowdown, largest", lambda m: m.slowdown_max, notation.ratio, LOWER),
    Measure("Within the objective (SLO)", lambda m: m.slo_share, notation.share, HIGHER),
    Measure("Within the objective, the worst-served tenant's", lambda m: m.slo_least, notation.share, HIGHER),
    Measure("Fairness over tenants (Jain)", lambda m: m.fairness_tenants, notation.ratio, HIGHER),
    Measure("Fairness over workflows (Jain)", lambda m: m.fairness_workflows, notation.ratio, HIGHER),
    Measure("Engines busy", lambda m: m.busy_share, notation.share, NEITHER),
    Measure("Preemptions", _preemptions, notation.count, LOWER),
    Measure("Steps tried again", _retries, notation.count, LOWER),
    Measure("Pressure on KV memory", lambda m: m.pressure, notation.ratio, NEITHER),
)
