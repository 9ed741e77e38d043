"""The rooms of one model's workers: who is where, and which room is the emptiest."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from saga_core.fleet import Pool
from saga_core.ids import WorkerId
from saga_core.least import Least
from saga_core.policy.admission import NEVER, Admission
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
        self._emptiest: Least[Room] = Least(_rank)
        self._lasting: dict[float, Least[Room]] = {}
        """The same by when their workers end; empty where none is known to."""
        self._ends: dict[WorkerId, float] = {}
        """By which they are sorted there."""
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
        self._sort_by_end()
        return opened, closed

    def _sort_by_end(self) -> None:
        """Workers of one allocation end together: there are few ends."""
        self._lasting.clear()
        self._ends = (
            {name: self._pool.ends.get(name, NEVER) for name in self.rooms} if self._pool.ends else {}
        )
        for name, end in self._ends.items():
            self._lasting.setdefault(end, Least(_rank)).add(self.rooms[name])

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

    def emptiest_until(self, until: float) -> Room | None:
        """The least full of those whose workers do not end before; None: all do."""
        found = [rooms.least() for end, rooms in self._lasting.items() if end >= until]
        return min(found, key=_rank, default=None)

    def touch(self, room: Room) -> None:
        """It is fuller or emptier than before."""
        self._emptiest.touch(room)
        if self._ends:
            self._lasting[self._ends[room.id]].touch(room)

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
        assert not self._ends or self._ends.keys() == self.rooms.keys(), (
            "rooms that are not sorted by their ends"
        )
        for end, rooms in self._lasting.items():
            rooms.check()
            assert len(rooms) == sum(known == end for known in self._ends.values()), end
        for room in self.rooms.values():
            room.check(now)


def _rank(room: Room) -> tuple[float, str]:
    return (room.fullness(room.rested_at), room.id)
