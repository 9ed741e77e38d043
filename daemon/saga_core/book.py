"""The durable half of the head: workflows, their sessions, their steps.

Rules of this file
  1. `Book.apply(fact, at)` is the only thing that changes a book. The live head, the
     recovery after a crash and the simulator all go through it, so they cannot differ.
  2. Nothing here knows nodes' loads or decides anything. What workflows have had of the engines and what was learned
     from them (`Accounts`) follows from the same facts.
  3. A fact about something unknown is dropped by the caller (`Head`), never guessed at.
"""

from __future__ import annotations

from saga_core.accounts import Accounts, spent
from saga_core.aeg import Kind
from saga_core.costs import BYTES_PER_TOKEN, CostTable
from saga_core.errors import ClusterError
from saga_core.events import (
    CancelAsked,
    Fact,
    HeadStarted,
    NodeDrained,
    NodeDraining,
    NodeJoined,
    NodeLost,
    NodeUndrained,
    Outcome,
    ProfileChanged,
    ProgramGiven,
    ProgramStarted,
    SessionMoved,
    SessionPaused,
    StepArrived,
    StepFinished,
    StepLost,
    StepPlaced,
    WorkerLost,
    WorkerReady,
    WorkflowEnded,
    WorkflowRequeued,
    WorkflowSubmitted,
)
from saga_core.ids import NodeId, SessionId, StepId, TenantId, WorkflowId, session_id
from saga_core.records import Counts, Drain, Session, Step, Workflow
from saga_core.states import DUTY, DutyState, WorkflowState, advance
from saga_core.told import Told
from saga_core.usage import Usage

__all__ = ["SESSIONS", "Book", "Counts", "Drain", "Session", "Step", "Workflow"]

KEEP_ENDED = 1000
"""Ended workflows that stay visible in `saga ps`; older ones remain in the journal."""
SESSIONS = 4096
"""Sessions one workflow may open: more is a client that mints a name per call."""


class Book:
    """Workflows, sessions and steps, changed by facts alone."""

    def __init__(self, profile: str, costs: CostTable | None = None) -> None:
        """`costs`: by which work is weighed."""
        self.profile = profile
        self.accounts = Accounts(costs if costs is not None else CostTable())
        self.workflows: dict[WorkflowId, Workflow] = {}
        self.steps: dict[StepId, Step] = {}
        self.keys: dict[tuple[TenantId, str], WorkflowId] = {}
        """Live workflows from outside, by the client's own name."""
        self.sessions: dict[SessionId, Session] = {}
        """Sessions of live workflows."""
        self.drains: dict[NodeId, Drain] = {}
        """Nodes that take no new sessions."""
        self.ended: list[WorkflowId] = []
        self.live = 0
        self.counts = Counts()
        self.usage = Usage()
        self.last_workflow = 0
        self.last_step = 0
        self.head = 0

    def apply(self, fact: Fact, at: float) -> None:
        """Let `fact`, which happened at `at` seconds, be so."""
        match fact:
            case StepArrived():
                self._step_arrived(fact, at)
            case StepPlaced():
                self._step_placed(fact, at)
            case StepFinished():
                self._step_finished(fact, at)
            case StepLost():
                self._step_lost(fact, at)
            case WorkflowSubmitted():
                self._submitted(fact, at)
            case ProgramGiven():
                workflow = self.workflows[fact.workflow]
                workflow.node, workflow.node_incarnation = fact.node, fact.incarnation
            case ProgramStarted():
                self._program_started(fact, at)
            case WorkflowRequeued():
                self._requeued(fact)
            case CancelAsked():
                self.workflows[fact.workflow].advance("cancel")
            case WorkflowEnded():
                self._ended(fact, at)
            case ProfileChanged():
                self.profile = fact.profile
            case HeadStarted():
                self._head_started(fact, at)
            case NodeDraining():
                self._draining(fact, at)
            case NodeDrained():
                drain = self.drains[fact.node]
                drain.duty = advance(DUTY, drain.duty, "empty", what=f"node {fact.node}")
            case NodeUndrained():
                advance(DUTY, self.drains.pop(fact.node).duty, "undrain", what=f"node {fact.node}")
            case SessionMoved():
                session = self.sessions.get(fact.session)
                if session is not None and not fact.failed and session.home == fact.source:
                    session.home = fact.target  # handed on between two steps; else a step has said so
            case NodeJoined() | NodeLost() | WorkerReady() | WorkerLost() | SessionPaused():
                pass  # kept for readers of the journal; fleet and gate are soft state, never recovered

    def duty(self, node: NodeId) -> DutyState:
        """Whether `node` takes sessions."""
        drain = self.drains.get(node)
        return DutyState.ACTIVE if drain is None else drain.duty

    def _draining(self, fact: NodeDraining, at: float) -> None:
        duty = advance(DUTY, self.duty(fact.node), "drain", what=f"node {fact.node}")
        self.drains[fact.node] = Drain(fact.cause, fact.reason, at, fact.until, duty)

    def find(self, tenant: TenantId, key: str) -> Workflow | None:
        """The live workflow that `tenant` calls `key`."""
        found = self.keys.get((tenant, key))
        return None if found is None else self.workflows[found]

    def _submitted(self, fact: WorkflowSubmitted, at: float) -> None:
        if fact.workflow in self.workflows:
            raise ClusterError(f"workflow {fact.workflow} exists already")
        self.workflows[fact.workflow] = Workflow(
            id=fact.workflow,
            tenant=fact.tenant,
            kind=fact.kind,
            token=fact.token,
            submitted_at=at,
            name=fact.name,
            agent_type=fact.agent_type,
            key=fact.key,
            work_s=fact.work_s,
            steps_told=fact.steps,
            instance=fact.instance,
            deadline_s=fact.deadline_s,
            graph=fact.graph,
            program=fact.program,
            log=fact.log,
            weight=fact.weight,
            priority=fact.priority,
            active_at=at,
        )
        self.live += 1
        self.last_workflow = max(self.last_workflow, fact.workflow)
        if fact.key:
            self.keys[fact.tenant, fact.key] = fact.workflow

    def _program_started(self, fact: ProgramStarted, at: float) -> None:
        workflow = self.workflows[fact.workflow]
        workflow.advance("program started")
        workflow.started_at = workflow.started_at or at
        workflow.node, workflow.node_incarnation = fact.node, fact.incarnation
        workflow.started_attempt = fact.attempt

    def _requeued(self, fact: WorkflowRequeued) -> None:
        workflow = self.workflows[fact.workflow]
        if workflow.state is WorkflowState.RUNNING:
            workflow.advance("requeue")
        workflow.attempt, workflow.node, workflow.reason = fact.attempt, None, fact.reason
        workflow.moves += fact.moved

    def _ended(self, fact: WorkflowEnded, at: float) -> None:
        workflow = self.workflows[fact.workflow]
        workflow.advance(f"ended {fact.state}")
        workflow.ended_at, workflow.exit_code, workflow.reason = at, fact.exit_code, fact.reason
        workflow.program = None
        for session in workflow.sessions.values():
            session.move("closed")
            self.sessions.pop(session.id, None)
        if workflow.key:
            self.keys.pop((workflow.tenant, workflow.key), None)
        workflow.graph = ()
        self.accounts.close(workflow.id, at=at, complete=fact.state is WorkflowState.DONE)
        self.live -= 1
        self.counts.ended[fact.state] = self.counts.ended.get(fact.state, 0) + 1
        self.ended.append(fact.workflow)
        while len(self.ended) > KEEP_ENDED:
            self.workflows.pop(self.ended.pop(0), None)

    def _step_arrived(self, fact: StepArrived, at: float) -> None:
        self.last_step = max(self.last_step, fact.step)
        self.steps[fact.step] = Step(
            fact.step,
            fact.tenant,
            fact.model,
            at,
            fact.workflow,
            fact.session,
            body_bytes=fact.body_bytes,
            expected_tokens=fact.expected_tokens,
        )
        if fact.workflow is None:
            return
        workflow = self.workflows[fact.workflow]
        if workflow.state is WorkflowState.ACCEPTED:
            workflow.advance("step")
        workflow.started_at = workflow.started_at or at
        workflow.active_at = at
        workflow.running[fact.step] = None
        session = workflow.sessions.get(fact.session)
        if session is None:
            session = Session(session_id(workflow.id, fact.session))
            workflow.sessions[fact.session] = self.sessions[session.id] = session
        session.running += 1
        session.rule, session.confidence = fact.rule, fact.confidence
        session.move("step arrived")
        if self.accounts.of(workflow.id) is None:
            self._open_account(workflow, fact)
        self.accounts.returned(workflow.id, fact.session, at=at, tool=fact.tool)

    def _open_account(self, workflow: Workflow, fact: StepArrived) -> None:
        """At its first step; what was said of it at its submission stands."""
        told = fact.told or Told()
        workflow.work_s = workflow.work_s or told.work_s
        workflow.steps_told = workflow.steps_told or told.steps
        workflow.instance = workflow.instance or told.instance
        workflow.deadline_s = workflow.deadline_s or told.deadline_s
        workflow.priority = workflow.priority or told.priority
        self.accounts.open(
            workflow.id,
            fact.model,
            Kind(workflow.tenant, workflow.agent_type, workflow.instance, fact.prefix),
            at=workflow.submitted_at,
            prompt_tokens=int(fact.body_bytes / BYTES_PER_TOKEN),
            hints=workflow.hints,
            weight=workflow.weight,
            priority=workflow.priority,
        )

    def _step_placed(self, fact: StepPlaced, at: float) -> None:
        step = self.steps[fact.step]
        self.usage.begin(step.id, fact.worker, fact.gpus, at)
        step.worker, step.incarnation, step.placed_at = fact.worker, fact.incarnation, at
        session = self.session_of(step)
        if session is not None:
            session.home = fact.worker
            session.placed += 1
            session.move("step placed")
        if step.workflow is not None:
            self.workflows[step.workflow].home = fact.worker

    def _step_lost(self, fact: StepLost, at: float) -> None:
        step = self.steps[fact.step]
        self._charge(step, None, at)
        step.worker = None
        step.lost += 1
        session = self.session_of(step)
        if session is not None:
            session.placed -= 1
            session.settle()

    def _step_finished(self, fact: StepFinished, at: float) -> None:
        step = self.steps.pop(fact.step)
        self._charge(step, fact, at)
        done = fact.outcome is Outcome.DONE
        self.counts.steps_done += done
        self.counts.steps_refused += fact.outcome is Outcome.REJECTED
        prompt, cached = fact.prompt_tokens or 0, fact.cached_tokens or 0
        output = fact.output_tokens or 0
        self.counts.prompt_tokens += prompt
        self.counts.cached_tokens += cached
        self.counts.output_tokens += output
        workflow = self.workflows.get(step.workflow) if step.workflow is not None else None
        if workflow is None:
            return
        workflow.running.pop(step.id, None)
        workflow.active_at = at
        workflow.steps += done
        workflow.prompt_tokens += prompt
        workflow.cached_tokens += cached
        workflow.output_tokens += output
        session = workflow.sessions[step.session]
        if done and fact.prompt_tokens is not None:
            useful_s, _ = spent(self.accounts.costs, fact, session.context_tokens)
            self.accounts.served(
                workflow.id, step.session, useful_s, at=at,
                prompt_tokens=prompt, output_tokens=output, tool=fact.tool,
            )  # fmt: skip
        session.steps += done
        if fact.prompt_tokens is not None:
            session.context_tokens = prompt + output
        session.running -= 1
        session.placed -= step.worker is not None
        session.settle()

    def _charge(self, step: Step, fact: StepFinished | None, at: float) -> None:
        gpu_s = self.usage.end(step.id, at)
        self.usage.charge(step.tenant, gpu_s, fact, at)
        workflow = self.workflows.get(step.workflow) if step.workflow is not None else None
        if workflow is not None:
            workflow.gpu_s += gpu_s

    def _head_started(self, fact: HeadStarted, at: float) -> None:
        self.head = fact.incarnation
        for number in list(self.usage.stays):
            self._charge(self.steps[number], None, self.usage.seen_at)  # not for the time without a head
        for step in list(self.steps):
            lost = StepFinished(step=step, outcome=Outcome.LOST, status=0, detail="the head was restarted")
            self._step_finished(lost, at)

    def session_of(self, step: Step) -> Session | None:
        """The session `step` belongs to, if it belongs to a known workflow."""
        workflow = self.workflows.get(step.workflow) if step.workflow is not None else None
        return None if workflow is None else workflow.sessions.get(step.session)

    def check(self) -> None:
        """Raise AssertionError where the book contradicts itself."""
        self.accounts.check()
        self.usage.check()
        assert self.usage.stays.keys() == {s.id for s in self.steps.values() if s.worker is not None}
        live = 0
        for workflow in self.workflows.values():
            live += workflow.live
            assert workflow.live or not workflow.running, f"workflow {workflow.id} ended with steps in flight"
            for session in workflow.sessions.values():
                steps = [
                    s for s in map(self.steps.__getitem__, workflow.running) if self.session_of(s) is session
                ]
                placed = sum(step.worker is not None for step in steps)
                assert (session.running, session.placed) == (len(steps), placed), f"{session.id} miscounts"
                assert session.state is session.implied(live=workflow.live), (
                    f"{session.id} is {session.state}"
                )
                assert (self.sessions.get(session.id) is session) == workflow.live, session.id
        assert live == self.live, "live workflows miscounted"
        for step in self.steps.values():
            if step.workflow is not None:
                assert step.id in self.workflows[step.workflow].running, f"step {step.id} is nobody's"
        for (tenant, key), owner in self.keys.items():
            workflow = self.workflows[owner]
            assert workflow.live and (workflow.tenant, workflow.key) == (tenant, key), key  # noqa: PT018
