"""Whose turn it is to use the workers' memory: sessions are let in, paused at tool boundaries, and resumed.

Rules of this file
  1. Of a session that is live, every step goes to the worker that has its context, at once.
  2. Who is let in is counted with its whole context and some growth, and while its tool runs with a share that halves
     every `half_life_s`. Between `low` and `high` nothing happens; above `high` the sessions with the largest keys (of
     `victim`, where there is one) that compute nothing are paused.
  3. The paused go before the new, smaller keys before larger ones, and who is overdue before all. A paused session
     that does not fit blocks nobody; a new one that does not fit is waited for, or the large would never get in.
  4. Nothing waits for good: an empty room takes anybody, and after `force_s` everybody is let in.
  5. Who is overdue is waited for, by the order of `due`: nobody who is due later goes in before it, and those who are
     due later are paused as they stop computing, until it fits (docs/fairness.md). Overdue is whom a fair share would
     have finished `grace_s` of virtual time ago; where `due` is something else, who has waited for `patience_s`.
  6. Soft state: after a restart of the head, or another profile, sessions come in as their steps come.

Source: policy study, section 5; ThunderAgent (arXiv 2602.13692) for pause and resume.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

from saga_core import gate_check
from saga_core.accounts import Account
from saga_core.costs import BYTES_PER_TOKEN
from saga_core.decisions import Decisions
from saga_core.door import Door, Grant, Pause
from saga_core.fleet import Pool
from saga_core.floor import Floor
from saga_core.ids import SessionId, StepId, WorkerId, WorkflowId
from saga_core.policy.admission import Admission
from saga_core.policy.ordering import URGENCY_S, Key
from saga_core.rooms import Claim, Room
from saga_core.turns import Turns
from saga_core.waiters import Waiters

ROOMS = 512
"""Rooms looked at per tick: 1 ms. A thousand are through in two ticks, their windows last 200."""
LOOKS = 1024
"""Paused sessions per tick of which it is asked whether they go elsewhere: 1 ms."""
KIN = 64
"""Sessions of one workflow whose keys follow its account at once; beyond, each follows when it changes itself."""


def _rank(key: Key) -> Callable[[Claim], tuple[float, SessionId]]:
    """Claims by priority, of the same one by that key, ties by name."""
    return lambda claim: (
        key(claim.account, claim.tokens) - URGENCY_S * claim.account.priority,
        claim.id,
    )


def _due(key: Key) -> Callable[[Claim], tuple[float, SessionId]]:
    """Claims by that key alone: no priority makes anybody overdue later than it would be (docs/fairness.md)."""
    return lambda claim: (key(claim.account, claim.tokens), claim.id)


class Gate:
    """The gate of one model's workers. What follows from a call is collected; the caller takes it."""

    def __init__(
        self,
        pool: Pool,
        policy: Admission,
        key: Key,
        victim: Key | None = None,
        decisions: Decisions | None = None,
        virtual_s: Callable[[], float] | None = None,
        due: Key | None = None,
        left_s: Callable[[WorkflowId], float] = lambda _: 0.0,
    ) -> None:
        """`victim`: whose largest value is paused first; None: that of `key`. `decisions`: where they are noted.

        due: who is overdue first; None: the smallest key. virtual_s: the model's virtual time, where `due` is a point
        in it; None: it is something else. left_s: how long a workflow is expected to go on, where workers end.
        """
        self.pool, self.policy = pool, policy
        self.claims: dict[SessionId, Claim] = {}
        self.kin: dict[Account, dict[SessionId, Claim]] = {}
        """Claims that share an account, and so change their keys together."""
        by_key = _rank(key)
        by_victim = _rank(victim) if victim is not None else by_key
        by_due = _due(due) if due is not None else by_key
        self.floor = Floor(policy, by_key, by_victim, by_due)
        self.waiters = Waiters(self.claims, self.floor, by_key, by_due)
        self._turns = Turns(decisions or Decisions(), self.floor, self.waiters)
        self.door = Door(self.floor, self.waiters, self._turns, virtual_s, left_s)
        self._version = -1

    def take_grants(self) -> list[Grant]:
        """Steps that may go since the last time, in order."""
        grants, self.door.grants = self.door.grants, []
        return grants

    def take_pauses(self) -> list[Pause]:
        """Sessions that were paused since the last time, in order."""
        pauses, self.door.pauses = self.door.pauses, []
        return pauses

    @property
    def rooms(self) -> dict[WorkerId, Room]:
        return self.floor.rooms

    @property
    def waiting(self) -> int:
        """Steps held back."""
        return len(self.waiters)

    def holds(self, step: StepId) -> bool:
        """Whether `step` is held back."""
        return step in self.waiters.steps

    def held(self) -> list[tuple[StepId, float]]:
        """Every step held back, and since when its session waits."""
        return [(step, claim.since) for step, (claim, _) in self.waiters.steps.items()]

    def counts(self) -> tuple[int, int]:
        """Sessions that wait with a step, and sessions that are paused, with a step or without."""
        waiting = self.waiters.sessions()
        new = sum(claim.worker is None for claim in waiting.values())
        live = sum(len(room.live) for room in self.rooms.values())
        return len(waiting), max(0, len(self.claims) - live - new)

    def demands(self) -> list[tuple[Claim, Room]]:
        """Sessions that wait with a step, each with a room: its own, or else the emptiest."""
        if not self.rooms:
            return []
        usual = self.floor.emptiest()
        return [(claim, self.floor.home(claim) or usual) for claim in self.waiters.sessions().values()]

    def before(self, claim: Claim) -> int:
        """How many of those who wait with a step have a smaller key: of its room if it is paused, else of all."""
        return self._turns.before(claim)

    def late(self, since: float, most: int) -> list[StepId]:
        """Steps of sessions that have waited since `since` or longer, those first who have for longest; `most` or so."""
        return self.waiters.late(since, most)

    def attach(self, pool: Pool) -> None:
        """The workers of the model are in `pool` from now on."""
        if pool is not self.pool:
            self.pool, self._version = pool, -1

    def follow(self, now: float) -> None:
        """The ready workers are other ones than before: rooms open and close."""
        self.door.now = now
        if self._version == self.pool.version:
            return
        self._version = self.pool.version
        opened, closed = self.floor.follow(self.pool, now)
        for room in closed:
            self._leave_behind(room)
        self.waiters.seat()
        for room in opened:
            self.door.fill(room)
        self.door.admit()

    def _leave_behind(self, room: Room) -> None:
        """Its worker is gone. Who was in it stands in line as soon as it has a step."""
        for claim in room.live.values():
            claim.live = False
        for claim in list(room.paused.values()):
            self.waiters.stand(claim)

    # -- steps ---------------------------------------------------------------------------

    def ask(
        self,
        step: StepId,
        session: SessionId,
        account: Account,
        body_bytes: int,
        now: float,
        expected_tokens: int = 0,
    ) -> None:
        """A step of `session` has arrived: it is granted now or later. expected_tokens: that it will write; 0: unsaid."""
        self.follow(now)
        claim = self.claims.get(session)
        if claim is None:
            claim = self.claims[session] = Claim(session, account, since=now)
            self.kin.setdefault(account, {})[session] = claim
        tokens = int(body_bytes / (claim.bytes_per_token or BYTES_PER_TOKEN)) or claim.tokens
        room = self.floor.live(claim)
        if room is None:
            claim.tokens, claim.expected_tokens = tokens, expected_tokens
        elif not claim.flying:
            room.resize(claim, now, tokens, expected_tokens)
            self.door.relieve(room)
        if room is not None and claim.live:
            self._turns.decisions.home(step, claim, room.worker, now)
            self.door.go(step, claim, room, body_bytes, "home")
        else:
            self.waiters.add(step, claim, body_bytes, now)
            self.door.settle(self.floor.home(claim))
            if self.holds(step):
                self._turns.held(step, claim, now)

    def land(
        self,
        step: StepId,
        now: float,
        *,
        prompt_tokens: int | None,
        cached_tokens: int,
        output_tokens: int,
        again_s: float,
    ) -> None:
        """A step is over, or has left its worker. prompt_tokens: None where it came to nothing."""
        self.follow(now)
        self.drop(step)
        flight = self.door.flights.pop(step, None)
        if flight is None:
            return
        claim, room, body_bytes = flight
        tokens = claim.tokens
        if prompt_tokens is not None:
            tokens = prompt_tokens + output_tokens
            claim.bytes_per_token = body_bytes / prompt_tokens if prompt_tokens else 0.0
            if not claim.steps:
                claim.shared = cached_tokens
            claim.steps += 1
        home = self.floor.live(claim)
        if home is None:
            claim.flying -= 1
            claim.tokens, claim.expected_tokens = tokens, 0
            left = self.floor.home(claim)
            if claim.waiting and left is not None:
                left.hold(claim)
        else:
            home.land(claim, now, tokens)
        self._renew(claim)
        if home is not None:
            self.door.relieve(home)
        room.down(now)
        room.again_s += again_s
        self.door.settle(home)

    def bring(self, session: SessionId, worker: WorkerId) -> None:
        """The context of `session`, which does nothing, is at `worker` now."""
        claim = self.claims.get(session)
        if claim is not None and not (claim.live or claim.waiting or claim.flying):
            claim.worker = worker

    def drop(self, step: StepId) -> None:
        """A step that waits does so no more."""
        self.waiters.drop(step)

    def _renew(self, claim: Claim) -> None:
        """The account of `claim` has changed, and with it the keys of its other sessions."""
        kin = self.kin.get(claim.account, {})
        if len(kin) < 2:
            return
        for other in islice(kin.values(), KIN):
            room = self.floor.home(other)
            if room is not None:
                room.touch(other)

    def leave(self, session: SessionId, now: float) -> None:
        """`session` is over; none of its steps is waiting or on a worker any more."""
        self.follow(now)
        claim = self.claims.pop(session, None)
        if claim is None:
            return
        del self.kin[claim.account][session]
        if not self.kin[claim.account]:
            del self.kin[claim.account]
        room = self.floor.live(claim)
        if room is not None:
            room.leave(claim, now)
            self.door.settle(room)

    # -- time ----------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Limits move, the paused may go elsewhere, and nobody waits for good.

        What there is to do is bounded: of many rooms some are looked at and the others next time.
        """
        self.follow(now)
        looks = LOOKS
        for room in self.floor.round(ROOMS):
            if self.door.full or looks <= 0:
                break
            if room.watch(now, held=bool(self.waiters.line or room.paused)):
                self.floor.touch(room)
            if room.paused:
                self.door.fill(room)
                looks -= self.door.rehome(room, looks)
        self.door.force()
        self.door.admit()

    def check(self) -> None:
        """Raise AssertionError where claims, rooms and line disagree."""
        gate_check.check(self, self.door.flights, self.door.now)
