"""One size of a cluster against the targets of a plan: simulated, seed by seed. `search` says which sizes to try.

Rules of this file
  1. A size reaches the targets when it does so under every seed and every workflow finishes; seeds are not averaged.
  2. A run is cut short when what has ended already misses a target for sure.
  3. Where the work itself takes too long, with every prompt cached and nobody to wait for, no size is simulated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import exp, log
from statistics import fmean
from time import perf_counter

import msgspec

from saga_core.errors import UserError
from saga_core.events import Fact, WorkflowEnded, WorkflowSubmitted
from saga_core.ids import WorkflowId
from saga_core.states import WorkflowState
from saga_sim.experiment import Arrivals, Figures, simulate
from saga_sim.faults import Faults
from saga_sim.isolation import engine_s, longest_way_s
from saga_sim.pacing import Pace
from saga_sim.runs import ReplayResult, RunState
from saga_sim.slowdown import SLO
from saga_sim.targets import Metric, Target
from saga_sim.trace.records import Workflow
from saga_sim.trace.stats import percentile
from saga_sim.world import ClusterSpec

TIMES = {Metric.P50: 0.5, Metric.P95: 0.95, Metric.P99: 0.99}
WAITS = {Metric.TTFT_P50: 0.5, Metric.TTFT_P95: 0.95, Metric.TTFT_P99: 0.99}


class Reached(msgspec.Struct, frozen=True, kw_only=True):
    """One target at one size. value: under the seed where it is worst; None when a run was cut short or has none."""

    target: str
    value: float | None
    met: bool


class Try(msgspec.Struct, frozen=True, kw_only=True):
    """One size. seeds: how many were run (the first that misses is the last); wall_s: real seconds it took.

    why: its last run has no values: it was cut short, or workflows failed. Empty: it ran to its end.
    """

    workers: int
    gpus: int
    nodes: int
    met: bool
    reached: tuple[Reached, ...]
    seeds: int
    why: str
    wall_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked: this work, these targets, this profile, on clusters of `spec`'s kind whatever its size."""

    spec: ClusterSpec
    profile: str
    workflows: Sequence[Workflow]
    arrivals: Arrivals
    targets: Sequence[Target]
    seeds: int = 1
    slo: float = SLO
    faults: Callable[[ClusterSpec], Faults | None] = lambda _: None

    def __post_init__(self) -> None:
        """Raise UserError for arrivals that grow with the cluster: every size would have other work to do."""
        if self.arrivals.pressure is not None:
            raise UserError(
                "--pressure scales the work with the cluster, so no size would be enough or too small "
                "(valid: --arrival-rate PER_S, --concurrency N, or none of them for arrivals as recorded)"
            )

    def sized(self, workers: int) -> ClusterSpec:
        """The cluster with that many workers."""
        return replace(self.spec, workers=workers)


def attempt(question: Question, workers: int, on_ended: Callable[[], None] = lambda: None) -> Try:
    """Simulate one size, seed by seed, until one misses. `on_ended` is told of each workflow that ends."""
    spec, began_s = question.sized(workers), perf_counter()
    runs: list[_Run] = []
    while len(runs) < question.seeds and all(run.met for run in runs):
        runs.append(_Run(question, spec, len(runs), on_ended))
    values = [run.values for run in runs]
    return Try(
        workers=workers,
        gpus=workers * spec.preset.gpus,
        nodes=-(-workers // spec.per_node),
        met=all(run.met for run in runs),
        reached=tuple(_reached(target, [of[target.metric] for of in values]) for target in question.targets),
        seeds=len(runs),
        why=runs[-1].why,
        wall_s=perf_counter() - began_s,
    )


def _reached(target: Target, values: Sequence[float | None]) -> Reached:
    known = [value for value in values if value is not None]
    worst = min if target.metric is Metric.SLO else max
    value = worst(known) if len(known) == len(values) else None
    return Reached(target=str(target), value=value, met=target.met(value))


class _Hopeless(Exception):  # noqa: N818 - nobody sees it: it leaves a run that can no longer reach a target
    pass


class _Run:
    """One run under one seed, and what its targets came to."""

    def __init__(
        self, question: Question, spec: ClusterSpec, seed: int, on_ended: Callable[[], None]
    ) -> None:
        self._targets, self.why = question.targets, ""
        limits = Limits(question.targets, len(question.workflows))
        self.values: dict[Metric, float | None] = dict.fromkeys(t.metric for t in question.targets)
        try:
            figures, result = simulate(
                question.profile,
                question.workflows,
                spec,
                question.arrivals,
                seed=seed,
                faults=question.faults(spec),
                slo=question.slo,
                on_ended=on_ended,
                on_fact=limits.fact,
            )
        except _Hopeless as why:
            self.why = str(why)
            return
        self._fill(figures, result)

    def _fill(self, figures: Figures, result: ReplayResult) -> None:
        failed = [run for run in result.runs if run.state is not RunState.FINISHED]
        if failed:
            self.why = f"{len(failed)} of {len(result.runs)} workflows failed; {failed[0].workflow_id}: {failed[0].why}"
            return
        for metric in self.values:
            is_share = metric is Metric.SLO
            self.values[metric] = figures.slowdowns.slo_share if is_share else time_of(metric, result)

    @property
    def met(self) -> bool:
        return all(target.met(self.values[target.metric]) for target in self._targets)


def beyond(question: Question) -> str:
    """Which target on completion times no cluster of any size can reach, and why; empty: none is known."""
    for seed in range(question.seeds):
        pace = question.arrivals.pace(question.spec, question.workflows, seed)
        least = sorted(_least_s(question.spec, pace, workflow) for workflow in question.workflows)
        for target in question.targets:
            value = completion_of(target.metric, least)
            if value is not None and not target.met(value):
                return f"{target.metric} is at least {value:.3g} s with every prompt cached and nobody to wait for"
    return ""


def _least_s(spec: ClusterSpec, pace: Pace, workflow: Workflow) -> float:
    links_s = 2 * (spec.link.client_s + spec.link.worker_s)
    steps_s = [links_s + engine_s(spec.preset, step, step.prompt_tokens - 1) for step in workflow.steps]
    return longest_way_s(workflow, pace, steps_s)


def time_of(metric: Metric, result: ReplayResult) -> float | None:
    """Seconds of any metric but the share; None where no step ended."""
    completion_s = completion_of(metric, sorted(run.completion_s for run in result.runs))
    waits = sorted(step.ttft_s for run in result.runs for step in run.steps)
    if completion_s is not None or not waits:
        return completion_s
    return fmean(waits) if metric is Metric.TTFT_MEAN else percentile(waits, WAITS[metric])


def completion_of(metric: Metric, rising: Sequence[float]) -> float | None:
    """`metric` of completion times in rising order; None if it is about something else."""
    if metric in TIMES:
        return percentile(rising, TIMES[metric])
    if metric is Metric.GEOMEAN:
        return exp(fmean(map(log, rising)))
    return fmean(rising) if metric is Metric.MEAN else None


class Limits:
    """Told of every fact, ends a run whose targets on completion times are missed whatever follows."""

    def __init__(self, targets: Sequence[Target], workflows: int) -> None:
        self._workflows = workflows
        self._means = [target for target in targets if target.metric is Metric.MEAN]
        self._shares = [target for target in targets if target.metric in TIMES]
        self._late = [0] * len(self._shares)
        self._ended, self._total_s = 0, 0.0
        self._came: dict[WorkflowId, float] = {}

    def fact(self, at: float, fact: Fact) -> None:
        """A fact and its virtual time. Raises what ends the run."""
        match fact:
            case WorkflowSubmitted():
                self._came[fact.workflow] = at
            case WorkflowEnded(state=WorkflowState.DONE):
                why = self.add(at - self._came.pop(fact.workflow))
                if why:
                    raise _Hopeless(why)
            case _:
                pass

    def add(self, completion_s: float) -> str:
        """One workflow took that long. What is missed for sure; empty: nothing yet."""
        self._ended += 1
        self._total_s += completion_s
        for target in self._means:
            if not target.met(self._total_s / self._workflows):
                return f"cut: sum after {self._ended} of {self._workflows}"
        for index, target in enumerate(self._shares):
            self._late[index] += not target.met(completion_s)
            # The percentile lies at or above the value in this place: when that one is late, so is it.
            place = int(TIMES[target.metric] * (self._workflows - 1))
            if self._late[index] >= self._workflows - place:
                return f"cut: {self._late[index]} of {self._ended} late"
        return ""
