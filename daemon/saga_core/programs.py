"""Which agent programs should run where: the head's wants towards nodes, repeated until facts agree."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from saga_core import wire
from saga_core.actions import Action, Record, Send
from saga_core.book import Book, Workflow
from saga_core.config import HeadConfig
from saga_core.events import ProgramStarted, WorkflowEnded, WorkflowRequeued
from saga_core.fleet import Fleet, Node
from saga_core.ids import NodeId, WorkflowId
from saga_core.states import NodeState, WorkflowState

REPEAT_S = 2.0
"""A want that no fact has answered is said again after this long (two reports)."""


@dataclass(slots=True)
class Asked:
    """A program that a node was asked to run."""

    node: NodeId
    incarnation: int
    attempt: int
    said_at: float


class Programs:
    """Queue of programs without a node, and of wants without an answer."""

    def __init__(self, config: HeadConfig) -> None:
        self.config = config
        self.queued: dict[WorkflowId, None] = {}
        self.asked: dict[WorkflowId, Asked] = {}
        self.lost_at: dict[WorkflowId, float] = {}
        """Programs recovered after a restart of the head, whose node has not reported yet."""

    def queue(self, workflow: WorkflowId) -> None:
        self.queued[workflow] = None

    def drop(self, workflow: WorkflowId) -> None:
        self.queued.pop(workflow, None)
        self.asked.pop(workflow, None)
        self.lost_at.pop(workflow, None)

    def recover(self, workflow: Workflow, now: float) -> None:
        """After a restart of the head: a running program is its node's to report; others queue."""
        if workflow.node is None:
            self.queue(workflow.id)
        else:
            self.lost_at[workflow.id] = now

    def run(self, fleet: Fleet, book: Book, now: float) -> Iterator[Action]:
        """Give queued programs to the nodes with the fewest, and repeat what was not answered."""
        up = [n for n in fleet.nodes.values() if n.state is NodeState.UP]
        for number in list(self.queued) if up else []:
            node = min(up, key=lambda n: (n.programs, n.id))
            del self.queued[number]
            node.programs += 1
            workflow = book.workflows[number]
            self.asked[number] = Asked(node.id, node.incarnation, workflow.attempt, now)
            yield self._want(workflow, node)
        for number, asked in self.asked.items():
            if now - asked.said_at >= REPEAT_S:
                asked.said_at = now
                yield self._want(book.workflows[number], fleet.nodes[asked.node])
        yield from self._give_up(book, now)

    def _want(self, workflow: Workflow, node: Node) -> Action:
        program = workflow.program
        assert program is not None
        if workflow.state is WorkflowState.CANCELLING:
            return self._stop(workflow, node.id)
        return Send(
            node.id,
            wire.RunProgram(
                workflow=workflow.id,
                attempt=workflow.attempt,
                incarnation=node.incarnation,
                argv=program.argv,
                cwd=program.cwd,
                env=program.env,
                log=workflow.log,
            ),
        )

    def _stop(self, workflow: Workflow, node: NodeId) -> Action:
        grace_s = self.config.stop_grace_s
        stop = wire.StopProgram(workflow=workflow.id, attempt=workflow.attempt, grace_s=grace_s)
        return Send(node, stop)

    def stop(self, workflow: Workflow) -> Action | None:
        """What to say so that the program ends; None when it has not been given to any node."""
        asked = self.asked.get(workflow.id)
        node = workflow.node or (asked.node if asked is not None else None)
        return None if node is None else self._stop(workflow, node)

    def on_facts(self, node: Node, facts: list[wire.ProgramFact], book: Book) -> Iterator[Action]:
        """Compare what runs on `node` with what should."""
        for fact in facts:
            workflow = book.workflows.get(fact.workflow)
            if workflow is None or not workflow.live or fact.attempt != workflow.attempt:
                yield self._unwanted(node, fact)
            else:
                yield from self._wanted(node, fact, workflow)
        waiting = sum(asked.node == node.id for asked in self.asked.values())
        node.programs = waiting + sum(not fact.exited for fact in facts)

    def _unwanted(self, node: Node, fact: wire.ProgramFact) -> Action:
        if fact.exited:
            forget = wire.ForgetProgram(workflow=fact.workflow, attempt=fact.attempt)
            return Send(node.id, forget)
        stop = wire.StopProgram(
            workflow=fact.workflow, attempt=fact.attempt, grace_s=self.config.stop_grace_s
        )
        return Send(node.id, stop)

    def _wanted(self, node: Node, fact: wire.ProgramFact, workflow: Workflow) -> Iterator[Action]:
        self.asked.pop(workflow.id, None)
        self.lost_at.pop(workflow.id, None)
        self.queued.pop(workflow.id, None)
        if workflow.node != node.id or workflow.node_incarnation != node.incarnation:
            yield Record(
                ProgramStarted(
                    workflow=workflow.id,
                    attempt=fact.attempt,
                    node=node.id,
                    incarnation=node.incarnation,
                )
            )
        if fact.exited:
            yield Record(_end(workflow, fact))
            yield Send(node.id, wire.ForgetProgram(workflow=fact.workflow, attempt=fact.attempt))
        elif workflow.state is WorkflowState.CANCELLING:
            yield self._stop(workflow, node.id)

    def on_node_lost(self, node: Node, book: Book, reason: str) -> Iterator[Action]:
        """Programs of a lost node start again elsewhere, or fail when their retries are used up."""
        for workflow in list(book.workflows.values()):
            asked = self.asked.get(workflow.id)
            there = workflow.node == node.id or (asked is not None and asked.node == node.id)
            if workflow.live and workflow.program is not None and there:
                yield from self._again(workflow, f"node {node.id}: {reason}")

    def _again(self, workflow: Workflow, reason: str) -> Iterator[Action]:
        self.drop(workflow.id)
        if workflow.state is WorkflowState.CANCELLING:
            yield Record(WorkflowEnded(workflow=workflow.id, state=WorkflowState.CANCELLED, reason=reason))
        elif workflow.attempt > self.config.program_retries:
            text = f"{reason}; attempt {workflow.attempt} of {self.config.program_retries + 1}"
            yield Record(WorkflowEnded(workflow=workflow.id, state=WorkflowState.FAILED, reason=text))
        else:
            yield Record(WorkflowRequeued(workflow=workflow.id, attempt=workflow.attempt + 1, reason=reason))
            self.queue(workflow.id)

    def _give_up(self, book: Book, now: float) -> Iterator[Action]:
        """After a restart: a node that has not come back in time has lost its programs."""
        patience_s = 4 * self.config.node_timeout_s
        for number, since in list(self.lost_at.items()):
            if now - since > patience_s:
                workflow = book.workflows[number]
                yield from self._again(workflow, f"node {workflow.node} did not come back")

    def check(self, book: Book) -> None:
        """Raise AssertionError where a want concerns a workflow that is over."""
        for number in (*self.queued, *self.asked, *self.lost_at):
            workflow = book.workflows[number]
            assert workflow.live, f"workflow {number} is over and still wanted"
            assert workflow.program is not None, f"workflow {number} has no program"


def _end(workflow: Workflow, fact: wire.ProgramFact) -> WorkflowEnded:
    if workflow.state is WorkflowState.CANCELLING:
        state, reason = WorkflowState.CANCELLED, fact.reason or "cancelled"
    elif fact.exit_code == 0:
        state, reason = WorkflowState.DONE, fact.reason
    else:
        state = WorkflowState.FAILED
        reason = fact.reason or f"exit code {fact.exit_code}"
    return WorkflowEnded(workflow=workflow.id, state=state, reason=reason, exit_code=fact.exit_code)
