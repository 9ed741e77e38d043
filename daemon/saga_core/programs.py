"""Which agent programs should run where: the head's wants towards nodes, repeated until facts agree.

Rules of this file
  1. A program is given to one node and that is recorded before the node hears of it; so
     `(workflow, attempt)` never runs twice, whatever is lost, repeated or restarted.
  2. A want may always be said again: the node starts an attempt at most once, and answers a
     late request with how it ended.
  3. When the node of a program is lost, the program starts elsewhere as the next attempt; when its node drains, once
     it has been stopped.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

from saga_core import wire
from saga_core.actions import Action, Record, Send
from saga_core.book import Book, Workflow
from saga_core.config import HeadConfig
from saga_core.events import ProgramGiven, ProgramStarted, WorkflowEnded, WorkflowRequeued
from saga_core.fleet import Fleet, Node
from saga_core.ids import NodeId, WorkflowId
from saga_core.program_queue import ProgramQueue
from saga_core.states import NodeState, WorkflowState
from saga_core.views import ProgramSpec

AHEAD = 8
"""Programs that may wait at the gate for their first memory while others are still queued: enough that memory that
frees finds somebody, and the rest need not hold a slot and an open connection for it."""
REPEAT_S = 2.0
"""A want that no fact has answered is said again after this long (two reports)."""
PATIENCE = 4
"""After a restart of the head, nodes have this many `node_timeout_s` to come back with their programs."""


@dataclass(frozen=True, slots=True)
class Given:
    """The node that has a program."""

    node: NodeId
    incarnation: int


class Programs:
    """Programs without a node, programs with one, and wants without an answer."""

    def __init__(self, config: HeadConfig) -> None:
        self.config = config
        self.queued = ProgramQueue()
        self.given: dict[WorkflowId, Given] = {}
        self.at_node: dict[NodeId, dict[WorkflowId, None]] = {}
        """The inverse of `given`."""
        self.asked: OrderedDict[WorkflowId, float] = OrderedDict()
        """Given ones whose node has not shown them yet, and when it was told last; oldest first."""
        self.handed: dict[WorkflowId, float] = {}
        """Given ones that are being stopped because their node drains, and when it was told last."""
        self.awaited: dict[WorkflowId, float] = {}
        """Recovered after a restart of the head and not yet shown by a node, with the deadline."""

    @property
    def any(self) -> bool:
        """Whether a program runs, or will."""
        return bool(self.queued or self.given or self.awaited)

    def queue(self, workflow: Workflow) -> None:
        """Want it to run, wherever there is a slot."""
        self.queued.add(workflow)

    def drop(self, workflow: WorkflowId) -> None:
        """Want nothing more of this program."""
        self.queued.remove(workflow)
        self.asked.pop(workflow, None)
        self.handed.pop(workflow, None)
        self.awaited.pop(workflow, None)
        given = self.given.pop(workflow, None)
        if given is not None:
            there = self.at_node[given.node]
            del there[workflow]
            if not there:
                del self.at_node[given.node]

    def _give(self, workflow: WorkflowId, node: NodeId, incarnation: int) -> None:
        self.given[workflow] = Given(node, incarnation)
        self.at_node.setdefault(node, {})[workflow] = None

    def recover(self, workflow: Workflow, now: float) -> None:
        """After a restart of the head: what was given is its node's to report.

        The rest waits as well, but not as long: the last facts of a killed head may be lost, and
        then a node runs what the book knows nothing of.
        """
        patience_s = self.config.node_timeout_s
        if workflow.node is not None:
            self._give(workflow.id, workflow.node, workflow.node_incarnation)
            patience_s *= PATIENCE
        self.awaited[workflow.id] = now + patience_s

    # -- wants ---------------------------------------------------------------------------

    def run(self, fleet: Fleet, book: Book, now: float, *, waiting: int = 0) -> Iterator[Action]:
        """Give queued programs to nodes, repeat what was not answered, give up what does not come back.

        `waiting`: programs that run and have not been let into any worker's memory.
        """
        yield from self._give_up(book, now)
        if waiting < AHEAD:
            yield from self._give_queued(fleet, book, now)
        yield from self._repeat(fleet, book, now)

    def _give_queued(self, fleet: Fleet, book: Book, now: float) -> Iterator[Action]:
        for workflow, node in self.queued.turns(fleet, book, now, lambda node: self._there(node, book)):
            yield from self._give_to(node, workflow, now)

    def _give_to(self, node: Node, workflow: Workflow, now: float) -> Iterator[Action]:
        self.queued.remove(workflow.id)
        self._give(workflow.id, node.id, node.incarnation)
        yield Record(_given(workflow, node))
        node.programs += 1
        self.asked[workflow.id] = now
        yield self._want(workflow, node)

    def _there(self, node: Node, book: Book) -> Iterator[ProgramSpec]:
        """Programs that `node` has."""
        found = (book.workflows[number].program for number in self.at_node.get(node.id, ()))
        return (program for program in found if program is not None)

    def _repeat(self, fleet: Fleet, book: Book, now: float) -> Iterator[Action]:
        due: list[WorkflowId] = []
        for number, said_at in self.asked.items():
            if now - said_at < REPEAT_S:
                break
            due.append(number)
        for number in due:
            self.asked[number] = now
            self.asked.move_to_end(number)
            given = self.given[number]
            node = fleet.nodes.get(given.node)
            if node is not None and node.state is NodeState.UP and node.incarnation == given.incarnation:
                yield self._want(book.workflows[number], node)

    def _want(self, workflow: Workflow, node: Node) -> Action:
        program = workflow.program
        assert program is not None
        if workflow.state is WorkflowState.CANCELLING:
            return self._stop(workflow.id, workflow.attempt, node.id)
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
                cpus=program.cpus,
                memory_bytes=program.memory_bytes,
            ),
        )

    def _stop(self, workflow: WorkflowId, attempt: int, node: NodeId) -> Action:
        grace_s = self.config.stop_grace_s
        return Send(node, wire.StopProgram(workflow=workflow, attempt=attempt, grace_s=grace_s))

    def stop(self, workflow: Workflow) -> Action | None:
        """What to say so that the program ends; None when no node can have it."""
        if workflow.id in self.queued:
            return None
        given = self.given.get(workflow.id)
        if given is not None:
            return self._stop(workflow.id, workflow.attempt, given.node)
        return None

    def hand_on(self, node: Node, book: Book, now: float) -> Iterator[Action]:
        """`node` drains and its time is over: its programs are stopped, to start again elsewhere."""
        for number in self.at_node.get(node.id, ()):
            workflow = book.workflows[number]
            said_at = self.handed.get(number, float("-inf"))
            if workflow.state is not WorkflowState.CANCELLING and now - said_at >= REPEAT_S:
                self.handed[number] = now
                yield self._stop(number, workflow.attempt, node.id)

    # -- facts ---------------------------------------------------------------------------

    def on_facts(self, node: Node, facts: list[wire.ProgramFact], book: Book) -> Iterator[Action]:
        """Compare what is on `node`, by its complete report, with what should be."""
        shown: set[WorkflowId] = set()
        strangers = 0
        for fact in facts:
            workflow = book.workflows.get(fact.workflow)
            if workflow is not None and self._belongs(workflow, fact, node):
                shown.add(workflow.id)
                yield from self._wanted(node, fact, workflow)
            else:
                strangers += not fact.exited
                yield self._unwanted(node, fact)
        here = self.at_node.get(node.id, {})
        for number in here:
            self._answered(number, shown=number in shown)
        node.programs = len(here) + strangers

    def _belongs(self, workflow: Workflow, fact: wire.ProgramFact, node: Node) -> bool:
        """Whether `node` should have this attempt, or may keep it since nobody else has it."""
        if not workflow.live or workflow.program is None or fact.attempt != workflow.attempt:
            return False
        return self.given.get(workflow.id) in {None, Given(node.id, node.incarnation)}

    def _answered(self, number: WorkflowId, *, shown: bool) -> None:
        self.awaited.pop(number, None)
        if shown:
            self.asked.pop(number, None)
        elif number not in self.asked:
            self.asked[number] = float("-inf")  # the node has not heard of it: say it at once
            self.asked.move_to_end(number, last=False)

    def _unwanted(self, node: Node, fact: wire.ProgramFact) -> Action:
        if fact.exited:
            return Send(node.id, wire.ForgetProgram(workflow=fact.workflow, attempt=fact.attempt))
        return self._stop(fact.workflow, fact.attempt, node.id)

    def _wanted(self, node: Node, fact: wire.ProgramFact, workflow: Workflow) -> Iterator[Action]:
        if workflow.id not in self.given:
            self.queued.remove(workflow.id)
            self._give(workflow.id, node.id, node.incarnation)
            yield Record(_given(workflow, node))
        if workflow.started_attempt != workflow.attempt:
            yield Record(_started(workflow, node))
        if fact.exited and workflow.id in self.handed and fact.exit_code != 0:
            yield from self._again(workflow, f"node {node.id} drains", moved=True)
            yield Send(node.id, wire.ForgetProgram(workflow=fact.workflow, attempt=fact.attempt))
        elif fact.exited:
            yield Record(_end(workflow, fact))
            yield Send(node.id, wire.ForgetProgram(workflow=fact.workflow, attempt=fact.attempt))
        elif workflow.state is WorkflowState.CANCELLING:
            yield self._stop(workflow.id, workflow.attempt, node.id)

    # -- losses --------------------------------------------------------------------------

    def on_node_lost(self, node: Node, book: Book, reason: str) -> Iterator[Action]:
        """Programs of a lost node start again elsewhere, or fail when their retries are used up."""
        for number in list(self.at_node.get(node.id, ())):
            moved = number in self.handed
            yield from self._again(book.workflows[number], f"node {node.id}: {reason}", moved=moved)

    def on_joined(self, node: Node, book: Book) -> Iterator[Action]:
        """Programs that an earlier incarnation of `node` had are lost."""
        for number in list(self.at_node.get(node.id, ())):
            if self.given[number].incarnation != node.incarnation:
                yield from self._again(book.workflows[number], f"node {node.id} was restarted")

    def _again(self, workflow: Workflow, reason: str, *, moved: bool = False) -> Iterator[Action]:
        """`moved`: its node was drained, which costs it none of its retries."""
        self.drop(workflow.id)
        if workflow.state is WorkflowState.CANCELLING:
            yield Record(WorkflowEnded(workflow=workflow.id, state=WorkflowState.CANCELLED, reason=reason))
        elif not moved and workflow.attempt - workflow.moves > self.config.program_retries:
            text = f"{reason}; attempt {workflow.attempt} of {self.config.program_retries + 1}"
            yield Record(WorkflowEnded(workflow=workflow.id, state=WorkflowState.FAILED, reason=text))
        else:
            again = WorkflowRequeued(
                workflow=workflow.id, attempt=workflow.attempt + 1, reason=reason, moved=moved
            )
            yield Record(again)
            self.queue(workflow)

    def _give_up(self, book: Book, now: float) -> Iterator[Action]:
        """After a restart: a node that has not come back in time has lost its programs."""
        for number in [n for n, until in self.awaited.items() if now >= until]:
            del self.awaited[number]
            given = self.given.get(number)
            if given is None:
                self.queue(book.workflows[number])
            else:
                yield from self._again(book.workflows[number], f"node {given.node} did not come back")

    def check(self, book: Book) -> None:
        """Raise AssertionError where a want concerns a workflow that is over, or the book disagrees."""
        for number in (*self.queued, *self.given, *self.awaited):
            workflow = book.workflows[number]
            assert workflow.live, f"workflow {number} is over and still wanted"
            assert workflow.program is not None, f"workflow {number} has no program"
        for number, given in self.given.items():
            workflow = book.workflows[number]
            assert (workflow.node, workflow.node_incarnation) == (given.node, given.incarnation), number
            assert number in self.at_node[given.node], number
        assert sum(map(len, self.at_node.values())) == len(self.given), "programs miscounted"
        assert self.asked.keys() <= self.given.keys(), "a want without a node"
        assert self.handed.keys() <= self.given.keys(), "handed on by nobody"
        assert self.given.keys().isdisjoint(self.queued), "queued and given"
        self.queued.check()
        wanted = {*self.queued, *self.given, *self.awaited}
        for workflow in book.workflows.values():
            if workflow.live and workflow.program is not None:
                assert workflow.id in wanted, f"the program of workflow {workflow.id} is forgotten"


def _given(workflow: Workflow, node: Node) -> ProgramGiven:
    return ProgramGiven(
        workflow=workflow.id, attempt=workflow.attempt, node=node.id, incarnation=node.incarnation
    )


def _started(workflow: Workflow, node: Node) -> ProgramStarted:
    return ProgramStarted(
        workflow=workflow.id, attempt=workflow.attempt, node=node.id, incarnation=node.incarnation
    )


def _end(workflow: Workflow, fact: wire.ProgramFact) -> WorkflowEnded:
    if workflow.state is WorkflowState.CANCELLING:
        state, reason = WorkflowState.CANCELLED, fact.reason or "cancelled"
    elif fact.exit_code == 0:
        state, reason = WorkflowState.DONE, fact.reason
    else:
        state = WorkflowState.FAILED
        reason = fact.reason or f"exit code {fact.exit_code}"
    return WorkflowEnded(workflow=workflow.id, state=state, reason=reason, exit_code=fact.exit_code)
