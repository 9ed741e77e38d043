"""Cells folded into standings: each profile under each condition, its means over seeds, and its pairs with the baselines.

All ratios are (baseline / here) for times and (here / baseline) for rates: above 1 is better. Means of ratios are geometric.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from statistics import fmean, geometric_mean

import msgspec

from saga_sim.evaluation.cells import CellResult
from saga_sim.evaluation.plan import Cell, Half, Load
from saga_sim.pairing import Basis, Pair, ratio_spread
from saga_sim.trace.stats import percentile


class Condition(msgspec.Struct, frozen=True, kw_only=True):
    """What cells have in common that may be compared: everything but profile and seed."""

    work: str
    load: Load
    level: float
    workers: int
    workflows: int
    half: Half = Half.ALL


class Versus(msgspec.Struct, frozen=True, kw_only=True):
    """One profile against a baseline, over the workflows that finished under both, seed by seed.

    geomean: of the workflows' ratios; low, high: its 95 % confidence interval over what `basis` says. mean, p50, p95, p99:
    ratios of those figures of completion time. throughput: ratio of workflows per minute. pairs: compared; left_out: not,
    as one of both did not finish.
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


class Tenant(msgspec.Struct, frozen=True, kw_only=True):
    """One tenant, means over seeds."""

    name: str
    slo_share: float
    slowdown_mean: float | None


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """One profile under one condition; figures are means over seeds, None where nothing can be said.

    again_share: of busy time, spent on prefilling anew. useful_share: of the cached KV, that of unfinished workflows.
    slo_share: workflows within the objective; slo_least: the least of any tenant and seed. slowdown_max: of any workflow
    in any seed. jain: over tenants. belady: seconds of recomputing over the oracle's, on the run's own accesses. pressure: as it came out.
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

    def against(self, baseline: str) -> Versus | None:
        """The comparison with that baseline; None if there is none."""
        return next((found for found in self.versus if found.baseline == baseline), None)


def condition_of(cell: Cell) -> Condition:
    """The condition of a cell."""
    return Condition(
        work=cell.work,
        load=cell.load,
        level=cell.level,
        workers=cell.workers,
        workflows=cell.workflows,
        half=cell.half,
    )


def standings(results: Iterable[CellResult], baselines: Sequence[str]) -> list[Standing]:
    """All profiles under all conditions, in the order in which they come; profiles without a pair compare with nothing."""
    groups: dict[Condition, dict[str, dict[int, CellResult]]] = {}
    for result in results:
        of = groups.setdefault(condition_of(result.cell), {})
        of.setdefault(result.cell.profile, {})[result.cell.seed] = result
    return [
        _standing(condition, profile, runs, of, baselines)
        for condition, of in groups.items()
        for profile, runs in of.items()
    ]


def _standing(
    condition: Condition,
    profile: str,
    runs: dict[int, CellResult],
    of: dict[str, dict[int, CellResult]],
    baselines: Sequence[str],
) -> Standing:
    cells = [runs[seed] for seed in sorted(runs)]
    figures = [cell.figures for cell in cells]
    wholes = [figure.summary for figure in figures]
    slowed = [figure.slowdowns for figure in figures]
    worst = [found.max for found in slowed if found.max is not None]
    others = ((name, of[name]) for name in baselines if name in of and name != profile)
    found = (versus(name, runs, theirs) for name, theirs in others)
    return Standing(
        condition=condition,
        profile=profile,
        seeds=tuple(sorted(runs)),
        finished=sum(whole.finished for whole in wholes),
        workflows=sum(whole.workflows for whole in wholes),
        tct_mean_s=_mean(whole.tct_mean_s for whole in wholes),
        tct_geomean_s=_mean(whole.tct_geomean_s for whole in wholes),
        tct_p50_s=_mean(figure.tct_p50_s for figure in figures),
        tct_p95_s=_mean(whole.tct_p95_s for whole in wholes),
        tct_p99_s=_mean(figure.tct_p99_s for figure in figures),
        ttft_p95_s=_mean(whole.ttft_p95_s for whole in wholes),
        workflows_per_min=_mean(figure.workflows_per_min for figure in figures),
        pressure=_mean(figure.pressure for figure in figures),
        busy_share=_mean(figure.busy_share for figure in figures),
        again_share=_mean(figure.again_share for figure in figures),
        useful_share=_mean(figure.useful_share for figure in figures),
        preemptions=_mean(figure.preemptions for figure in figures),
        belady=_mean(None if f.belady is None else f.belady.ratio_s for f in figures),
        slo=slowed[0].slo,
        slo_share=_mean(found.slo_share for found in slowed),
        slo_least=min(found.slo_least for found in slowed),
        slowdown_mean=_mean(found.mean for found in slowed),
        slowdown_max=max(worst) if worst else None,
        jain=_mean(found.jain_tenants for found in slowed),
        tenants=tuple(_tenants(cells)),
        versus=tuple(pair for pair in found if pair is not None),
    )


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _tenants(cells: Sequence[CellResult]) -> Iterator[Tenant]:
    """The tenants that every seed has; nothing where there is only one."""
    by_seed = [{found.tenant: found for found in cell.figures.slowdowns.tenants} for cell in cells]
    if len(by_seed[0]) < 2:
        return
    for name in sorted(set.intersection(*map(set, by_seed))):
        found = [seed[name] for seed in by_seed]
        yield Tenant(
            name=name,
            slo_share=fmean(one.slo_share for one in found),
            slowdown_mean=_mean(one.slowdown_mean for one in found),
        )


def versus(baseline: str, ours: dict[int, CellResult], theirs: dict[int, CellResult]) -> Versus | None:
    """Over the seeds that both have; None if no workflow finished under both."""
    seeds = sorted(ours.keys() & theirs.keys())
    pairs = {seed: _pairs(ours[seed], theirs[seed]) for seed in seeds}
    known = [seed for seed in seeds if pairs[seed]]
    spread = ratio_spread([pairs[seed] for seed in known])
    if spread is None:
        return None
    found = [pairs[seed] for seed in known]
    compared = sum(map(len, found))
    return Versus(
        baseline=baseline,
        geomean=spread.ratio,
        low=spread.low,
        high=spread.high,
        basis=spread.basis,
        per_seed=spread.per_seed,
        mean=_ratio(found, fmean),
        p50=_ratio(found, lambda row: percentile(sorted(row), 0.5)),
        p95=_ratio(found, lambda row: percentile(sorted(row), 0.95)),
        p99=_ratio(found, lambda row: percentile(sorted(row), 0.99)),
        throughput=_throughput([(theirs[seed], ours[seed]) for seed in known]),
        pairs=compared,
        left_out=sum(len(ours[seed].completions_s) for seed in seeds) - compared,
    )


def _pairs(ours: CellResult, theirs: CellResult) -> list[Pair]:
    both = zip(theirs.completions_s, ours.completions_s, strict=True)
    return [(base, here) for base, here in both if base and here]


def _ratio(by_seed: Sequence[Sequence[Pair]], figure: Callable[[list[float]], float]) -> float:
    """Of a figure of the baseline's times to that of the times here, seed by seed."""
    return geometric_mean(
        [figure([base for base, _ in seed]) / figure([here for _, here in seed]) for seed in by_seed]
    )


def _throughput(pairs: Sequence[tuple[CellResult, CellResult]]) -> float | None:
    rates = [(base.figures.workflows_per_min, here.figures.workflows_per_min) for base, here in pairs]
    known = [here / base for base, here in rates if base and here]
    return geometric_mean(known) if known else None
