"""What the gate tells of its decisions: who was held, let in or paused, by which key, behind how many."""

from __future__ import annotations

from itertools import islice

from saga_core.decisions import Decisions, Scores, Verdict
from saga_core.floor import Floor
from saga_core.ids import StepId
from saga_core.rooms import Claim, Room
from saga_core.waiters import Waiters

CANDIDATES = 4
"""Rooms whose fullness a decision keeps: more of them would tell a person less."""
LOOKED_AT = 64
"""Of those who wait, how many are looked at to say how many are before one."""


class Turns:
    """Notes the decisions of one gate."""

    def __init__(self, decisions: Decisions, floor: Floor, waiters: Waiters) -> None:
        self.decisions = decisions
        self._floor, self._waiters = floor, waiters
        self._key = floor.key

    def held(self, step: StepId, claim: Claim, now: float) -> None:
        """`step` has to wait."""
        home = self._floor.home(claim)
        room = home or (self._floor.emptiest() if self._floor.rooms else None)
        self.decisions.turn(
            Verdict.HELD,
            claim,
            room,
            now,
            key=self._key(claim)[0],
            share=self._floor.policy.low,
            step=step,
            ahead=self._ahead(claim, home),
            waiting=len(self._waiters),
            scores=self._scores(room, now),
        )

    def let_in(self, verdict: Verdict, claim: Claim, room: Room, now: float, rule: str) -> str:
        """`claim`, whose steps still wait, is about to be live in `room`: why, in words."""
        waited_s = now - claim.since
        self.decisions.turn(
            verdict,
            claim,
            room,
            now,
            key=self._key(claim)[0],
            share=self._floor.policy.low,
            step=next(iter(claim.waiting), None),
            rule=rule,
            waited_s=waited_s,
            scores=self._scores(room, now),
        )
        used = f"{room.fullness(now):.2f} of {room.id} in use"
        return f"{rule} after {waited_s:.1f} s: {claim.tokens} tokens, {used}"

    def paused(self, claim: Claim, room: Room, now: float, rule: str, idle: int) -> str:
        """`claim` has been taken out of `room`, one of `idle` that computed nothing there: why, in words."""
        self.decisions.turn(
            Verdict.PAUSED,
            claim,
            room,
            now,
            key=self._floor.victim(claim)[0],
            share=self._floor.policy.high,
            rule=rule,
            waiting=idle,
        )
        share = room.need(now) / room.room(1.0)
        return f"{room.id} {rule} ({share:.2f} without it)"

    def before(self, claim: Claim) -> int:
        """How many of those who wait with a step have a smaller key: of its room if it is paused, else of all."""
        mine, home = self._key(claim), self._floor.home(claim)
        others = (home.paused if home is not None else self._waiters.sessions()).values()
        return sum(self._key(other) < mine for other in others)

    def _ahead(self, claim: Claim, home: Room | None) -> int | None:
        """How many are before it: of the paused of its room, else of the line; None: too many to count."""
        mine = self._key(claim)
        if home is not None:
            others = [self._key(other) for other in islice(home.paused.values(), LOOKED_AT + 1)]
            return sum(key < mine for key in others) if len(others) <= LOOKED_AT else None
        line = self._waiters.line
        if len(line) > LOOKED_AT:
            return None
        place = line.place(claim)
        return sum(entry < place for entry in line.entries)

    def _scores(self, room: Room | None, now: float) -> Scores:
        """How full some rooms are, `room` among them."""
        found = {r.id: r for r in (room, *islice(self._floor.rooms.values(), CANDIDATES)) if r}
        return tuple((r.id, r.fullness(now)) for r in islice(found.values(), CANDIDATES))
