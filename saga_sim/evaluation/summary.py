"""Cells folded into standings: each profile under each condition, its means over seeds, and its pairs with the baselines.

All ratios are (baseline / here) for times and (here / baseline) for rates: above 1 is better. Means of ratios are geometric.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from statistics import fmean, geometric_mean

from saga_core.aeg import Score
from saga_core.fairness import FairnessFigures
from saga_sim.evaluation.cells import CellResult
from saga_sim.evaluation.plan import Cell
from saga_sim.evaluation.standing import Bound, Condition, Forecast, Standing, Tenant, Versus
from saga_sim.experiment import Figures
from saga_sim.pairing import Pair, ratio_spread
from saga_sim.slowdown import TenantFigures
from saga_sim.trace.stats import percentile

Runs = dict[int, CellResult]
"""By seed."""


def condition_of(cell: Cell) -> Condition:
    """The condition of a cell."""
    return Condition(
        work=cell.work,
        load=cell.load,
        level=cell.level,
        workers=cell.workers,
        workflows=cell.workflows,
        half=cell.half,
        twist=cell.twist,
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
        tenants=tuple(_groups([found.tenants for found in slowed])),
        classes=tuple(_groups([found.classes for found in slowed])),
        starved_share=_mean(found.starved_share for found in slowed),
        steady_per_min=_mean(cell.steady_per_min for cell in cells),
        bound=_bound([figure.fairness for figure in figures if figure.fairness is not None]),
        scores=tuple(_forecasts(figures)),
        versus=tuple(pair for pair in found if pair is not None),
    )


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _groups(seeds: Sequence[Sequence[TenantFigures]]) -> Iterator[Tenant]:
    """The tenants or classes that every seed has; nothing where there is only one."""
    by_seed = [{found.tenant: found for found in seed} for seed in seeds]
    if len(by_seed[0]) < 2:
        return
    for name in sorted(set.intersection(*map(set, by_seed))):
        found = [seed[name] for seed in by_seed]
        yield Tenant(
            name=name,
            slo_share=fmean(one.slo_share for one in found),
            slowdown_mean=_mean(one.slowdown_mean for one in found),
        )


def _bound(seeds: Sequence[FairnessFigures]) -> Bound | None:
    if not seeds:
        return None
    return Bound(
        workflows=sum(seed.workflows for seed in seeds),
        violations=sum(seed.violations for seed in seeds),
        overdue=sum(seed.overdue for seed in seeds),
        lateness_p99=fmean(seed.lateness_p99 for seed in seeds),
        lateness_max=max(seed.lateness_max for seed in seeds),
        inverted_max_s=max(seed.inverted_max_s for seed in seeds),
        unserved_max_s=max(seed.unserved_max_s for seed in seeds),
    )


def _forecasts(seeds: Sequence[Figures]) -> Iterator[Forecast]:
    by_sort: dict[str, list[Score]] = {}
    for score in (score for seed in seeds for score in seed.scores):
        by_sort.setdefault(score.what, []).append(score)
    for what, found in by_sort.items():
        count = sum(score.count for score in found)
        if count:
            yield Forecast(
                what=what,
                count=count,
                error=sum(score.count * score.error for score in found) / count,
                rule_error=sum(score.count * score.rule_error for score in found) / count,
                within=sum(score.count * score.within for score in found) / count,
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
        early=_part(ours, theirs, known, early=True),
        late=_part(ours, theirs, known, early=False),
        pairs=compared,
        left_out=sum(len(ours[seed].completions_s) for seed in seeds) - compared,
    )


def _pairs(ours: CellResult, theirs: CellResult, first: int = 0, last: int | None = None) -> list[Pair]:
    """Of those that came as number `first` up to `last`."""
    both = zip(theirs.completions_s[first:last], ours.completions_s[first:last], strict=True)
    return [(base, here) for base, here in both if base and here]


def _part(ours: Runs, theirs: Runs, seeds: Sequence[int], *, early: bool) -> float | None:
    """The geomean over the workflows that came early, or over the others."""
    parts = []
    for seed in seeds:
        split = condition_of(ours[seed].cell).early
        first, last = (0, split) if early else (split, None)
        parts.append(_pairs(ours[seed], theirs[seed], first, last))
    spread = ratio_spread(parts)
    return None if spread is None else spread.ratio


def _ratio(by_seed: Sequence[Sequence[Pair]], figure: Callable[[list[float]], float]) -> float:
    """Of a figure of the baseline's times to that of the times here, seed by seed."""
    return geometric_mean(
        [figure([base for base, _ in seed]) / figure([here for _, here in seed]) for seed in by_seed]
    )


def _throughput(pairs: Sequence[tuple[CellResult, CellResult]]) -> float | None:
    rates = [(base.figures.workflows_per_min, here.figures.workflows_per_min) for base, here in pairs]
    known = [here / base for base, here in rates if base and here]
    return geometric_mean(known) if known else None
