"""How long things of a kind last, when some have not ended yet: the estimator of Kaplan and Meier over a ring.

Those that ended first are the short ones. A history of them alone expects too little of the next for as long as the
long ones are still under way, which is longest where it matters most: under load. What is under way counts here as
"longer than what it has taken so far".
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import log

from saga_core.aeg.rings import Ring

FRESH = 16
"""The curve is drawn anew once a sixteenth of its samples is new."""
BEYOND = log(2)
"""The share that outlasts every sample is expected to last twice as long as the longest."""

Censored = Sequence[tuple[float, float]]
"""What is under way: how far it has come (logarithm), and how many it stands for; the least first."""


@dataclass(slots=True, eq=False)
class Curve:
    """Logarithms of the latest totals, and the share of all that end at or before each."""

    ring: Ring
    values: list[float] = field(default_factory=list)
    """As the curve was last drawn, the least first."""
    shares: list[float] = field(default_factory=list)
    new: int = 0
    """Samples since."""

    def add(self, value: float) -> None:
        self.ring.add(value)
        self.new += 1

    @property
    def due(self) -> bool:
        return self.new * FRESH >= len(self.ring.ordered)

    def draw(self, censored: Censored = ()) -> None:
        """Weigh the samples against what is under way."""
        self.new = 0
        values = self.values = self.ring.ordered.copy()
        risk = len(values) + sum(weight for _, weight in censored)
        survive, gone, shares = 1.0, 0, []
        for value in values:
            while gone < len(censored) and censored[gone][0] < value:
                risk -= censored[gone][1]
                gone += 1
            survive *= 1.0 - 1.0 / risk if risk > 1.0 else 0.0
            risk -= 1.0
            shares.append(1.0 - survive)
        self.shares = shares

    def above(self, value: float) -> int:
        """Index of the first sample greater than `value`."""
        return bisect_right(self.values, value)

    def quantile(self, first: int, point: float) -> float:
        """The value below which the share `point` of those ends that are not over before sample `first`."""
        shares, values = self.shares, self.values
        base = shares[first - 1] if first else 0.0
        # A billionth less: sums of shares miss their exact value by rounding.
        index = bisect_left(shares, base + point * (1.0 - base) - 1e-9, first)
        return values[index] if index < len(values) else values[-1] + BEYOND
