"""Who goes in at the gate and who is paused: rules 2 to 5 of `gate`, and what follows from them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from saga_core.decisions import Verdict
from saga_core.floor import Floor
from saga_core.ids import SessionId, StepId, WorkerId, WorkflowId
from saga_core.policy.admission import NEVER
from saga_core.rooms import Claim, Room
from saga_core.turns import Turns
from saga_core.waiters import Waiters

AT_ONCE = 128
"""Grants after which the rest waits for the next event or tick: some 3 ms of the head's loop."""


class Grant(NamedTuple):
    """A step may go."""

    step: StepId
    worker: WorkerId
    why: str


class Pause(NamedTuple):
    """A session is not live any more."""

    session: SessionId
    worker: WorkerId
    why: str


class Flight(NamedTuple):
    """A step on a worker."""

    claim: Claim
    room: Room
    body_bytes: int


class Door:
    """Lets the sessions of one model in and takes them out. Between two calls `now` is set by the gate."""

    def __init__(
        self,
        floor: Floor,
        waiters: Waiters,
        turns: Turns,
        virtual_s: Callable[[], float] | None,
        left_s: Callable[[WorkflowId], float],
    ) -> None:
        """virtual_s: the model's virtual time, where keys are points in it; None: they are something else.

        left_s: how long a workflow is expected to go on.
        """
        self.now = 0.0
        self.grants: list[Grant] = []
        self.pauses: list[Pause] = []
        self.flights: dict[StepId, Flight] = {}
        self._floor, self._waiters, self._turns = floor, waiters, turns
        self._policy, self._virtual_s, self._left_s = floor.policy, virtual_s, left_s

    @property
    def full(self) -> bool:
        """Whether the rest of the grants waits."""
        return len(self.grants) >= AT_ONCE

    # -- who goes in ---------------------------------------------------------------------

    def relieve(self, room: Room) -> None:
        """Above the upper limit, pause those with the largest keys among those that compute nothing."""
        while len(room.live) > 1 and room.need(self.now) > room.room(self._policy.high):
            last = self._expendable(room)
            if last is None:
                break
            self._pause(last, room, "is full")
        self._floor.touch(room)

    def _expendable(self, room: Room) -> Claim | None:
        """Who of those that compute nothing is paused first: whoever is overdue last."""
        last = room.idle.last()
        if last is None or self._virtual_s is None or not self._overdue(last):
            return last
        on_time = (claim for claim in reversed(room.idle) if not self._overdue(claim))
        return next(on_time, None) or max(room.idle, key=self._floor.due)

    def _pause(self, claim: Claim, room: Room, rule: str) -> None:
        idle = len(room.idle)
        room.leave(claim, self.now)
        why = self._turns.paused(claim, room, self.now, rule, idle)
        self.pauses.append(Pause(claim.id, room.id, why))

    def settle(self, room: Room | None) -> None:
        """There may be space: in `room`, or for who has none."""
        if room is not None and room.id in self._floor.rooms:
            if room.paused:
                self.fill(room)
            self._floor.touch(room)
        if self._waiters.line:
            self.admit()

    def _next(self, room: Room, space: float) -> Claim | None:
        """Who is to be resumed in `space`: the first if it is overdue, and else the first that fits."""
        first = next(iter(room.by_due))
        if self._overdue(first):
            return first if room.cost(first) <= space or self._clear(room, first) else None
        return room.next(space)

    def fill(self, room: Room) -> None:
        """Resume the paused of a room, the smallest key of those that fit first."""
        while room.paused and not self.full:
            space = room.room(self._policy.low) - room.need(self.now) if room.live else NEVER
            claim = self._next(room, space)
            if claim is None or (room.live and self._is_promised(room, claim)):
                break
            self._let_in(claim, room, Verdict.RESUMED, "resumed at home")

    def admit(self) -> None:
        """Let in who stands in line, in order, while the emptiest room has space."""
        while self._floor.rooms and not self.full:
            first = self._waiters.first_due()
            if first is None:
                return
            late = self._overdue(first)
            claim = first if late else self._waiters.first()
            assert claim is not None, "one line is empty and the other is not"
            room = self._outlasting(claim) or self._floor.emptiest()
            if self._is_owed(room, claim):
                return
            if not room.fits(claim, self.now, self._policy.low) and not (late and self._clear(room, claim)):
                return
            if not claim.steps:
                self._let_in(claim, room, Verdict.LET_IN, "let in")
            else:
                rule = f"resumed elsewhere: {self._floor.why_left(claim)}"
                self._let_in(claim, room, Verdict.MOVED, rule)

    def _outlasting(self, claim: Claim) -> Room | None:
        """Where the emptiest room's worker is expected to end before the workflow does: the emptiest of the others, if
        it fits there. It would have to move: that costs less than to wait, and more than to begin elsewhere.
        """
        ends_at = self._floor.emptiest().worker.ends_at
        if ends_at is None:
            return None
        until = self.now + self._left_s(claim.account.workflow)
        best = self._floor.emptiest_until(until) if until > ends_at else None
        return best if best is not None and best.fits(claim, self.now, self._policy.low) else None

    def _let_in(self, claim: Claim, room: Room, verdict: Verdict, rule: str) -> None:
        why = self._turns.let_in(verdict, claim, room, self.now, rule)
        room.enter(claim, self.now)
        for step, body_bytes in self._waiters.take(claim):
            self.go(step, claim, room, body_bytes, why)
        self._floor.touch(room)

    def go(self, step: StepId, claim: Claim, room: Room, body_bytes: int, why: str) -> None:
        room.take_off(claim, self.now)
        self.flights[step] = Flight(claim, room, body_bytes)
        self._floor.touch(room)
        self.grants.append(Grant(step, room.id, why))

    # -- who is overdue ------------------------------------------------------------------

    def _overdue(self, claim: Claim) -> bool:
        """Whether a fair share would have finished it long ago; where nothing says so, whether it has waited long."""
        if self._virtual_s is not None:
            return self._virtual_s() >= self._floor.due(claim)[0] + self._policy.grace_s
        return self.now - claim.since >= self._policy.patience_s

    def _clear(self, room: Room, claim: Claim) -> bool:
        """Pause those overdue later that compute nothing until `claim`, overdue, fits. Whether it does."""
        mine = self._floor.due(claim)
        while not room.fits(claim, self.now, self._policy.low):
            last = next((c for c in reversed(room.idle) if self._floor.due(c) > mine), None)
            if last is None:
                return False
            self._pause(last, room, f"is wanted for {claim.id}, which is overdue")
            self._floor.touch(room)
        return True

    def _is_owed(self, room: Room, claim: Claim) -> bool:
        """Whether somebody overdue waits at `room` who is before `claim`."""
        if not room.paused:
            return False
        first = next(iter(room.by_due))
        return self._floor.due(first) < self._floor.due(claim) and self._overdue(first)

    def _is_promised(self, room: Room, claim: Claim) -> bool:
        """Whether the space of `room` is for somebody overdue in line, who is before `claim`."""
        first = self._waiters.first_due()
        if first is None or self._floor.due(first) >= self._floor.due(claim) or not self._overdue(first):
            return False
        self._floor.touch(room)
        return room is self._floor.emptiest()

    def force(self) -> None:
        """Nobody waits for good."""
        late = self.now - self._policy.force_s
        while self._waiters.oldest and self._floor.rooms and not self.full:
            name, since = next(iter(self._waiters.oldest.items()))
            if since > late:
                break
            claim = self._waiters.claims[name]
            home = self._floor.home(claim) or self._floor.emptiest()
            self._let_in(claim, home, Verdict.FORCED, "let in by force")

    def rehome(self, room: Room, most: int) -> int:
        """Resume those elsewhere of whom little is left here, the smallest keys first; how many were looked at."""
        looks = 0
        for claim in room.order if self._takes_any(room) else ():
            if looks == most or not self._takes_any(room):
                break
            looks += 1
            best = self._floor.emptiest()
            if not self._may_move(claim, room):
                continue
            if self._is_promised(best, claim) or self._is_owed(best, claim):
                continue
            if best.fits(claim, self.now, self._policy.low):
                room.let_go(claim.id)
                rule = f"resumed elsewhere: little of it is left at {room.id}"
                self._let_in(claim, best, Verdict.MOVED, rule)
        return looks

    def _takes_any(self, room: Room) -> bool:
        """Whether the emptiest room is another one than `room` and takes the cheapest of those that wait there."""
        best = self._floor.emptiest()
        return best is not room and best.takes(room.least_cost, self.now, self._policy.low)

    def _may_move(self, claim: Claim, room: Room) -> bool:
        return room.worker.resident.get(claim.id, 0) < self._policy.rehome_share * claim.tokens
