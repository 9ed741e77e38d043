"""Programs without a node: who is next, and where it goes. Nothing of a node changes here.

Rules of this file
  1. In the order of submission to the node with the fewest programs, while there are slots; ties go by id.
  2. Where nodes end, rather to those that are there for as long as such programs usually take.
  3. Where somebody queued has a priority or asks for more than a slot: the highest priority first, to nodes that have
     what it asks for.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

from saga_core import slots
from saga_core.book import Book, Workflow
from saga_core.fleet import Fleet, Node
from saga_core.ids import WorkflowId
from saga_core.states import NodeState
from saga_core.views import ProgramSpec

Turn: TypeAlias = tuple[Workflow, Node]
"""Whose turn it is, and the node that it goes to."""
There: TypeAlias = Callable[[Node], Iterable[ProgramSpec]]
"""The programs that a node has."""


class ProgramQueue:
    """Queued programs, oldest first."""

    def __init__(self) -> None:
        self._all: OrderedDict[WorkflowId, None] = OrderedDict()
        self._special: dict[WorkflowId, None] = {}
        """Of these, those that have a priority or ask for more than a slot."""

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[WorkflowId]:
        return iter(self._all)

    def __contains__(self, workflow: WorkflowId) -> bool:
        return workflow in self._all

    def add(self, workflow: Workflow) -> None:
        """It is the last from now on."""
        self._all[workflow.id] = None
        if workflow.priority or (workflow.program is not None and slots.asks(workflow.program)):
            self._special[workflow.id] = None

    def remove(self, workflow: WorkflowId) -> None:
        """It waits no more; one that does not wait does nothing."""
        self._all.pop(workflow, None)
        self._special.pop(workflow, None)

    def turns(self, fleet: Fleet, book: Book, now: float, there: There) -> Iterator[Turn]:
        """Who may start now. Each is to be removed here and counted at its node before the next is asked for."""
        if not self._all:
            return
        up = [n for n in fleet.nodes.values() if n.state is NodeState.UP and n.id not in book.drains]
        if self._special:
            yield from self._by_need(up, book, now, there)
        elif any(n.ends_at is not None for n in up):
            yield from self._to_lasting(up, book, now)
        else:
            yield from self._to_emptiest(up, book)

    def _first(self, book: Book) -> Workflow:
        return book.workflows[next(iter(self._all))]

    def _to_emptiest(self, up: list[Node], book: Book) -> Iterator[Turn]:
        free = [(n.programs, n.id, n) for n in up if n.programs < n.program_slots]
        heapq.heapify(free)
        while self._all and free:
            node = free[0][2]
            yield self._first(book), node
            if node.programs < node.program_slots:
                heapq.heapreplace(free, (node.programs, node.id, node))
            else:
                heapq.heappop(free)

    def _to_lasting(self, up: list[Node], book: Book, now: float) -> Iterator[Turn]:
        while self._all:
            workflow = self._first(book)
            free = [n for n in up if n.programs < n.program_slots]
            if not free:
                return
            yield workflow, _lasting(free, workflow, book, now)

    def _by_need(self, up: list[Node], book: Book, now: float, there: There) -> Iterator[Turn]:
        """Who waits for room that others hold is waited for; who asks for more than any node here has is passed over."""
        if all(n.programs >= n.program_slots for n in up):
            return
        for number in sorted(self._all, key=lambda number: -book.workflows[number].priority):
            workflow = book.workflows[number]
            program = workflow.program
            assert program is not None
            able = [node for node in up if slots.could_hold(node, program)]
            free = [node for node in able if slots.has_room(node, program, there(node))]
            if able and not free:
                return
            if free:
                yield workflow, _lasting(free, workflow, book, now)

    def check(self) -> None:
        """Raise AssertionError where the special are not among all."""
        assert self._special.keys() <= self._all.keys(), "special and not queued"


def _lasting(free: list[Node], workflow: Workflow, book: Book, now: float) -> Node:
    """Of `free` the emptiest node that is there for as long as workflows like this one usually take, if one is."""
    until = now + book.accounts.life_s(workflow.tenant, workflow.agent_type)
    return min(free, key=lambda n: (n.ends_at is not None and n.ends_at < until, n.programs, n.id))
