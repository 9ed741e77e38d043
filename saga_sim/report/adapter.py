"""From simulated runs to the report's data: the one place that knows both."""

from __future__ import annotations

from collections.abc import Sequence

from saga_sim.experiment import Arrivals, Figures
from saga_sim.isolation import isolated_s
from saga_sim.report import notation
from saga_sim.report.data import Metrics, Outcome, ReportData, Run, Sample, SetUp, TraceSource
from saga_sim.report.series import means
from saga_sim.report.watch import Watch
from saga_sim.runs import ReplayResult, RunState, WorkflowRun
from saga_sim.slowdown import NOBODY, slowdown_of
from saga_sim.trace.records import Workflow
from saga_sim.trace.stats import percentile
from saga_sim.world import ClusterSpec

QUANTILES = 200
"""Points of a curve of times to first token; more cannot be told apart."""


def report_data(
    runs: Sequence[tuple[Figures, ReplayResult, Watch | None]],
    *,
    workflows: Sequence[Workflow],
    sources: Sequence[TraceSource],
    spec: ClusterSpec,
    arrivals: Arrivals,
    faults: Sequence[str] = (),
    versions: Sequence[tuple[str, str]] = (),
    command: str = "",
) -> ReportData:
    """The report of runs as `experiment.simulate` gave them, the baseline's first; `workflows` as they were run."""
    paces = {figures.seed: arrivals.pace(spec, workflows, figures.seed) for figures, _, _ in runs}
    alone_s = {seed: isolated_s(spec.preset, spec.link, pace, workflows) for seed, pace in paces.items()}
    return ReportData(
        title=f"saga sim: {notation.plural(len(workflows), 'workflow')} on {notation.plural(spec.workers, 'worker')}",
        set_up=SetUp(
            sources=tuple(sources),
            workflows=len(workflows),
            preset=spec.preset.name,
            preset_what=spec.preset.what,
            preset_source=spec.preset.source,
            workers=spec.workers,
            per_node=spec.per_node,
            gpus=spec.workers * spec.preset.gpus,
            arrivals=arrivals_words(arrivals),
            slo=runs[0][0].slowdowns.slo if runs else None,
            faults=tuple(faults),
            versions=tuple(versions),
            command=command,
        ),
        runs=tuple(
            _run(figures, result, watch, alone_s[figures.seed], workflows) for figures, result, watch in runs
        ),
    )


def trace_source(name: str, workflows: Sequence[Workflow]) -> TraceSource:
    """One file or made workload by its name and what it holds."""
    steps = [step for workflow in workflows for step in workflow.steps]
    return TraceSource(
        name=name,
        workflows=len(workflows),
        steps=len(steps),
        prompt_tokens=sum(step.prompt_tokens for step in steps),
        output_tokens=sum(step.output_tokens for step in steps),
    )


def trace_sources(names: Sequence[str], workflows: Sequence[Workflow]) -> list[TraceSource]:
    """What each source gave: one file or made workload by its own name, several by their workflows' source."""
    if len(names) == 1:
        return [trace_source(names[0], workflows)]
    groups: dict[str, list[Workflow]] = {}
    for workflow in workflows:
        groups.setdefault(workflow.source, []).append(workflow)
    return [trace_source(name, group) for name, group in groups.items()]


def arrivals_words(arrivals: Arrivals) -> str:
    """When workflows come, in words."""
    if arrivals.pressure is not None:
        come = f"Poisson, at a pressure of {arrivals.pressure:g} on KV memory"
    elif arrivals.per_s is not None:
        come = f"Poisson, {arrivals.per_s:g} per second"
    elif arrivals.max_live is not None:
        come = f"{arrivals.max_live} at a time"
    else:
        come = "as recorded"
    if arrivals.scale_time != 1:
        come += f"; recorded times multiplied by {arrivals.scale_time:g}"
    if arrivals.max_gap_s is not None:
        come += f"; no gap between steps above {notation.tick_seconds(arrivals.max_gap_s)}"
    return come


def _run(
    figures: Figures,
    result: ReplayResult,
    watch: Watch | None,
    alone_s: Sequence[float],
    workflows: Sequence[Workflow],
) -> Run:
    until_s = max((run.ended_s for run in result.runs), default=0.0)
    return Run(
        profile=figures.profile,
        seed=figures.seed,
        metrics=_metrics(figures),
        outcomes=tuple(
            _outcome(run, of, slowed)
            for run, of, slowed in zip(result.runs, workflows, slowdown_of(result, alone_s), strict=True)
        ),
        ttfts_s=_quantiles(sorted(step.ttft_s for run in result.runs for step in run.steps)),
        live_workflows=means(((run.arrived_s, run.ended_s) for run in result.runs), until_s),
        steps_in_service=_steps(result, until_s),
        busy_workers=means(watch.busy_spans(), until_s) if watch else (),
        memory=tuple(watch.memory) if watch else (),
    )


def _steps(result: ReplayResult, until_s: float) -> tuple[Sample, ...]:
    steps = (step for run in result.runs for step in run.steps)
    return means(((step.started_s, step.started_s + step.duration_s) for step in steps), until_s)


def _quantiles(ordered: Sequence[float]) -> tuple[float, ...]:
    if not ordered:
        return ()
    return tuple(percentile(ordered, point / (QUANTILES - 1)) for point in range(QUANTILES))


def _outcome(run: WorkflowRun, workflow: Workflow, slowed: float | None) -> Outcome:
    return Outcome(
        agent_type=run.agent_type,
        tenant=workflow.tenant or NOBODY,
        arrived_s=run.arrived_s,
        ended_s=run.ended_s,
        completion_s=run.completion_s if run.state is RunState.FINISHED else None,
        slowdown=slowed,
    )


def _metrics(figures: Figures) -> Metrics:
    whole = figures.summary
    return Metrics(
        tct_mean_s=whole.tct_mean_s,
        tct_geomean_s=whole.tct_geomean_s,
        tct_p50_s=figures.tct_p50_s,
        tct_p95_s=whole.tct_p95_s,
        tct_p99_s=figures.tct_p99_s,
        ttft_mean_s=whole.ttft_mean_s,
        ttft_p95_s=whole.ttft_p95_s,
        workflows_per_min=figures.workflows_per_min,
        pressure=figures.pressure,
        prompt_tokens=whole.prompt_tokens,
        cached_tokens=whole.cached_tokens,
        regenerated_tokens=whole.regenerated_tokens,
        again_share=figures.again_share,
        useful_share=figures.useful_share,
        busy_share=figures.busy_share,
        preemptions=figures.preemptions,
        retries=whole.retries,
        belady_ratio=figures.belady.ratio_s if figures.belady is not None else None,
        slowdown_mean=figures.slowdowns.mean,
        slowdown_p95=figures.slowdowns.p95,
        slowdown_max=figures.slowdowns.max,
        slo_share=figures.slowdowns.slo_share,
        slo_least=figures.slowdowns.slo_least,
        fairness_tenants=figures.slowdowns.jain_tenants,
        fairness_workflows=figures.slowdowns.jain_workflows,
    )
