"""Recorded workflows run against the cluster: each one is submitted, replayed step by step, and ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from saga_cli.control import Control
from saga_cli.progress import Progress
from saga_cli.units import duration, plain, plural
from saga_core.errors import ClusterError, UserError
from saga_core.views import FinishRequest, SubmitRequest

if TYPE_CHECKING:
    from saga_sim.runs import Endpoint, ReplayEvent, ReplayResult, Summary, WorkflowRun
    from saga_sim.trace import Workflow


SILENCE_S: Final = 600.0
"""For which a step waits for its first byte: the default of OpenAI's clients."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What to replay and how; times are scaled while replaying, tokens before."""

    files: Sequence[str] = ()
    synth: str | None = None
    workflows: int | None = None
    """How many to synthesise; None: the preset's own number."""
    limit: int | None = None
    scale_tokens: float = 1.0
    max_context: int | None = None
    scale_time: float = 1.0
    max_gap_s: float | None = None
    """No pause between two steps longer than this, after scaling."""
    concurrency: int | None = None
    seed: int = 0
    silence_s: float = SILENCE_S

    def load(self) -> list[Workflow]:
        """All of it, checked. Raises UserError for files and scales that are not valid."""
        from saga_sim.trace import load_trace, parse_source
        from saga_sim.trace.scale import Scaling, rescale

        workflows: list[Workflow] = []
        for source in self.files:
            path, select = parse_source(source)
            workflows += load_trace(Path(path).expanduser(), select)
        workflows += self._synthesised()
        if not workflows:
            raise UserError(
                "nothing to replay: name a trace with --replay FILE[:ID], or a workload with --synth"
            )
        scaling = Scaling(take=self.limit, tokens=self.scale_tokens, max_context=self.max_context)
        return rescale(workflows, scaling)

    def _synthesised(self) -> list[Workflow]:
        if self.synth is None:
            return []
        from saga_sim.trace.profiles import DEMO_WORKFLOWS
        from saga_sim.trace.synth import synthesise

        return synthesise(self.synth, self.workflows or DEMO_WORKFLOWS, self.seed)


class Replayed(msgspec.Struct, frozen=True, kw_only=True):
    """One workflow of a replay: its number in the cluster and what became of it."""

    id: int | None
    workflow: str
    agent_type: str
    state: str
    steps: int
    expected_steps: int
    tct_s: float
    retries: int
    why: str


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of a replay."""

    profile: str
    model: str
    seed: int
    summary: Any
    workflows: list[Replayed]

    @property
    def ok(self) -> bool:
        return all(w.state == "finished" for w in self.workflows)


@dataclass(slots=True)
class _Desk:
    """Submits workflows and ends them; remembers their numbers."""

    control: Control
    declared: Callable[[Workflow], float] | None = None
    numbers: dict[str, int] = field(default_factory=dict)
    interrupted: bool = False

    async def endpoint(self, workflow: Workflow) -> Endpoint:
        from saga_sim.runs import Endpoint

        request = SubmitRequest(
            name=workflow.workflow_id,
            agent_type=workflow.agent_type,
            kind="replay",
        )
        if self.declared is not None:
            request = msgspec.structs.replace(request, work_s=self.declared(workflow))
        accepted = await asyncio.to_thread(self.control.submit, request)
        self.numbers[workflow.workflow_id] = accepted.id
        return Endpoint(base_url=accepted.base_url, api_key=accepted.api_key)

    async def finish(self, workflow: Workflow, ok: bool) -> None:
        number = self.numbers.get(workflow.workflow_id)
        if number is not None:
            await asyncio.to_thread(self.control.finish, number, self._end(ok))

    def _end(self, ok: bool) -> FinishRequest:
        if ok:
            return FinishRequest()
        if self.interrupted:
            return FinishRequest(state="cancelled", reason="the replay was interrupted")
        return FinishRequest(state="failed", reason="a step of the replay failed")


@dataclass(slots=True)
class _Watch:
    """Turns the replay's events into progress."""

    show: Progress
    steps: int = 0

    def on_event(self, event: ReplayEvent) -> None:
        match event.kind:
            case "step-finished":
                self.steps += 1
                self.show.tick(self.steps)
            case "workflow-ended":
                why = f": {plain(event.why)}" if event.why else ""
                at = duration(event.at_s)
                self.show.advance(self.steps, f"{plain(event.workflow_id)} {event.state} at {at}{why}")


def run(
    control: Control,
    workload: Workload,
    workflows: Sequence[Workflow],
    *,
    show: Progress,
    declared: Callable[[Workflow], float] | None = None,
) -> Report:
    """Replay `workflows` on the running cluster. Ctrl-C ends it early, with what was measured by then.

    declared: the engine seconds that each workflow says it will take; None: they say nothing.
    """
    from saga_sim.runs import summary

    cluster = control.cluster()
    if not cluster.models:
        raise ClusterError("no worker is ready to serve a model (`saga status` says why)")
    model, desk = cluster.models[0], _Desk(control, declared)
    steps = sum(len(w.steps) for w in workflows)
    show.phase(f"{plural(len(workflows), 'workflow')} under {cluster.profile} (steps)", steps)
    result = asyncio.run(_replay(workload, workflows, desk, model, _Watch(show)))
    return Report(
        profile=cluster.profile,
        model=model,
        seed=workload.seed,
        summary=summary(result),
        workflows=[_replayed(run, desk) for run in result.runs],
    )


async def _replay(
    workload: Workload, workflows: Sequence[Workflow], desk: _Desk, model: str, watch: _Watch
) -> ReplayResult:
    from saga_sim.client import Patience
    from saga_sim.pacing import Pace
    from saga_sim.replay import replay

    running = asyncio.create_task(
        replay(
            workflows,
            endpoint=desk.endpoint,
            finish=desk.finish,
            model=model,
            seed=workload.seed,
            pace=Pace(time_scale=workload.scale_time, max_gap_s=workload.max_gap_s, seed=workload.seed),
            on_event=watch.on_event,
            max_live=workload.concurrency,
            patience=Patience(silence_s=workload.silence_s),
        )
    )
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:  # Ctrl-C: what was measured until now is the answer
        desk.interrupted = True
        running.cancel()
        return await running


def _replayed(run: WorkflowRun, desk: _Desk) -> Replayed:
    return Replayed(
        id=desk.numbers.get(run.workflow_id),
        workflow=run.workflow_id,
        agent_type=run.agent_type,
        state=run.state,
        steps=len(run.steps),
        expected_steps=run.expected_steps,
        tct_s=run.completion_s,
        retries=run.retries,
        why=run.why,
    )


def failures(report: Report) -> list[str]:
    """A line for each workflow that failed."""
    return [
        f"workflow {w.id if w.id is not None else '-'} ({plain(w.workflow)}) {w.state} "
        f"after {w.steps} of {w.expected_steps} steps: {plain(w.why)}"
        for w in report.workflows
        if w.state == "failed"
    ]


def figures(summary: Summary) -> dict[str, str]:
    """The rows of a comparison: what is measured, and how it came out."""
    from saga_cli.units import UNKNOWN, count

    share = summary.cached_share
    return {
        "workflows finished": f"{summary.finished}/{summary.workflows}",
        "steps": str(summary.steps),
        "TCT mean": duration(summary.tct_mean_s),
        "TCT geomean": duration(summary.tct_geomean_s),
        "TCT p95": duration(summary.tct_p95_s),
        "TTFT mean": duration(summary.ttft_mean_s),
        "TTFT p95": duration(summary.ttft_p95_s),
        "prompt tokens": count(summary.prompt_tokens),
        "cached share": UNKNOWN if share is None else f"{100 * share:.1f}%",
        "prefilled again": count(summary.regenerated_tokens),
        "counts off": str(summary.mismatches),
        "wall time": duration(summary.wall_s),
    }
