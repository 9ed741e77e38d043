"""A reference run straight from a trace, with fixed timing: gaps as recorded, steps as long as a cost table says.

Workflows enter in order while the mean contexts of those that live fit `working_set_tokens`. Nothing that a cache does
changes any time, so one recording serves every rule and every pool. The simulator hands in recordings of its own,
with its queues and its admission; this one needs only the trace.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from random import Random

from msgspec.structs import replace

from saga_core.errors import UserError
from saga_sim.costs import CostTable
from saga_sim.oracle.accesses import Access, Recorder, Recording
from saga_sim.pacing import Pace, WorkflowPace
from saga_sim.streams import Contexts, Groups, Prompt
from saga_sim.trace.records import Step, Workflow, session_names


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """working_set_tokens: how much context lives at once, on average over each workflow's life.
    batch: sequences that decode together, each of a context like the step's own; what a decode step costs.
    max_user_gap_s: a person is never away for longer. seed: of the order in which workflows enter; None = as in the file.
    """

    working_set_tokens: float
    batch: int = 8
    max_user_gap_s: float | None = None
    seed: int | None = None


def accesses_of(
    workflows: Sequence[Workflow], pace: Pace, costs: CostTable, *, block_tokens: int, timing: Timing
) -> Recording:
    """The accesses of one worker that runs these workflows and never has to recompute anything."""
    if not 0 < timing.working_set_tokens < float("inf"):
        raise UserError(f"a working set of {timing.working_set_tokens:g} tokens (valid: above 0)")
    if timing.batch < 1:
        raise UserError(f"a batch of {timing.batch} sequences (valid: 1 or more)")
    order = list(workflows)
    if timing.seed is not None:
        Random(f"{timing.seed}:order").shuffle(order)  # noqa: S311 - a workload
    recorder, groups = Recorder(block_tokens), Groups()
    entry = _Entry(timing.working_set_tokens)
    for workflow in order:
        life = _Life(workflow, pace, costs, timing)
        start_s = entry.enter(life.mean_tokens, life.length_s)
        contexts = Contexts(workflow, groups, block_tokens)
        for step in workflow.steps:
            recorder.add(life.access(step, contexts.build(step), start_s, recorder))
        recorder.ended(workflow.workflow_id, start_s + life.length_s)
    return recorder.recording()


class _Entry:
    """Who may enter when: a workflow waits for its turn until its mean context fits beside the others'."""

    def __init__(self, limit_tokens: float) -> None:
        self._limit = limit_tokens
        self._live: list[tuple[float, float]] = []
        self._tokens = 0.0
        self._now_s = 0.0

    def enter(self, tokens: float, length_s: float) -> float:
        while self._live and self._tokens + tokens > self._limit:
            self._now_s, left = heapq.heappop(self._live)
            self._tokens -= left
        heapq.heappush(self._live, (self._now_s + length_s, tokens))
        self._tokens += tokens
        return self._now_s


class _Life:
    """When each step of a workflow runs, counted from its start."""

    def __init__(self, workflow: Workflow, pace: Pace, costs: CostTable, timing: Timing) -> None:
        self.workflow = _with_short_user_gaps(workflow, timing.max_user_gap_s)
        self.sessions = session_names(workflow)
        self._costs, self._batch = costs, timing.batch
        self.spans_s = self._spans(WorkflowPace(self.workflow, pace))
        self.length_s = max(end_s for _, end_s in self.spans_s.values())
        self.mean_tokens = self._token_seconds() / self.length_s

    def _spans(self, pace: WorkflowPace) -> dict[int, tuple[float, float]]:
        spans: dict[int, tuple[float, float]] = {}
        running: list[tuple[float, int]] = []
        ready = pace.arrive(0.0)
        while ready or running:
            for item in ready:
                spans[item.step.id] = item.start_at, item.start_at + self._step_s(item.step)
                heapq.heappush(running, (spans[item.step.id][1], item.step.id))
            end_s, step_id = heapq.heappop(running)
            ready = pace.step_finished(step_id, end_s)
        return spans

    def _step_s(self, step: Step) -> float:
        costs, batch = self._costs, self._batch
        context = step.prompt_tokens + step.output_tokens / 2
        decode_s = costs.step_s + batch * (costs.decode_s + costs.context_token_s * context)
        fresh = step.new_prompt_tokens
        return costs.chunk_s(step.prompt_tokens - fresh, fresh) + step.output_tokens * decode_s

    def _token_seconds(self) -> float:
        """Context of every session from its first step to the end of its last; what is shared by a group left out."""
        rows: dict[str, list[Step]] = {}
        for step in self.workflow.steps:
            rows.setdefault(self.sessions[step.id], []).append(step)
        total = 0.0
        for steps in rows.values():
            steps.sort(key=lambda step: self.spans_s[step.id])
            for step, after in pairwise(steps):
                total += _own_tokens(step) * (self.spans_s[after.id][0] - self.spans_s[step.id][0])
            start_s, end_s = self.spans_s[steps[-1].id]
            total += _own_tokens(steps[-1]) * (end_s - start_s)
        return total

    def access(self, step: Step, prompt: Prompt, start_s: float, recorder: Recorder) -> Access:
        begin_s, end_s = self.spans_s[step.id]
        size = recorder.block_tokens
        # The last token of a prompt is computed always, and the last one generated is never an input.
        held = prompt.tokens + step.output_tokens - 1
        name = self.workflow.workflow_id
        return Access(
            start_s=start_s + begin_s,
            end_s=start_s + end_s,
            workflow=name,
            session=f"{name}/{self.sessions[step.id]}",
            runs=recorder.runs(prompt.stream.pieces(held // size)),
            prompt_blocks=(prompt.tokens - 1) // size,
            private_blocks=1 if held % size else 0,
            tokens=prompt.tokens + step.output_tokens,
            new_tokens=max(0, prompt.tokens - prompt.computed_before),
            tool=f"{step.tool.kind}:{step.tool.name or ''}" if step.tool is not None else "",
        )


def _own_tokens(step: Step) -> int:
    return step.prompt_tokens + step.output_tokens - (step.shared_prefix_tokens or 0)


def _with_short_user_gaps(workflow: Workflow, limit_s: float | None) -> Workflow:
    if limit_s is None:
        return workflow

    def shortened(step: Step) -> Step:
        tool = workflow.steps[step.ctx_parent].tool if step.ctx_parent is not None else None
        if tool is None or tool.kind != "user":
            return step
        gap_s = step.gap_s if step.gap_s is not None else tool.latency_s
        return step if gap_s is None else replace(step, gap_s=min(gap_s, limit_s))

    return replace(workflow, steps=tuple(shortened(step) for step in workflow.steps))
