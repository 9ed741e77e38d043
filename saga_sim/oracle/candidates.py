"""Which stream loses its tail next: a heap of what the rule said, asked again when it is used."""

from __future__ import annotations

import heapq

from saga_sim.oracle.moment import Moment
from saga_sim.oracle.rows import Row
from saga_sim.oracle.rules import Rule, Value


class Candidates:
    """Rows that may lose blocks. The owner says which rows have changed since they were appraised."""

    def __init__(self, rule: Rule, moment: Moment) -> None:
        self._rule, self._moment = rule, moment
        self._heap: list[tuple[Value, int, Row]] = []
        self._resident: dict[Row, None] = {}
        """For moving rules, which are asked for all of them each time."""

    def changed(self, row: Row) -> None:
        """Blocks of `row` were let go, or it became worth less. (Worth more is found out when it is its turn.)"""
        if self._rule.moving:
            self._resident[row] = None
        elif row.evictable:
            self._push(row)

    def take(self, blocks: int) -> int:
        """Evict at least so many blocks, or all there are; how many went."""
        if self._rule.moving:
            self._ask_all()
        taken = 0
        while self._heap and taken < blocks:
            said, _, row = heapq.heappop(self._heap)
            free = row.evictable
            if not free:
                continue
            value, low = self._rule.appraise(row, self._moment)
            if value > said:
                heapq.heappush(self._heap, (value, row.number, row))
                continue
            most = free if self._rule.whole else min(blocks - taken, free, row.end - low)
            taken += self._trim(row, most)
        return taken

    def _ask_all(self) -> None:
        self._resident = {row: None for row in self._resident if row.end > row.fork}
        rows = [row for row in self._resident if row.evictable]
        self._heap = []
        if rows:
            self._rule.begin(rows, self._moment)
        for row in rows:
            value, _ = self._rule.appraise(row, self._moment)
            self._heap.append((value, row.number, row))
        heapq.heapify(self._heap)

    def _trim(self, row: Row, blocks: int) -> int:
        """Take the last blocks of `row`; of a whole session also what is in front of them and only its own."""
        session = row.oldest()[0].session
        row.trim(row.end - blocks)
        trunk = row.trunk
        if row.end > row.fork:
            if row.evictable:
                self._push(row)
            return blocks
        if trunk is None or not trunk.evictable:
            return blocks
        if self._rule.whole and not trunk.shared and trunk.oldest()[0].session == session:
            return blocks + self._trim(trunk, trunk.evictable)
        self._push(trunk)
        return blocks

    def _push(self, row: Row) -> None:
        value, _ = self._rule.appraise(row, self._moment)
        heapq.heappush(self._heap, (value, row.number, row))
