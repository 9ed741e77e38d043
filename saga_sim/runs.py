"""What a replay measured: steps and workflows as they ran, events while it runs, and the summary."""

from collections.abc import Sequence
from enum import StrEnum
from math import exp, log

import msgspec

from saga_sim.trace.stats import percentile


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """Where a workflow's steps go: an OpenAI base URL (ending in `/v1`) and the key for it."""

    base_url: str
    api_key: str

    def __repr__(self) -> str:
        """Without the key, so that no log shows it."""
        return "Endpoint(…)"


class RunState(StrEnum):
    """How a workflow ended."""

    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"


class StepRun(msgspec.Struct, frozen=True, kw_only=True):
    """One finished step; token counts as the server reported them, times in seconds.

    started_s: after the replay's start; ttft_s, duration_s: from the first attempt to the first streamed
    event and to the last. cached_tokens: None if the server does not say. regenerated_tokens: leading prompt
    tokens whose KV earlier steps of the workflow had computed and that were not served from cache.
    mismatches: where the server's counts differ from the trace's.
    """

    step: int
    session: str
    started_s: float
    ttft_s: float
    duration_s: float
    prompt_tokens: int
    cached_tokens: int | None
    output_tokens: int
    regenerated_tokens: int | None
    attempts: int
    mismatches: tuple[str, ...] = ()

    @property
    def ended_s(self) -> float:
        """After the replay's start."""
        return self.started_s + self.duration_s


class WorkflowRun(msgspec.Struct, frozen=True, kw_only=True):
    """One workflow; times in seconds after the replay's start. `why` tells of a failure."""

    workflow_id: str
    agent_type: str
    state: RunState
    arrived_s: float
    ended_s: float
    steps: tuple[StepRun, ...]
    expected_steps: int
    retries: int = 0
    why: str = ""

    @property
    def completion_s(self) -> float:
        """TCT: arrival to the end of the last step."""
        return max((run.ended_s for run in self.steps), default=self.ended_s) - self.arrived_s


class EventKind(StrEnum):
    """What a replay tells while it runs."""

    WORKFLOW_ARRIVED = "workflow-arrived"
    STEP_STARTED = "step-started"
    FIRST_TOKEN = "first-token"  # noqa: S105 - no password
    STEP_RETRIED = "step-retried"
    STEP_FINISHED = "step-finished"
    WORKFLOW_ENDED = "workflow-ended"


class ReplayEvent(msgspec.Struct, frozen=True, kw_only=True):
    """`at_s`: after the replay's start. `run` comes with step-finished, `state` with workflow-ended."""

    kind: EventKind
    at_s: float
    workflow_id: str
    step: int | None = None
    session: str | None = None
    run: StepRun | None = None
    state: RunState | None = None
    why: str = ""


class ReplayResult(msgspec.Struct, frozen=True, kw_only=True):
    """All workflows in the order given; `interrupted`: the caller cancelled and this is what there was."""

    runs: tuple[WorkflowRun, ...]
    wall_s: float
    interrupted: bool = False


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of a replay. TCT over finished workflows only; None where there is nothing to say.

    cached_share: cached of all prompt tokens. regenerated_tokens: prefilled again although computed before.
    """

    workflows: int
    finished: int
    failed: int
    cancelled: int
    steps: int
    retries: int
    mismatches: int
    tct_mean_s: float | None
    tct_geomean_s: float | None
    tct_p95_s: float | None
    ttft_mean_s: float | None
    ttft_p95_s: float | None
    prompt_tokens: int
    output_tokens: int
    cached_tokens: int | None
    cached_share: float | None
    regenerated_tokens: int | None
    wall_s: float
    interrupted: bool


def summary(result: ReplayResult) -> Summary:
    """Fold a replay into its figures."""
    runs = result.runs
    steps = [step for run in runs for step in run.steps]
    completions = sorted(run.completion_s for run in runs if run.state is RunState.FINISHED)
    waits = sorted(step.ttft_s for step in steps)
    prompt = sum(step.prompt_tokens for step in steps)
    cached = _total([step.cached_tokens for step in steps])
    return Summary(
        workflows=len(runs),
        finished=_count(runs, RunState.FINISHED),
        failed=_count(runs, RunState.FAILED),
        cancelled=_count(runs, RunState.CANCELLED),
        steps=len(steps),
        retries=sum(run.retries for run in runs),
        mismatches=sum(len(step.mismatches) for step in steps),
        tct_mean_s=_mean(completions),
        tct_geomean_s=exp(sum(map(log, completions)) / len(completions)) if completions else None,
        tct_p95_s=percentile(completions, 0.95) if completions else None,
        ttft_mean_s=_mean(waits),
        ttft_p95_s=percentile(waits, 0.95) if waits else None,
        prompt_tokens=prompt,
        output_tokens=sum(step.output_tokens for step in steps),
        cached_tokens=cached,
        cached_share=cached / prompt if cached is not None and prompt else None,
        regenerated_tokens=_total([step.regenerated_tokens for step in steps]),
        wall_s=result.wall_s,
        interrupted=result.interrupted,
    )


def _count(runs: Sequence[WorkflowRun], state: RunState) -> int:
    return sum(run.state is state for run in runs)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _total(counts: Sequence[int | None]) -> int | None:
    """A sum only if every part is known: a partial sum would read like a whole one."""
    known = [count for count in counts if count is not None]
    return sum(known) if known and len(known) == len(counts) else None
