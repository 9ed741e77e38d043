"""Whose turn it is to use the workers' memory: sessions are let in, paused at tool boundaries, and resumed.

Rules of this file
  1. Of a session that is live, every step goes to the worker that has its context, at once.
  2. Who is let in is counted with its whole context and some growth, and while its tool runs with a share that halves
     every `half_life_s`. Between `low` and `high` nothing happens; above `high` the sessions with the largest keys (of
     `victim`, where there is one) that compute nothing are paused.
  3. The paused go before the new, smaller keys before larger ones. A paused session that does not fit blocks nobody;
     a new one that does not fit is waited for, or the large would never get in.
  4. Nothing waits for good: an empty room takes anybody, and after `force_s` everybody is let in.
  5. Who is overdue is waited for: nobody with a larger key goes in before it, and those with larger keys are paused as
     they stop computing, until it fits (docs/fairness.md). Overdue is whom a fair share would have finished `grace_s`
     of virtual time ago; where keys are something else, who has waited for `patience_s`.
  6. Soft state: after a restart of the head, or another profile, sessions come in as their steps come.

Source: policy study, section 5; ThunderAgent (arXiv 2602.13692) for pause and resume.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import islice
from typing import NamedTuple

from saga_core.accounts import Account
from saga_core.costs import BYTES_PER_TOKEN
from saga_core.decisions import Decisions, Scores, Verdict
from saga_core.fleet import Pool
from saga_core.ids import SessionId, StepId, WorkerId
from saga_core.least import Least
from saga_core.policy.admission import NEVER, Admission
from saga_core.policy.ordering import Key
from saga_core.rooms import Claim, Room

CANDIDATES = 4
"""Rooms whose fullness a decision keeps: more of them would tell a person less."""
LOOKED_AT = 64
"""Of those who wait, how many are looked at to say how many are before one."""
AT_ONCE = 128
"""Grants after which the rest waits for the next event or tick: some 3 ms of the head's loop."""
ROOMS = 512
"""Rooms looked at per tick: 1 ms. A thousand are through in two ticks, their windows last 200."""
LOOKS = 1024
"""Paused sessions per tick of which it is asked whether they go elsewhere: 1 ms."""
KIN = 64
"""Sessions of one workflow whose keys follow its account at once; beyond, each follows when it changes itself."""
SLACK = 64
"""Entries of the line that may be past before it is tidied."""


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
        virtual_s: Callable[[], float] | None = None,
    ) -> None:
        """`victim`: whose largest value is paused first; None: that of `key`. `decisions`: where they are noted.

        virtual_s: the model's virtual time, where keys are points in it; None: they are something else.
        """
        self.pool, self.policy = pool, policy
        self.decisions = decisions or Decisions()
        self.rooms: dict[WorkerId, Room] = {}
        self.claims: dict[SessionId, Claim] = {}
        self.grants: list[Grant] = []
        self.pauses: list[Pause] = []
        self._key_of = key
        self._victim_of = victim or key
        self._virtual_s = virtual_s
        self._emptiest: Least[Room] = Least(self._rank)
        self._line: list[tuple[int, float, SessionId]] = []
        """Those without a room: (0 been in before or 1 new, key, session), and entries that are past."""
        self._oldest: dict[SessionId, float] = {}
        """Everybody who waits, there or in a room, and since when; the one who has waited longest first."""
        self._kin: dict[Account, dict[SessionId, Claim]] = {}
        """Claims that share an account, and so change their keys together."""
        self._turn = 0
        """The room that the next tick begins with."""
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

    def counts(self) -> tuple[int, int]:
        """Sessions that wait with a step, and sessions that are paused, with a step or without."""
        waiting = {claim.id: claim for claim, _ in self._waiting.values()}
        new = sum(claim.worker is None for claim in waiting.values())
        live = sum(len(room.live) for room in self.rooms.values())
        return len(waiting), max(0, len(self.claims) - live - new)

    def before(self, claim: Claim) -> int:
        """How many of those who wait with a step have a smaller key: of its room if it is paused, else of all."""
        mine = self._key(claim)
        home = self.rooms.get(claim.worker) if claim.worker is not None else None
        others = (
            home.paused.values()
            if home is not None
            else {c.id: c for c, _ in self._waiting.values()}.values()
        )
        return sum(self._key(other) < mine for other in others)

    def late(self, since: float, most: int) -> list[StepId]:
        """Steps of sessions that have waited since `since` or longer, those first who have for longest; `most` or so."""
        found: list[StepId] = []
        for name, at in self._oldest.items():
            if at > since or len(found) >= most:
                break
            found += self.claims[name].waiting
        return found

    def attach(self, pool: Pool) -> None:
        """The workers of the model are in `pool` from now on."""
        if pool is not self.pool:
            self.pool, self._version = pool, -1

    def _rank(self, room: Room) -> tuple[float, str]:
        return (room.fullness(room.rested_at), room.id)

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
                room = Room(worker, self.policy, now, worker.memory_tokens, self._key, self._victim)
                self.rooms[worker.id] = room
                self._emptiest.add(room)
                opened.append(room)
        for _, _, session in self._line:
            claim = self.claims.get(session)
            if claim is not None and claim.waiting and not claim.live and claim.worker in self.rooms:
                self.rooms[claim.worker].hold(claim)
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
            self._kin.setdefault(account, {})[session] = claim
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
        return tuple((r.id, r.fullness(self._now)) for r in islice(found.values(), CANDIDATES))

    def _room_of(self, claim: Claim) -> Room | None:
        """Where it is live."""
        return self.rooms.get(claim.worker) if claim.live and claim.worker is not None else None

    def _hold(self, step: StepId, claim: Claim, body_bytes: int) -> Room | None:
        """Let it wait where it was live, or in line."""
        self._waiting[step] = (claim, body_bytes)
        if not claim.waiting:
            claim.since = self._oldest[claim.id] = self._now
        claim.waiting[step] = None
        home = self.rooms.get(claim.worker) if claim.worker is not None else None
        if home is not None:
            home.hold(claim)
        elif len(claim.waiting) == 1:
            self._stand_in_line(claim)
        return home

    def _stand_in_line(self, claim: Claim) -> None:
        if len(self._line) > 2 * len(self._waiting) + SLACK:
            self._line = [entry for entry in self._line if self._stands(entry)]
            heapq.heapify(self._line)
        heapq.heappush(self._line, (claim.steps == 0, *self._key(claim)))

    def _stands(self, entry: tuple[int, float, SessionId]) -> bool:
        """Whether an entry of the line is not past."""
        claim = self.claims.get(entry[2])
        return claim is not None and self._in_line(claim)

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
            if claim.waiting and claim.worker in self.rooms:
                self.rooms[claim.worker].hold(claim)
        else:
            home.land(claim, now, tokens)
        self._renew(claim)
        if home is not None:
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
        if claim.waiting:
            return
        del self._oldest[claim.id]
        if claim.worker in self.rooms:
            self.rooms[claim.worker].let_go(claim.id)

    def _renew(self, claim: Claim) -> None:
        """The account of `claim` has changed, and with it the keys of its other sessions."""
        kin = self._kin.get(claim.account, {})
        if len(kin) < 2:
            return
        for other in islice(kin.values(), KIN):
            room = self.rooms.get(other.worker) if other.worker is not None else None
            if room is not None:
                room.touch(other)

    def leave(self, session: SessionId, now: float) -> None:
        """`session` is over; none of its steps is waiting or on a worker any more."""
        self.follow(now)
        claim = self.claims.pop(session, None)
        if claim is None:
            return
        del self._kin[claim.account][session]
        if not self._kin[claim.account]:
            del self._kin[claim.account]
        room = self._room_of(claim)
        if room is not None:
            room.leave(claim, now)
            self._settle(room)

    # -- who goes in ---------------------------------------------------------------------

    def _relieve(self, room: Room) -> None:
        """Above the upper limit, pause those with the largest keys among those that compute nothing."""
        while len(room.live) > 1 and room.need(self._now) > room.room(self.policy.high):
            last = room.idle.last()
            if last is None:
                break
            self._pause(last, room, "is full")
        self._emptiest.touch(room)

    def _pause(self, claim: Claim, room: Room, rule: str) -> None:
        idle = len(room.idle)
        room.leave(claim, self._now)
        share = room.need(self._now) / room.room(1.0)
        self.decisions.turn(
            Verdict.PAUSED,
            claim,
            room,
            self._now,
            key=self._victim(claim)[0],
            share=self.policy.high,
            rule=rule,
            waiting=idle,
        )
        self.pauses.append(Pause(claim.id, room.id, f"{room.id} {rule} ({share:.2f} without it)"))

    # -- who is overdue ------------------------------------------------------------------

    def _overdue(self, claim: Claim) -> bool:
        """Whether a fair share would have finished it long ago; where keys do not say so, whether it has waited long."""
        if self._virtual_s is not None:
            return self._virtual_s() >= self._key(claim)[0] + self.policy.grace_s
        return self._now - claim.since >= self.policy.patience_s

    def _clear(self, room: Room, claim: Claim) -> bool:
        """Pause those of larger keys that compute nothing until `claim`, overdue, fits. Whether it does."""
        mine = self._key(claim)
        while not room.fits(claim, self._now, self.policy.low):
            last = room.idle.last()
            if last is None or self._key(last) <= mine:
                return False
            self._pause(last, room, f"is wanted for {claim.id}, which is overdue")
            self._emptiest.touch(room)
        return True

    def _first_in_line(self) -> Claim | None:
        """Who stands first in line; entries that are past are dropped."""
        while self._line and not self._stands(self._line[0]):
            heapq.heappop(self._line)
        return self.claims[self._line[0][2]] if self._line else None

    def _is_promised(self, room: Room, claim: Claim) -> bool:
        """Whether the space of `room` is for somebody overdue in line, who is before `claim`."""
        first = self._first_in_line()
        if first is None or self._key(first) >= self._key(claim) or not self._overdue(first):
            return False
        self._emptiest.touch(room)
        return room is self._emptiest.least()

    def _settle(self, room: Room | None) -> None:
        """There may be space: in `room`, or for who has none."""
        if room is not None and room.id in self.rooms:
            if room.paused:
                self._fill(room)
            self._emptiest.touch(room)
        if self._line:
            self._admit()

    def _next(self, room: Room, space: float) -> Claim | None:
        """Who is to be resumed in `space`: the first if it is overdue, and else the first that fits."""
        first = next(iter(room.order))
        if room.cost(first) > space and self._overdue(first):
            return first if self._clear(room, first) else None
        return room.next(space)

    def _fill(self, room: Room) -> None:
        """Resume the paused of a room, the smallest key of those that fit first."""
        while room.paused and len(self.grants) < AT_ONCE:
            space = room.room(self.policy.low) - room.need(self._now) if room.live else NEVER
            claim = self._next(room, space)
            if claim is None or (room.live and self._is_promised(room, claim)):
                break
            self._let_in(claim, room, Verdict.RESUMED, "resumed at home")

    def _admit(self) -> None:
        """Let in who stands in line, in order, while the emptiest room has space."""
        while self.rooms and len(self.grants) < AT_ONCE:
            claim = self._first_in_line()
            if claim is None:
                return
            room = self._emptiest.least()
            if not room.fits(claim, self._now, self.policy.low) and not (
                self._overdue(claim) and self._clear(room, claim)
            ):
                return
            heapq.heappop(self._line)
            if not claim.steps:
                self._let_in(claim, room, Verdict.LET_IN, "let in")
            else:
                self._let_in(claim, room, Verdict.MOVED, "resumed elsewhere: its worker is gone")

    def _let_in(self, claim: Claim, room: Room, verdict: Verdict, rule: str) -> None:
        waited_s = self._now - claim.since
        before = room.fullness(self._now)
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
        del self._oldest[claim.id]
        self._emptiest.touch(room)

    def _go(self, step: StepId, claim: Claim, room: Room, body_bytes: int, why: str) -> None:
        room.take_off(claim, self._now)
        self._flights[step] = Flight(claim, room, body_bytes)
        self._emptiest.touch(room)
        self.grants.append(Grant(step, room.id, why))

    # -- time ----------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Limits move, the paused may go elsewhere, and nobody waits for good.

        What there is to do is bounded: of many rooms some are looked at and the others next time.
        """
        self.follow(now)
        names, looks = list(self.rooms), LOOKS
        first = self._turn = self._turn if self._turn < len(names) else 0
        for name in (names[first:] + names[:first])[:ROOMS]:
            if len(self.grants) >= AT_ONCE or looks <= 0:
                break
            self._turn = (self._turn + 1) % len(names)
            room = self.rooms[name]
            if room.watch(now, held=bool(self._line or room.paused)):
                self._emptiest.touch(room)
            if room.paused:
                self._fill(room)
                looks -= self._rehome(room, looks)
        self._force()
        self._admit()

    def _force(self) -> None:
        """Nobody waits for good."""
        late = self._now - self.policy.force_s
        while self._oldest and self.rooms and len(self.grants) < AT_ONCE:
            name, since = next(iter(self._oldest.items()))
            if since > late:
                break
            claim = self.claims[name]
            home = self.rooms.get(claim.worker) if claim.worker is not None else None
            self._let_in(claim, home or self._emptiest.least(), Verdict.FORCED, "let in by force")

    def _in_line(self, claim: Claim) -> bool:
        return bool(claim.waiting) and not claim.live and claim.worker not in self.rooms

    def _rehome(self, room: Room, most: int) -> int:
        """Resume those elsewhere of whom little is left here, the smallest keys first; how many were looked at."""
        looks = 0
        for claim in room.order if self._takes_any(room) else ():
            if looks == most or not self._takes_any(room):
                break
            looks += 1
            best = self._emptiest.least()
            if not self._may_move(claim, room) or self._is_promised(best, claim):
                continue
            if best.fits(claim, self._now, self.policy.low):
                room.let_go(claim.id)
                self._let_in(
                    claim, best, Verdict.MOVED, f"resumed elsewhere: little of it is left at {room.id}"
                )
        return looks

    def _takes_any(self, room: Room) -> bool:
        """Whether the emptiest room is another one than `room` and takes the cheapest of those that wait there."""
        best = self._emptiest.least()
        return best is not room and best.takes(room.least_cost, self._now, self.policy.low)

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
        assert self._oldest == {c.id: c.since for c in self.claims.values() if c.waiting}, (
            "who waits, and since when"
        )
        assert {name for kin in self._kin.values() for name in kin} == self.claims.keys(), "kin miscounted"
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
