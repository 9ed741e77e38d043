"""Changes over time folded into means over equal stretches, so that a day of traffic is as light as a minute."""

from __future__ import annotations

from collections.abc import Iterable

from saga_sim.report.data import Sample

STRETCHES = 160
"""About three pixels of a plot each."""


def means(
    spans: Iterable[tuple[float, float]], until_s: float, stretches: int = STRETCHES
) -> tuple[Sample, ...]:
    """How many of the spans (start, end in seconds) were open, on average, in each stretch from 0 to `until_s`."""
    if until_s <= 0:
        return ()
    width = until_s / stretches
    slopes = [0.0] * (stretches + 1)  # spans that cover a stretch whole, as differences
    parts = [0.0] * stretches  # and in part, in seconds
    for start, end in spans:
        _add(max(0.0, start), min(end, until_s), width, slopes, parts)
    samples, whole = [], 0.0
    for index in range(stretches):
        whole += slopes[index]
        samples.append(Sample(index * width, whole + parts[index] / width))
    return tuple(samples)


def _add(start: float, end: float, width: float, slopes: list[float], parts: list[float]) -> None:
    if end <= start:
        return
    last = len(parts) - 1
    first_at, last_at = min(int(start / width), last), min(int(end / width), last)
    if first_at == last_at:
        parts[first_at] += end - start
        return
    parts[first_at] += (first_at + 1) * width - start
    parts[last_at] += end - last_at * width
    slopes[first_at + 1] += 1
    slopes[last_at] -= 1
