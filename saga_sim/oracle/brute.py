"""The true optimum of small cases: every set of blocks that could be kept, at every access.

Kept sets are compared access by access (dynamic programming); of two ways to the same set the cheaper survives. The work
grows with the number of sets, so this is for a dozen blocks, not for a trace.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from itertools import combinations

from saga_core.costs import CostTable
from saga_core.errors import UserError
from saga_sim.oracle.accesses import Access, Recording

Block = tuple[int, int]
Kept = frozenset[Block]
# Sets in flight; beyond this the case is no small one.
MAX_SETS = 200_000


class Goal(StrEnum):
    """What a kept set may be, and what it is good for.

    ANY_SET: a block is found if all in front of it are too; any set may be kept (as in vLLM's pool).
    PREFIXES: as ANY_SET, but nothing is kept without what is in front of it (as the replay does).
    SINGLE_BLOCKS: every block is found for itself (plain paging).
    """

    ANY_SET = "any-set"
    PREFIXES = "prefixes"
    SINGLE_BLOCKS = "single-blocks"


def brute_force(recording: Recording, blocks: int, goal: Goal, costs: CostTable | None = None) -> float:
    """The least that has to be computed again: seconds with `costs`, else tokens. Compulsory misses left out.

    Raises UserError for a pool that does not hold what runs at once, and for a case that is too large.
    """
    return _Search(recording, blocks, goal, costs).least()


class _Search:
    def __init__(self, recording: Recording, pool: int, goal: Goal, costs: CostTable | None) -> None:
        self._recording, self._pool, self._goal, self._costs = recording, pool, goal, costs
        self._fronts: dict[Block, Block | None] = {}
        for access in recording.accesses:
            blocks = path(access)
            self._fronts.update(zip(blocks, [None, *blocks], strict=False))

    def least(self) -> float:
        best: dict[Kept, float] = {frozenset(): 0.0}
        computed: set[Block] = set()
        for number, access in enumerate(self._recording.accesses):
            held = self._held(number)
            room = self._pool - len(held) - self._private(number)
            if room < 0:
                raise UserError(
                    f"a pool of {self._pool} blocks does not hold what runs at access {number}: {-room} too many"
                )
            useful = self._useful(number)
            nearest: dict[Kept, float] = {}
            for kept, cost in best.items():
                paid = cost + self._cost(access, kept, computed)
                for chosen in self._choices((kept - held) & useful, room, held):
                    if paid < nearest.get(chosen, float("inf")):
                        nearest[chosen] = paid
            if len(nearest) > MAX_SETS:
                raise UserError(f"{len(nearest)} sets of blocks at access {number} (limit {MAX_SETS})")
            best = nearest
            computed.update(path(access))
        return min(best.values())

    def _running(self, number: int) -> list[Access]:
        now_s = self._recording.accesses[number].start_s
        before = self._recording.accesses[:number]
        return [*(a for a in before if a.end_s > now_s), self._recording.accesses[number]]

    def _held(self, number: int) -> Kept:
        return frozenset(block for access in self._running(number) for block in path(access))

    def _private(self, number: int) -> int:
        return sum(access.private_blocks for access in self._running(number))

    def _useful(self, number: int) -> set[Block]:
        """Blocks that a later prompt looks up; the others are never worth keeping."""
        later = self._recording.accesses[number + 1 :]
        return {block for access in later for block in path(access)[: access.prompt_blocks]}

    def _cost(self, access: Access, kept: Kept, computed: set[Block]) -> float:
        cost, found = 0.0, True
        for block in path(access)[: access.prompt_blocks]:
            here = block in kept
            found = here if self._goal is Goal.SINGLE_BLOCKS else found and here
            if not found and block in computed:
                cost += self._weight(block)
        return cost

    def _weight(self, block: Block) -> float:
        size = self._recording.block_tokens
        return float(size) if self._costs is None else self._costs.chunk_s(block[1] * size, size)

    def _choices(self, free: Kept, room: int, held: Kept) -> Iterable[Kept]:
        """What may be kept beside what is held: as much as there is room for (more is never worse)."""
        for way in combinations(sorted(free), min(room, len(free))):
            kept = held.union(way)
            if self._goal is not Goal.PREFIXES or self._is_closed(way, kept):
                yield kept

    def _is_closed(self, way: Iterable[Block], kept: Kept) -> bool:
        return all(self._fronts[block] in kept or self._fronts[block] is None for block in way)


def path(access: Access) -> list[Block]:
    """The blocks of an access one by one, from the root on."""
    return [(stream, at) for stream, low, high in access.runs for at in range(low, high)]
