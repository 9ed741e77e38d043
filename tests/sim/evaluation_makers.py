"""Builders of evaluation results with known times."""

from __future__ import annotations

from saga_sim.evaluation.cells import CellResult
from saga_sim.evaluation.plan import Cell, Load
from saga_sim.experiment import Figures
from saga_sim.runs import Summary
from saga_sim.slowdown import Slowdowns, TenantFigures


def cell(profile="sticky", *, work="swe", level=1.5, seed=0, load=Load.PRESSURE, workflows=3, **more):
    return Cell(
        work=work, profile=profile, load=load, level=level, seed=seed, workflows=workflows, **({"workers": 4} | more)
    )  # fmt: skip


def tenant(name, slo_share, slowdown=2.0):
    return TenantFigures(
        tenant=name, workflows=2, finished=2, tct_mean_s=10.0, slowdown_mean=slowdown, slowdown_max=slowdown,
        slo_share=slo_share,
    )  # fmt: skip


def figures(profile, seed, times, *, per_min=6.0, slo_share=1.0, slowdown_max=2.0, tenants=(), **known):
    done = [time for time in times if time is not None]
    mean = sum(done) / len(done) if done else None
    whole = Summary(
        workflows=len(times), finished=len(done), failed=len(times) - len(done), cancelled=0, steps=10, retries=0,
        mismatches=0, tct_mean_s=mean, tct_geomean_s=mean, tct_p95_s=mean, ttft_mean_s=0.5, ttft_p95_s=1.0,
        prompt_tokens=1000, output_tokens=100, cached_tokens=500, cached_share=0.5, regenerated_tokens=10, wall_s=60.0,
        interrupted=False,
    )  # fmt: skip
    slowed = Slowdowns(
        slo=2.5, mean=1.5, geomean=1.4, p95=1.9, max=slowdown_max, slo_share=slo_share,
        slo_least=min([t.slo_share for t in tenants], default=slo_share), jain_tenants=0.9, jain_workflows=0.8,
        tenants=tuple(tenants) or (tenant("default", slo_share),),
    )  # fmt: skip
    return Figures(
        **(
            {
                "profile": profile, "seed": seed, "summary": whole, "tct_p50_s": mean, "tct_p99_s": mean,
                "ttft_p50_s": 0.4, "workflows_per_min": per_min, "pressure": 1.4, "busy_share": 0.7,
                "again_share": 0.2, "useful_share": 0.6, "preemptions": 3, "slowdowns": slowed, "events": 1000,
                "wall_s": 1.0, "trace_hash": "",
            }
            | known
        )
    )  # fmt: skip


def result(profile, times, *, key="", steady_per_min=None, cell_of=None, **more):
    """Times of the workflows in order; None: did not finish."""
    of = {name: more.pop(name) for name in ("work", "level", "seed", "load", "workers") if name in more}
    made = cell_of or cell(profile, workflows=len(times), **of)
    return CellResult(
        key=key, cell=made, figures=figures(profile, made.seed, times, **more), completions_s=tuple(times),
        steady_per_min=steady_per_min, wall_s=1.0,
    )  # fmt: skip
