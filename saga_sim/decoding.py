"""The requests of one engine that decode, as one thing: each step gives all of them one token more.

Nothing here is per request and step: a counter says how many steps there were, and what depends on single requests (who
is done next, who needs a block) is kept by the counter's value at which it happens.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from math import sqrt
from typing import Generic, Protocol, TypeVar

from saga_core.costs import CostTable


class Decoder(Protocol):
    """A request as this module sees it."""

    order: int
    computed: int
    left: int
    """Tokens still to be generated."""
    joined: int
    """The step counter when `computed` and `left` were true; negative: it is not decoding."""


D = TypeVar("D", bound=Decoder)


class Decoding(Generic[D]):
    """The decoding requests of one engine."""

    def __init__(self, block_tokens: int) -> None:
        self.block_tokens = block_tokens
        self.steps = 0
        self.count = 0
        self.context_tokens = 0
        """Sum of the contexts that the next step reads."""
        self._ends: list[tuple[int, int, D]] = []
        self._crossings = [0] * block_tokens
        """Requests by the remainder of the counter at which they need a new block."""

    # -- members -------------------------------------------------------------------------

    def join(self, request: D) -> None:
        request.joined = self.steps
        self.count += 1
        self.context_tokens += request.computed
        self._crossings[(self.steps - request.computed) % self.block_tokens] += 1
        heappush(self._ends, (self.steps + request.left, request.order, request))

    def settle(self, request: D) -> None:
        """Bring the figures of a member up to now."""
        passed = self.steps - request.joined
        request.computed += passed
        request.left -= passed
        request.joined = self.steps

    def leave(self, request: D) -> None:
        """Take a member out, settled; one that is done already is out."""
        if request.joined < 0:
            return
        self._drop(request)
        self._ends = [entry for entry in self._ends if entry[2] is not request]
        heapify(self._ends)

    def done(self) -> list[D]:
        """Take out those that have generated everything, in the order of their admission, settled."""
        done: list[D] = []
        while self._ends and self._ends[0][0] <= self.steps:
            request = heappop(self._ends)[2]
            self._drop(request)
            done.append(request)
        return done

    def _drop(self, request: D) -> None:
        self.settle(request)
        self.count -= 1
        self.context_tokens -= request.computed
        self._crossings[(self.steps - request.computed) % self.block_tokens] -= 1
        request.joined = -1

    # -- steps ---------------------------------------------------------------------------

    @property
    def until_end(self) -> int:
        """Steps until the first member is done."""
        return self._ends[0][0] - self.steps

    @property
    def next_blocks(self) -> int:
        """New blocks that the next step needs."""
        return self._crossings[self.steps % self.block_tokens]

    def blocks(self, steps: int) -> int:
        """New blocks that the next `steps` steps need."""
        rounds, rest = divmod(steps, self.block_tokens)
        start = self.steps % self.block_tokens
        crossings = self._crossings
        size = self.block_tokens
        return rounds * self.count + sum(crossings[(start + i) % size] for i in range(rest))

    def affordable(self, steps: int, free_blocks: int) -> int:
        """How many of the next `steps` steps need no more than `free_blocks` new blocks."""
        if (steps // self.block_tokens + 1) * self.count <= free_blocks or self.blocks(steps) <= free_blocks:
            return steps
        low, high = 0, steps
        while high - low > 1:
            middle = (low + high) // 2
            if self.blocks(middle) <= free_blocks:
                low = middle
            else:
                high = middle
        return low

    def advance(self, steps: int) -> None:
        """`steps` steps were made."""
        self.steps += steps
        self.context_tokens += steps * self.count

    # -- time ----------------------------------------------------------------------------

    def cost_s(self, costs: CostTable, steps: int = 1) -> float:
        """Seconds that the next `steps` steps take if nothing else runs."""
        first = costs.step_s + costs.decode_s * self.count + costs.context_token_s * self.context_tokens
        growth = costs.context_token_s * self.count
        return steps * first + growth * (steps * (steps - 1) / 2)

    def steps_within(self, costs: CostTable, seconds: float, limit: int) -> int:
        """How many steps begin within `seconds` from now, `limit` at most: the one under way then is the last."""
        first = costs.step_s + costs.decode_s * self.count + costs.context_token_s * self.context_tokens
        half = costs.context_token_s * self.count / 2
        root = sqrt((first - half) ** 2 + 4 * half * seconds) if half else 0.0
        guess = int((root - first + half) / (2 * half)) if half else int(seconds / first)
        steps = max(1, min(limit, guess))
        while steps > 1 and self.cost_s(costs, steps - 1) > seconds:
            steps -= 1
        while steps < limit and self.cost_s(costs, steps) <= seconds:
            steps += 1
        return steps
