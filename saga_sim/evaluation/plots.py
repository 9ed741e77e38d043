"""The plots of an evaluation: throughput against completion time, and gains over pressure."""

from __future__ import annotations

from collections.abc import Sequence

from saga_sim.evaluation.answer import Evaluation, condition_words
from saga_sim.evaluation.plan import WORKERS, Load
from saga_sim.evaluation.sets import SETS
from saga_sim.evaluation.standing import Condition, Versus
from saga_sim.report import axis, notation
from saga_sim.report.axis import Axis
from saga_sim.report.markup import Markup, join, tag
from saga_sim.report.plot import Frame, Point, figure, label, legend, line, mark, svg

HOUR_MIN = 60


def _legend(evaluation: Evaluation, profiles: Sequence[str]) -> Markup:
    return legend([(evaluation.set_up.profiles.index(profile), profile) for profile in profiles])


def pareto(evaluation: Evaluation, condition: Condition) -> Markup | None:
    """Throughput across, geomean of completion time up, both against the first baseline; None with fewer than two."""
    baseline = evaluation.set_up.baselines[0]
    found = {s.profile: s.against(baseline) for s in evaluation.at(condition)}
    known = {profile: v for profile, v in found.items() if v is not None and v.throughput is not None}
    if not known or baseline not in found:
        return None
    points = {baseline: (1.0, 1.0)} | {p: (v.throughput or 1.0, v.geomean) for p, v in known.items()}
    across = axis.ratios(f"throughput, times {baseline}", [x for x, _ in points.values()])
    frame = Frame(
        across, axis.ratios(f"completion time, times as fast as {baseline}", [y for _, y in points.values()])
    )
    best = front(points)
    edge = [(frame.x(points[p][0]), frame.y(points[p][1])) for p in best]
    drawn = [_edge(edge), *(_point(evaluation, frame, p, at) for p, at in points.items())]
    title = f"Throughput and completion time: {condition_words(condition)}"
    said = "; ".join(f"{p}: {notation.ratio(x)} and {notation.ratio(y)}" for p, (x, y) in points.items())
    return figure(
        title,
        svg(title, f"{said}.", frame.axes(), *drawn),
        f"Up and right is better. Nobody beats in both: {', '.join(best)}.",
        _legend(evaluation, list(points)),
    )


def front(points: dict[str, Point]) -> list[str]:
    """Those that no other one beats or equals in both and beats in one, from left to right."""
    best = [
        name
        for name, (x, y) in points.items()
        if not any(ox >= x and oy >= y and (ox, oy) != (x, y) for ox, oy in points.values())
    ]
    return sorted(best, key=lambda name: (points[name], name))


def _edge(points: Sequence[Point]) -> Markup:
    drawn = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return tag("path", class_="line", d=drawn, stroke_dasharray="2 4")


def _point(evaluation: Evaluation, frame: Frame, profile: str, at: Point) -> Markup:
    x, y = frame.x(at[0]), frame.y(at[1])
    return join([mark(x, y, evaluation.set_up.profiles.index(profile), 6.0), label(x, y - 10, profile)])


def loops(evaluation: Evaluation, work: str) -> Markup | None:
    """Closed loops: throughput across, completion time up, a line for each profile over numbers at a time; None without."""
    curves: dict[str, list[tuple[float, float, float]]] = {}
    for s in evaluation.standings:
        if (s.condition.work, s.condition.load) == (work, Load.AT_ONCE) and s.steady_per_min and s.tct_mean_s:
            curves.setdefault(s.profile, []).append(
                (s.condition.level, HOUR_MIN * s.steady_per_min, s.tct_mean_s)
            )
    if max(map(len, curves.values()), default=0) < 2:
        return None
    points = [point for curve in curves.values() for point in curve]
    frame = Frame(
        axis.counts("workflows per hour, steady", max(rate for _, rate, _ in points)),
        axis.log_time("completion time, mean", [time for _, _, time in points]),
    )
    drawn = [
        _loop(evaluation, profile, [(frame.x(rate), frame.y(time)) for _, rate, time in sorted(curve)])
        for profile, curve in curves.items()
    ]
    title = f"{SETS[work].what}: completion time against throughput"
    said = "; ".join(
        f"{profile}: "
        + ", ".join(f"{notation.rate(rate)} an hour at {at:g} at a time" for at, rate, _ in sorted(curve))
        for profile, curve in curves.items()
    )
    at = ", ".join(f"{level:g}" for level in sorted({level for level, _, _ in points}))
    return figure(
        title,
        svg(title, f"{said}.", frame.axes(), *drawn),
        f"Closed loops of {at} workflows at a time. Right and down is better.",
        _legend(evaluation, list(curves)),
    )


def _loop(evaluation: Evaluation, profile: str, points: Sequence[Point]) -> Markup:
    at = evaluation.set_up.profiles.index(profile)
    return join([line(list(points), at), *(mark(x, y, at, 3.0) for x, y in points)])


def pressures(evaluation: Evaluation, work: str, load: Load = Load.PRESSURE) -> Markup | None:
    """Gains over the first baseline against pressure, a line for each profile; None with fewer than two pressures."""
    baseline = evaluation.set_up.baselines[0]
    curves: dict[str, list[tuple[float, Versus]]] = {}
    for standing in evaluation.standings:
        condition, found = standing.condition, standing.against(baseline)
        if (
            found is not None
            and (condition.work, condition.load) == (work, load)
            and condition.workers == WORKERS
            and not condition.twist
        ):
            curves.setdefault(standing.profile, []).append((condition.level, found))
    at = sorted({at for curve in curves.values() for at, _ in curve})
    if len(at) < 2:
        return None
    frame = Frame(_pressure_axis(at, load), axis.ratios(f"times as fast as {baseline}", _reaches(curves)))
    drawn = [
        _curve(evaluation, frame, profile, sorted(curve, key=lambda c: c[0]))
        for profile, curve in curves.items()
    ]
    title = f"{SETS[work].what}: gain over {baseline}"
    ends = "; ".join(
        f"{profile}: " + ", ".join(f"{notation.ratio(v.geomean)} at {p:g}" for p, v in curve)
        for profile, curve in curves.items()
    )
    return figure(
        title,
        svg(title, f"{ends}.", frame.axes(), *drawn),
        "Geometric mean over workflows and seeds; the bars are 95 % confidence intervals.",
        _legend(evaluation, list(curves)),
    )


def _reaches(curves: dict[str, list[tuple[float, Versus]]]) -> list[float]:
    return [
        value for curve in curves.values() for _, v in curve for value in (v.geomean, v.low, v.high) if value
    ]


def _pressure_axis(at: Sequence[float], load: Load) -> Axis:
    name = "pressure on KV memory" if load is Load.PRESSURE else "load, of the sustainable peak"
    write = (lambda value: f"{value:g}") if load is Load.PRESSURE else notation.tick_share
    return Axis(name, at[0] / 1.15, at[-1] * 1.15, tuple(at), write, logarithmic=True)


def _curve(
    evaluation: Evaluation, frame: Frame, profile: str, curve: Sequence[tuple[float, Versus]]
) -> Markup:
    at = evaluation.set_up.profiles.index(profile)
    bars = [
        tag("line", class_="seed", x1=frame.x(p), x2=frame.x(p), y1=frame.y(v.low), y2=frame.y(v.high))
        for p, v in curve
        if v.low is not None and v.high is not None
    ]
    return join([*bars, line([(frame.x(p), frame.y(v.geomean)) for p, v in curve], at)])
