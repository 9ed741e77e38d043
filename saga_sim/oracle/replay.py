"""A cache of so many blocks, played over a recording under a rule. Times are the recording's, whatever is missed."""

from __future__ import annotations

import heapq

import msgspec

from saga_core.costs import CostTable
from saga_core.errors import UserError
from saga_sim.oracle.accesses import Access, Recording
from saga_sim.oracle.candidates import Candidates
from saga_sim.oracle.moment import Moment, SessionNow
from saga_sim.oracle.rows import Row, rows_of
from saga_sim.oracle.rules import Rule

Path = list[tuple[Row, int, int]]


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens in whole blocks. `missed`: computed before, and not there; `missed_s`: to compute them again.

    compulsory: never computed before by anybody. uncached_blocks: of running steps that did not fit beside each other;
    where there are many, the pool was too small for the recording, and the figures say little.
    """

    looked_up_tokens: int
    hit_tokens: int
    compulsory_tokens: int
    missed_tokens: int
    missed_s: float
    evicted_blocks: int
    uncached_blocks: int
    each_s: tuple[float, ...]
    """`missed_s` by access, in their order."""


def replay_cache(recording: Recording, blocks: int, rule: Rule, costs: CostTable) -> Outcome:
    """Play the whole recording. Raises UserError for a pool that holds nothing."""
    if blocks < 1:
        raise UserError(f"a pool of {blocks} blocks (valid: 1 or more)")
    return _Cache(recording, blocks, rule, costs).play()


class _Cache:
    def __init__(self, recording: Recording, blocks: int, rule: Rule, costs: CostTable) -> None:
        self.recording, self.rule = recording, rule
        self.rows = rows_of(recording)
        self.moment = Moment(recording, costs)
        self.candidates = Candidates(rule, self.moment)
        self.free = blocks
        self.running: list[tuple[float, int, int, list[tuple[Row, int]]]] = []
        """When they end, their numbers, private blocks, and how far they hold which rows."""
        self.filling: list[tuple[float, int, Path, list[tuple[Row, int]]]] = []
        """When which accesses take the blocks that they did not find, and how far they hold which rows until then."""
        self.ends = sorted(((at_s, name) for name, at_s in recording.ends_s.items()), reverse=True)
        self.used_by: dict[str, dict[Row, None]] = {}
        """What each live workflow used."""
        self.names: dict[str, set[str]] = {}
        """Its sessions."""
        self.looked_up = self.hit = self.missed = self.evicted = self.uncached = 0
        self.missed_s = 0.0
        self.compulsory = 0
        self.each_s: list[float] = []

    def play(self) -> Outcome:
        for number, access in enumerate(self.recording.accesses):
            self._pass_time(access.start_s)
            self._start(number, access)
        size = self.recording.block_tokens
        return Outcome(
            looked_up_tokens=self.looked_up * size,
            hit_tokens=self.hit * size,
            compulsory_tokens=self.compulsory * size,
            missed_tokens=self.missed * size,
            missed_s=self.missed_s,
            evicted_blocks=self.evicted,
            uncached_blocks=self.uncached,
            each_s=tuple(self.each_s),
        )

    # -- what ends -----------------------------------------------------------------------

    def _pass_time(self, now_s: float) -> None:
        while self.filling and self.filling[0][0] <= now_s:
            at_s, number, path, held = heapq.heappop(self.filling)
            self._release_until(at_s)
            for row, reach in held:
                row.held.remove(reach)
            self._fill(number, path)
        self._release_until(now_s)
        while self.ends and self.ends[-1][0] <= now_s:
            self._finish(self.ends.pop()[1])
        self.moment.now_s = now_s

    def _release_until(self, now_s: float) -> None:
        self.moment.now_s = now_s
        while self.running and self.running[0][0] <= now_s:
            self._release()

    def _release(self) -> None:
        end_s, number, private, held = heapq.heappop(self.running)
        self.free += private
        for row, reach in held:
            row.let_go(reach, end_s, self.recording.accesses[number].session)
            self.candidates.changed(row)

    def _finish(self, workflow: str) -> None:
        for name in self.names.pop(workflow, ()):
            self.moment.sessions[name].ended = True
        for row in self.used_by.pop(workflow, ()):
            self.candidates.changed(row)

    # -- what starts ---------------------------------------------------------------------

    def _start(self, number: int, access: Access) -> None:
        self.rule.observe(access, self.moment.sessions.get(access.session))
        path = [(self.rows[stream], low, high) for stream, low, high in access.runs]
        self._count(access, path)
        self._know(number, access, path)
        if access.filled_s is None or access.filled_s <= access.start_s:
            self._fill(number, path)
            return
        held = [(row, min(row.end, high)) for row, low, high in path if row.end > low]
        for row, reach in held:
            row.held.append(reach)
        heapq.heappush(self.filling, (access.filled_s, number, path, held))

    def _fill(self, number: int, path: Path) -> None:
        access = self.recording.accesses[number]
        for row, _, high in path:
            row.held.append(high)
            row.computed = max(row.computed, high)
        short = self._missing(path) + access.private_blocks - self.free
        if short > 0:
            taken = self.candidates.take(short)
            self.free += taken
            self.evicted += taken
        self._enter(number, access, path)

    def _count(self, access: Access, path: Path) -> None:
        """Hits and misses of the prompt, and what has been computed now."""
        again_s = 0.0
        for row, low, high in path:
            reach = max(low, min(high, access.prompt_blocks))
            here = max(low, min(row.end, reach))
            before = max(here, min(row.computed, reach))
            self.looked_up += reach - low
            self.hit += here - low
            self.missed += before - here
            self.compulsory += reach - before
            if before > here:
                row_s = self.moment.blocks_s(here, before)
                self.missed_s += row_s
                again_s += row_s
        self.each_s.append(again_s)

    def _know(self, number: int, access: Access, path: Path) -> None:
        """Who is where: the session has moved to this access's path."""
        moment, name = self.moment, access.session
        moment.number = number
        before = moment.sessions.get(name)
        for row in before.rows if before is not None else ():
            del row.sessions[name]
        moment.sessions[name] = SessionNow(access, number, rows=[row for row, _, _ in path])
        self.names.setdefault(access.workflow, set()).add(name)
        used = self.used_by.setdefault(access.workflow, {})
        for row, _, high in path:
            row.used += 1
            row.sessions[name] = high
            row.shared = row.shared or row.workflow != access.workflow
            used[row] = None

    def _missing(self, path: Path) -> int:
        return sum(max(0, high - max(low, row.end)) for row, low, high in path)

    def _enter(self, number: int, access: Access, path: Path) -> None:
        """Hold what fits; the tail of what does not fit is computed without being kept."""
        private = min(access.private_blocks, self.free)
        self.free -= private
        held = []
        for row, low, high in path:
            here = max(low, row.end)
            reach = min(high, here + self.free) if high > here else high
            self.free -= max(0, reach - here)
            self.uncached += high - reach
            row.held.remove(high)
            if reach > low:
                row.held.append(reach)
                row.grow(reach)
                held.append((row, reach))
        heapq.heappush(self.running, (access.end_s, number, private, held))
