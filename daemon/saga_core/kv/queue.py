"""The order in which free KV blocks are given away: by what their sessions are worth, else least recently used.

One structure for the engine's plugin and for the simulator: an entry is a run of blocks, however long. It moves
no memory and knows no engine: whoever frees blocks appends entries, whoever needs some takes the first.

Rules of this file
  1. Entries are ordered by (worth, place). The place is when they were freed, so equals are in LRU order, and a session
     whose tail is freed first loses its tail first. Where nobody gives a worth, this is vLLM's free queue exactly.
  2. Protection is soft: every entry can be taken, whatever its worth.
  3. Entries that the same sessions use are one *party*: a session's own blocks, a prefix that several share. A party is
     worth what its most valuable member is, counts once, and outlives its first owner.
  4. A change of worth costs O(log n) per party of the session; appending, removing and taking cost O(log n) at most.

How: a party is a ring of entries in the order of places. A heap holds each party that is not empty under a key that is
never above its real one, (worth, place of the first entry); where it is below, the party is filed anew when it comes up.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from heapq import heapify, heappop, heappush, heapreplace
from typing import Generic, TypeVar, cast

from saga_core.kv.retention import OVER, UNVALUED, Worth

SLACK = 64
"""Stale heap entries that are tolerated beside as many as there are valid ones."""


class Entry:
    """A free block, or a run of them. Its owner's to extend; these fields are the queue's."""

    __slots__ = ("after", "before", "party", "place")

    def __init__(self) -> None:
        self.before: Entry | None = None
        """Neighbours within the party; None: not in the queue."""
        self.after: Entry | None = None
        self.party: Party | None = None
        self.place = 0

    @property
    def is_free(self) -> bool:
        return self.after is not None


Filed = tuple[Worth, int, int, "Party"]
"""Its key, a number that no other has, and the party."""


class Party(Entry):
    """Entries that stand and fall together; itself the end of their ring. Made by `FreeQueue.make_party`."""

    __slots__ = ("claims", "filed", "floor", "members", "worth")

    def __init__(self, floor: Worth) -> None:
        super().__init__()
        self.before = self.after = self
        self.floor = self.worth = floor
        self.members: dict[str, None] = {}
        self.claims: list[tuple[int, float, str]] = []
        """Worths of members, negated, some of them outdated: a heap."""
        self.filed: Filed | None = None
        """Its valid entry in the queue's heap; there always is one while it is not empty."""


E = TypeVar("E", bound=Entry)


class FreeQueue(Generic[E]):
    """Free entries, the next to be given away first. A party belongs to one queue."""

    def __init__(self) -> None:
        self._worths: dict[str, Worth] = {}
        self._parties: dict[str, dict[Party, None]] = {}
        self._heap: list[Filed] = []
        self._limit = SLACK
        self._newest = self._oldest = 0
        self._filings = 0
        self.count = 0
        """Entries that are free."""
        self.common = self.make_party(UNVALUED)
        """Of no session."""

    # -- parties and worths --------------------------------------------------------------

    def make_party(self, floor: Worth = OVER) -> Party:
        """A new, empty one. It is never worth less than `floor`: what it is worth when its members are gone."""
        return Party(floor)

    def join(self, party: Party, session: str) -> None:
        """`session` uses what is in `party`."""
        if session not in party.members:
            party.members[session] = None
            self._parties.setdefault(session, {})[party] = None
            self._claim(party, session)

    def dissolve(self, party: Party) -> None:
        """An empty party is not needed any more. Sessions that are over and have nothing else are forgotten."""
        assert party.after is party, "a party with entries"
        for session in party.members:
            self._part(party, session)
        party.members = {}

    def leave(self, party: Party, session: str) -> None:
        """`session` uses what is in `party` no more."""
        del party.members[session]
        self._part(party, session)
        self._appraise(party)

    def raise_floor(self, party: Party, floor: Worth) -> None:
        """`party` is never worth less than `floor` from now on."""
        party.floor = max(party.floor, floor)
        party.worth = max(party.worth, floor)

    def entries(self, party: Party) -> tuple[E, ...]:
        """The free ones of `party`, the oldest first."""
        return tuple(cast("E", entry) for entry in _ring(party))

    def parties(self, session: str) -> tuple[Party, ...]:
        """What `session` uses."""
        return tuple(self._parties.get(session, ()))

    def _part(self, party: Party, session: str) -> None:
        parties = self._parties[session]
        del parties[party]
        if not parties:
            del self._parties[session]
            if self._says_nothing(self._worths.get(session, UNVALUED)):
                self._worths.pop(session, None)

    def _says_nothing(self, worth: Worth) -> bool:
        """Whether it need not be kept of a session that has nothing here."""
        return worth[0] == OVER[0] or worth == UNVALUED

    def value(self, session: str, worth: Worth) -> None:
        """What the KV of `session` is worth from now on. ValueError for what is no number.

        Of a session that is over and has nothing here nothing is kept, so that nobody has to `forget` it.
        """
        if worth[1] != worth[1]:
            raise ValueError(f"session {session}: a worth of {worth}")
        if session not in self._parties and self._says_nothing(worth):
            self._worths.pop(session, None)
        elif self._worths.get(session, UNVALUED) != worth:
            self._worths[session] = worth
            for party in self._parties.get(session, ()):
                self._claim(party, session)

    def forget(self, session: str) -> None:
        """Nobody asks for what is left of `session` any more; what it shares is its fellows'."""
        self._worths.pop(session, None)
        for party in self._parties.pop(session, ()):
            del party.members[session]
            self._appraise(party)

    def worth(self, session: str) -> Worth:
        return self._worths.get(session, UNVALUED)

    @property
    def sessions(self) -> int:
        """How many have a worth or a party."""
        return len(self._worths.keys() | self._parties.keys())

    def _claim(self, party: Party, session: str) -> None:
        standing, value = self.worth(session)
        if len(party.claims) > 2 * len(party.members) + SLACK:
            party.claims = [(-s, -v, name) for name in party.members for s, v in [self.worth(name)]]
            heapify(party.claims)
        else:
            heappush(party.claims, (-standing, -value, session))
        self._appraise(party)

    def _appraise(self, party: Party) -> None:
        claims = party.claims
        while claims and not self._holds(party, claims[0]):
            heappop(claims)
        worth = max(party.floor, (-claims[0][0], -claims[0][1])) if claims else party.floor
        fell = worth < party.worth
        party.worth = worth
        if fell:
            self._file(party)

    def _holds(self, party: Party, claim: tuple[int, float, str]) -> bool:
        session = claim[2]
        return session in party.members and self.worth(session) == (-claim[0], -claim[1])

    # -- entries -------------------------------------------------------------------------

    def append(self, entry: E, party: Party) -> None:
        """Freed now: behind all that is worth the same."""
        self._newest += 1
        self._put(entry, party, self._newest, cast("Entry", party.before))
        if entry.before is party:
            self._file(party)

    def prepend(self, entry: E, party: Party) -> None:
        """In front of all that is worth the same, as vLLM does with blocks that nobody can find."""
        self._oldest -= 1
        self._put(entry, party, self._oldest, party)
        self._file(party)

    def split(self, entry: E, rest: E) -> None:
        """`rest` was part of `entry`: it has its place, directly behind it."""
        assert entry.party is not None
        self._put(rest, entry.party, entry.place, entry)

    def remove(self, entry: E) -> None:
        """It is in use again, or gone."""
        before, after = entry.before, entry.after
        assert before is not None
        assert after is not None
        before.after, after.before = after, before
        entry.before = entry.after = entry.party = None
        self.count -= 1

    def first(self) -> E | None:
        """The next to be given away; it stays."""
        party = self._top()
        return None if party is None else cast("E", party.after)

    def pop(self, count: int) -> list[E]:
        """The next `count`, taken out. IndexError, and nothing done, when there are fewer."""
        if count > self.count:
            raise IndexError(f"{count} entries wanted, {self.count} are free")
        popped: list[E] = []
        while len(popped) < count and (entry := self.first()) is not None:
            self.remove(entry)
            popped.append(entry)
        return popped

    def __iter__(self) -> Iterator[E]:
        """All of them, the next to be given away first. For tests and samples: it sorts."""
        parties = [filed[3] for filed in self._heap if filed[3].filed is filed]
        found = [(party.worth, entry.place, entry) for party in parties for entry in _ring(party)]
        found.sort(key=lambda item: item[:2])  # stable: parts of one entry stay in the order of their ring
        return (cast("E", entry) for _, _, entry in found)

    def _put(self, entry: Entry, party: Party, place: int, before: Entry) -> None:
        after = before.after
        assert after is not None
        entry.party, entry.place = party, place
        entry.before, entry.after = before, after
        before.after = after.before = entry
        self.count += 1

    def _file(self, party: Party) -> None:
        """Enter it under its key, unless it is in the heap under one that is no higher."""
        front = party.after
        if front is party or front is None:
            return
        filed = party.filed
        if filed is not None and (filed[0], filed[1]) <= (party.worth, front.place):
            return
        heappush(self._heap, self._filing(party, front))
        if len(self._heap) > self._limit:
            self._heap = [filed for filed in self._heap if filed[3].filed is filed]
            heapify(self._heap)
            self._limit = 2 * len(self._heap) + SLACK

    def _filing(self, party: Party, front: Entry) -> Filed:
        self._filings += 1
        party.filed = (party.worth, front.place, self._filings, party)
        return party.filed

    def _top(self) -> Party | None:
        """The party whose first entry goes next; it is at the top of the heap under its real key."""
        heap = self._heap
        while heap:
            filed = heap[0]
            worth, place, _, party = filed
            front = party.after
            if party.filed is not filed:
                heappop(heap)
            elif front is party or front is None:
                heappop(heap)
                party.filed = None
            elif place != front.place or worth != party.worth:
                heapreplace(heap, self._filing(party, front))
            else:
                return party
        return None

    def check(self) -> None:
        """AssertionError where rings, heap, members and worths disagree: for tests."""
        valid = [filed for filed in self._heap if filed[3].filed is filed]
        assert len({id(filed[3]) for filed in valid}) == len(valid), "a party filed twice"
        assert self.count == sum(1 for filed in valid for _ in _ring(filed[3])), "entries miscounted"
        for worth, place, _, party in valid:
            places = [entry.place for entry in _ring(party)]
            assert places == sorted(places)
            assert all(entry.party is party for entry in _ring(party))
            assert not places or (worth, place) <= (party.worth, places[0]), "filed too high"
        for session, parties in self._parties.items():
            for party in parties:
                assert session in party.members
                best = max([party.floor, *map(self.worth, party.members)])
                assert party.worth == best, f"{party.worth} instead of {best}"
                assert party.after is party or party.filed is not None, "a party that nobody finds"


def _ring(party: Party) -> Iterable[Entry]:
    entry = party.after
    while entry is not None and entry is not party:
        yield entry
        entry = entry.after
