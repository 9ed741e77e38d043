"""What an online rule can learn: how long sessions stay away after a tool, and whether they come back at all."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import deque

from saga_sim.oracle.accesses import Access

# All from the policy study, section 5 (EVICT): its ring and its least number of samples.
RING = 200
LEAST_SAMPLES = 8
# Agent types are served without inference for this many workflows (the SAGA paper, section 3.4).
COLD_WORKFLOWS = 30


class _Ring:
    """The latest samples, in order of size, with the sums of all that are larger."""

    def __init__(self) -> None:
        self._latest: deque[float] = deque()
        self._ordered: list[float] = []
        self._above: list[float] | None = None

    def __len__(self) -> int:
        return len(self._ordered)

    def add(self, sample: float) -> None:
        if len(self._latest) == RING:
            oldest = self._latest.popleft()
            del self._ordered[bisect_right(self._ordered, oldest) - 1]
        self._latest.append(sample)
        insort(self._ordered, sample)
        self._above = None

    def mean_residual(self, elapsed: float) -> float:
        """Mean of what is left of the samples above `elapsed`, and of one more at twice of it."""
        if self._above is None:
            self._above = [0.0]
            for sample in reversed(self._ordered):
                self._above.append(self._above[-1] + sample)
        count = len(self._ordered) - bisect_right(self._ordered, elapsed)
        return (self._above[count] - count * elapsed + elapsed) / (count + 1)

    def median_residual(self, elapsed: float) -> float:
        at = bisect_right(self._ordered, elapsed)
        left = [sample - elapsed for sample in self._ordered[at:]]
        insort(left, elapsed)
        return (left[(len(left) - 1) // 2] + left[len(left) // 2]) / 2


class ReturnTimes:
    """Expected time until a session returns, by what it went away for and how long it has been away."""

    def __init__(self, *, median: bool = False) -> None:
        self._median = median
        self._rings: dict[str, _Ring] = {}
        self._pooled = _Ring()

    def observe(self, tool: str, away_s: float) -> None:
        self._rings.setdefault(tool, _Ring()).add(away_s)
        self._pooled.add(away_s)

    def residual_s(self, tool: str, elapsed_s: float) -> float:
        """With too few samples of the tool: of all tools; with too few of them: as long again, and a second."""
        ring = self._rings.get(tool)
        if ring is None or len(ring) < LEAST_SAMPLES:
            ring = self._pooled
        if len(ring) < LEAST_SAMPLES:
            return elapsed_s + 1.0
        return ring.median_residual(elapsed_s) if self._median else ring.mean_residual(elapsed_s)


class ReturnChances:
    """Does a session come back after this tool, and with how much that is new? From all that happened so far."""

    def __init__(self, cold: float) -> None:
        self._cold = cold
        self._left: dict[str, int] = {}
        self._back: dict[str, int] = {}
        self._workflows: set[str] = set()
        self._returns = 0
        self._new_tokens = 0

    def observe(self, access: Access, before: Access | None) -> None:
        self._workflows.add(access.workflow)
        self._left[access.tool] = self._left.get(access.tool, 0) + 1
        if before is not None:
            self._back[before.tool] = self._back.get(before.tool, 0) + 1
            self._returns += 1
            self._new_tokens += access.new_tokens

    @property
    def new_tokens(self) -> float:
        """Mean per return."""
        return self._new_tokens / self._returns if self._returns else 0.0

    def returns(self, access: Access) -> float:
        """Share of the departures with that tool that came back; the sessions still away count as gone."""
        left = self._left.get(access.tool, 0)
        if len(self._workflows) <= COLD_WORKFLOWS or left < LEAST_SAMPLES:
            return self._cold
        return self._back.get(access.tool, 0) / left
