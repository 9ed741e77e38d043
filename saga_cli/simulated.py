"""What simulated runs showed, for a person: one column per profile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from saga_cli.units import UNKNOWN, count, duration, plain, plural

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from saga_cli.simulating import Answer
    from saga_sim.experiment import Figures
    from saga_sim.pairing import Ratio
    from saga_sim.slowdown import TenantFigures

LEGEND = (
    "TCT: time from a workflow's arrival to its last token. TTFT: time to first token of a step. Prefilled again: "
    "prompt tokens computed before and not cached any more, and their share of the engines' busy time. Useful KV: of "
    "what was cached, what an unfinished workflow could still use. Slowdown: TCT over the workflow's time alone on a "
    "worker without a cache; within the objective: of all workflows, and of the worst-served tenant's. Jain: fairness "
    "of slowdowns, 1 = all alike. Figures are means over seeds. Speed-up: geometric mean over the same workflows of "
    "(TCT under the first profile / TCT here), with its 95 % confidence interval and its extremes over seeds."
)
BELADY = (
    "Belady ratio: seconds of prefilling again over those of an oracle on the accesses of the same run, so each profile "
    "has a reference of its own (JSON names it). It says nothing about completion times. Below it both, in seconds, by what "
    "happened since the session's last step on the same worker: the run's own / the oracle's, means over seeds."
)
FAIRNESS = (
    "Overdue: workflows that a fair share of the cluster would have finished earlier. Lateness: by how much, over the "
    "workflow's time without waiting. Waited for larger keys: the longest that one did while it was overdue. The bound is "
    "proved for saga alone (docs/fairness.md)."
)
MOST_TENANTS = 20
"""More lines nobody reads; JSON and HTML have them all."""


def table(answer: Answer) -> RenderableType:
    """One column per profile, one row per figure; below, one row per tenant if there are several."""
    from textwrap import fill

    from rich.console import Group
    from rich.text import Text

    runs = {f.profile: [g for g in answer.runs if g.profile == f.profile] for f in answer.runs}
    ratios = {ratio.profile: ratio for ratio in answer.ratios}
    columns = [rows(of) | _speed_up(ratios.get(name)) for name, of in runs.items()]
    grid = _grid("", list(runs))
    for row in columns[0]:
        grid.add_row(row, *(column[row] for column in columns))
    size = f"{plural(answer.workers, 'worker')} ({answer.preset}, {plural(answer.gpus, 'GPU')})"
    what = f"{size}, {plural(answer.workflows, 'workflow')}, {plural(len(answer.seeds), 'seed')}; simulated"
    parts = [Text(what), Text(), grid, Text(), *_tenants(runs), Text(fill(LEGEND, 79))]
    if any(ratio.basis == "workflows" for ratio in answer.ratios):
        parts.append(Text(fill(ONE_RUN, 79)))
    if any(figures.belady is not None for figures in answer.runs):
        parts.append(Text(fill(BELADY, 79)))
    if any(figures.fairness is not None for figures in answer.runs):
        parts.append(Text(fill(FAIRNESS, 79)))
    return Group(*parts)


ONE_RUN = (
    "One run per profile: the confidence interval is over its workflows, which share the cluster, and is too narrow. Give "
    "--seeds."
)


def _grid(name: str, profiles: Sequence[str]) -> Table:
    from rich.table import Table

    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    grid.add_column(name, no_wrap=True)
    for profile in profiles:
        grid.add_column(profile, justify="right", no_wrap=True)
    return grid


def _speed_up(ratio: Ratio | None) -> dict[str, str]:
    """The ratio to the first profile, its confidence interval, and its extremes where there are several seeds."""
    if ratio is None:
        return {"speed-up": "1.00", "95 % confidence": UNKNOWN, "over seeds": UNKNOWN}
    return {
        "speed-up": _two(ratio.geomean),
        "95 % confidence": _between(ratio.ci_low, ratio.ci_high),
        "over seeds": _between(ratio.low, ratio.high) if ratio.seeds > 1 else UNKNOWN,
    }


def _between(low: float | None, high: float | None) -> str:
    return UNKNOWN if low is None or high is None else f"{low:.2f}-{high:.2f}"


def _tenants(runs: Mapping[str, Sequence[Figures]]) -> list[RenderableType]:
    """A grid of the tenants by name; nothing with a single one."""
    from rich.text import Text

    by_tenant: dict[str, dict[str, list[TenantFigures]]] = {}
    for profile, figures in runs.items():
        for told in (t for f in figures for t in f.slowdowns.tenants):
            by_tenant.setdefault(told.tenant, {}).setdefault(profile, []).append(told)
    if len(by_tenant) < 2:
        return []
    grid = _grid("within the objective, slowdown", list(runs))
    for tenant in list(by_tenant)[:MOST_TENANTS]:
        grid.add_row(plain(tenant), *(_tenant(by_tenant[tenant].get(profile, [])) for profile in runs))
    left = len(by_tenant) - MOST_TENANTS
    more = [Text(f"{plural(left, 'more tenant')}: --output json or html")] if left > 0 else []
    return [grid, *more, Text()]


def _tenant(figures: Sequence[TenantFigures]) -> str:
    met, slowed = _mean([f.slo_share for f in figures]), _mean([f.slowdown_mean for f in figures])
    return f"{_percent(met)} {_two(slowed)}"


def rows(runs: Sequence[Figures]) -> dict[str, str]:
    """The figures of one profile, means over its seeds."""
    sums = [figures.summary for figures in runs]
    ended = f"{sum(s.finished for s in sums)}/{sum(s.workflows for s in sums)}"
    prompt = sum(s.prompt_tokens for s in sums)
    cached = sum(s.cached_tokens or 0 for s in sums) / prompt if prompt else None
    return {
        "finished": ended,
        "pressure": _two(_mean([f.pressure for f in runs])),
        "TCT mean": duration(_mean([s.tct_mean_s for s in sums])),
        "TCT geomean": duration(_mean([s.tct_geomean_s for s in sums])),
        "TCT p50": duration(_mean([f.tct_p50_s for f in runs])),
        "TCT p95": duration(_mean([s.tct_p95_s for s in sums])),
        "TCT p99": duration(_mean([f.tct_p99_s for f in runs])),
        "TTFT p50": duration(_mean([f.ttft_p50_s for f in runs])),
        "TTFT p95": duration(_mean([s.ttft_p95_s for s in sums])),
        "steps tried again": count(sum(s.retries for s in sums)),
        "slowdown mean": _two(_mean([f.slowdowns.mean for f in runs])),
        "slowdown p95": _two(_mean([f.slowdowns.p95 for f in runs])),
        "slowdown max": _two(max((f.slowdowns.max for f in runs if f.slowdowns.max), default=None)),
        f"within {runs[0].slowdowns.slo:g}x": _percent(_mean([f.slowdowns.slo_share for f in runs])),
        "of the worst tenant's": _percent(_mean([f.slowdowns.slo_least for f in runs])),
        "Jain over tenants": _three(_mean([f.slowdowns.jain_tenants for f in runs])),
        "Jain over workflows": _three(_mean([f.slowdowns.jain_workflows for f in runs])),
        "workflows/min": _two(_mean([f.workflows_per_min for f in runs])),
        "cached share": _percent(cached),
        **_host(runs, prompt),
        "prefilled again": count(round(sum(s.regenerated_tokens or 0 for s in sums) / len(sums))),
        "of busy time": _percent(_mean([f.again_share for f in runs])),
        **_belady(runs),
        **_fairness(runs),
        "useful KV": _percent(_mean([f.useful_share for f in runs])),
        "engines busy": _percent(_mean([f.busy_share for f in runs])),
        "preemptions": count(round(sum(f.preemptions for f in runs) / len(runs))),
        "simulated in": duration(sum(f.wall_s for f in runs)),
        "events/s": count(round(sum(f.events for f in runs) / sum(f.wall_s for f in runs))),
    }


def _host(runs: Sequence[Figures], prompt_tokens: int) -> dict[str, str]:
    """A row if there is host memory: how much of all prompts came from there."""
    found = [f.host_hit_tokens for f in runs if f.host_hit_tokens is not None]
    return (
        {"of it from the host": _percent(sum(found) / prompt_tokens if prompt_tokens else None)}
        if found
        else {}
    )


def _belady(runs: Sequence[Figures]) -> dict[str, str]:
    """Rows if it was asked for: the ratio over all seeds, each against the oracle on its own accesses, and its parts."""
    known = [f.belady for f in runs if f.belady is not None]
    if not known:
        return {}
    oracle_s = sum(b.oracle_s for b in known)
    ratio = {"Belady ratio": _two(sum(b.again_s for b in known) / oracle_s if oracle_s else None)}
    return ratio | {
        f"  {same[0].cause}": " / ".join(
            count(round(sum(seconds) / len(known)))
            for seconds in ([p.again_s for p in same], [p.oracle_s for p in same])
        )
        for same in zip(*(b.portions for b in known), strict=True)
    }


def _fairness(runs: Sequence[Figures]) -> dict[str, str]:
    """Rows if they were asked for: the worst of all seeds."""
    known = [f.fairness for f in runs if f.fairness is not None]
    if not known:
        return {}
    return {
        "bound violated": count(sum(f.violations for f in known)),
        "overdue": count(sum(f.overdue for f in known)),
        "lateness p99": _two(max(f.lateness_p99 for f in known)),
        "lateness max": _two(max(f.lateness_max for f in known)),
        "waited for larger keys": duration(max(f.inverted_max_s for f in known)),
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _two(number: float | None) -> str:
    return UNKNOWN if number is None else f"{number:.2f}"


def _three(index: float | None) -> str:
    return UNKNOWN if index is None else f"{index:.3f}"


def _percent(share: float | None) -> str:
    return UNKNOWN if share is None else f"{100 * share:.1f}%"
