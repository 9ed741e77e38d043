"""The blocks of one cache during a replay, by streams: what is resident, held, and how old.

Rules of this file
  1. Of every stream the resident blocks are those from its fork up to `end`: a stream loses its tail first.
  2. A stream whose own blocks are resident keeps its trunk: what is in front of a block is resident too.
  3. So time since the last use never falls towards the tail, and time to the next use never falls either. Both are
     kept as stairs, which makes every access cheap: it replaces the steps below it by one.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

from saga_sim.oracle.accesses import Recording


class Stair(NamedTuple):
    """The blocks below `high` (and above the next stair) were let go last at `at_s`, by `session`."""

    high: int
    at_s: float
    session: str


@dataclass(slots=True, eq=False)
class Row:
    """The blocks of one stream."""

    number: int
    fork: int
    trunk: Row | None
    workflow: str
    """The first to use it."""
    end: int = 0
    computed: int = 0
    """Blocks below this were computed at some time, so a miss there is not compulsory."""
    shared: bool = False
    """More than one workflow used it so far: the end of one says nothing about the next."""
    held: list[int] = field(default_factory=list)
    """How far each running access reaches into it."""
    branches: set[Row] = field(default_factory=set)
    """Streams that leave this one and have resident blocks."""
    stairs: deque[Stair] = field(default_factory=deque)
    """From the tail to the root, so from the oldest to the newest."""
    sessions: dict[str, int] = field(default_factory=dict)
    """Live sessions whose latest context goes through here, and how far."""
    uses: list[tuple[int, int, int]] = field(default_factory=list)
    """Of the whole recording: number of the access, how far its prompt looks, and how far it holds."""
    higher: list[int] = field(default_factory=list)
    """For each use the next one that holds further (its place in `uses`)."""
    used: int = 0
    """How many of `uses` are past."""

    @property
    def floor(self) -> int:
        """Below this nothing can go: it is held, or in front of what is resident."""
        low = self.fork
        for reach in self.held:
            low = max(low, reach)
        for branch in self.branches:
            low = max(low, branch.fork)
        return low

    @property
    def evictable(self) -> int:
        return max(0, self.end - self.floor)

    def let_go(self, reach: int, at_s: float, session: str) -> None:
        """An access that reached `reach` ends: those blocks are the newest now."""
        self.held.remove(reach)
        while self.stairs and self.stairs[-1].high <= reach:
            self.stairs.pop()
        self.stairs.append(Stair(reach, at_s, session))

    def trim(self, end: int) -> None:
        """The blocks from `end` on are gone."""
        self.end = end
        while len(self.stairs) > 1 and end <= self.stairs[1].high:
            self.stairs.popleft()
        if end == self.fork:
            self.stairs.clear()
            if self.trunk is not None:
                self.trunk.branches.discard(self)

    def grow(self, end: int) -> None:
        if end <= self.end:
            return
        self.end = end
        if self.trunk is not None:
            self.trunk.branches.add(self)

    def oldest(self) -> tuple[Stair, int]:
        """The stair of the last block, and the first block that belongs to it."""
        low = self.stairs[1].high if len(self.stairs) > 1 else self.fork
        return self.stairs[0], low

    def next_use(self) -> tuple[int | None, int]:
        """The next access that finds the last block of use, and the first block of which that is so.

        None: no one ever, or one computes it anew without looking it up before anybody else asks.
        """
        at, low = self.used, self.fork
        while at < len(self.uses):
            number, looked, held = self.uses[at]
            if held >= self.end:
                return (number, low) if looked >= self.end else (None, max(low, looked))
            low = max(low, held)
            at = self.higher[at]
        return None, low


def rows_of(recording: Recording) -> dict[int, Row]:
    """Every stream of a recording, by number, empty, with its future."""
    rows: dict[int, Row] = {}
    for number, access in enumerate(recording.accesses):
        trunk: Row | None = None
        for stream, low, high in access.runs:
            row = rows.get(stream)
            if row is None:
                row = rows[stream] = Row(stream, low, trunk, access.workflow, end=low, computed=low)
            row.uses.append((number, min(high, access.prompt_blocks), high))
            trunk = row
    for row in rows.values():
        row.higher = _next_higher([held for _, _, held in row.uses])
    return rows


def _next_higher(reaches: list[int]) -> list[int]:
    """For each place the next one with a larger number; the length where there is none."""
    found = [len(reaches)] * len(reaches)
    open_: list[int] = []
    for at, reach in enumerate(reaches):
        while open_ and reaches[open_[-1]] < reach:
            found[open_.pop()] = at
        open_.append(at)
    return found
