"""How completion times spread: one cumulative curve per profile."""

from __future__ import annotations

from collections.abc import Sequence

from saga_sim.report import axis, notation
from saga_sim.report.data import ReportData
from saga_sim.report.markup import Markup
from saga_sim.report.plot import Frame, Point, figure, legend, line, svg

CURVE_POINTS = 240
"""More cannot be told apart at this size."""


def completion_curves(data: ReportData) -> Markup:
    """The share of workflows that were done within a time, per profile, all seeds together."""
    times = {profile: _completions(data, profile) for profile in data.profiles}
    every = [value for values in times.values() for value in values]
    across = axis.log_time("completion time (logarithmic)", every)
    frame = Frame(across, axis.shares("share of workflows done"))
    lines = []
    for series, profile in enumerate(data.profiles):
        asked = sum(len(run.outcomes) for run in data.of(profile))
        lines.append(line([(frame.x(t), frame.y(s)) for t, s in _curve(times[profile], asked)], series))
    said = "; ".join(f"{p}: half within {notation.seconds(_middle(times[p]))}" for p in data.profiles)
    title = "Completion times"
    return figure(
        title,
        svg(title, f"Cumulative share of workflows over completion time. {said}.", frame.axes(), *lines),
        "A curve further left is better: at any height, read off how long that share of workflows took. A curve that ends "
        "below 100 % had workflows that did not finish. All seeds together.",
        profile_legend(data),
    )


def profile_legend(data: ReportData) -> Markup:
    names = [f"{name} (baseline)" if name == data.baseline else name for name in data.profiles]
    return legend(list(enumerate(names)))


def _completions(data: ReportData, profile: str) -> list[float]:
    return sorted(o.completion_s for run in data.of(profile) for o in run.outcomes if o.completion_s)


def _middle(ordered: Sequence[float]) -> float | None:
    return ordered[len(ordered) // 2] if ordered else None


def _curve(ordered: Sequence[float], asked: int) -> list[Point]:
    """(time, share of all asked that were done by then), at most CURVE_POINTS of them."""
    count = min(len(ordered), CURVE_POINTS)
    ranks = [round(index * (len(ordered) - 1) / max(1, count - 1)) for index in range(count)]
    return [(ordered[rank], (rank + 1) / asked) for rank in ranks]
