"""Running percentiles in constant space: cheap enough for every step, and they forget."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, log

from saga_core.aeg.words import Estimate

STEP = 0.05
"""Of the spread, per sample: at rest the marks wander by some 5 %, and a shift is followed within 100 samples."""
YOUNG = 20
"""Samples during which the marks move faster (1 / n), to leave the first sample behind."""
SPREAD = 1.0
"""log-scale spread presumed at the first sample (outputs and tool results: 0.9 to 1.8 in the recordings)."""


@dataclass(slots=True)
class Band:
    """10th, 50th and 90th percentile of log(1 + x) by stochastic approximation (Robbins and Monro)."""

    samples: int = 0
    low: float = 0.0
    middle: float = 0.0
    high: float = 0.0

    def add(self, value: float) -> None:
        x = log(1.0 + value) if value > 0.0 else 0.0
        n = self.samples = self.samples + 1
        if n == 1:
            self.low, self.middle, self.high = max(0.0, x - SPREAD), x, x + SPREAD
            return
        spread = self.high - self.low
        move = (0.1 + spread) * (1.0 / n if n < YOUNG else STEP)
        self.low += move * (0.1 if x > self.low else -0.9)
        self.middle += move * (0.5 if x > self.middle else -0.5)
        self.high += move * (0.9 if x > self.high else -0.1)
        self.low = max(self.low, 0.0)
        self.middle = max(self.middle, self.low)
        self.high = max(self.high, self.middle)

    def errors(self, value: float) -> tuple[float, float, bool]:
        """Error of the median, the same again (there is no simpler rule), and whether the band holds the value."""
        x = log(1.0 + value)
        error = abs(self.middle - x)
        return error, error, self.low <= x <= self.high

    def estimate(self, source: str) -> Estimate:
        low, middle, high = exp(self.low) - 1.0, exp(self.middle) - 1.0, exp(self.high) - 1.0
        # Swanson's rule: the mean of what three percentiles say.
        return Estimate(0.3 * low + 0.4 * middle + 0.3 * high, low, high, source, self.samples, middle)
