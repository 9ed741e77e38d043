"""Who waits at the gate: the steps held back, for how long, and the line of those that have no room to wait at."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping

from saga_core.floor import Floor
from saga_core.ids import SessionId, StepId
from saga_core.rooms import Claim

SLACK = 64
"""Entries of the line that may be past before it is tidied."""


Place = tuple[float, float, SessionId]


class Line:
    """Those without a room, smallest place first; entries that are past stay until they come first."""

    def __init__(self, stands: Callable[[SessionId], bool], place: Callable[[Claim], Place]) -> None:
        """`stands`: whether that session is in line at all."""
        self.entries: list[Place] = []
        self.place = place
        self._stands = stands

    def __len__(self) -> int:
        return len(self.entries)

    def add(self, claim: Claim, waiting: int) -> None:
        """It takes its place; `waiting`: how many there may be."""
        if len(self.entries) > 2 * waiting + SLACK:
            self.entries = [entry for entry in self.entries if self._stands(entry[2])]
            heapq.heapify(self.entries)
        heapq.heappush(self.entries, self.place(claim))

    def first(self) -> SessionId | None:
        """Who stands first."""
        while self.entries and not self._stands(self.entries[0][2]):
            heapq.heappop(self.entries)
        return self.entries[0][2] if self.entries else None


class Waiters:
    """Steps by id, sessions by how long they have waited, and the line."""

    def __init__(
        self,
        claims: Mapping[SessionId, Claim],
        floor: Floor,
        key: Callable[[Claim], tuple[float, SessionId]],
        due: Callable[[Claim], tuple[float, SessionId]],
    ) -> None:
        self.steps: dict[StepId, tuple[Claim, int]] = {}
        """Held back: whose, and how long its body is in bytes."""
        self.oldest: dict[SessionId, float] = {}
        """Everybody who waits, there or in a room, and since when; the one who has waited longest first."""
        self.claims, self._floor = claims, floor
        self.line = Line(self._stands, lambda claim: (claim.steps == 0, *key(claim)))
        """Those who have been in before, then the new, by key."""
        self.by_due = Line(self._stands, lambda claim: (0.0, *due(claim)))
        """The same by when they are overdue."""

    def __len__(self) -> int:
        return len(self.steps)

    def sessions(self) -> dict[SessionId, Claim]:
        """Those with a step that waits."""
        return {claim.id: claim for claim, _ in self.steps.values()}

    def add(self, step: StepId, claim: Claim, body_bytes: int, now: float) -> None:
        """`step` waits, where its session was live or in line."""
        self.steps[step] = (claim, body_bytes)
        if not claim.waiting:
            claim.since = self.oldest[claim.id] = now
        claim.waiting[step] = None
        home = self._floor.home(claim)
        if home is not None:
            home.hold(claim)
        elif len(claim.waiting) == 1:
            self.stand(claim)

    def drop(self, step: StepId) -> None:
        """It waits no more; a stranger does nothing."""
        found = self.steps.pop(step, None)
        if found is None:
            return
        claim = found[0]
        del claim.waiting[step]
        if claim.waiting:
            return
        del self.oldest[claim.id]
        home = self._floor.home(claim)
        if home is not None:
            home.let_go(claim.id)

    def take(self, claim: Claim) -> list[tuple[StepId, int]]:
        """Its steps and the length of their bodies; none of them waits any more."""
        found = [(step, self.steps.pop(step)[1]) for step in claim.waiting]
        claim.waiting.clear()
        del self.oldest[claim.id]
        return found

    def late(self, since: float, most: int) -> list[StepId]:
        """Steps of sessions that have waited since `since` or longer, those first who have for longest; `most` or so."""
        found: list[StepId] = []
        for name, at in self.oldest.items():
            if at > since or len(found) >= most:
                break
            found += self.claims[name].waiting
        return found

    # -- the line ------------------------------------------------------------------------

    def stand(self, claim: Claim) -> None:
        """It takes its place in line."""
        self.line.add(claim, len(self.steps))
        self.by_due.add(claim, len(self.steps))

    def first(self) -> Claim | None:
        """Who stands first in line."""
        name = self.line.first()
        return self.claims[name] if name is not None else None

    def first_due(self) -> Claim | None:
        """Who of the line is overdue first, or will be."""
        name = self.by_due.first()
        return self.claims[name] if name is not None else None

    def seat(self) -> None:
        """Whoever stands in line and has a room again waits there."""
        for _, _, session in self.line.entries:
            claim = self.claims.get(session)
            if claim is not None and claim.waiting and not claim.live:
                home = self._floor.home(claim)
                if home is not None:
                    home.hold(claim)

    def _stands(self, session: SessionId) -> bool:
        claim = self.claims.get(session)
        return claim is not None and self.in_line(claim)

    def in_line(self, claim: Claim) -> bool:
        """Whether it waits, and nowhere else."""
        return bool(claim.waiting) and not claim.live and self._floor.home(claim) is None
