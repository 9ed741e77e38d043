"""Whether a session that goes to another worker takes its KV along, or has it computed again there.

Rules of this file
  1. It is asked when a step of a session that computes nothing has been given to another worker than the one that has
     its KV: at a tool boundary, whatever the reason (its node drains, it is re-homed, its home is full).
  2. Moving is worth it where it is expected to take less than computing again what is missing there, by the cost table
     by which the head weighs all work.
  3. Both prices follow what happened: a way that is slow, or fails, is not taken for a while; and prompts that were
     computed say how much longer that takes here than by the cost table, which may be another machine's.
  4. A step waits for a move no longer than computing it again would take (or `patience_s`): so a move that comes to
     nothing makes it at most twice as long.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from saga_core.costs import CostTable

HALF_LIFE_S = 60.0
"""In which half of what was learned of a way is forgotten, on a logarithmic scale: so a slow one is tried again."""
FAILED_TIMES = 8.0
"""A move that failed counts as one that took so many times its price."""
LEARNT = 0.25
"""Share of the latest move in what is learned of a way, on a logarithmic scale: one that took twenty times its price
while the machine did something else doubles it, several in a row make it be avoided."""
TIMES = (0.25, 64.0)
"""Bounds of what a way is learned to take, as multiples of its price."""
COMPUTED_TIMES = (0.25, 16.0)
"""The same of computing: a prompt that waited for long in its engine says little of the next one."""
COMPUTED_TOKENS = 512
"""Prompts of which less was computed say nothing: the way of the call is most of their time."""


@dataclass(frozen=True, slots=True)
class Migration:
    """Constants of the price. Figures: `saga bench kv --moves`, docs/kv.md."""

    on: bool = True
    """Sessions take their KV along where that is cheaper."""
    fixed_s: float = 0.015
    """What the smallest move takes: 2 MB took 18 ms, of which 7 are for the bytes."""
    local_bytes_per_s: float = 300e6
    """Between two workers of a node: 6.3 MB more took 21 ms more, both ways and both digests included."""
    shared_bytes_per_s: float = 100e6
    """Between nodes, through the cluster folder: a gigabit's worth where nobody has measured."""
    patience_s: float = 0.5
    """A step waits for its move for so long at least, else for what computing it again takes."""


class Offer(NamedTuple):
    """What could be moved."""

    tokens: int
    """Of the session's beginning that its old home has."""
    there: int
    """Of these, at the new home already."""
    token_bytes: int
    across: bool
    """Between two nodes."""
    ahead_bytes: int
    """That either engine has to move before."""


class Price(NamedTuple):
    """In seconds."""

    move_s: float
    again_s: float
    """For computing it again."""

    @property
    def is_worth(self) -> bool:
        return self.move_s < self.again_s

    def patience_s(self, policy: Migration) -> float:
        """How long a step waits for it."""
        return max(policy.patience_s, self.again_s)


def price(
    offer: Offer, costs: CostTable, policy: Migration, times: float = 1.0, computed_times: float = 1.0
) -> Price:
    """What it takes either way.

    times, computed_times: what moves on this way, and computing, have taken lately, as multiples of their prices.
    """
    bytes_per_s = policy.shared_bytes_per_s if offer.across else policy.local_bytes_per_s
    whole_bytes = offer.tokens * offer.token_bytes + offer.ahead_bytes
    missing = max(0, offer.tokens - offer.there)
    return Price(
        times * (policy.fixed_s + whole_bytes / bytes_per_s),
        computed_times * costs.chunk_s(offer.there, missing) if missing else 0.0,
    )


@dataclass(slots=True, eq=False)
class Way:
    """What moves within nodes, or between them, or computing, have taken lately, as a multiple of their price."""

    _times: float = 1.0
    _at: float = field(default=0.0)

    def times(self, now: float) -> float:
        """It comes back to 1 with time."""
        forgotten: float = 2.0 ** (-(now - self._at) / HALF_LIFE_S)
        times: float = self._times**forgotten
        return times

    def learn(self, took_s: float, priced_s: float, now: float, *, failed: bool) -> None:
        """A move that was priced at `priced_s` (without what was learned before) is over after `took_s`."""
        seen = took_s / priced_s
        self._learn(FAILED_TIMES if failed and seen < FAILED_TIMES else seen, TIMES, now)

    def computed(self, took_s: float, priced_s: float, now: float) -> None:
        """A prompt that the cost table prices at `priced_s` was computed within `took_s`."""
        self._learn(took_s / priced_s, COMPUTED_TIMES, now)

    def _learn(self, seen: float, bounds: tuple[float, float], now: float) -> None:
        seen = min(max(bounds[0], seen), bounds[1])
        self._times, self._at = self.times(now) ** (1.0 - LEARNT) * seen**LEARNT, now
