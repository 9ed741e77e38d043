"""Host memory as a second tier of one engine's KV: what the pool evicts goes there, least recently used first out.

As vLLM 0.32's `SimpleCPUOffloadConnector` with `lazy_offload`: blocks are copied out when they are about to be evicted,
and a block that is loaded back stays in host memory too. Copying out overlaps with computing and costs nothing here.
(Its default, and `OffloadingConnector`, copy every block as soon as it is computed: then both tiers hold the same, and
the larger one counts instead of their sum.)

A run is a range of blocks of one stream; runs of one stream do not overlap. A run loses its tail first.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

from saga_sim.streams import Piece, Stream


class Host:
    """Blocks in host memory, by streams."""

    def __init__(self, blocks: int) -> None:
        self.blocks = blocks
        self.used = 0
        self._runs: dict[tuple[Stream, int], int] = {}
        """(stream, first block) to the end of the run; the least recently used run first."""
        self._starts: dict[Stream, list[int]] = {}

    def put(self, stream: Stream, low: int, high: int) -> None:
        """Blocks `low` to `high` are evicted from the pool: keep them here, as most recently used."""
        low, high = self._absorb(stream, low, high)
        self._add(stream, low, high)
        while self.used > self.blocks:
            self._shrink(self.used - self.blocks)

    def lookup(self, pieces: Iterable[Piece]) -> list[Piece]:
        """The longest prefix of `pieces` that is here."""
        found: list[Piece] = []
        for stream, low, high in pieces:
            start = self._run_at(stream, low)
            if start is None:
                return found
            end = min(high, self._runs[stream, start])
            found.append((stream, low, end))
            if end < high:
                return found
        return found

    def touch(self, pieces: Iterable[Piece]) -> None:
        """These pieces, found before, are used: they are the most recently used."""
        for stream, low, _ in pieces:
            start = self._run_at(stream, low)
            if start is not None:
                self._runs[stream, start] = self._runs.pop((stream, start))

    def _run_at(self, stream: Stream, block: int) -> int | None:
        for start in self._starts.get(stream, ()):
            if start <= block < self._runs[stream, start]:
                return start
        return None

    def _absorb(self, stream: Stream, low: int, high: int) -> tuple[int, int]:
        """Take out the runs that touch that range; the range of all of them together."""
        for start in list(self._starts.get(stream, ())):
            end = self._runs[stream, start]
            if start <= high and low <= end:
                self._remove(stream, start)
                low, high = min(low, start), max(high, end)
        return low, high

    def _add(self, stream: Stream, low: int, high: int) -> None:
        self._runs[stream, low] = high
        self._starts.setdefault(stream, []).append(low)
        self.used += high - low

    def _remove(self, stream: Stream, start: int) -> None:
        self.used -= self._runs.pop((stream, start)) - start
        starts = self._starts[stream]
        starts.remove(start)
        if not starts:
            del self._starts[stream]

    def _shrink(self, blocks: int) -> None:
        """Drop up to `blocks` blocks of the least recently used run, its tail first."""
        (stream, start), end = next(iter(self._runs.items()))
        if end - start > blocks:
            self._runs[stream, start] = end - blocks
            self.used -= blocks
        else:
            self._remove(stream, start)

    def check(self) -> None:
        """Raise AssertionError where runs overlap or are miscounted."""
        assert self.used == sum(end - low for (_, low), end in self._runs.items()) <= self.blocks
        assert sum(map(len, self._starts.values())) == len(self._runs)
        for stream, starts in self._starts.items():
            ordered = sorted(starts)
            assert all(self._runs[stream, a] < b for a, b in pairwise(ordered)), "they touch"
            assert all(self._runs[stream, a] > a for a in ordered), "an empty run"
