"""Workflows out of a cluster's own journal: counts, times and names of what ran, in the trace format.

What a journal cannot say and how it is inferred
  1. Prompts are not kept, nor their hashes. In a session whose engine ever found a whole earlier prompt
     in its cache (or reports no cache reads), a prompt that holds the last one and its output appends to
     it. Everywhere else, what the engine read from its cache is what the two prompts share: a lower bound.
     A prompt that got shorter without such a read is a new context (`compacted`).
  2. Who opened a session is known where the client said so (x-saga-parent-session-id); else it is the step that ended
     last among the sessions at rest. A session that opened others waits for those that had ended when it went on.
  3. A tool has a name where the answer asked for it by name, or the client said so (x-saga-tool). An answer that asked
     for nothing gives the turn to a user. Elsewhere a pause is a `tool` without a name.
Tokens, programs, error texts and clients' own keys stay in the journal.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from saga_core.events import (
    Fact,
    HeadStarted,
    StepArrived,
    StepFinished,
    WorkflowEnded,
    WorkflowSubmitted,
)
from saga_core.ids import StepId, WorkflowId
from saga_sim.trace.journal_steps import DECIMALS, Call, hashed, named, steps_of
from saga_sim.trace.records import MAX_STEP_TOKENS, MAX_STEPS, Workflow, Workload

SOURCE = "saga-journal"

WITHOUT_USAGE = "steps without usage"
OUTSIDE = "steps outside any workflow"
EMPTY = "workflows without a step"
RUNNING = "workflows still running"
CUT = "workflows whose beginning is no longer kept"


@dataclass(slots=True)
class _Session:
    """Steps of one session that are running, and the last that ended."""

    opener: "_Session | None" = None
    running: int = 0
    last: Call | None = None
    joined: set[int] = field(default_factory=set)


@dataclass(slots=True)
class _Run:
    """A workflow on its way."""

    fact: WorkflowSubmitted
    submitted_at: float
    calls: list[Call] = field(default_factory=list)
    flying: dict[StepId, Call] = field(default_factory=dict)
    sessions: dict[str, _Session] = field(default_factory=dict)
    ended: bool = False


@dataclass(slots=True, kw_only=True)
class Recorder:
    """Facts in, workflows out. `workload`, `tenant`: what to call them; `chosen`: their numbers, None for all."""

    workload: Workload | None = None
    tenant: str | None = None
    chosen: frozenset[int] | None = None
    left_out: dict[str, int] = field(default_factory=dict)
    origin_at: float | None = None
    _runs: dict[WorkflowId, _Run] = field(default_factory=dict)
    _owner: dict[StepId, WorkflowId] = field(default_factory=dict)
    _cut: set[WorkflowId] = field(default_factory=set)
    known: set[int] = field(default_factory=set)

    def take(self, at: float, fact: Fact) -> Workflow | None:
        """Apply one fact; the workflow that it ends, if it does and anything of it can be told."""
        match fact:
            case WorkflowSubmitted():
                self._submitted(fact, at)
            case StepArrived():
                self._arrived(fact, at)
            case StepFinished():
                self._finished(fact, at)
            case HeadStarted():
                self._lost()
            case WorkflowEnded():
                return self._ended(fact)
            case _:
                pass
        return None

    def running(self) -> Iterator[Workflow]:
        """What stands so far of the workflows that have not ended."""
        for run in list(self._runs.values()):
            made = self._told(run)
            if made is not None:
                yield made

    def told(self) -> dict[str, int]:
        """What was left out, with the workflows that have not ended."""
        return self.left_out | ({RUNNING: len(self._runs)} if self._runs else {})

    def _submitted(self, fact: WorkflowSubmitted, at: float) -> None:
        self.known.add(fact.workflow)
        if self.chosen is None or fact.workflow in self.chosen:
            self.origin_at = at if self.origin_at is None else self.origin_at
            self._runs[fact.workflow] = _Run(fact, at)

    def _arrived(self, fact: StepArrived, at: float) -> None:
        if fact.workflow is None:
            if self.chosen is None:
                self._count(OUTSIDE)
            return
        run = self._runs.get(fact.workflow)
        if run is None:
            self._unknown(fact.workflow)
            return
        call = Call(fact.session, fact.model, at, brings=fact.tool)
        _place(run, call, fact.parent)
        run.flying[fact.step] = call
        self._owner[fact.step] = fact.workflow

    def _unknown(self, workflow: WorkflowId) -> None:
        """A step of a workflow that nobody asked for, or whose submission was in a journal that is gone."""
        wanted = self.chosen is None or workflow in self.chosen
        if wanted and workflow not in self.known and workflow not in self._cut:
            self._cut.add(workflow)
            self._count(CUT)

    def _finished(self, fact: StepFinished, at: float) -> None:
        owner = self._owner.pop(fact.step, None)
        run = self._runs.get(owner) if owner is not None else None
        call = run.flying.pop(fact.step, None) if run is not None else None
        if run is None or call is None:
            return
        session = run.sessions[call.session]
        session.running -= 1
        if not _usable(fact) or len(run.calls) >= MAX_STEPS:
            self._count(WITHOUT_USAGE)
            return
        assert fact.prompt_tokens is not None
        assert fact.output_tokens is not None
        call.ended_at = at
        call.prompt_tokens, call.output_tokens = fact.prompt_tokens, fact.output_tokens
        call.cached_tokens, call.ttft_s = fact.cached_tokens, fact.ttft_s
        call.tool = fact.tool
        session.last = call
        run.calls.append(call)

    def _lost(self) -> None:
        """A new head: what was in flight under the old one never finishes."""
        for run in self._runs.values():
            for call in run.flying.values():
                run.sessions[call.session].running -= 1
                self._count(WITHOUT_USAGE)
            run.flying.clear()
        self._owner.clear()

    def _ended(self, fact: WorkflowEnded) -> Workflow | None:
        run = self._runs.pop(fact.workflow, None)
        return None if run is None else self._told(run)

    def _told(self, run: _Run) -> Workflow | None:
        if not run.calls:
            self._count(EMPTY)
            return None
        return workflow_of(run, self)

    def _count(self, what: str) -> None:
        self.left_out[what] = self.left_out.get(what, 0) + 1


def _usable(fact: StepFinished) -> bool:
    """Did the engine say what the step used, and is it what a step can use?"""
    return all(
        count is not None and 1 <= count <= MAX_STEP_TOKENS
        for count in (fact.prompt_tokens, fact.output_tokens)
    )


def _place(run: _Run, call: Call, parent: str) -> None:
    """Whom the step comes after, as the journal's order tells it, and the name of the `parent` session if it has one."""
    session = run.sessions.get(call.session)
    if session is None:
        opener = run.sessions.get(parent) or _opener(run)
        session = run.sessions[call.session] = _Session(opener)
        if opener is not None and opener.last is not None:
            call.after.append(opener.last)
    elif session.last is not None:
        call.context = session.last
        call.after.append(session.last)
        call.joins = _joined(run, session)
    session.running += 1


def _opener(run: _Run) -> _Session | None:
    """The session at rest whose last step ended last."""
    resting = [s for s in run.sessions.values() if s.running == 0 and s.last is not None]
    return max(resting, key=lambda s: s.last.ended_at if s.last else 0.0, default=None)


def _joined(run: _Run, session: _Session) -> list[Call]:
    """Last steps of the sessions it opened that have ended, and that it did not wait for before."""
    joined = []
    for other in run.sessions.values():
        at_rest = other.opener is session and other.running == 0
        if at_rest and other.last is not None and id(other.last) not in session.joined:
            session.joined.add(id(other.last))
            joined.append(other.last)
    return joined


def workflow_of(run: _Run, recorder: Recorder) -> Workflow:
    """A run as a workflow of the format; what arrived first has the smallest number."""
    calls = sorted(run.calls, key=lambda call: call.started_at)
    fact = run.fact
    origin_at = run.submitted_at if recorder.origin_at is None else recorder.origin_at
    return Workflow(
        version=1,
        workflow_id=f"saga/{fact.workflow}",
        source=SOURCE,
        workload=recorder.workload or "coding-agent",
        harness=named(fact.agent_type) or fact.kind,
        tenant=recorder.tenant or named(fact.tenant) or None,
        arrival_s=round(max(0.0, run.submitted_at - origin_at), DECIMALS),
        block_size=None,
        hash_scope=None,
        tokens="reported",
        timing="measured",
        steps=tuple(steps_of(calls, fact.kind, run.submitted_at)),
        instance=hashed(fact.key) if fact.kind == "outside" else named(fact.name) or None,
    )
