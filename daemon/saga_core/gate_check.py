"""Whether a gate's claims, rooms and line agree: for tests, and for `--check`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

from saga_core.door import Flight
from saga_core.ids import StepId

if TYPE_CHECKING:
    from saga_core.gate import Gate


def check(gate: Gate, flights: Mapping[StepId, Flight], now: float) -> None:
    """Raise AssertionError where they do not."""
    gate.floor.check(now)
    _check_claims(gate)
    _check_waiting(gate)
    _check_flights(gate, flights)
    for room in gate.rooms.values():
        if not room.live:
            assert not room.paused, f"{room.id} is empty and somebody waits for it"
            assert not any(map(gate.waiters.in_line, gate.claims.values())), (
                f"{room.id} is empty and there is a line"
            )


def _check_claims(gate: Gate) -> None:
    in_line = {name for _, _, name in gate.waiters.line.entries}
    in_line &= {name for _, _, name in gate.waiters.by_due.entries}
    for claim in gate.claims.values():
        home = gate.floor.home(claim)
        if claim.live:
            assert not claim.waiting, f"{claim.id} is live and waits"
            assert home is not None, f"{claim.id} is live nowhere"
            assert claim.id in home.live, claim.id
        elif claim.waiting:
            paused = home is not None and claim.id in home.paused
            assert paused or claim.id in in_line, f"{claim.id} waits nowhere"
    assert {name for kin in gate.kin.values() for name in kin} == gate.claims.keys(), "kin miscounted"


def _check_waiting(gate: Gate) -> None:
    since = {c.id: c.since for c in gate.claims.values() if c.waiting}
    assert gate.waiters.oldest == since, "who waits, and since when"
    waiting = {step for claim in gate.claims.values() for step in claim.waiting}
    assert waiting == gate.waiters.steps.keys(), "waiting steps miscounted"


def _check_flights(gate: Gate, flights: Mapping[StepId, Flight]) -> None:
    flying = Counter(flight.claim.id for flight in flights.values())
    there = Counter(id(flight.room) for flight in flights.values())
    for room in gate.rooms.values():
        assert room.flying == there[id(room)], f"{room.id} miscounts what is on the worker"
    for claim in gate.claims.values():
        assert claim.flying == flying[claim.id], f"{claim.id} miscounts its steps"
