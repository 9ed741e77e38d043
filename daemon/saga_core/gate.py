"""Whose turn it is to use the workers' memory: sessions are let in, paused at tool boundaries, and resumed.

Rules of this file
  1. Of a session that is live, every step goes to the worker that has its context, at once.
  2. Who is let in is counted with its whole context and some growth, also while its tool runs. Between `low` and
     `high` nothing happens; above `high` the sessions with the largest keys (of `victim`, where there is one) that compute nothing are paused.
  3. The paused go before the new, smaller keys before larger ones. A paused session that does not fit blocks nobody;
     a new one that does not fit is waited for, or the large would never get in.
  4. Nothing waits for good: an empty room takes anybody, and after `force_s` everybody is let in.
  5. Soft state: after a restart of the head, or another profile, sessions come in as their steps come.

Source: policy study, section 5; ThunderAgent (arXiv 2602.13692) for pause and resume.
"""

from __future__ import annotations

import heapq
from collections import deque
from itertools import islice
from typing import NamedTuple

from saga_core.accounts import Account
from saga_core.costs import BYTES_PER_TOKEN
from saga_core.decisions import Decisions, Scores, Verdict
from saga_core.fleet import Pool
from saga_core.ids import SessionId, StepId, WorkerId
from saga_core.least import Least
from saga_core.policy.admission import Admission
from saga_core.policy.ordering import Key
from saga_core.rooms import Claim, Room

CANDIDATES = 4
"""Rooms whose fullness a decision keeps: more of them would tell a person less."""
LOOKED_AT = 64
"""Of those who wait, how many are looked at to say how many are before one."""


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


class Gate:
    """The gate of one model's workers. `grants` and `pauses` collect what follows from a call; the caller takes them."""

    def __init__(
        self,
        pool: Pool,
        policy: Admission,
        key: Key,
        victim: Key | None = None,
        decisions: Decisions | None = None,
    ) -> None:
        """`victim`: whose largest value is paused first; None: that of `key`. `decisions`: where they are noted."""
        self.pool, self.policy = pool, policy
        self.decisions = decisions or Decisions()
        self.rooms: dict[WorkerId, Room] = {}
        self.claims: dict[SessionId, Claim] = {}
        self.grants: list[Grant] = []
        self.pauses: list[Pause] = []
        self._key_of = key
        self._victim_of = victim or key
        self._emptiest: Least[Room] = Least(self._rank)
        self._line: list[tuple[int, float, SessionId]] = []
        """Those without a room: (0 been in before or 1 new, key, session), and entries that are past."""
        self._oldest: deque[tuple[float, SessionId]] = deque()
        """The same in the order in which they came, for the one who has waited too long."""
        self._flights: dict[StepId, Flight] = {}
        self._waiting: dict[StepId, tuple[Claim, int]] = {}
        self._version = -1
        self._now = 0.0

    @property
    def waiting(self) -> int:
        """Steps held back."""
        return len(self._waiting)

    def holds(self, step: StepId) -> bool:
        """Whether `step` is held back."""
        return step in self._waiting

    def held(self) -> list[tuple[StepId, float]]:
        """Every step held back, and since when its session waits."""
        return [(step, claim.since) for step, (claim, _) in self._waiting.items()]

    def attach(self, pool: Pool) -> None:
        """The workers of the model are in `pool` from now on."""
        if pool is not self.pool:
            self.pool, self._version = pool, -1

    def _rank(self, room: Room) -> tuple[float, str]:
        return (self._fullness(room, room.rested_at), room.id)

    def _fullness(self, room: Room, now: float) -> float:
        return room.need(now) / max(1.0, room.room(1.0))

    def _key(self, claim: Claim) -> tuple[float, SessionId]:
        return (self._key_of(claim.account, claim.tokens), claim.id)

    def _victim(self, claim: Claim) -> tuple[float, SessionId]:
        return (self._victim_of(claim.account, claim.tokens), claim.id)

    # -- rooms ---------------------------------------------------------------------------

    def follow(self, now: float) -> None:
        """The ready workers are other ones than before: rooms open and close."""
        self._now = now
        if self._version == self.pool.version:
            return
        self._version = self.pool.version
        for name in [name for name in self.rooms if name not in self.pool.workers]:
            self._close(self.rooms.pop(name))
        opened: list[Room] = []
        for worker in self.pool.workers.values():
            if worker.id not in self.rooms:
                room = self.rooms[worker.id] = Room(worker, self.policy, now, worker.memory_tokens)
                self._emptiest.add(room)
                opened.append(room)
        for _, _, session in self._line:
            claim = self.claims.get(session)
            if claim is not None and claim.waiting and not claim.live and claim.worker in self.rooms:
                self.rooms[claim.worker].paused[session] = claim
        for room in opened:
            self._fill(room)
        self._admit()

    def _close(self, room: Room) -> None:
        """Its worker is gone. Who was in it stands in line as soon as it has a step."""
        self._emptiest.remove(room.id)
        for claim in room.live.values():
            claim.live = False
        for claim in list(room.paused.values()):
            self._stand_in_line(claim)

    # -- steps ---------------------------------------------------------------------------

    def ask(self, step: StepId, session: SessionId, account: Account, body_bytes: int, now: float) -> None:
        """A step of `session` has arrived: it is granted now or later."""
        self.follow(now)
        claim = self.claims.get(session)
        if claim is None:
            claim = self.claims[session] = Claim(session, account, since=now)
        tokens = int(body_bytes / (claim.bytes_per_token or BYTES_PER_TOKEN)) or claim.tokens
        room = self._room_of(claim)
        if room is None:
            claim.tokens = tokens
        elif not claim.flying:
            room.resize(claim, now, tokens)
            self._relieve(room)
        if room is not None and claim.live:
            self.decisions.home(step, claim, room.worker, now)
            self._go(step, claim, room, body_bytes, "home")
        else:
            self._settle(self._hold(step, claim, body_bytes))
            if step in self._waiting:
                self._note_held(step, claim)

    def _note_held(self, step: StepId, claim: Claim) -> None:
        home = self.rooms.get(claim.worker) if claim.worker is not None else None
        room = home or (self._emptiest.least() if self.rooms else None)
        self.decisions.turn(
            Verdict.HELD,
            claim,
            room,
            self._now,
            key=self._key(claim)[0],
            share=self.policy.low,
            step=step,
            ahead=self._ahead(claim, home),
            waiting=len(self._waiting),
            scores=self._scores(room),
        )

    def _ahead(self, claim: Claim, home: Room | None) -> int | None:
        """How many are before it: of the paused of its room, else of the line; None: too many to count."""
        mine = self._key(claim)
        if home is not None:
            others = [self._key(other) for other in islice(home.paused.values(), LOOKED_AT + 1)]
            return sum(key < mine for key in others) if len(others) <= LOOKED_AT else None
        if len(self._line) > LOOKED_AT:
            return None
        place = (claim.steps == 0, *mine)
        return sum(entry < place for entry in self._line)

    def _scores(self, room: Room | None) -> Scores:
        """How full some rooms are, `room` among them."""
        found = {found.id: found for found in (room, *islice(self.rooms.values(), CANDIDATES)) if found}
        return tuple((r.id, self._fullness(r, self._now)) for r in islice(found.values(), CANDIDATES))

    def _room_of(self, claim: Claim) -> Room | None:
        """Where it is live."""
        return self.rooms.get(claim.worker) if claim.live and claim.worker is not None else None

    def _hold(self, step: StepId, claim: Claim, body_bytes: int) -> Room | None:
        """Let it wait where it was live, or in line."""
        self._waiting[step] = (claim, body_bytes)
        if not claim.waiting:
            claim.since = self._now
        claim.waiting[step] = None
        home = self.rooms.get(claim.worker) if claim.worker is not None else None
        if home is not None:
            home.paused[claim.id] = claim
        elif len(claim.waiting) == 1:
            self._stand_in_line(claim)
        return home

    def _stand_in_line(self, claim: Claim) -> None:
        heapq.heappush(self._line, (claim.steps == 0, *self._key(claim)))
        self._oldest.append((self._now, claim.id))

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
        flight = self._flights.pop(step, None)
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
        home = self._room_of(claim)
        if home is None:
            claim.flying -= 1
            claim.tokens = tokens
        else:
            home.land(claim, now, tokens)
            self._relieve(home)
        room.down(now)
        room.again_s += again_s
        self._settle(home)

    def drop(self, step: StepId) -> None:
        """A step that waits does so no more."""
        found = self._waiting.pop(step, None)
        if found is None:
            return
        claim = found[0]
        del claim.waiting[step]
        if not claim.waiting and claim.worker in self.rooms:
            self.rooms[claim.worker].paused.pop(claim.id, None)

    def leave(self, session: SessionId, now: float) -> None:
        """`session` is over; none of its steps is waiting or on a worker any more."""
        self.follow(now)
        claim = self.claims.pop(session, None)
        if claim is None:
            return
        room = self._room_of(claim)
        if room is not None:
            room.leave(claim, now)
            self._settle(room)

    # -- who goes in ---------------------------------------------------------------------

    def _relieve(self, room: Room) -> None:
        """Above the upper limit, pause those with the largest keys among those that compute nothing."""
        while len(room.live) > 1 and room.need(self._now) > room.room(self.policy.high):
            idle = [claim for claim in room.live.values() if not claim.flying]
            if not idle:
                break
            last = max(idle, key=self._victim)
            room.leave(last, self._now)
            share = room.need(self._now) / room.room(1.0)
            self.decisions.turn(
                Verdict.PAUSED,
                last,
                room,
                self._now,
                key=self._victim(last)[0],
                share=self.policy.high,
                waiting=len(idle),
            )
            self.pauses.append(Pause(last.id, room.id, f"{room.id} is full ({share:.2f} without it)"))
        self._emptiest.touch(room)

    def _settle(self, room: Room | None) -> None:
        """There may be space: in `room`, or for who has none."""
        if room is not None and room.id in self.rooms:
            self._fill(room)
        self._admit()

    def _fill(self, room: Room) -> None:
        """Resume the paused of a room, the smallest key of those that fit first."""
        while room.paused:
            space = room.room(self.policy.low) - room.need(self._now)
            fitting = [c for c in room.paused.values() if not room.live or room.cost(c) <= space]
            if not fitting:
                break
            self._let_in(min(fitting, key=self._key), room, Verdict.RESUMED, "resumed at home")
        self._emptiest.touch(room)

    def _admit(self) -> None:
        """Let in who stands in line, in order, while the emptiest room has space."""
        while self._line and self.rooms:
            _, _, name = self._line[0]
            claim = self.claims.get(name)
            if claim is None or not self._in_line(claim):
                heapq.heappop(self._line)
                continue
            room = self._emptiest.least()
            if not room.fits(claim, self._now, self.policy.low):
                return
            heapq.heappop(self._line)
            if not claim.steps:
                self._let_in(claim, room, Verdict.LET_IN, "let in")
            else:
                self._let_in(claim, room, Verdict.MOVED, "resumed elsewhere: its worker is gone")

    def _let_in(self, claim: Claim, room: Room, verdict: Verdict, rule: str) -> None:
        waited_s = self._now - claim.since
        before = self._fullness(room, self._now)
        self.decisions.turn(
            verdict,
            claim,
            room,
            self._now,
            key=self._key(claim)[0],
            share=self.policy.low,
            step=next(iter(claim.waiting), None),
            rule=rule,
            waited_s=waited_s,
            scores=self._scores(room),
        )
        why = f"{rule} after {waited_s:.1f} s: {claim.tokens} tokens, {before:.2f} of {room.id} in use"
        room.enter(claim, self._now)
        for step in list(claim.waiting):
            _, body_bytes = self._waiting.pop(step)
            self._go(step, claim, room, body_bytes, why)
        claim.waiting.clear()
        self._emptiest.touch(room)

    def _go(self, step: StepId, claim: Claim, room: Room, body_bytes: int, why: str) -> None:
        room.take_off(claim, self._now)
        self._flights[step] = Flight(claim, room, body_bytes)
        self._emptiest.touch(room)
        self.grants.append(Grant(step, room.id, why))

    # -- time ----------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Limits move, the paused may go elsewhere, and nobody waits for good."""
        self.follow(now)
        decaying = self.policy.half_life_s > 0.0
        for room in list(self.rooms.values()):
            moved = room.watch(now, held=bool(self._line or room.paused))
            if moved or decaying:
                self._emptiest.touch(room)
            if room.paused:
                self._look_after(room)
        self._force()
        self._admit()

    def _force(self) -> None:
        """Nobody stands in line for good."""
        late = self._now - self.policy.force_s
        while self._oldest and self._oldest[0][0] <= late and self.rooms:
            claim = self.claims.get(self._oldest.popleft()[1])
            if claim is not None and self._in_line(claim) and claim.since <= late:
                self._let_in(claim, self._emptiest.least(), Verdict.FORCED, "let in by force")

    def _in_line(self, claim: Claim) -> bool:
        return bool(claim.waiting) and not claim.live and claim.worker not in self.rooms

    def _look_after(self, room: Room) -> None:
        self._fill(room)
        for claim in sorted(room.paused.values(), key=self._key):
            best = self._emptiest.least()
            if self._now - claim.since > self.policy.force_s:
                self._let_in(claim, room, Verdict.FORCED, "let in by force")
            elif (
                self._may_move(claim, room)
                and best is not room
                and best.fits(claim, self._now, self.policy.low)
            ):
                del room.paused[claim.id]
                why = f"resumed elsewhere: little of it is left at {room.id}"
                self._let_in(claim, best, Verdict.MOVED, why)

    def _may_move(self, claim: Claim, room: Room) -> bool:
        return room.worker.resident.get(claim.id, 0) < self.policy.rehome_share * claim.tokens

    def check(self) -> None:
        """Raise AssertionError where claims, rooms and line disagree."""
        self._emptiest.check()
        for room in self.rooms.values():
            room.check(self._now)
        in_line = {name for _, _, name in self._line}
        for claim in self.claims.values():
            if claim.live:
                assert not claim.waiting, f"{claim.id} is live and waits"
                assert claim.worker in self.rooms, f"{claim.id} is live nowhere"
                assert claim.id in self.rooms[claim.worker].live, claim.id
            elif claim.waiting:
                paused = claim.worker in self.rooms and claim.id in self.rooms[claim.worker].paused
                assert paused or claim.id in in_line, f"{claim.id} waits nowhere"
        waiting = {step for claim in self.claims.values() for step in claim.waiting}
        assert waiting == self._waiting.keys(), "waiting steps miscounted"
        flying: dict[SessionId, int] = {}
        for flight in self._flights.values():
            flying[flight.claim.id] = flying.get(flight.claim.id, 0) + 1
        for room in self.rooms.values():
            there = sum(flight.room is room for flight in self._flights.values())
            assert room.flying == there, f"{room.id} miscounts what is on the worker"
            if not room.live:
                assert not room.paused, f"{room.id} is empty and somebody waits for it"
                assert not any(self._in_line(c) for c in self.claims.values()), (
                    f"{room.id} is empty and there is a line"
                )
        for claim in self.claims.values():
            assert claim.flying == flying.get(claim.id, 0), f"{claim.id} miscounts its steps"
