"""What a run did to each workflow, against its time alone: slowdowns, objectives met, and how evenly that fell.

Slowdown: completion time over isolated completion time (`saga_sim.isolation`); 1 is as if alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, log
from statistics import fmean

import msgspec

from saga_core.errors import UserError
from saga_sim.runs import ReplayResult, RunState
from saga_sim.trace.records import Workflow
from saga_sim.trace.stats import percentile

SLO = 2.5
"""Slowdown that still meets the objective: 1.5 times the 1.67 of a healthy busy cluster (policy study, section 8)."""
STARVED = 10.0
"""Slowdown from which a workflow counts as starved: four objectives."""
NOBODY = "default"
"""The tenant of workflows that name none, as the world submits them."""


class TenantFigures(msgspec.Struct, frozen=True, kw_only=True):
    """One tenant, or one class of workflows, in one run. slo_share: of all its workflows; what did not finish missed the objective."""

    tenant: str
    workflows: int
    finished: int
    tct_mean_s: float | None
    slowdown_mean: float | None
    slowdown_max: float | None
    slo_share: float


class Slowdowns(msgspec.Struct, frozen=True, kw_only=True):
    """Slowdowns of one run's finished workflows; None where none finished.

    slo: the slowdown asked for. slo_share: of all workflows, those that finished within it. slo_least: the smallest
    of the tenants' shares. jain_tenants, jain_workflows: Jain's index over the tenants' mean slowdowns and over all
    slowdowns (1: all alike; 1/n: one has it all). tenants: by name; classes: the same by agent type.
    starved_share: of all workflows, those that took `STARVED` times their time alone or did not finish.
    """

    slo: float
    mean: float | None
    geomean: float | None
    p95: float | None
    max: float | None
    slo_share: float
    slo_least: float
    jain_tenants: float | None
    jain_workflows: float | None
    tenants: tuple[TenantFigures, ...]
    classes: tuple[TenantFigures, ...] = ()
    starved_share: float = 0.0


def slowdown_of(result: ReplayResult, isolated_s: Sequence[float]) -> list[float | None]:
    """Each workflow's slowdown in the order given; None: it did not finish."""
    return [
        run.completion_s / alone_s if run.state is RunState.FINISHED else None
        for run, alone_s in zip(result.runs, isolated_s, strict=True)
    ]


def slowdowns(
    result: ReplayResult, workflows: Sequence[Workflow], isolated_s: Sequence[float], slo: float = SLO
) -> Slowdowns:
    """The figures of a run, simulated or live, of at least one workflow. Raises UserError for an objective below 1."""
    check_slo(slo)
    each = slowdown_of(result, isolated_s)
    tenants = _groups(result, [workflow.tenant or NOBODY for workflow in workflows], each, slo)
    known = sorted(value for value in each if value is not None)
    return Slowdowns(
        slo=slo,
        mean=fmean(known) if known else None,
        geomean=exp(fmean(map(log, known))) if known else None,
        p95=percentile(known, 0.95) if known else None,
        max=known[-1] if known else None,
        slo_share=_met(each, slo),
        slo_least=min(tenant.slo_share for tenant in tenants),
        jain_tenants=jain([t.slowdown_mean for t in tenants if t.slowdown_mean is not None]),
        jain_workflows=jain(known),
        tenants=tenants,
        classes=_groups(result, [workflow.agent_type for workflow in workflows], each, slo),
        starved_share=1 - sum(value is not None and value < STARVED for value in each) / len(each),
    )


def check_slo(slo: float) -> None:
    """Raises UserError unless it is a slowdown that a workflow can have."""
    if not 1 <= slo < float("inf"):
        raise UserError(f"an objective of {slo:g} times the isolated time is not valid (valid: 1 or more)")


def jain(values: Sequence[float]) -> float | None:
    """Jain's fairness index, (sum of values)² / (count × sum of squares) [Jain, Chiu, Hawe 1984]."""
    return sum(values) ** 2 / (len(values) * sum(v * v for v in values)) if values else None


def _met(each: Sequence[float | None], slo: float) -> float:
    return sum(value is not None and value <= slo for value in each) / len(each)


def _groups(
    result: ReplayResult, names: Sequence[str], each: Sequence[float | None], slo: float
) -> tuple[TenantFigures, ...]:
    """By the name of each workflow's group."""
    members: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        members.setdefault(name, []).append(index)
    return tuple(
        _tenant(name, [result.runs[i].completion_s for i in at], [each[i] for i in at], slo)
        for name, at in sorted(members.items())
    )


def _tenant(
    name: str, completions_s: Sequence[float], each: Sequence[float | None], slo: float
) -> TenantFigures:
    known = [value for value in each if value is not None]
    times_s = [t for t, value in zip(completions_s, each, strict=True) if value is not None]
    return TenantFigures(
        tenant=name,
        workflows=len(each),
        finished=len(known),
        tct_mean_s=fmean(times_s) if times_s else None,
        slowdown_mean=fmean(known) if known else None,
        slowdown_max=max(known, default=None),
        slo_share=_met(each, slo),
    )
