"""The rooms of one model's workers: who is where, and which room is the emptiest."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from saga_core.fleet import Pool
from saga_core.ids import WorkerId
from saga_core.least import Least
from saga_core.policy.admission import Admission
from saga_core.ranked import Rank
from saga_core.rooms import Claim, Room


class Floor:
    """Rooms by worker. `follow` opens and closes them as workers come and go."""

    def __init__(
        self,
        policy: Admission,
        key: Callable[[Claim], Rank],
        victim: Callable[[Claim], Rank],
        due: Callable[[Claim], Rank],
    ) -> None:
        self.rooms: dict[WorkerId, Room] = {}
        self._pool = Pool()
        self.policy, self.key, self.victim, self.due = policy, key, victim, due
        self._emptiest: Least[Room] = Least(lambda room: (room.fullness(room.rested_at), room.id))
        self._turn = 0
        """The room that the next round begins with."""

    def follow(self, pool: Pool, now: float) -> tuple[list[Room], list[Room]]:
        """The ready workers are those of `pool`: the rooms that open and those that close."""
        self._pool = pool
        closed = [self.rooms.pop(name) for name in [n for n in self.rooms if n not in pool.workers]]
        for room in closed:
            self._emptiest.remove(room.id)
        opened = [
            Room(worker, self.policy, now, worker.memory_tokens, self.key, self.victim, self.due)
            for worker in pool.workers.values()
            if worker.id not in self.rooms
        ]
        for room in opened:
            self.rooms[room.id] = room
            self._emptiest.add(room)
        return opened, closed

    def home(self, claim: Claim) -> Room | None:
        """The room of the worker that `claim` is or was at."""
        return self.rooms.get(claim.worker) if claim.worker is not None else None

    def why_left(self, claim: Claim) -> str:
        """Why its steps do not go where it was any more."""
        return self._pool.why_left(claim.worker)

    def live(self, claim: Claim) -> Room | None:
        """Where it is live."""
        return self.home(claim) if claim.live else None

    def emptiest(self) -> Room:
        """The least full; there must be one."""
        return self._emptiest.least()

    def touch(self, room: Room) -> None:
        """It is fuller or emptier than before."""
        self._emptiest.touch(room)

    def round(self, most: int) -> Iterator[Room]:
        """At most so many rooms, beginning with the one at which the round before was stopped."""
        names = list(self.rooms)
        first = self._turn = self._turn if self._turn < len(names) else 0
        for name in (names[first:] + names[:first])[:most]:
            yield self.rooms[name]
            self._turn = (self._turn + 1) % len(names)

    def check(self, now: float) -> None:
        """Raise AssertionError where a room's sums or the order of the rooms are wrong."""
        self._emptiest.check()
        for room in self.rooms.values():
            room.check(now)
