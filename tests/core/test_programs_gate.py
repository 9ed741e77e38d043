"""How many programs run follows what the gate admits; and what became of tenants."""

from __future__ import annotations

import pytest
from core_rig import Rig, config, worker

from saga_core.book import Book
from saga_core.events import WorkflowEnded, WorkflowSubmitted
from saga_core.fairness import Life
from saga_core.programs import AHEAD
from saga_core.states import WorkflowState
from saga_core.tallies import Tallies


def given(rig: Rig) -> int:
    return len(rig.head.programs.given)


@pytest.mark.parametrize("waiting", [AHEAD - 1, AHEAD])
def test_no_program_starts_while_enough_wait_at_the_gate(waiting, monkeypatch):
    rig = Rig()
    rig.up("n1/0")
    monkeypatch.setattr(rig.head, "_programs_waiting", lambda: waiting)
    rig.submit(program=True)
    rig.tick()
    assert given(rig) == (waiting < AHEAD)


def test_only_programs_that_were_let_in_nowhere_count():
    rig = Rig(config(profile="saga"))
    rig.hello()
    rig.report(worker("n1/0", capacity_tokens=8000))
    flows = [rig.submit(program=True) for _ in range(3)]
    rig.tick()
    assert given(rig) == 3
    for flow in flows:
        rig.step(flow, body_bytes=24_000)
    outside = rig.submit()
    rig.step(outside, body_bytes=24_000)
    held = [w for gate in rig.head.gates.values() for w in gate.waiters.sessions()]
    assert held, "the memory does not take all of them"
    programs = sum(int(name.partition(".")[0]) in flows for name in held)
    assert rig.head._programs_waiting() == programs < len(held)


def test_a_tenants_ends_are_told():
    book = Book("saga")
    tallies = Tallies(book)
    for number, deadline_s in ((1, 100.0), (2, 100.0), (3, 0.0)):
        book.apply(
            WorkflowSubmitted(workflow=number, tenant="a", token="", kind="replay", deadline_s=deadline_s),
            0.0,
        )
    assert [(t.id, t.live, t.slowdown) for t in tallies.views([])] == [("a", 3, None)]
    for number, at, state in (
        (1, 90.0, WorkflowState.DONE),
        (2, 90.0, WorkflowState.FAILED),
        (3, 500.0, WorkflowState.DONE),
    ):
        fact = WorkflowEnded(workflow=number, state=state)
        book.apply(fact, at)
        tallies.ended(fact, Life(90.0, 45.0, 10.0) if number < 3 else None, at)
    (told,) = tallies.views(["a", "a"])
    assert (told.ended, told.promised, told.kept, told.held, told.live) == (3, 2, 1, 2, 0)
    assert (told.slowdown, told.attained_s, told.share) == (2.0, 20.0, 1.0)
