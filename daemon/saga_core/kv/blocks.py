"""Which session uses which block of a paged KV pool, and in which order free blocks are given away.

The engine's plugin and the engine's double put this in the place of their free list. It knows no engine: it is told
who uses which blocks, which become free and how many are wanted.

Rules of this file
  1. A block belongs to a holding from its first use until it is given away: through being shared, freed, found again,
     through preemption and an end in mid-prompt. So whoever frees it need not say whose it was.
  2. Blocks that the same sessions use are one holding, worth what its most valuable session is. A block that a second
     session finds moves to a holding of both; what several workflows have used is nobody's to end.
  3. Free blocks without content go first of all; what nobody has valued goes least recently used first. Without any
     worth the order is vLLM's own.
  4. A time to live is soft: when it has passed, nobody has said anything of that session.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from heapq import heappop, heappush
from itertools import groupby
from math import inf, isnan
from operator import attrgetter
from typing import Generic, TypeVar

from saga_core.kv.queue import Entry, FreeQueue, Party
from saga_core.kv.retention import OVER, UNVALUED, Worth

EMPTY: Worth = (-1, 0.0)
"""Of blocks without content: below everything that can be found."""
MOST_MEMBERS = 1024
"""Sessions of one holding, beyond which those that nobody has valued leave it, the oldest first: a prompt that everybody
begins with would otherwise remember all who ever did."""

T = TypeVar("T")
_holding = attrgetter("holding")


class Slot(Entry, Generic[T]):
    """One block of the pool, `item` in the engine's words."""

    __slots__ = ("holding", "item")

    def __init__(self, item: T) -> None:
        super().__init__()
        self.item = item
        self.holding: Holding | None = None
        """None: of no session."""


class Holding(Party):
    """Blocks that the same sessions use; `blocks` of them, free or not."""

    __slots__ = ("blocks", "owner")

    def __init__(self, floor: Worth = OVER, owner: str = "") -> None:
        super().__init__(floor)
        self.blocks = 0
        self.owner = owner
        """The session whose new blocks come here; "": none, several use it."""


class BlockOrder(Generic[T]):
    """The blocks of one pool. They begin in use; `free_empty` them."""

    def __init__(self, items: Iterable[T], now: Callable[[], float]) -> None:
        """`now` is a clock in seconds, for times to live."""
        self.slots = [Slot(item) for item in items]
        self.queue: FreeQueue[Slot[T]] = FreeQueue()
        self.evicted_blocks = 0
        """Blocks with content that were given away."""
        self._now = now
        self._empty = self.queue.make_party(EMPTY)
        self._own: dict[str, Holding] = {}
        self._until: dict[str, float] = {}
        self._ends: list[tuple[float, str]] = []
        """Times to live; entries that `_until` does not confirm are past."""

    # -- free blocks ---------------------------------------------------------------------

    def free(self, slots: Iterable[Slot[T]]) -> None:
        """These can be found and nobody uses them now; of equals the first goes first (so a tail before its head)."""
        for holding, run in groupby(slots, _holding):
            self.queue.extend(run, holding or self.queue.common)

    def free_empty(self, slots: Sequence[Slot[T]]) -> None:
        """These hold nothing; the first goes first, before all others."""
        for slot in reversed(slots):
            self._disown(slot)
            self.queue.prepend(slot, self._empty)

    def touch(self, slot: Slot[T]) -> None:
        """A free block is in use again, with what it holds."""
        self.queue.remove(slot)

    def take(self, count: int) -> list[T]:
        """The next `count` to be given away; whose they were is forgotten. IndexError: there are fewer."""
        if self._ends and self._ends[0][0] <= self._now():
            self._expire()
        taken: list[T] = []
        for holding, run in self.queue.pop_runs(count):
            if isinstance(holding, Holding):
                for slot in run:
                    slot.holding = None
                self.evicted_blocks += len(run)
                self._shrink(holding, len(run))
            taken += [slot.item for slot in run]
        return taken

    def __iter__(self) -> Iterator[T]:
        """The free blocks, the next to be given away first. It sorts."""
        return (slot.item for slot in self.queue)

    def _disown(self, slot: Slot[T]) -> None:
        holding = slot.holding
        if holding is None:
            return
        slot.holding = None
        self._shrink(holding, 1)

    def _shrink(self, holding: Holding, blocks: int) -> None:
        holding.blocks -= blocks
        if not holding.blocks:
            self._close(holding)

    def _close(self, holding: Holding) -> None:
        if holding.owner:
            self._own.pop(holding.owner, None)
        self.queue.dissolve(holding)

    # -- who uses them -------------------------------------------------------------------

    def use(self, session: str, slots: Iterable[Slot[T]]) -> None:
        """A request of `session` uses these blocks, all in use now: new ones, and found ones whoever stored them."""
        found: dict[Holding, list[Slot[T]]] = {}
        own = self._own.get(session)
        for holding, run in groupby(slots, _holding):
            if holding is None:
                own = own or self._open(session)
                new = list(run)
                for slot in new:
                    slot.holding = own
                own.blocks += len(new)
            elif session not in holding.members:
                found.setdefault(holding, []).extend(run)
        for holding, shared in found.items():
            self._share(holding, shared, session)

    def _open(self, session: str) -> Holding:
        own = self._own[session] = Holding(owner=session)
        self.queue.join(own, session)
        return own

    def _share(self, holding: Holding, slots: list[Slot[T]], session: str) -> None:
        """`slots` of `holding` are used by `session` as well."""
        if len(slots) < holding.blocks:
            holding = self._split(holding, slots)
        elif holding.owner:
            del self._own[holding.owner]
            holding.owner = ""
        if any(_workflow(member) != _workflow(session) for member in holding.members):
            self.queue.raise_floor(holding, UNVALUED)
        self.queue.join(holding, session)
        if len(holding.members) > MOST_MEMBERS:
            self._thin(holding)

    def _split(self, holding: Holding, slots: list[Slot[T]]) -> Holding:
        part = Holding(holding.floor)
        for member in holding.members:
            self.queue.join(part, member)
        for slot in slots:
            slot.holding = part
        holding.blocks -= len(slots)
        part.blocks = len(slots)
        return part

    def _thin(self, holding: Holding) -> None:
        silent = [member for member in holding.members if self.queue.worth(member) == UNVALUED]
        for member in silent[: MOST_MEMBERS // 2]:
            self.queue.leave(holding, member)

    # -- what they are worth -------------------------------------------------------------

    def retain(self, session: str, worth: Worth, ttl_s: float = inf) -> None:
        """The KV of `session` is worth `worth`, for `ttl_s` seconds. ValueError for what is no number."""
        if isnan(worth[1]) or isnan(ttl_s):
            raise ValueError(f"session {session}: a worth of {worth} for {ttl_s} s")
        self._until.pop(session, None)
        if worth[0] <= OVER[0]:
            self._end(session)
            return
        self.queue.value(session, worth)
        if ttl_s < inf:
            self._until[session] = end = self._now() + ttl_s
            heappush(self._ends, (end, session))

    def release(self, session: str) -> None:
        """Nobody says what `session` is worth any more: least recently used first."""
        self._until.pop(session, None)
        self.queue.value(session, UNVALUED)

    def drop(self, session: str) -> list[T]:
        """Nothing of `session` is wanted: what it alone uses is empty now, if it is free. Those blocks, to be forgotten.

        What others use or used as well stays, and what a request of it still computes goes first once it is freed.
        """
        parties = self.queue.parties(session)
        mine = [party for party in parties if len(party.members) == 1 and party.floor == OVER]
        freed = [slot for party in mine for slot in self.queue.entries(party)]
        for slot in freed:
            self.queue.remove(slot)
        self._until.pop(session, None)
        self._end(session)
        self.free_empty(freed)
        return [slot.item for slot in freed]

    def _end(self, session: str) -> None:
        own = self._own.pop(session, None)
        if own is not None:
            own.owner = ""
        self.queue.forget(session)

    def _expire(self) -> None:
        now = self._now()
        while self._ends and self._ends[0][0] <= now:
            end, session = heappop(self._ends)
            if self._until.get(session) == end:
                self.release(session)

    def reset(self) -> None:
        """No block holds anything any more. What sessions are worth still stands."""
        free = list(self.queue)
        for slot in free:
            self.queue.remove(slot)
        for slot in self.slots:
            self._disown(slot)
        self.free_empty(free)

    # -- looking -------------------------------------------------------------------------

    @property
    def count(self) -> int:
        """Free blocks."""
        return self.queue.count

    def sessions(self) -> dict[str, tuple[int, int]]:
        """(blocks that it alone uses, blocks that it shares) of every session with something here."""
        found: dict[str, tuple[int, int]] = {}
        for holding in self.holdings():
            alone = len(holding.members) == 1
            for session in holding.members:
                mine, shared = found.get(session, (0, 0))
                found[session] = (mine + holding.blocks, shared) if alone else (mine, shared + holding.blocks)
        return found

    def holdings(self) -> Collection[Holding]:
        return {slot.holding: None for slot in self.slots if slot.holding is not None}

    def check(self) -> None:
        """AssertionError where slots, holdings and queue disagree: for tests."""
        self.queue.check()
        counts: dict[Holding, int] = {}
        for slot in self.slots:
            if slot.holding is not None:
                counts[slot.holding] = counts.get(slot.holding, 0) + 1
                assert slot.party in (None, slot.holding), "in another's ring"
        for holding, blocks in counts.items():
            assert holding.blocks == blocks, "blocks miscounted"
            assert not holding.owner or self._own[holding.owner] is holding
        assert set(self._own.values()) <= counts.keys(), "a holding without blocks"
        assert all(own.owner == session and session in own.members for session, own in self._own.items())


def _workflow(session: str) -> str:
    """Sessions are named `<workflow>.<name>`; another's names are workflows of their own."""
    return session.partition(".")[0]
