"""Workflows as they begin and end: submitted, opened by a key from outside, cancelled, finished, silent for too long.

Rules of this file
  1. However a workflow ends, it does so in `end`.
  2. One with a program ends with that; any other one when somebody says so, or after `idle_workflow_s` without a step.
"""

from __future__ import annotations

import heapq

from saga_core.book import Book, Workflow
from saga_core.config import HeadConfig
from saga_core.desk import Desk
from saga_core.events import (
    CancelAsked,
    FinishAsked,
    StepArrived,
    WorkflowEnded,
    WorkflowRequeued,
    WorkflowSubmitted,
)
from saga_core.fleet import Fleet
from saga_core.ids import WorkflowId
from saga_core.programs import Programs
from saga_core.states import ENDED, WorkflowState
from saga_core.steps import Steps

ENDS = 8
"""Silent workflows that one tick ends, the others in the next ones: some 2 ms of the loop."""
LOOKS = 512
"""Workflows that one tick looks at whether they are silent: 1 ms."""


class Workflows:
    """Beginnings and ends of workflows."""

    def __init__(
        self, desk: Desk, fleet: Fleet, steps: Steps, programs: Programs, config: HeadConfig
    ) -> None:
        self.desk, self.fleet, self.steps = desk, fleet, steps
        self.programs, self.config = programs, config
        self._idle: list[tuple[float, WorkflowId]] = []
        """Those without a program, by when each may have been silent for too long."""

    @property
    def book(self) -> Book:
        return self.desk.book

    def open(self, event: StepArrived) -> Workflow:
        """A key from outside that is new opens a workflow."""
        number = WorkflowId(self.book.last_workflow + 1)
        self.desk.record(
            WorkflowSubmitted(
                workflow=number,
                tenant=event.tenant,
                token="",
                kind="outside",
                key=event.key,
                name=event.key,
                agent_type=event.agent_type,
                weight=event.weight,
            )
        )
        workflow = self.book.workflows[number]
        self._watch(workflow)
        return workflow

    def submit(self, event: WorkflowSubmitted) -> bool:
        """Take in a workflow. Returns whether it has a program, which waits for a node now."""
        taken = bool(event.key) and self.book.find(event.tenant, event.key) is not None
        if event.workflow != self.book.last_workflow + 1 or taken:
            self.desk.ignore("stale", f"submission of workflow {event.workflow}")
            return False
        self.desk.record(event)
        workflow = self.book.workflows[event.workflow]
        if event.program is None:
            self._watch(workflow)
        else:
            self.programs.queue(workflow)
        return event.program is not None

    def cancel(self, event: CancelAsked) -> None:
        """Break off its steps and its program; it is over when the program is."""
        workflow = self.book.workflows.get(event.workflow)
        if workflow is None or not workflow.live:
            self.desk.ignore("over", f"cancellation of workflow {event.workflow}")
            return
        self.desk.record(event)
        self.steps.abort(workflow, f"workflow {workflow.id} was cancelled")
        stop = self.programs.stop(workflow)
        if stop is None:
            self.end(WorkflowEnded(workflow=workflow.id, state=WorkflowState.CANCELLED, reason="cancelled"))
        else:
            self.desk.do(stop)

    def finish(self, event: FinishAsked) -> None:
        """Who runs it says that it is over; one with a program ends with that."""
        workflow = self.book.workflows.get(event.workflow)
        if workflow is None or not workflow.live:
            self.desk.ignore("over", f"end of workflow {event.workflow}")
        elif event.state not in ENDED:
            self.desk.ignore("not an end", f"end of workflow {event.workflow} as {event.state}")
        elif workflow.program is not None:
            self.desk.ignore("not yours", f"workflow {workflow.id} ends with its program")
        else:
            self.end(WorkflowEnded(workflow=workflow.id, state=event.state, reason=event.reason))

    def end(self, fact: WorkflowEnded) -> None:
        """It is over: its steps are broken off, and nothing is kept or wanted for it."""
        workflow = self.book.workflows[fact.workflow]
        self.steps.abort(workflow, f"workflow {workflow.id} has ended: {fact.state}")
        for session in workflow.sessions.values():
            self.fleet.move_home(session.home, None)
            self.fleet.release(session.id)
        self.programs.drop(workflow.id)
        self.desk.record(fact)
        self.steps.leave(workflow, complete=fact.state is WorkflowState.DONE)

    def start_again(self, fact: WorkflowRequeued) -> None:
        """Its program was lost and starts elsewhere: what steps it has are broken off."""
        reason = f"the program of workflow {fact.workflow} starts again: {fact.reason}"
        self.steps.abort(self.book.workflows[fact.workflow], reason)
        self.desk.record(fact)

    def recover(self) -> None:
        """After a restart of the head: those that the book has go on."""
        for workflow in self.book.workflows.values():
            if workflow.live:
                self._recover(workflow)

    def _recover(self, workflow: Workflow) -> None:
        for session in workflow.sessions.values():
            self.fleet.move_home(None, session.home)
        if workflow.program is None:
            self._watch(workflow)
        else:
            self.programs.recover(workflow, self.desk.now)

    def _watch(self, workflow: Workflow) -> None:
        """End it once it has had no step for `idle_workflow_s`: nobody may ever say that it is over."""
        heapq.heappush(self._idle, (self.desk.now + self.config.idle_workflow_s, workflow.id))

    def end_idle(self) -> None:
        """Time passed: end those that have been silent for too long, `ENDS` at a time."""
        limit, ends = self.config.idle_workflow_s, 0
        for _ in range(LOOKS):
            if not self._idle or self._idle[0][0] > self.desk.now or ends >= ENDS:
                break
            workflow = self.book.workflows.get(heapq.heappop(self._idle)[1])
            if workflow is None or not workflow.live:
                continue
            due = (self.desk.now if workflow.running else workflow.active_at) + limit
            if due > self.desk.now:
                heapq.heappush(self._idle, (due, workflow.id))
                continue
            ends += 1
            reason = f"no step for {limit:g} s"
            self.end(WorkflowEnded(workflow=workflow.id, state=WorkflowState.DONE, reason=reason))
