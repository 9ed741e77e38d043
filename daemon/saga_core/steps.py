"""The way of a step through the head: refused, waiting, placed, lost and placed again, over.

Rules of this file
  1. A step in the book is either on a worker or waits; `check` says so after every event.
  2. Steps wait in the order in which they began to, per model; a worker that becomes ready is
     asked for by its model, never by looking at everything that waits.
"""

from __future__ import annotations

from msgspec.structs import replace

from saga_core.actions import Abort, Dispatch, Refuse
from saga_core.book import SESSIONS, Book, Session, Step, Workflow
from saga_core.config import Config
from saga_core.desk import Desk
from saga_core.events import Outcome, StepArrived, StepFinished, StepLost, StepPlaced
from saga_core.fleet import Fleet, Worker
from saga_core.ids import StepId, WorkerId
from saga_core.policy.placement import Ask, place
from saga_core.states import WorkerState, WorkflowState


class Steps:
    """Steps in flight, and those that wait for a worker."""

    def __init__(self, desk: Desk, fleet: Fleet, config: Config) -> None:
        self.desk, self.fleet, self.config = desk, fleet, config
        self.waiting: dict[StepId, float] = {}
        """Steps without a worker and since when, oldest first."""
        self._waiting_for: dict[str, dict[StepId, None]] = {}
        """The same by model."""
        self.settled_at = 0.0
        """Until then after a restart, a model that no worker serves may be one whose node has yet to report."""

    @property
    def book(self) -> Book:
        return self.desk.book

    # -- arrival -------------------------------------------------------------------------

    def admits(self, event: StepArrived, workflow: Workflow | None) -> bool:
        """Whether the step may come in; if not, it has been answered. `workflow` is its own if known."""
        if event.step in self.book.steps:
            self.desk.ignore("stale", f"arrival of step {event.step}")
            return False
        refusal = self._refusal(event, workflow)
        if refusal is not None:
            self.desk.do(refusal)
        return refusal is None

    def _refusal(self, event: StepArrived, workflow: Workflow | None) -> Refuse | None:
        if self._is_unknown(event.model):
            return self._no_such_model(event.step, event.model)
        if event.workflow is not None and (workflow is None or workflow.tenant != event.tenant):
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

    def _is_unknown(self, model: str) -> bool:
        models = self.fleet.pools
        return bool(models) and model not in models and self.desk.now >= self.settled_at

    def _no_such_model(self, step: StepId, model: str) -> Refuse:
        message = f"the model {model!r} does not exist (have: {', '.join(self.fleet.models())})"
        return Refuse(step, 404, "invalid_request_error", "model_not_found", message)

    def arrive(self, event: StepArrived, workflow: Workflow | None) -> None:
        """Take an admitted step in, as one of `workflow`'s."""
        self.desk.record(replace(event, workflow=workflow.id) if workflow is not None else event)
        self._place_or_wait(self.book.steps[event.step])

    # -- placement -----------------------------------------------------------------------

    def _place_or_wait(self, step: Step, avoid: WorkerId | None = None) -> None:
        """Place the step now, or let it wait until a worker of its model is ready."""
        pool = self.fleet.pools.get(step.model)
        if not pool:
            self._wait(step)
            return
        session = self.book.session_of(step)
        home = session.home if session is not None else None
        root = f"workflow {step.workflow}" if step.workflow is not None else f"step {step.id}"
        ask = Ask(session.id if session is not None else None, root, home, avoid)
        decision = place(self.book.profile, ask, pool, self.config.placement)
        pool.turn += 1
        self._place(step, session, pool.workers[decision.worker], decision.why)

    def _place(self, step: Step, session: Session | None, worker: Worker, why: str) -> None:
        if session is not None:
            self.fleet.move_home(session.home, worker.id)
        self.desk.record(StepPlaced(step=step.id, worker=worker.id, why=why, incarnation=worker.incarnation))
        worker.placed += 1
        self.fleet.touch(worker)
        self.desk.do(Dispatch(step.id, worker.id, session.id if session is not None else None, why))

    def _leave_worker(self, step: Step) -> None:
        worker = self.fleet.workers.get(step.worker) if step.worker is not None else None
        if worker is not None:
            worker.placed -= 1
            self.fleet.touch(worker)

    # -- waiting -------------------------------------------------------------------------

    def _wait(self, step: Step) -> None:
        self.waiting[step.id] = self.desk.now
        self._waiting_for.setdefault(step.model, {})[step.id] = None

    def _wait_no_more(self, step: Step) -> None:
        if self.waiting.pop(step.id, None) is None:
            return
        queue = self._waiting_for[step.model]
        del queue[step.id]
        if not queue:
            del self._waiting_for[step.model]

    def serve(self, model: str) -> None:
        """Place what waits for `model`, if a worker of it is ready."""
        if not self.fleet.pools.get(model):
            return
        for step in [self.book.steps[s] for s in self._waiting_for.get(model, ())]:
            self._wait_no_more(step)
            self._place_or_wait(step)

    def expire(self) -> None:
        """Refuse what has waited for `queue_timeout_s`, or for a model that no node has come back with."""
        if 0.0 < self.settled_at <= self.desk.now:
            self.settled_at = 0.0
            self._refuse_unknown()
        limit = self.config.head.queue_timeout_s
        late: list[StepId] = []
        for number, since in self.waiting.items():
            if self.desk.now - since < limit:
                break
            late.append(number)
        for step in [self.book.steps[s] for s in late]:
            message = f"no worker of model {step.model!r} was ready within {limit:g} s"
            self._give_up(step, Refuse(step.id, 503, "overloaded_error", "no_worker", message, 10))

    def _refuse_unknown(self) -> None:
        for model in [m for m in self._waiting_for if self._is_unknown(m)]:
            for number in list(self._waiting_for[model]):
                self._give_up(self.book.steps[number], self._no_such_model(number, model))

    # -- ends ----------------------------------------------------------------------------

    def lose(self, event: StepLost) -> None:
        """Its worker went away before the first byte: elsewhere, if it has not happened too often."""
        step = self.book.steps.get(event.step)
        if step is None or step.worker != event.worker:
            self.desk.ignore("stale", f"loss of step {event.step} at {event.worker}")
            return
        self._leave_worker(step)
        self._suspect(step)
        self.desk.record(event)
        if step.lost > self.config.head.max_step_losses:
            message = f"the step's worker was lost {step.lost} times, at last {event.worker}: {event.detail}"
            self._give_up(step, Refuse(step.id, 502, "api_error", "worker_lost", message))
            return
        self._place_or_wait(step, avoid=event.worker)

    def _suspect(self, step: Step) -> None:
        """A connection failed: its worker is not used before a later report says that it is ready."""
        worker = self.fleet.workers.get(step.worker) if step.worker is not None else None
        if worker is not None and worker.incarnation == step.incarnation:
            worker.suspect_at = self.desk.now
            self.fleet.pool(worker.model).remove(worker.id)

    def finish(self, event: StepFinished) -> None:
        """The gateway says that a step is over."""
        step = self.book.steps.get(event.step)
        if step is None:
            self.desk.ignore("unknown step", f"end of step {event.step}")
            return
        if event.outcome is Outcome.DONE:
            self._note_done(step, event)
        self._leave_worker(step)
        self._wait_no_more(step)
        self.desk.record(event)

    def _note_done(self, step: Step, event: StepFinished) -> None:
        """Until its node says how much: what was just computed is there."""
        worker = self.fleet.workers.get(step.worker) if step.worker is not None else None
        if worker is None:
            return
        worker.done += 1
        session = self.book.session_of(step)
        same = worker.state is WorkerState.READY and worker.incarnation == step.incarnation
        if session is not None and same and session.id not in worker.resident:
            self.fleet.hold(
                worker, session.id, max(1, (event.prompt_tokens or 0) + (event.output_tokens or 0))
            )

    def _give_up(self, step: Step, refusal: Refuse) -> None:
        """Refuse a step that is in the book already."""
        self._wait_no_more(step)
        self.desk.do(refusal)
        status, detail = refusal.status, refusal.message
        self.desk.record(StepFinished(step=step.id, outcome=Outcome.REJECTED, status=status, detail=detail))

    def abort(self, workflow: Workflow, reason: str) -> None:
        """Break off every step of `workflow`."""
        for step in [self.book.steps[s] for s in workflow.running]:
            self._leave_worker(step)
            self._wait_no_more(step)
            self.desk.do(Abort(step.id, reason))
            self.desk.record(StepFinished(step=step.id, outcome=Outcome.ABORTED, status=499, detail=reason))

    def check(self) -> None:
        """Raise AssertionError where a step is in no place or in two."""
        placed: dict[WorkerId, int] = {}
        for step in self.book.steps.values():
            assert (step.worker is None) == (step.id in self.waiting), f"step {step.id} is in no place"
            if step.worker is not None:
                placed[step.worker] = placed.get(step.worker, 0) + 1
        assert self.waiting.keys() <= self.book.steps.keys(), "a step waits that is over"
        by_model = {s for queue in self._waiting_for.values() for s in queue}
        assert by_model == self.waiting.keys(), "waiting steps miscounted"
        for worker in self.fleet.workers.values():
            assert worker.placed == placed.get(worker.id, 0), f"{worker.id} miscounts its steps"


def _too_many_sessions(workflow: Workflow, name: str) -> bool:
    return name not in workflow.sessions and len(workflow.sessions) >= SESSIONS
