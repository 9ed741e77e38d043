"""What a run's own cache had to compute again, counted over its recorded accesses as a replay counts."""

from __future__ import annotations

import heapq

from saga_core.costs import CostTable
from saga_core.errors import UserError
from saga_sim.oracle.accesses import Access, Recording
from saga_sim.oracle.replay import Outcome


def own_outcome(recording: Recording, costs: CostTable) -> Outcome:
    """The run itself, from `Access.found_blocks`. Raises UserError for an access that does not say what it found.

    A block counts as computed before once an access that held it has ended: while it runs its blocks cannot be lost, so
    what another one does not find of them is not computed yet.
    """
    return _Count(recording, costs).all()


class _Count:
    def __init__(self, recording: Recording, costs: CostTable) -> None:
        self._recording, self._costs = recording, costs
        self._computed: dict[int, int] = {}
        self._running: list[tuple[float, int]] = []
        self._looked_up = self._hit = self._missed = 0
        self._each_s: list[float] = []

    def all(self) -> Outcome:
        for number, access in enumerate(self._recording.accesses):
            while self._running and self._running[0][0] <= access.start_s:
                self._end(self._recording.accesses[heapq.heappop(self._running)[1]])
            self._start(access)
            heapq.heappush(self._running, (access.end_s, number))
        size = self._recording.block_tokens
        return Outcome(
            looked_up_tokens=self._looked_up * size,
            hit_tokens=self._hit * size,
            compulsory_tokens=(self._looked_up - self._hit - self._missed) * size,
            missed_tokens=self._missed * size,
            missed_s=sum(self._each_s),
            evicted_blocks=0,
            uncached_blocks=0,
            each_s=tuple(self._each_s),
        )

    def _start(self, access: Access) -> None:
        found = access.found_blocks
        if found is None:
            raise UserError(
                f"an access of session {access.session!r} does not say what it found in the cache"
            )
        before = max(found, min(self._before(access), access.prompt_blocks))
        self._looked_up += access.prompt_blocks
        self._hit += found
        self._missed += before - found
        size = self._recording.block_tokens
        again = (before - found) * size
        self._each_s.append(self._costs.chunk_s(found * size, again) if again else 0.0)

    def _before(self, access: Access) -> int:
        """Leading blocks that were computed at some time."""
        reach = 0
        for stream, low, high in access.runs:
            until = self._computed.get(stream, low)
            reach = max(reach, min(until, high))
            if until < high:
                break
        return reach

    def _end(self, access: Access) -> None:
        for stream, low, high in access.runs:
            self._computed[stream] = max(self._computed.get(stream, low), high)
