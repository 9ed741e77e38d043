"""A reference run straight from a trace, with fixed timing: gaps as recorded, steps as long as a cost table says.

Workflows enter in order while the mean contexts of those that live fit `working_set_tokens`; a step waits
until what it holds fits beside the others that run, those of the workflow that entered first in front. Nothing that a cache forgets changes any time, so one
recording serves every rule. The simulator hands in recordings of its own; this one needs only the trace.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import count, pairwise
from random import Random

from msgspec.structs import replace

from saga_core.costs import CostTable
from saga_core.errors import UserError
from saga_sim.oracle.accesses import Access, Recorder, Recording
from saga_sim.pacing import Pace, ReadyStep, WorkflowPace
from saga_sim.streams import Contexts, Groups
from saga_sim.trace.records import Step, Workflow, session_names


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """working_set_tokens: how much context lives at once, on average over each workflow's life.
    pool_blocks: what the steps that run at once may hold; None = no limit.
    batch: sequences that decode together, each of a context like the step's own; what a decode step costs.
    oldest_first: who waits goes by when its workflow entered; else by when it began to wait.
    max_user_gap_s: a person is never away for longer.
    seed: of the order in which workflows enter; None = as in the file.
    """

    working_set_tokens: float
    pool_blocks: int | None = None
    batch: int = 8
    oldest_first: bool = True
    max_user_gap_s: float | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.working_set_tokens < float("inf"):
            raise UserError(f"a working set of {self.working_set_tokens:g} tokens (valid: above 0)")
        if self.batch < 1:
            raise UserError(f"a batch of {self.batch} sequences (valid: 1 or more)")


def accesses_of(
    workflows: Sequence[Workflow], pace: Pace, costs: CostTable, *, block_tokens: int, timing: Timing
) -> Recording:
    """The accesses of one worker that runs these workflows and never has to recompute anything."""
    order = [_with_short_user_gaps(workflow, timing.max_user_gap_s) for workflow in workflows]
    if timing.seed is not None:
        Random(f"{timing.seed}:order").shuffle(order)  # noqa: S311 - a workload
    return _Worker(order, pace, costs, block_tokens, timing).run()


@dataclass(slots=True)
class _Live:
    """A workflow that has entered."""

    workflow: Workflow
    sessions: tuple[str, ...]
    pace: WorkflowPace
    contexts: Contexts
    mean_tokens: float
    number: int
    """In order of entry."""


class _Kind(IntEnum):
    """What happens first of all that happens at one time."""

    END = 0
    READY = 1


class _Worker:
    def __init__(
        self, order: Sequence[Workflow], pace: Pace, costs: CostTable, block_tokens: int, timing: Timing
    ) -> None:
        self._pace, self._costs, self._timing = pace, costs, timing
        self._queue = deque(order)
        self._recorder, self._groups = Recorder(block_tokens), Groups()
        self._live_tokens = 0.0
        self._live = self._running = 0
        self._free = float("inf") if timing.pool_blocks is None else timing.pool_blocks
        self._events: list[tuple[float, _Kind, int, _Live, Step]] = []
        self._waiting: list[tuple[int, int, _Live, Step]] = []
        self._seq = count()

    def run(self) -> Recording:
        self._enter(0.0)
        while self._events:
            now_s, kind, _, live, step = heapq.heappop(self._events)
            if kind is _Kind.READY:
                turn = live.number if self._timing.oldest_first else 0
                heapq.heappush(self._waiting, (turn, next(self._seq), live, step))
            else:
                self._end(live, step, now_s)
            while self._waiting and (self._fits(self._waiting[0][-1]) or not self._running):
                _, _, live, step = heapq.heappop(self._waiting)
                self._start(live, step, now_s)
        return self._recorder.recording()

    def _enter(self, now_s: float) -> None:
        while self._queue:
            workflow = self._queue[0]
            sessions = session_names(workflow)
            mean = mean_tokens(workflow, sessions, self._pace, self._step_s)
            if self._live and self._live_tokens + mean > self._timing.working_set_tokens:
                return
            self._queue.popleft()
            self._live += 1
            self._live_tokens += mean
            contexts = Contexts(workflow, self._groups, self._recorder.block_tokens)
            live = _Live(
                workflow, sessions, WorkflowPace(workflow, self._pace), contexts, mean, next(self._seq)
            )
            self._expect(live, live.pace.arrive(now_s))

    def _expect(self, live: _Live, ready: Sequence[ReadyStep]) -> None:
        for item in ready:
            heapq.heappush(self._events, (item.start_at, _Kind.READY, next(self._seq), live, item.step))

    def _fits(self, step: Step) -> bool:
        return self._blocks(step) <= self._free

    def _blocks(self, step: Step) -> int:
        return -(-(step.prompt_tokens + step.output_tokens - 1) // self._recorder.block_tokens)

    def _step_s(self, step: Step) -> float:
        costs, batch = self._costs, self._timing.batch
        context = step.prompt_tokens + step.output_tokens / 2
        decode_s = costs.step_s + batch * (costs.decode_s + costs.context_token_s * context)
        fresh = step.new_prompt_tokens
        return costs.chunk_s(step.prompt_tokens - fresh, fresh) + step.output_tokens * decode_s

    def _start(self, live: _Live, step: Step, now_s: float) -> None:
        self._free -= self._blocks(step)
        self._running += 1
        end_s = now_s + self._step_s(step)
        self._recorder.add(self._access(live, step, now_s, end_s))
        heapq.heappush(self._events, (end_s, _Kind.END, next(self._seq), live, step))

    def _end(self, live: _Live, step: Step, now_s: float) -> None:
        self._free += self._blocks(step)
        self._running -= 1
        self._expect(live, live.pace.step_finished(step.id, now_s))
        if live.pace.done:
            self._recorder.ended(live.workflow.workflow_id, now_s)
            self._live -= 1
            self._live_tokens -= live.mean_tokens
            self._enter(now_s)

    def _access(self, live: _Live, step: Step, start_s: float, end_s: float) -> Access:
        prompt, size = live.contexts.build(step), self._recorder.block_tokens
        # The last token of a prompt is computed always, and the last one generated is never an input.
        held = prompt.tokens + step.output_tokens - 1
        name = live.workflow.workflow_id
        return Access(
            start_s=start_s,
            end_s=end_s,
            workflow=name,
            session=f"{name}/{live.sessions[step.id]}",
            runs=self._recorder.runs(prompt.stream.pieces(held // size)),
            prompt_blocks=(prompt.tokens - 1) // size,
            private_blocks=1 if held % size else 0,
            tokens=prompt.tokens + step.output_tokens,
            new_tokens=max(0, prompt.tokens - prompt.computed_before),
            tool=f"{step.tool.kind}:{step.tool.name or ''}" if step.tool is not None else "",
        )


def mean_tokens(
    workflow: Workflow, sessions: Sequence[str], pace: Pace, step_s: Callable[[Step], float]
) -> float:
    """Context of a workflow that runs alone, averaged over its life; what a group shares is left out."""
    spans = _alone(WorkflowPace(workflow, pace), step_s)
    rows: dict[str, list[Step]] = {}
    for step in workflow.steps:
        rows.setdefault(sessions[step.id], []).append(step)
    total = 0.0
    for steps in rows.values():
        steps.sort(key=lambda step: spans[step.id])
        for step, after in pairwise(steps):
            total += _own_tokens(step) * (spans[after.id][0] - spans[step.id][0])
        start_s, end_s = spans[steps[-1].id]
        total += _own_tokens(steps[-1]) * (end_s - start_s)
    return total / max(end_s for _, end_s in spans.values())


def _alone(pace: WorkflowPace, step_s: Callable[[Step], float]) -> dict[int, tuple[float, float]]:
    """When each step starts and ends if nothing else runs."""
    spans: dict[int, tuple[float, float]] = {}
    running: list[tuple[float, int]] = []
    ready = pace.arrive(0.0)
    while ready or running:
        for item in ready:
            spans[item.step.id] = item.start_at, item.start_at + step_s(item.step)
            heapq.heappush(running, (spans[item.step.id][1], item.step.id))
        end_s, step_id = heapq.heappop(running)
        ready = pace.step_finished(step_id, end_s)
    return spans


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
