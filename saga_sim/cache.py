"""A paged KV pool with a prefix cache, in the order of vLLM's block pool, kept by spans instead of blocks.

A span is a run of blocks of one stream that were stored by one request and have the same holders: all that vLLM's pool
does with one block, it does with the whole run, so a run is what we keep. Equal to the block-exact double of
`workers/saga_fake/pool.py`; tests/sim/test_sim_cache.py plays random cases against it.

Rules of this file
  1. A span is held by requests, or idle and in the free queue; its content can be found in both cases.
  2. The free queue is: blocks without content first, then idle spans, oldest first. A span loses its tail first.
  3. A request frees its tail first, so its head is kept the longest; and what is stored in front of a block is never
     evicted before it.
  4. Equal content stored twice is kept twice; the first copy is the one that is found.
  5. Once somebody says what sessions are worth (`values`), idle spans go in the order of `saga_core.kv.queue` instead:
     by worth first. The blocks of one stream are one party; its members are the sessions whose contexts go through it.
     What no context includes any more (answers that the next prompt leaves out, what was summarised) goes first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol, cast

from saga_core.kv.queue import Entry, FreeQueue, Party
from saga_core.kv.retention import OVER, UNVALUED, Worth
from saga_sim.streams import Piece, Stream


class Holder(Protocol):
    """What holds spans: a request. `held` is its prefix, from the root on; "" is no session."""

    held: list[Span]
    session: str


class Span(Entry):
    """Blocks `low` to `high` (without it) of a stream; while idle, an entry of the free queue."""

    __slots__ = ("high", "holders", "low", "order", "stream")

    def __init__(self, stream: Stream, low: int, high: int, order: int) -> None:
        super().__init__()
        self.stream, self.low, self.high, self.order = stream, low, high, order
        self.holders: list[Holder] = []

    def __len__(self) -> int:
        return self.high - self.low


class Observer(Protocol):
    """Who is told of holders, and changes nothing; blocks are counted."""

    def came(self, holder: Any, found: int) -> None: ...
    def left(self, holder: Any, private: int) -> None: ...


Hit = tuple[Span, int, int]
"""A cached piece: blocks `low` to `high` of a span's stream, all within the span."""


class Cache:
    """Blocks of one worker."""

    def __init__(self, blocks: int) -> None:
        self.blocks = blocks
        self.empty = blocks
        """Free blocks without content."""
        self.idle = 0
        """Free blocks with content."""
        self.changed: set[Stream] = set()
        """Streams that lost or won blocks since somebody last cleared this."""
        self.observer: Observer | None = None
        self._spans: dict[Stream, list[Span]] = {}
        self._orders = 0
        self._queue: FreeQueue[Span] = FreeQueue()
        self._valued = False
        self._parties: dict[Stream, Party] = {}
        self._left = self._queue.make_party(OVER)
        """What no context includes any more."""
        self._contexts: dict[str, dict[Stream, int]] = {}
        """Of each session, the streams that its latest context goes through, and how far."""
        self._reach: dict[Stream, dict[str, int]] = {}
        """The same by stream."""
        self.spill: Callable[[Stream, int, int], None] | None = None
        """Told of every range of blocks that is evicted."""

    @property
    def free(self) -> int:
        return self.empty + self.idle

    # -- looking -------------------------------------------------------------------------

    def lookup(self, pieces: Iterable[Piece]) -> list[Hit]:
        """The longest cached prefix of `pieces`."""
        hits: list[Hit] = []
        for stream, low, high in pieces:
            at = low
            while at < high:
                span, until = self._find(stream, at)
                if span is None:
                    return hits
                until = min(until, high)
                hits.append((span, at, until))
                at = until
        return hits

    def _find(self, stream: Stream, at: int) -> tuple[Span | None, int]:
        """The first copy of block `at`, and how far it stays the first."""
        best: Span | None = None
        until = 0
        spans = self._spans.get(stream, ())
        for span in spans:
            if span.low <= at < span.high and (best is None or span.order < best.order):
                best, until = span, span.high
        if best is not None and len(spans) > 1:
            for span in spans:
                if at < span.low < until and span.order < best.order:
                    until = span.low
        return best, until

    def cached(self, pieces: Iterable[Piece]) -> int:
        """How many leading blocks of `pieces` are here."""
        return sum(high - low for _, low, high in self.lookup(pieces))

    # -- holding -------------------------------------------------------------------------

    def touch(self, hits: Iterable[Hit], holder: Holder) -> None:
        """Let `holder` hold these pieces, behind what it holds already."""
        for span, low, high in hits:
            held = self._cut(span, low, high)
            if not held.holders:
                self._queue.remove(held)
                self.idle -= len(held)
            held.holders.append(holder)
            holder.held.append(held)
        if self.observer is not None:
            self.observer.came(holder, sum(map(len, holder.held)))

    def _cut(self, span: Span, low: int, high: int) -> Span:
        """The part of `span` from `low` to `high`, as a span of its own."""
        if high < span.high:
            span = self._split(span, high)
        if low > span.low:
            self._split(span, low)
        return span

    def _split(self, span: Span, at: int) -> Span:
        """Cut `span` in two. It stays the part from `at` on where that is asked for next, else the head is new."""
        head = Span(span.stream, span.low, at, span.order)
        span.low = at
        self._spans[span.stream].append(head)
        head.holders = list(span.holders)
        for holder in head.holders:
            holder.held.insert(holder.held.index(span), head)
        if not head.holders:
            self._queue.split(span, head)
        return head

    def take(self, blocks: int) -> None:
        """Let `blocks` free blocks be somebody's, evicting what they hold. The caller asked `free` before."""
        if blocks <= self.empty:
            self.empty -= blocks
            return
        blocks -= self.empty
        self.empty = 0
        self.idle -= blocks
        assert self.idle >= 0, "more blocks taken than were free"
        while blocks:
            span = self._queue.first() if self._valued else cast("Span", self._queue.common.after)
            assert span is not None
            self.changed.add(span.stream)
            left = span.high - blocks
            if left > span.low:
                if self.spill is not None:
                    self.spill(span.stream, left, span.high)
                span.high = left
                return
            if self.spill is not None:
                self.spill(span.stream, span.low, span.high)
            blocks -= span.high - span.low
            self._queue.remove(span)
            self._forget(span)

    def store(self, pieces: Iterable[Piece], holder: Holder) -> None:
        """These blocks, taken before, are full now: `holder` computed them, and they can be found."""
        for stream, low, high in pieces:
            self.changed.add(stream)
            last = holder.held[-1] if holder.held else None
            if (
                last is not None
                and last.stream is stream
                and last.high == low
                and len(last.holders) == 1
                and not self._is_copied(stream, last.low, high)
            ):
                last.high = high
                continue
            span = Span(stream, low, high, self._next_order())
            span.holders.append(holder)
            holder.held.append(span)
            self._spans.setdefault(stream, []).append(span)

    def release(self, holder: Holder, empty: int) -> None:
        """`holder` lets all go, its tail first, and `empty` blocks that are not full."""
        if self.observer is not None:
            self.observer.left(holder, empty)
        self.empty += empty
        if self._valued and holder.session and holder.held:
            self._reaches(holder.session, holder.held[-1].stream, holder.held[-1].high)
        newest: Span | None = None
        party = self._queue.common
        for span in reversed(holder.held):
            if self._valued and holder.session:
                party = self._party(span.stream, holder.session)
            span.holders.remove(holder)
            if span.holders:
                newest = None
                continue
            self.idle += len(span)
            if newest is not None and self._joins(span, newest):
                newest.low = span.low
                self._forget(span)
            else:
                self._queue.append(span, party)
                newest = span
        holder.held = []

    def values(self, worths: Mapping[str, Worth | None]) -> None:
        """What the sessions are worth from now on; None: forget that session.

        What was freed before the first call belongs to no session until it is used again.
        """
        self._valued = True
        for session, worth in worths.items():
            if worth is None:
                self._queue.forget(session)
            else:
                self._queue.value(session, worth)
            if worth is None or worth <= OVER:
                self._leave(session)

    # -- contexts ------------------------------------------------------------------------

    def follow(self, session: str, pieces: Iterable[Piece]) -> None:
        """The next prompt of `session` is these pieces: what it left out is of no more use, unless others use it."""
        if not self._valued or not session:
            return
        before = self._leave(session)
        for stream, _, high in pieces:
            self._reaches(session, stream, high)
        context = self._contexts.get(session, {})
        for stream in before:
            party = self._parties.get(stream)
            if stream not in context and party is not None and session in party.members:
                self._queue.leave(party, session)
            if stream.owner is not None:
                self._abandon(stream)

    def _reaches(self, session: str, stream: Stream, high: int) -> None:
        context = self._contexts.setdefault(session, {})
        context[stream] = high = max(high, context.get(stream, 0))
        self._reach.setdefault(stream, {})[session] = high

    def _leave(self, session: str) -> dict[Stream, int]:
        """It has no context; what its latest one was."""
        before = self._contexts.pop(session, {})
        for stream in before:
            reach = self._reach.get(stream)
            if reach is not None:
                reach.pop(session, None)
        return before

    def _abandon(self, stream: Stream) -> None:
        """Idle blocks of `stream` behind all contexts that go through it."""
        top = max(self._reach.get(stream, {}).values(), default=0)
        for span in list(self._spans.get(stream, ())):
            if span.high <= top or span.holders or span.party is self._left:
                continue
            if span.low < top:
                self._split(span, top)
            self._queue.remove(span)
            self._queue.append(span, self._left)

    def _party(self, stream: Stream, session: str) -> Party:
        """What `session` uses of `stream`. A prefix of everybody is not over with those that used it so far."""
        party = self._parties.get(stream)
        if party is None:
            party = self._parties[stream] = self._queue.make_party(UNVALUED if stream.owner is None else OVER)
        self._queue.join(party, session)
        return party

    def _joins(self, head: Span, tail: Span) -> bool:
        if head.stream is not tail.stream or head.high != tail.low:
            return False
        return not self._is_copied(head.stream, head.low, tail.high, parts=2)

    def _is_copied(self, stream: Stream, low: int, high: int, parts: int = 1) -> bool:
        """Whether more than `parts` spans have blocks in that range: then the order of copies must be kept."""
        spans = self._spans[stream]
        return len(spans) > parts and sum(s.low < high and low < s.high for s in spans) > parts

    # -- the index -----------------------------------------------------------------------

    def _forget(self, span: Span) -> None:
        spans = self._spans[span.stream]
        spans.remove(span)
        if not spans:
            del self._spans[span.stream]
            self._reach.pop(span.stream, None)
            party = self._parties.pop(span.stream, None)
            if party is not None:
                self._queue.dissolve(party)

    def _next_order(self) -> int:
        self._orders += 1
        return self._orders

    def useful(self) -> tuple[int, int]:
        """Blocks with content that some unfinished workflow may ask for again, and all with content."""
        wanted = whole = 0
        for span in self.spans():
            whole += len(span)
            if span.stream.owner is None or not span.stream.owner.over:
                wanted += len(span)
        return wanted, whole

    # -- for tests and samples -----------------------------------------------------------

    def queue(self) -> Iterator[Span]:
        """The idle spans, the next to be evicted first."""
        return iter(self._queue)

    def spans(self) -> Iterator[Span]:
        """Every span, in no order that means anything."""
        for spans in self._spans.values():
            yield from spans

    def check(self) -> None:
        """Raise AssertionError where queue, holders and counts disagree."""
        self._queue.check()
        idle = list(self.queue())
        assert sum(map(len, idle)) == self.idle, "idle blocks miscounted"
        assert self.empty >= 0
        for span in self.spans():
            assert span.high > span.low, "an empty span"
            assert (not span.holders) == span.is_free, "held and idle"
            assert all(span in holder.held for holder in span.holders)
        assert len(idle) == sum(not span.holders for span in self.spans())
