"""The head as a machine: `handle(event, now)` in, actions out. The only mutator of scheduling state.

Rules of this file
  1. Durable state changes through `_record` alone, which applies the fact to the book and
     hands it out to be kept; so the journal is complete by construction.
  2. Soft state (fleet, waiting steps, asked programs) is rebuilt from reports.
  3. Same events and times give the same actions, byte for byte: ties go by id.
  4. Stale or impossible input is `Ignored` with a reason; it never raises and never guesses.
"""

from __future__ import annotations

import heapq
from typing import assert_never

from saga_core import states, wire
from saga_core.actions import Abort, Action, Disconnect, Dispatch, Ignored, Record, Refuse, Send
from saga_core.book import SESSIONS, Book, Session, Step, Workflow
from saga_core.config import Config
from saga_core.events import (
    CancelAsked,
    Event,
    Fact,
    FinishAsked,
    HeadStarted,
    NodeJoined,
    NodeLost,
    Outcome,
    ProfileChanged,
    StepArrived,
    StepFinished,
    StepLost,
    StepPlaced,
    Tick,
    WorkerLost,
    WorkerReady,
    WorkflowEnded,
    WorkflowSubmitted,
)
from saga_core.fleet import Fleet, Node, Pool, Worker
from saga_core.ids import NodeId, StepId, WorkerId, WorkflowId
from saga_core.policy.placement import PLACEMENTS, Ask, place
from saga_core.programs import Programs
from saga_core.states import ENDED, NodeState, WorkerState, WorkflowState

SUSPECT_S = 1.0
"""After a failed connection, a worker is used again when a report at least this much later says ready."""


class Head:
    """Global scheduling state and the decisions about it."""

    def __init__(self, config: Config, *, book: Book | None = None) -> None:
        self.config = config
        self.book = book or Book(config.profile)
        self.fleet = Fleet()
        self.waiting: dict[StepId, None] = {}
        self.programs = Programs(config.head)
        self._idle: list[tuple[float, WorkflowId]] = []
        self._homes: dict[WorkerId, int] = {}
        """Sessions per home as recovered, for workers that have not reported yet."""
        self._out: list[Action] = []
        self._now = 0.0

    def handle(self, event: Event, *, now: float) -> list[Action]:
        """Let `event` have happened at `now` (seconds, never running backwards); say what to do."""
        self._out, self._now = [], now
        match event:
            case StepArrived():
                self._on_step_arrived(event)
            case StepFinished():
                self._on_step_finished(event)
            case StepLost():
                self._on_step_lost(event)
            case wire.Report():
                self._on_report(event)
            case Tick():
                self._on_tick()
            case WorkflowSubmitted():
                self._on_submitted(event)
            case CancelAsked():
                self._on_cancel(event)
            case FinishAsked():
                self._on_finish(event)
            case wire.Hello():
                self._on_hello(event)
            case wire.Goodbye():
                self._on_goodbye(event)
            case ProfileChanged():
                self._on_profile(event)
            case HeadStarted():
                self._on_head_started(event)
            case _:
                assert_never(event)
        return self._out

    # -- steps ---------------------------------------------------------------------------

    def _on_step_arrived(self, event: StepArrived) -> None:
        event = self._named(event)
        workflow = self.book.workflows.get(event.workflow) if event.workflow is not None else None
        refusal = self._refusal(event, workflow)
        if refusal is not None:
            self._do(refusal)
            return
        self._record(event)
        self._try(self.book.steps[event.step])

    def _named(self, event: StepArrived) -> StepArrived:
        """`event` with its workflow's number: a key from outside opens a workflow when it is new."""
        if event.workflow is not None or not event.key:
            return event
        workflow = self.book.find(event.tenant, event.key)
        if workflow is None:
            number = WorkflowId(self.book.last_workflow + 1)
            self._record(
                WorkflowSubmitted(
                    workflow=number,
                    tenant=event.tenant,
                    token="",
                    kind="outside",
                    key=event.key,
                    name=event.key,
                    agent_type=event.agent_type,
                )
            )
            self._watch_idle(self.book.workflows[number])
            return _with_workflow(event, number)
        return _with_workflow(event, workflow.id)

    def _refusal(self, event: StepArrived, workflow: Workflow | None) -> Refuse | None:
        models = self.fleet.models()
        if models and event.model not in self.fleet.pools:
            message = f"the model {event.model!r} does not exist (have: {', '.join(models)})"
            return Refuse(event.step, 404, "invalid_request_error", "model_not_found", message)
        if event.workflow is not None and workflow is None:
            message = f"workflow {event.workflow} is not known to this cluster"
            return Refuse(event.step, 404, "invalid_request_error", "workflow_not_found", message)
        if workflow is not None and (not workflow.live or workflow.state is WorkflowState.CANCELLING):
            message = f"workflow {workflow.id} takes no more steps: it is {workflow.state}"
            return Refuse(event.step, 409, "invalid_request_error", "workflow_over", message)
        if workflow is not None and _too_many_sessions(workflow, event.session):
            message = f"workflow {workflow.id} has {SESSIONS} sessions already"
            return Refuse(event.step, 429, "rate_limit_error", "too_many_sessions", message)
        if len(self.waiting) >= self.config.head.max_waiting:
            message = f"{len(self.waiting)} steps wait for a worker already"
            return Refuse(event.step, 503, "overloaded_error", "queue_full", message, retry_after_s=5)
        return None

    def _try(self, step: Step, avoid: WorkerId | None = None) -> None:
        """Place the step now, or let it wait until a worker of its model is ready."""
        pool = self.fleet.pools.get(step.model)
        if not pool:
            self.waiting[step.id] = None
            return
        self.waiting.pop(step.id, None)
        session = self.book.session_of(step)
        home = session.home if session is not None else None
        root = f"workflow {step.workflow}" if step.workflow is not None else f"step {step.id}"
        ask = Ask(session.id if session is not None else None, root, home, avoid)
        decision = place(self.book.profile, ask, pool, self.config.placement)
        pool.turn += 1
        self._place(step, session, pool, decision.worker, decision.why)

    def _place(self, step: Step, session: Session | None, pool: Pool, to: WorkerId, why: str) -> None:
        worker = self.fleet.workers[to]
        if session is not None and session.home != to:
            self._move_home(session, worker)
        self._record(StepPlaced(step=step.id, worker=to, why=why))
        worker.placed += 1
        pool.touch(worker)
        self._do(Dispatch(step.id, to, session.id if session is not None else None, why))

    def _on_step_lost(self, event: StepLost) -> None:
        step = self.book.steps.get(event.step)
        if step is None or step.worker != event.worker:
            self._ignore("stale", f"loss of step {event.step} at {event.worker}")
            return
        self._leave_worker(step)
        self._suspect(event.worker)
        self._record(event)
        if step.lost > self.config.head.max_step_losses:
            message = f"the step's worker was lost {step.lost} times, at last {event.worker}: {event.detail}"
            self._refuse_known(Refuse(step.id, 502, "api_error", "worker_lost", message))
            return
        self._try(step, avoid=event.worker)

    def _on_step_finished(self, event: StepFinished) -> None:
        step = self.book.steps.get(event.step)
        if step is None:
            self._ignore("unknown step", f"end of step {event.step}")
            return
        session = self.book.session_of(step)
        worker = self.fleet.workers.get(step.worker) if step.worker is not None else None
        if worker is not None and session is not None and event.outcome is Outcome.DONE:
            # Until a report says otherwise: what was just computed is there.
            tokens = (event.prompt_tokens or 1) + (event.output_tokens or 0)
            worker.resident[session.id] = tokens
            worker.done += 1
        self._leave_worker(step)
        self.waiting.pop(step.id, None)
        self._record(event)

    def _leave_worker(self, step: Step) -> None:
        worker = self.fleet.workers.get(step.worker) if step.worker is not None else None
        if worker is not None and worker.placed > 0:
            worker.placed -= 1
            self.fleet.pool(worker.model).touch(worker)

    def _refuse_known(self, refusal: Refuse) -> None:
        """Refuse a step that is in the book already."""
        self.waiting.pop(refusal.step, None)
        self._do(refusal)
        self._record(
            StepFinished(
                step=refusal.step, outcome=Outcome.REJECTED, status=refusal.status, detail=refusal.message
            )
        )

    def _serve_waiting(self) -> None:
        for step in [self.book.steps[s] for s in self.waiting]:
            if self.fleet.pools.get(step.model):
                self._try(step)

    def _expire_waiting(self) -> None:
        limit = self.config.head.queue_timeout_s
        for step in [self.book.steps[s] for s in self.waiting]:
            if self._now - step.arrived_at < limit:
                break  # they wait in order of arrival
            message = f"no worker of model {step.model!r} was ready within {limit:g} s"
            self._refuse_known(Refuse(step.id, 503, "overloaded_error", "no_worker", message, 10))

    # -- workflows -----------------------------------------------------------------------

    def _on_submitted(self, event: WorkflowSubmitted) -> None:
        if event.workflow != self.book.last_workflow + 1:
            self._ignore("stale", f"submission of workflow {event.workflow}")
            return
        self._record(event)
        workflow = self.book.workflows[event.workflow]
        if event.program is None:
            self._watch_idle(workflow)
        else:
            self.programs.queue(workflow.id)
            self._run_programs()

    def _on_cancel(self, event: CancelAsked) -> None:
        workflow = self.book.workflows.get(event.workflow)
        if workflow is None or not workflow.live:
            self._ignore("over", f"cancellation of workflow {event.workflow}")
            return
        self._record(event)
        self._abort_steps(workflow, f"workflow {workflow.id} was cancelled")
        stop = self.programs.stop(workflow)
        if stop is None:
            self._end(workflow, WorkflowState.CANCELLED, "cancelled")
        else:
            self._do(stop)

    def _on_finish(self, event: FinishAsked) -> None:
        workflow = self.book.workflows.get(event.workflow)
        if workflow is None or not workflow.live or event.state not in ENDED:
            self._ignore("over", f"end of workflow {event.workflow}")
            return
        if workflow.program is not None:
            self._ignore("not yours", f"workflow {workflow.id} ends with its program")
            return
        self._end(workflow, event.state, event.reason)

    def _end(
        self, workflow: Workflow, state: WorkflowState, reason: str, exit_code: int | None = None
    ) -> None:
        self._abort_steps(workflow, f"workflow {workflow.id} has ended: {state}")
        for session in workflow.sessions.values():
            home = self.fleet.workers.get(session.home) if session.home is not None else None
            if home is not None:
                self._lose_home(session, home)
        self.programs.drop(workflow.id)
        self._record(WorkflowEnded(workflow=workflow.id, state=state, reason=reason, exit_code=exit_code))

    def _abort_steps(self, workflow: Workflow, reason: str) -> None:
        for number in list(workflow.running):
            self._leave_worker(self.book.steps[number])
            self.waiting.pop(number, None)
            self._do(Abort(number, reason))
            self._record(StepFinished(step=number, outcome=Outcome.ABORTED, status=499, detail=reason))

    def _watch_idle(self, workflow: Workflow) -> None:
        heapq.heappush(self._idle, (self._now + self.config.head.idle_workflow_s, workflow.id))

    def _end_idle(self) -> None:
        limit = self.config.head.idle_workflow_s
        while self._idle and self._idle[0][0] <= self._now:
            workflow = self.book.workflows.get(heapq.heappop(self._idle)[1])
            if workflow is None or not workflow.live:
                continue
            since = self._now if workflow.running else workflow.active_at
            if self._now - since >= limit:
                self._end(workflow, WorkflowState.DONE, f"no step for {limit:g} s")
            else:
                heapq.heappush(self._idle, (since + limit, workflow.id))

    def _on_profile(self, event: ProfileChanged) -> None:
        if event.profile not in PLACEMENTS:
            self._ignore("unknown profile", event.profile)
            return
        self._record(event)

    def _on_head_started(self, event: HeadStarted) -> None:
        self._record(event)
        for workflow in self.book.workflows.values():
            if not workflow.live:
                continue
            for session in workflow.sessions.values():
                if session.home is not None:
                    self._homes[session.home] = self._homes.get(session.home, 0) + 1
            if workflow.program is None:
                self._watch_idle(workflow)
            else:
                self.programs.recover(workflow, self._now)

    # -- nodes and workers ---------------------------------------------------------------

    def _on_hello(self, hello: wire.Hello) -> None:
        if hello.protocol != wire.PROTOCOL:
            reason = (
                f"node {hello.node} speaks protocol {hello.protocol} (saga {hello.version}), "
                f"this head speaks {wire.PROTOCOL}: install the same version on both"
            )
            self._do(Send(hello.node, wire.Refused(reason=reason)))
            return
        node = self.fleet.nodes.get(hello.node)
        if node is not None and hello.incarnation < node.incarnation:
            self._ignore("stale", f"hello of {hello.node}")
            return
        if node is not None and node.incarnation == hello.incarnation and node.state is NodeState.UP:
            node.seen_at = self._now
        else:
            self._join(hello, node)
        self._welcome(hello)

    def _join(self, hello: wire.Hello, old: Node | None) -> None:
        if old is not None and old.incarnation != hello.incarnation:
            self._lose_node(old, "silent", "its daemon was restarted")
        node = old or Node(hello.node, hello.incarnation, hello.host, hello.end_at, self._now)
        if old is not None:
            node.state = states.advance(states.NODE, node.state, "joined", what=f"node {node.id}")
        node.incarnation, node.host, node.end_at = hello.incarnation, hello.host, hello.end_at
        node.seen_at, node.seq = self._now, 0
        self.fleet.nodes[node.id] = node
        self._record(NodeJoined(node=node.id, incarnation=node.incarnation, host=node.host))

    def _welcome(self, hello: wire.Hello) -> None:
        welcome = wire.Welcome(
            protocol=wire.PROTOCOL,
            cluster=self.config.name,
            incarnation=hello.incarnation,
            head=self.book.head,
            report_every_s=self.config.head.report_every_s,
        )
        self._do(Send(hello.node, welcome))

    def _on_report(self, report: wire.Report) -> None:
        node = self.fleet.nodes.get(report.node)
        if node is None or node.state is not NodeState.UP or node.incarnation < report.incarnation:
            self._do(Send(report.node, wire.WhoAreYou()))
            return
        if report.incarnation < node.incarnation or report.seq <= node.seq:
            self._ignore("stale", f"report {report.seq} of {report.node}")
            return
        node.seq, node.seen_at = report.seq, self._now
        for fact in report.workers:
            self._on_worker(node, fact)
        for resident in report.resident:
            self._on_resident(node, resident)
        self._on_programs(node, report.programs)
        ack = wire.Ack(incarnation=node.incarnation, head=self.book.head, seq=report.seq)
        self._do(Send(node.id, ack))
        self._serve_waiting()

    def _on_worker(self, node: Node, fact: wire.WorkerFact) -> None:
        worker = node.workers.get(fact.worker)
        if worker is None:
            if fact.worker in self.fleet.workers:
                self._ignore("not its worker", f"{fact.worker} said by {node.id}")
                return
            worker = Worker(fact.worker, node.id, fact.model, homes=self._homes.pop(fact.worker, 0))
            node.workers[fact.worker] = self.fleet.workers[fact.worker] = worker
        if fact.incarnation < worker.incarnation:
            self._ignore("stale", f"{fact.worker} incarnation {fact.incarnation}")
            return
        before = (worker.state, worker.incarnation)
        if fact.incarnation > worker.incarnation and worker.incarnation:
            self._forget_kv(worker)
        if fact.model != worker.model:
            self.fleet.pool(worker.model).remove(worker.id)
        _follow(worker, fact)
        self._index(worker, before)

    def _index(self, worker: Worker, before: tuple[WorkerState, int]) -> None:
        """Put the worker into its pool, or take it out, and keep the change as a fact."""
        pool = self.fleet.pool(worker.model)
        if worker.suspect_at is not None and self._now - worker.suspect_at >= SUSPECT_S:
            worker.suspect_at = None
        ready = worker.state is WorkerState.READY
        if ready and worker.suspect_at is None:
            pool.add(worker)
            pool.touch(worker)
        else:
            pool.remove(worker.id)
        if (worker.state, worker.incarnation) == before:
            return
        if ready:
            self._record(WorkerReady(worker=worker.id, incarnation=worker.incarnation, model=worker.model))
        elif before[0] is WorkerState.READY:
            self._forget_kv(worker)
            reason = worker.reason or f"it is {worker.state}"
            self._record(WorkerLost(worker=worker.id, incarnation=before[1], reason=reason))

    def _on_resident(self, node: Node, fact: wire.ResidentFact) -> None:
        worker = node.workers.get(fact.worker)
        if worker is None:
            self._ignore("not its worker", f"residency at {fact.worker}")
        elif fact.tokens > 0:
            worker.resident[fact.session] = fact.tokens
        else:
            worker.resident.pop(fact.session, None)

    def _forget_kv(self, worker: Worker) -> None:
        worker.resident.clear()

    def _suspect(self, worker_id: WorkerId) -> None:
        worker = self.fleet.workers.get(worker_id)
        if worker is not None:
            worker.suspect_at = self._now
            self.fleet.pool(worker.model).remove(worker.id)

    def _on_goodbye(self, goodbye: wire.Goodbye) -> None:
        node = self.fleet.nodes.get(goodbye.node)
        if node is None or node.incarnation != goodbye.incarnation or node.state is NodeState.LEFT:
            self._ignore("stale", f"goodbye of {goodbye.node}")
            return
        self._lose_node(node, "goodbye", goodbye.reason or "it left")

    def _lose_node(self, node: Node, cause: str, reason: str) -> None:
        if node.state is NodeState.UP or cause == "goodbye":
            node.state = states.advance(states.NODE, node.state, cause, what=f"node {node.id}")
            self._record(NodeLost(node=node.id, reason=reason))
        for worker in node.workers.values():
            before = (worker.state, worker.incarnation)
            worker.state = states.advance(states.WORKER, worker.state, "lost", what=f"worker {worker.id}")
            worker.reason = f"node {node.id}: {reason}"
            self._index(worker, before)
            self._do(Disconnect(worker.id, worker.reason))
        node.programs = 0
        for action in self.programs.on_node_lost(node, self.book, reason):
            self._apply(action)
        self._run_programs()

    def _on_programs(self, node: Node, facts: list[wire.ProgramFact]) -> None:
        for action in self.programs.on_facts(node, facts, self.book):
            self._apply(action)
        self._run_programs()

    def _run_programs(self) -> None:
        for action in self.programs.run(self.fleet, self.book, self._now):
            self._apply(action)

    def _apply(self, action: Action) -> None:
        """An action of `Programs`: facts are recorded, ends go through `_end`."""
        match action:
            case Record(fact=WorkflowEnded() as fact):
                self._end(self.book.workflows[fact.workflow], fact.state, fact.reason, fact.exit_code)
            case Record(fact=fact):
                self._record(fact)
            case _:
                self._do(action)

    def _on_tick(self) -> None:
        limit = self._now - self.config.head.node_timeout_s
        for node in self.fleet.nodes.values():
            if node.state is NodeState.UP and node.seen_at < limit:
                silent = self._now - node.seen_at
                self._lose_node(node, "silent", f"no report for {silent:.1f} s")
        self._expire_waiting()
        self._end_idle()
        self._run_programs()

    # -- homes ---------------------------------------------------------------------------

    def _move_home(self, session: Session, to: Worker) -> None:
        old = self.fleet.workers.get(session.home) if session.home is not None else None
        if old is not None:
            self._lose_home(session, old)
        to.homes += 1

    def _lose_home(self, session: Session, home: Worker) -> None:
        home.homes = max(0, home.homes - 1)
        home.resident.pop(session.id, None)
        self.fleet.pool(home.model).touch(home)

    # -- plumbing ------------------------------------------------------------------------

    def _record(self, fact: Fact) -> None:
        self.book.apply(fact, self._now)
        self._out.append(Record(fact))

    def _do(self, action: Action) -> None:
        self._out.append(action)

    def _ignore(self, reason: str, what: str) -> None:
        self._out.append(Ignored(reason, what))

    def check(self) -> None:
        """Raise AssertionError where the state contradicts itself. On in all tests."""
        self.book.check()
        self.fleet.check()
        self.programs.check(self.book)
        placed: dict[WorkerId, int] = {}
        for step in self.book.steps.values():
            assert (step.worker is None) == (step.id in self.waiting), f"step {step.id} is in no place"
            if step.worker is not None:
                placed[step.worker] = placed.get(step.worker, 0) + 1
        for worker in self.fleet.workers.values():
            assert worker.placed == placed.get(worker.id, 0), f"{worker.id} miscounts its steps"


def _follow(worker: Worker, fact: wire.WorkerFact) -> None:
    """Mirror a worker's fact; a state that its table does not allow is passed through `lost`."""
    if (worker.state, str(fact.state)) not in states.WORKER:
        worker.state = WorkerState.LOST
    states.advance(states.WORKER, worker.state, str(fact.state), what=f"worker {worker.id}")
    worker.accept(fact)


def _with_workflow(event: StepArrived, workflow: WorkflowId) -> StepArrived:
    return StepArrived(
        step=event.step,
        tenant=event.tenant,
        model=event.model,
        workflow=workflow,
        key=event.key,
        session=event.session,
        rule=event.rule,
        agent_type=event.agent_type,
        stream=event.stream,
        body_bytes=event.body_bytes,
    )


def _too_many_sessions(workflow: Workflow, name: str) -> bool:
    return name not in workflow.sessions and len(workflow.sessions) >= SESSIONS


def node_of(worker: WorkerId) -> NodeId:
    """The node a worker belongs to, by its name."""
    return NodeId(worker.rsplit("/", 1)[0])
