"""How completion times, slowdowns and times to first token spread: one cumulative curve per profile."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from saga_sim.report import axis, notation
from saga_sim.report.data import Outcome, ReportData
from saga_sim.report.markup import Markup, tag
from saga_sim.report.plot import TOP, Frame, Point, figure, legend, line, svg

CURVE_POINTS = 240
"""More cannot be told apart at this size."""


def completion_curves(data: ReportData) -> Markup:
    """The share of workflows that were done within a time, per profile, all seeds together."""
    times = {profile: _known(data, profile, lambda o: o.completion_s) for profile in data.profiles}
    across = axis.log_time("completion time (logarithmic)", _all(times))
    frame = Frame(across, axis.shares("share of workflows done"))
    said = "; ".join(f"{p}: half within {notation.seconds(_middle(times[p]))}" for p in data.profiles)
    title = "Completion times"
    return figure(
        title,
        svg(
            title,
            f"Cumulative share of workflows over completion time. {said}.",
            frame.axes(),
            *_lines(frame, data, times),
        ),
        "A curve further left is better: at any height, read off how long that share of workflows took. A curve that ends "
        "below 100 % had workflows that did not finish. All seeds together.",
        profile_legend(data),
    )


def slowdown_curves(data: ReportData) -> Markup | None:
    """The share of workflows that took no more than a multiple of their time alone, with the objective as a line."""
    slowed = {profile: _known(data, profile, lambda o: o.slowdown) for profile in data.profiles}
    slo = data.set_up.slo
    if not any(slowed.values()):
        return None
    across = axis.ratios(
        "completion time / time alone (logarithmic)", [*_all(slowed), *([slo] if slo else [])]
    )
    frame = Frame(across, axis.shares("share of workflows"))
    title = "Slowdown"
    goal = (
        [tag("line", class_="unity", x1=frame.x(slo), y1=TOP, x2=frame.x(slo), y2=frame.floor)] if slo else []
    )
    said = "; ".join(f"{p}: half within {notation.ratio(_middle(slowed[p]))}" for p in data.profiles)
    return figure(
        title,
        svg(
            title,
            f"Cumulative share of workflows over slowdown. {said}.",
            frame.axes(),
            *goal,
            *_lines(frame, data, slowed),
        ),
        "How many times as long as alone on a worker without a cache. A curve further left is better, a steep one is fair."
        + (f" Dashed: the objective of {notation.ratio(slo)}." if slo else "")
        + " All seeds together.",
        profile_legend(data),
    )


def ttft_curves(data: ReportData) -> Markup | None:
    """The share of steps whose first token came within a time; the first seed."""
    waits = {profile: data.of(profile)[0].ttfts_s for profile in data.profiles}
    if not any(waits.values()):
        return None
    frame = Frame(
        axis.log_time("time to first token (logarithmic)", _all(waits)), axis.shares("share of steps")
    )
    lines = [
        line([(frame.x(t), frame.y((rank + 1) / len(waits[p]))) for rank, t in enumerate(waits[p])], series)
        for series, p in enumerate(data.profiles)
        if waits[p]
    ]
    said = "; ".join(f"{p}: half within {notation.seconds(_middle(waits[p]))}" for p in data.profiles)
    title = "Time to first token"
    return figure(
        title,
        svg(title, f"Cumulative share of steps over time to first token. {said}.", frame.axes(), *lines),
        "From a step's call to its first token, waiting included. A curve further left is better; the part far right is what "
        f"waits or is prefilled again. Seed {data.seeds[0]}.",
        profile_legend(data),
    )


def _lines(frame: Frame, data: ReportData, values: Mapping[str, Sequence[float]]) -> list[Markup]:
    """One cumulative curve per profile, over all workflows that were asked for."""
    lines = []
    for series, profile in enumerate(data.profiles):
        asked = sum(len(run.outcomes) for run in data.of(profile))
        curve = _curve(values[profile], asked)
        lines.append(line([(frame.x(value), frame.y(share)) for value, share in curve], series))
    return lines


def _all(values: Mapping[str, Sequence[float]]) -> list[float]:
    return [value for row in values.values() for value in row]


def profile_legend(data: ReportData) -> Markup:
    names = [f"{name} (baseline)" if name == data.baseline else name for name in data.profiles]
    return legend(list(enumerate(names)))


def _known(data: ReportData, profile: str, of: Callable[[Outcome], float | None]) -> list[float]:
    """What is known of the profile's workflows, in rising order."""
    values = (of(outcome) for run in data.of(profile) for outcome in run.outcomes)
    return sorted(value for value in values if value)


def _middle(ordered: Sequence[float]) -> float | None:
    return ordered[len(ordered) // 2] if ordered else None


def _curve(ordered: Sequence[float], asked: int) -> list[Point]:
    """(time, share of all asked that were done by then), at most CURVE_POINTS of them."""
    count = min(len(ordered), CURVE_POINTS)
    ranks = [round(index * (len(ordered) - 1) / max(1, count - 1)) for index in range(count)]
    return [(ordered[rank], (rank + 1) / asked) for rank in ranks]
