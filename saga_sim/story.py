"""The life of one workflow in a simulated run: each step's way through gate and engine, and where the time went.

Rules of this file
  1. When and where a step ran, and why there, comes from the head's own facts; token counts and times from what the
     agent measured, as a client would.
  2. The completion time is split along the longest way: from the last step back to the parent that ended last, and so
     on to the start. Its parts add up to the completion time; steps beside that way cost no time.
  3. Work and regeneration are what the engine would have needed alone; the rest of a step's time in the engine is
     waiting for others there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import fsum

import msgspec
from msgspec.structs import astuple

from saga_core.events import (
    Fact,
    Outcome,
    SessionPaused,
    StepArrived,
    StepFinished,
    StepLost,
    StepPlaced,
    WorkflowSubmitted,
)
from saga_core.ids import StepId, WorkflowId
from saga_sim.isolation import engine_s
from saga_sim.longest_way import gaps_behind, last_parents, longest_way
from saga_sim.runs import ReplayResult, StepRun, WorkflowRun
from saga_sim.trace.records import Workflow
from saga_sim.world import ClusterSpec


class Placement(msgspec.Struct, frozen=True, kw_only=True):
    """The head sent a step to a worker. at_s: after the workflow's arrival; lost: how it came back, empty if it stayed."""

    at_s: float
    worker: str
    why: str
    lost: str = ""


class Parts(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds, by what they went to. lost_s: attempts that came to nothing; links_s: delays between the machines.

    gate_s: at the head, without a worker. work_s: in the engine, alone and with a cache that keeps everything it had;
    again_s: prefill of what had been computed before; shared_s: waiting in the engine and sharing its steps.
    """

    tools_s: float = 0.0
    gate_s: float = 0.0
    work_s: float = 0.0
    again_s: float = 0.0
    shared_s: float = 0.0
    links_s: float = 0.0
    lost_s: float = 0.0

    @property
    def total_s(self) -> float:
        return fsum(astuple(self))


class StepStory(msgspec.Struct, frozen=True, kw_only=True):
    """One finished step. Times in seconds: start_s after the workflow's arrival, the others as lengths.

    wait_s: at the gate, over all attempts. moved_from: the worker of the session's step before, if another one.
    gap_s: from its end to the first step that waited for it last; None: none did. on_way: on the longest way.
    """

    step: int
    session: str
    start_s: float
    wait_s: float
    worker: str
    why: str
    moved_from: str | None
    attempts: int
    placements: tuple[Placement, ...]
    prompt_tokens: int
    cached_tokens: int
    again_tokens: int
    output_tokens: int
    ttft_s: float
    duration_s: float
    gap_s: float | None
    on_way: bool
    parts: Parts


class Pause(msgspec.Struct, frozen=True, kw_only=True):
    """The gate let a session in no longer. at_s: after the workflow's arrival."""

    at_s: float
    session: str
    worker: str
    why: str


class Story(msgspec.Struct, frozen=True, kw_only=True):
    """A workflow from its arrival (seconds after the run's start) to its end. rank: 1 is the slowest of `of`.

    completion_s: the sum of `way`, the parts of the longest way. all_steps: the parts of all steps, also beside it.
    """

    workflow_id: str
    agent_type: str
    state: str
    why: str
    rank: int
    of: int
    arrived_s: float
    completion_s: float
    moves: int
    steps: tuple[StepStory, ...]
    pauses: tuple[Pause, ...]
    way: Parts
    all_steps: Parts


# -- what the head says -----------------------------------------------------------------------


@dataclass(slots=True)
class _Heard:
    """One call, as its facts tell of it."""

    session: str
    arrived_at: float
    placed: list[tuple[float, str, str]] = field(default_factory=list)
    lost: list[tuple[float, str]] = field(default_factory=list)
    failed: str = ""
    """How it ended, unless well."""


@dataclass(slots=True)
class _Thread:
    """All facts of one workflow."""

    submitted_at: float
    calls: list[_Heard] = field(default_factory=list)
    pauses: list[tuple[float, SessionPaused]] = field(default_factory=list)


class Listener:
    """Told of every fact of a run (`fact` is for `on_fact`), it can tell every workflow's story afterwards."""

    def __init__(self) -> None:
        self._threads: dict[str, _Thread] = {}
        self._names: dict[WorkflowId, str] = {}
        self._calls: dict[StepId, _Heard] = {}

    def fact(self, at: float, fact: Fact) -> None:
        """A fact and its virtual time in seconds."""
        match fact:
            case WorkflowSubmitted():
                self._names[fact.workflow] = fact.name
                self._threads[fact.name] = _Thread(at)
            case StepArrived() if fact.workflow is not None:
                call = self._calls[fact.step] = _Heard(fact.session, at)
                self._threads[self._names[fact.workflow]].calls.append(call)
            case StepPlaced() if fact.step in self._calls:
                self._calls[fact.step].placed.append((at, fact.worker, fact.why))
            case StepLost() if fact.step in self._calls:
                self._calls[fact.step].lost.append((at, fact.detail))
            case StepFinished() if fact.step in self._calls and fact.outcome is not Outcome.DONE:
                self._calls[fact.step].failed = f"{fact.outcome}: {fact.detail}"
            case SessionPaused():
                number = WorkflowId(int(fact.session.partition(".")[0]))
                self._threads[self._names[number]].pauses.append((at, fact))
            case _:
                pass

    def story(self, index: int, result: ReplayResult, workflow: Workflow, spec: ClusterSpec) -> Story:
        """The story of the workflow that is number `index` of the result."""
        run = result.runs[index]
        thread = self._threads.get(run.workflow_id, _Thread(0.0))
        steps = _steps(run, workflow, thread, spec)
        return Story(
            workflow_id=run.workflow_id,
            agent_type=run.agent_type,
            state=run.state.value,
            why=run.why,
            rank=slowest_first(result.runs).index(index) + 1,
            of=len(result.runs),
            arrived_s=run.arrived_s,
            completion_s=run.completion_s,
            moves=sum(step.moved_from is not None for step in steps),
            steps=steps,
            pauses=tuple(
                Pause(
                    at_s=at - thread.submitted_at,
                    session=fact.session.partition(".")[2],
                    worker=fact.worker,
                    why=fact.why,
                )
                for at, fact in thread.pauses
            ),
            way=_sum(step.parts for step in steps if step.on_way),
            all_steps=_sum(step.parts for step in steps),
        )


def slowest_first(runs: Sequence[WorkflowRun]) -> list[int]:
    """Indices of all runs, the longest completion time first, ties in the order given."""
    return sorted(range(len(runs)), key=lambda index: (-runs[index].completion_s, index))


# -- steps ------------------------------------------------------------------------------------


def _steps(run: WorkflowRun, workflow: Workflow, thread: _Thread, spec: ClusterSpec) -> tuple[StepStory, ...]:
    done = {step.step: step for step in run.steps}
    calls = _calls(run.steps, thread.calls)
    before = last_parents(workflow, done)
    way = longest_way(done, before)
    from_workers = _from_workers(run.steps, calls)
    gaps = gaps_behind(done, before)
    stories = []
    for number, ran in sorted(done.items(), key=lambda item: (item[1].started_s, item[0])):
        own = calls[number]
        placements = tuple(p for call in own for p in _placements(call, thread.submitted_at))
        wait_s = sum(_wait_s(call) for call in own)
        parent = before[number]
        since_s = done[parent].ended_s if parent is not None else run.arrived_s
        stories.append(
            StepStory(
                step=number,
                session=ran.session,
                start_s=ran.started_s - run.arrived_s,
                wait_s=wait_s,
                worker=placements[-1].worker,
                why=placements[-1].why,
                moved_from=from_workers[number],
                attempts=ran.attempts,
                placements=placements,
                prompt_tokens=ran.prompt_tokens,
                cached_tokens=ran.cached_tokens or 0,
                again_tokens=ran.regenerated_tokens or 0,
                output_tokens=ran.output_tokens,
                ttft_s=ran.ttft_s,
                duration_s=ran.duration_s,
                gap_s=gaps.get(number),
                on_way=number in way,
                parts=_parts(ran, workflow, own, ran.started_s - since_s, spec),
            )
        )
    return tuple(stories)


def _calls(steps: Sequence[StepRun], calls: Sequence[_Heard]) -> dict[int, list[_Heard]]:
    """Which calls a step made. A session's steps follow each other, so its calls come in their order."""
    queues: dict[str, list[_Heard]] = {}
    for call in calls:
        queues.setdefault(call.session, []).append(call)
    found: dict[int, list[_Heard]] = {}
    for step in sorted(steps, key=lambda step: (step.started_s, step.step)):
        queue = queues[step.session]
        found[step.step], queues[step.session] = queue[: step.attempts], queue[step.attempts :]
    return found


def _placements(call: _Heard, since: float) -> Iterable[Placement]:
    lost = [*(f"lost: {detail}" for _, detail in call.lost), call.failed]
    for turn, (at, worker, why) in enumerate(call.placed):
        yield Placement(at_s=at - since, worker=worker, why=why, lost=lost[turn] if turn < len(lost) else "")


def _wait_s(call: _Heard) -> float:
    """Seconds without a worker: from the arrival, and from each loss, to the next placement."""
    begins = [call.arrived_at, *(at for at, _ in call.lost)]
    return sum(at - begin for begin, (at, _, _) in zip(begins, call.placed, strict=False))


def _from_workers(steps: Sequence[StepRun], calls: dict[int, list[_Heard]]) -> dict[int, str | None]:
    """The worker that a step's session came from, where it is another one."""
    found: dict[int, str | None] = {step.step: None for step in steps}
    sessions: dict[str, list[StepRun]] = {}
    for step in sorted(steps, key=lambda step: (step.started_s, step.step)):
        sessions.setdefault(step.session, []).append(step)
    for row in sessions.values():
        for one, other in pairwise(row):
            came, went = (calls[step.step][-1].placed[-1][1] for step in (one, other))
            found[other.step] = came if came != went else None
    return found


# -- where the time went --------------------------------------------------------------------


def _parts(
    run: StepRun, workflow: Workflow, calls: Sequence[_Heard], tools_s: float, spec: ClusterSpec
) -> Parts:
    """A step's time and the `tools_s` before it. Only its last attempt brought anything."""
    link, step, cached = spec.link, workflow.steps[run.step], run.cached_tokens or 0
    again = min(run.regenerated_tokens or 0, run.prompt_tokens - cached)
    links_s = 2 * (link.client_s + link.worker_s)
    gate_s = sum(_wait_s(call) for call in calls)
    lost_s = calls[-1].placed[-1][0] - calls[0].arrived_at - gate_s
    taken_s = engine_s(spec.preset, step, cached)
    work_s = engine_s(spec.preset, step, min(cached + again, run.prompt_tokens - 1))
    return Parts(
        tools_s=tools_s,
        gate_s=gate_s,
        work_s=work_s,
        again_s=taken_s - work_s,
        shared_s=run.duration_s - links_s - gate_s - lost_s - taken_s,
        links_s=links_s,
        lost_s=lost_s,
    )


def _sum(parts: Iterable[Parts]) -> Parts:
    rows = [astuple(row) for row in parts]
    return Parts(**dict(zip(Parts.__struct_fields__, map(fsum, zip(*rows, strict=True)), strict=False)))
