"""Who waits at the gate: the steps held back, for how long, and the line of those that have no room to wait at."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping

from saga_core.floor import Floor
from saga_core.ids import SessionId, StepId
from saga_core.rooms import Claim

SLACK = 64
"""Entries of the line that may be past before it is tidied."""


class Waiters:
    """Steps by id, sessions by how long they have waited, and the line."""

    def __init__(
        self, claims: Mapping[SessionId, Claim], floor: Floor, key: Callable[[Claim], tuple[float, SessionId]]
    ) -> None:
        self.steps: dict[StepId, tuple[Claim, int]] = {}
        """Held back: whose, and how long its body is in bytes."""
        self.oldest: dict[SessionId, float] = {}
        """Everybody who waits, there or in a room, and since when; the one who has waited longest first."""
        self.line: list[tuple[int, float, SessionId]] = []
        """Those without a room: (0 been in before or 1 new, key, session), and entries that are past."""
        self.claims, self._floor, self._key = claims, floor, key

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
        if len(self.line) > 2 * len(self.steps) + SLACK:
            self.line = [entry for entry in self.line if self._stands(entry)]
            heapq.heapify(self.line)
        heapq.heappush(self.line, (claim.steps == 0, *self._key(claim)))

    def first(self) -> Claim | None:
        """Who stands first in line; entries that are past are dropped."""
        while self.line and not self._stands(self.line[0]):
            heapq.heappop(self.line)
        return self.claims[self.line[0][2]] if self.line else None

    def step_up(self) -> None:
        """The first in line leaves it."""
        heapq.heappop(self.line)

    def seat(self) -> None:
        """Whoever stands in line and has a room again waits there."""
        for _, _, session in self.line:
            claim = self.claims.get(session)
            if claim is not None and claim.waiting and not claim.live:
                home = self._floor.home(claim)
                if home is not None:
                    home.hold(claim)

    def _stands(self, entry: tuple[int, float, SessionId]) -> bool:
        """Whether an entry of the line is not past."""
        claim = self.claims.get(entry[2])
        return claim is not None and self.in_line(claim)

    def in_line(self, claim: Claim) -> bool:
        """Whether it waits, and nowhere else."""
        return bool(claim.waiting) and not claim.live and self._floor.home(claim) is None
