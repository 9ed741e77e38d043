"""Which session uses which block of a paged KV pool, and in which order free blocks are given away.

The engine's plugin and the engine's double put this in the place of their free list. It knows no engine: it is told
who uses which blocks, which become free and how many are wanted. Blocks are numbers from 0 on.

Rules of this file
  1. A block belongs to a holding from its first use until it is given away: through being shared, freed, found again,
     through preemption and an end in mid-prompt. So whoever frees it need not say whose it was.
  2. Blocks that the same sessions use are one holding, worth what its most valuable session is. A block that a second
     session finds moves to a holding of both; what several workflows have used is nobody's to end.
  3. Free blocks without content go first of all; what nobody has valued goes least recently used first. Without any
     worth the order is vLLM's own.
  4. What a session has left behind (an answer that its next prompt leaves out, what was summarised) is not its own any
     more: it goes first, unless others use it.
  5. A time to live is soft: when it has passed, nobody has said anything of that session.

How: blocks of one holding that become free one after the other are one entry of `saga_core.kv.queue`, a run. What costs
per block is one reference in one list; all else is per run. A block that is found again is taken out of its run by that
reference alone: its number stays there, dead, until the run comes up or half of it is dead.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from heapq import heappop, heappush
from itertools import groupby
from math import inf, isnan

from saga_core.kv.queue import FreeQueue
from saga_core.kv.retention import OVER, UNVALUED, Worth
from saga_core.kv.runs import Holding, Run

MOST_MEMBERS = 1024
"""Sessions of one holding, beyond which those that nobody has valued leave it, the oldest first: a prompt that everybody
begins with would otherwise remember all who ever did."""


class BlockOrder:
    """The blocks of one pool. They begin in use; `free_empty` them."""

    def __init__(self, blocks: int, now: Callable[[], float]) -> None:
        """`now` is a clock in seconds, for times to live."""
        self.queue: FreeQueue[Run] = FreeQueue()
        self.count = 0
        """Free blocks."""
        self.evicted_blocks = 0
        """Blocks with content that were given away."""
        self._now = now
        self._at: list[Run | Holding | None] = [None] * blocks
        """Of each block its run while it is free, else its holding; None: in use, of no session."""
        self._empty = Run([], None)
        """What holds nothing; it goes before the queue."""
        self._own: dict[str, Holding] = {}
        self._until: dict[str, float] = {}
        self._ends: list[tuple[float, str]] = []
        """Times to live; entries that `_until` does not confirm are past."""

    # -- free blocks ---------------------------------------------------------------------

    def free(self, blocks: Iterable[int]) -> None:
        """These can be found and nobody uses them now; of equals the first goes first (so a tail before its head)."""
        at = self._at
        for holding, some in groupby(blocks, at.__getitem__):
            assert holding.__class__ is not Run, "free already"
            freed = [*some]
            freed.reverse()
            run = Run(freed, holding)  # type: ignore[arg-type]
            for block in freed:
                at[block] = run
            self.count += run.live
            self.queue.append(run, holding or self.queue.common)  # type: ignore[arg-type]

    def free_empty(self, blocks: Sequence[int]) -> None:
        """These hold nothing; the first goes first, before all others."""
        empty = self._empty
        for block in reversed(blocks):
            self.forget(block)
            self._at[block] = empty
            empty.blocks.append(block)
        empty.live += len(blocks)
        self.count += len(blocks)

    def touch(self, block: int) -> None:
        """A free block is in use again, with what it holds. ValueError: it is not free."""
        run = self._at[block]
        if run.__class__ is not Run:
            raise ValueError(f"block {block} is not free")
        self._at[block] = run.holding
        run.live -= 1
        self.count -= 1
        if run is self._empty:
            run.blocks.remove(block)
        elif not run.live:
            self.queue.remove(run)
        elif 2 * run.live < len(run.blocks):
            run.blocks = self._live(run)

    def take(self, count: int) -> list[int]:
        """The next `count` to be given away; whose they were is forgotten. IndexError: there are fewer."""
        if count > self.count:
            raise IndexError(f"{count} blocks wanted, {self.count} are free")
        if self._ends and self._ends[0][0] <= self._now():
            self._expire()
        taken = self._pop(self._empty, count) if count and self._empty.live else []
        while len(taken) < count:
            run = self.queue.first()
            assert run is not None
            some = self._pop(run, count - len(taken))
            if not run.live:
                self.queue.remove(run)
            if run.holding is not None:
                self.evicted_blocks += len(some)
                self._shrink(run.holding, len(some))
            taken += some
        self.count -= count
        return taken

    def _pop(self, run: Run, most: int) -> list[int]:
        """The next of a run, at most so many; they are nobody's."""
        if run.live < len(run.blocks):
            run.blocks = self._live(run)
        taken = run.blocks[-most:]
        taken.reverse()
        del run.blocks[-most:]
        run.live -= len(taken)
        for block in taken:
            self._at[block] = None
        return taken

    def _live(self, run: Run) -> list[int]:
        at = self._at
        return [block for block in run.blocks if at[block] is run]

    def __iter__(self) -> Iterator[int]:
        """The free blocks, the next to be given away first. It sorts."""
        yield from reversed(self._empty.blocks)
        for run in self.queue:
            yield from reversed(self._live(run))

    def is_free(self, block: int) -> bool:
        return self._at[block].__class__ is Run

    def forget(self, block: int) -> None:
        """A block in use holds nothing any more, and is of no session."""
        holding = self._at[block]
        self._at[block] = None
        if holding.__class__ is Holding:
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

    def use(self, session: str, blocks: Iterable[int]) -> None:
        """A request of `session` uses these blocks, all in use now: new ones, and found ones whoever stored them."""
        found: dict[Holding, list[int]] = {}
        for holding, some in groupby(blocks, self._at.__getitem__):
            assert holding.__class__ is not Run, "not in use"
            if holding is None:
                self._add(self._own.get(session) or self._open(session), [*some])
            elif session not in holding.members:  # type: ignore[union-attr]
                found.setdefault(holding, []).extend(some)  # type: ignore[arg-type]
        for holding, shared in found.items():
            self._share(holding, shared, session)

    def _open(self, session: str) -> Holding:
        own = self._own[session] = Holding(owner=session)
        self.queue.join(own, session)
        return own

    def _add(self, holding: Holding, blocks: list[int]) -> None:
        holding.blocks += len(blocks)
        for block in blocks:
            self._at[block] = holding

    def _share(self, holding: Holding, blocks: list[int], session: str) -> None:
        """`blocks` of `holding` are used by `session` as well."""
        holding = self._part(holding, blocks)
        if any(_workflow(member) != _workflow(session) for member in holding.members):
            self.queue.raise_floor(holding, UNVALUED)
        self.queue.join(holding, session)
        if len(holding.members) > MOST_MEMBERS:
            self._thin(holding)

    def leave(self, session: str, blocks: Sequence[int]) -> None:
        """`session` has no more use for these, as far as they are free; of equals the first goes first."""
        left: dict[Holding, list[int]] = {}
        for block in blocks:
            run = self._at[block]
            if isinstance(run, Run) and run.holding is not None and session in run.holding.members:
                left.setdefault(run.holding, []).append(block)
        for holding, some in left.items():
            for block in some:
                self.touch(block)
            self.queue.leave(self._part(holding, some), session)
        gone = {block for some in left.values() for block in some}
        self.free(block for block in blocks if block in gone)

    def valued(self, session: str) -> bool:
        """Whether somebody says what it is worth."""
        return self.queue.worth(session) != UNVALUED

    def _part(self, holding: Holding, blocks: list[int]) -> Holding:
        """A holding of these blocks of `holding`, all in use, and of nothing else; nobody's new blocks come there."""
        if len(blocks) == holding.blocks:
            if holding.owner:
                del self._own[holding.owner]
                holding.owner = ""
            return holding
        part = Holding(holding.floor)
        for member in holding.members:
            self.queue.join(part, member)
        holding.blocks -= len(blocks)
        self._add(part, blocks)
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

    def drop(self, session: str) -> list[int]:
        """Nothing of `session` is wanted: what it alone uses is empty now, if it is free. Those blocks, to be forgotten.

        What others use or used as well stays, and what a request of it still computes goes first once it is freed.
        """
        mine = [p for p in self.queue.parties(session) if len(p.members) == 1 and p.floor == OVER]
        freed = [block for p in mine for run in self.queue.entries(p) for block in reversed(self._live(run))]
        for block in freed:
            self.touch(block)
        self._until.pop(session, None)
        self._end(session)
        self.free_empty(freed)
        return freed

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
        free = list(self)
        for run in list(self.queue):
            self.queue.remove(run)
        for block in range(len(self._at)):
            self._at[block] = self._whose(block)
            self.forget(block)
        self._empty, self.count = Run([], None), 0
        self.free_empty(free)

    # -- looking -------------------------------------------------------------------------

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
        """Every one that has blocks."""
        return {
            holding: None for block in range(len(self._at)) if (holding := self._whose(block)) is not None
        }

    def _whose(self, block: int) -> Holding | None:
        at = self._at[block]
        return at.holding if isinstance(at, Run) else at

    def check(self) -> None:
        """AssertionError where blocks, runs, holdings and queue disagree: for tests."""
        self.queue.check()
        counts: dict[Holding, int] = {}
        for block in range(len(self._at)):
            if (holding := self._whose(block)) is not None:
                counts[holding] = counts.get(holding, 0) + 1
        for holding, blocks in counts.items():
            assert holding.blocks == blocks, "blocks miscounted"
            assert not holding.owner or self._own[holding.owner] is holding
        for run in [self._empty, *self.queue]:
            assert len(self._live(run)) == run.live, "a run miscounted"
            assert run is self._empty or run.party is (run.holding or self.queue.common), "in another's ring"
            assert run is self._empty or 0 < run.live <= len(run.blocks) <= 2 * run.live, "too many dead"
        assert self.count == sum(at.__class__ is Run for at in self._at) == len(list(self)), (
            "free blocks miscounted"
        )
        assert set(self._own.values()) <= counts.keys(), "a holding without blocks"
        assert all(own.owner == session and session in own.members for session, own in self._own.items())


def _workflow(session: str) -> str:
    """Sessions are named `<workflow>.<name>`; another's names are workflows of their own."""
    return session.partition(".")[0]
