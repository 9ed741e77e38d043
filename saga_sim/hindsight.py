"""A recording in the order in which it would have happened, through a learner that is asked before it is told."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from math import log
from random import Random

from saga_core.aeg import Kind, Learner
from saga_sim.costs import Preset
from saga_sim.pacing import Pace
from saga_sim.pressure import step_alone_s
from saga_sim.tools import tools_of
from saga_sim.trace import load_trace, session_names
from saga_sim.trace.records import Step, Workflow, shared_tokens
from saga_sim.trace.synth import synthesise

BATCH = 12
"""Sequences that share an engine step, as in the policy study's figure of a workflow's work (its section 5)."""
MAX_GAP_S = 600.0
"""As the study clamps tool gaps."""
MARKS = (0.0, 0.25, 0.5, 0.75)
"""Shares of its true work at which a workflow's forecast is taken."""


def resident_tokens(workflow: Workflow, step: Step) -> int:
    """Tokens of its prompt that an engine still holds which has forgotten nothing of the workflow."""
    if step.ctx_parent is None:
        return 0
    parent, shared = workflow.steps[step.ctx_parent], shared_tokens(workflow, step)
    if shared < parent.prompt_tokens:
        return shared
    return min(shared + parent.output_tokens, step.prompt_tokens - 1)


def work_s(preset: Preset, workflow: Workflow, step: Step) -> float:
    """GPU-seconds of a step in a full batch, its context resident: the study's formula."""
    costs = preset.costs
    cached = resident_tokens(workflow, step)
    decode_s = costs.decode_s + costs.context_token_s * step.prompt_tokens + costs.step_s / BATCH
    return costs.chunk_s(cached, step.prompt_tokens - cached) + step.output_tokens * decode_s


@dataclass(slots=True)
class Told:
    """One thing that happens in the stream."""

    at: float
    order: int
    what: str
    workflow: int
    step: int = 0


def timeline(workflow: Workflow, index: int, begin_s: float, preset: Preset, pace: Pace) -> Iterator[Told]:
    """A workflow's steps on an idle engine."""
    ends: list[float] = []
    yield Told(begin_s, 0, "began", index)
    for step in workflow.steps:
        ready = max((ends[parent] for parent in step.parents), default=begin_s)
        start = ready + pace.gap_s(workflow, step)
        ends.append(start + step_alone_s(preset, workflow, step))
        yield Told(start, 1, "returned", index, step.id)
        yield Told(ends[-1], 2, "stepped", index, step.id)
    yield Told(max(ends), 3, "ended", index)


def stream(workflows: Sequence[Workflow], preset: Preset, live: float, seed: int) -> list[Told]:
    """All that happens, in order of time; about `live` workflows are under way at once."""
    pace = Pace(max_gap_s=MAX_GAP_S, seed=seed)
    alone = [list(timeline(w, i, 0.0, preset, pace)) for i, w in enumerate(workflows)]
    mean_s = sum(events[-1].at for events in alone) / len(alone)
    draw = Random(f"{seed}/forecasts")  # noqa: S311 - a workload
    starts = accumulate(-log(1.0 - draw.random()) * mean_s / live for _ in workflows)
    told = []
    for begin_s, events in zip(starts, alone, strict=True):
        for event in events:
            event.at += begin_s
        told += events
    told.sort(key=lambda event: (event.at, event.order, event.workflow, event.step))
    return told


@dataclass(slots=True)
class Forecast:
    """What was expected of one workflow at one mark."""

    mark: float
    attained: float
    truth: float
    median: float
    low: float
    high: float
    class_median: float
    finished: int
    """Workflows that had ended before."""


@dataclass(slots=True)
class Sums:
    """What was counted of one file."""

    tools: int = 0
    tools_right: int = 0
    pauses: int = 0
    pauses_within: int = 0
    pause_error: float = 0.0
    lindy_error: float = 0.0
    growths: int = 0
    growths_within: int = 0
    outputs: int = 0
    outputs_within: int = 0
    steps: int = 0
    brier: float = 0.0
    brier_rule: float = 0.0
    ends: int = 0
    ends_expected: float = 0.0
    forecasts: list[Forecast] = field(default_factory=list)


@dataclass(slots=True)
class Course:
    """What is known of a workflow in the stream."""

    names: tuple[str, ...]
    tools: Sequence[str]
    works: list[float]
    total: float
    counted: bool
    attained: float = 0.0
    marks: list[float] = field(default_factory=lambda: list(MARKS))
    seen: dict[str, int] = field(default_factory=dict)


class Trial:
    """One file through one learner."""

    def __init__(self, workflows: Sequence[Workflow], preset: Preset, half: str, *, blind: bool) -> None:
        self.workflows = workflows
        self.learner = Learner()
        self.sums = Sums()
        self.blind = blind
        self.finished = 0
        self.totals: list[float] = []
        self.courses = []
        for index, workflow in enumerate(workflows):
            works = [work_s(preset, workflow, step) for step in workflow.steps]
            counted = half == "all" or (index % 2 == 0) == (half == "even")
            self.courses.append(
                Course(session_names(workflow), tools_of(workflow), works, sum(works), counted)
            )

    def kind(self, workflow: Workflow) -> Kind:
        tenant, harness = workflow.tenant or "-", workflow.agent_type
        if self.blind:
            return Kind(tenant, harness)
        prefix = workflow.steps[0].shared_prefix_group or ""
        return Kind(tenant, harness, workflow.instance or "", prefix)

    def tell(self, told: Told) -> None:
        course, workflow = self.courses[told.workflow], self.workflows[told.workflow]
        match told.what:
            case "began":
                prompt = 0 if self.blind else workflow.steps[0].prompt_tokens
                self.learner.began(told.workflow, self.kind(workflow), prompt_tokens=prompt)
            case "returned":
                self._returned(told, course)
            case "stepped":
                self._stepped(told, course, workflow.steps[told.step])
            case _:
                self._ended(told, course)

    def _returned(self, told: Told, course: Course) -> None:
        name = course.names[told.step]
        if told.step == 0:
            self._note(told.workflow, course)
        if name in course.seen:
            state = self.learner.memory.live[told.workflow].sessions[name]
            if course.counted and state.ended_at is not None:
                pause_s = told.at - state.ended_at
                expected = self.learner.return_in(told.workflow, name, 0.0)
                sums = self.sums
                sums.pauses += 1
                sums.pauses_within += expected.low - 1e-9 <= pause_s <= expected.high + 1e-9
                sums.pause_error += abs(log((1 + expected.median) / (1 + pause_s)))
                sums.lindy_error += abs(log(2 / (1 + pause_s)))
            self.learner.returned(told.workflow, name, at=told.at)

    def _stepped(self, told: Told, course: Course, step: Step) -> None:
        name, tool, sums, learner = course.names[told.step], course.tools[told.step], self.sums, self.learner
        if course.counted:
            if tool:
                guess, _ = learner.next_tool(told.workflow, name)
                sums.tools += 1
                sums.tools_right += guess == tool
            output = learner.output(told.workflow, name)
            sums.outputs += 1
            sums.outputs_within += output.low - 1 <= step.output_tokens <= output.high + 1
            if name in course.seen:
                before = self.workflows[told.workflow].steps[course.seen[name]]
                grown = step.prompt_tokens - before.prompt_tokens - before.output_tokens
                if step.prompt_tokens > 0.7 * before.prompt_tokens:
                    growth = learner.growth(told.workflow, name)
                    sums.growths += 1
                    sums.growths_within += growth.low - 1 <= max(grown, 0) <= growth.high + 1
        learner.stepped(
            told.workflow,
            name,
            at=told.at,
            work_s=course.works[told.step],
            prompt_tokens=step.prompt_tokens,
            output_tokens=step.output_tokens,
            tool=tool,
        )
        course.seen[name] = told.step
        course.attained += course.works[told.step]
        if course.counted:
            expected = learner.end_probability(told.workflow, name)
            last = course.attained >= course.total * (1 - 1e-9)
            sums.steps += 1
            sums.ends += last
            sums.ends_expected += expected
            sums.brier += (last - expected) ** 2
            rate = 1 / (sum(len(w.steps) for w in self.workflows) / len(self.workflows))
            sums.brier_rule += (last - rate) ** 2
        self._note(told.workflow, course)

    def _note(self, index: int, course: Course) -> None:
        while course.marks and course.attained >= course.marks[0] * course.total * (1 - 1e-9):
            mark = course.marks.pop(0)
            if course.attained >= course.total * (1 - 1e-9):
                continue
            if not self.totals:
                continue
            expected = self.learner.total_work(index)
            middle = sorted(self.totals)[len(self.totals) // 2]
            if course.counted:
                self.sums.forecasts.append(
                    Forecast(
                        mark,
                        course.attained,
                        course.total,
                        expected.median,
                        expected.low,
                        expected.high,
                        middle,
                        self.finished,
                    )
                )

    def _ended(self, told: Told, course: Course) -> None:
        self.learner.ended(told.workflow, complete=True)
        self.finished += 1
        self.totals.append(course.total)
        del self.totals[:-256]


def load(source: str) -> list[Workflow]:
    """A trace file, `synth:PRESET[:COUNT]`, or several joined by `+`, dealt out evenly."""
    if "+" in source:
        parts = [load(part) for part in source.split("+")]
        placed = [
            (index / len(part), which, w) for which, part in enumerate(parts) for index, w in enumerate(part)
        ]
        return [workflow for _, _, workflow in sorted(placed, key=lambda place: place[:2])]
    if not source.startswith("synth:"):
        return load_trace(source)
    _, name, *count = source.split(":")
    return synthesise(name, int(count[0]) if count else 400, seed=1)
