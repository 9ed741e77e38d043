"""Plots of profiles against the baseline, workflow by workflow."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, exp, floor, log

from saga_sim.pairing import Basis
from saga_sim.report import axis, notation
from saga_sim.report.comparison import Comparison, mean_ratio
from saga_sim.report.data import ReportData
from saga_sim.report.markup import Markup, join, tag
from saga_sim.report.plot import BOTTOM, RIGHT, TOP, WIDTH, Frame, Point, figure, label, mark, svg

DOTS = 500
"""More would cover each other."""
BINS = 24
ROW = 42
"""Height of one profile in the plot of ratios."""


def verdict_plot(data: ReportData, comparisons: Sequence[Comparison]) -> Markup:
    """Each profile's ratio to the baseline with its confidence interval and its seeds."""
    height = TOP + BOTTOM + ROW * len(comparisons)
    values = [v for c in comparisons for v in (c.ratio, c.low, c.high, *c.per_seed) if v is not None]
    across = axis.ratios(f"times as fast as {data.baseline} (logarithmic)", values)
    rows = axis.Axis("", 0.0, 1.0, (), str)
    frame = Frame(across, rows, height=height, left=14)
    parts = [frame.axes(), _unity(frame)]
    for row, found in enumerate(comparisons):
        parts.append(_whisker(frame, found, data.profiles.index(found.profile), TOP + ROW * row + 4))
    title = f"Speed against {data.baseline}"
    return figure(
        title,
        svg(title, " ".join(f"{c.profile}: {c.words}." for c in comparisons), *parts, height=height),
        f"Right of the dashed line is faster than {data.baseline}. The mark is the geometric mean over the same workflows, the "
        "bar its 95 % confidence interval" + _seed_words(comparisons),
    )


def _seed_words(comparisons: Sequence[Comparison]) -> str:
    if any(c.basis is Basis.SEEDS for c in comparisons):
        return " over seeds, each thin stroke one seed."
    return " over the workflows of one run."


def _whisker(frame: Frame, found: Comparison, series: int, y: float) -> Markup:
    low, high = found.low or found.ratio, found.high or found.ratio
    seeds = found.per_seed if found.basis is Basis.SEEDS else ()
    return join(
        [
            label(18, y, f"{found.profile}: {found.words}", anchor="start", class_="row"),
            tag(
                "line",
                class_=f"whisker c{series % 7}",
                x1=frame.x(low),
                y1=y + 16,
                x2=frame.x(high),
                y2=y + 16,
            ),
            *(tag("line", class_="seed", x1=frame.x(s), y1=y + 10, x2=frame.x(s), y2=y + 22) for s in seeds),
            mark(frame.x(found.ratio), y + 16, series, 5),
        ]
    )


def _unity(frame: Frame) -> Markup:
    return tag("line", class_="unity", x1=frame.x(1), y1=TOP, x2=frame.x(1), y2=frame.floor)


def ratio_histogram(data: ReportData, found: Comparison) -> Markup:
    """How many workflows were how much faster or slower than under the baseline."""
    ratios = sorted(ratio for _, ratio in found.pairs)
    inner = ratios[len(ratios) // 100 : len(ratios) - len(ratios) // 100]
    across = axis.ratios(f"time under {data.baseline} / time under {found.profile} (logarithmic)", inner)
    bins = _binned(across, ratios)
    frame = Frame(across, axis.counts("workflows", max(count for _, _, count in bins)))
    said = f"{_of(found.faster, found)} faster, {_of(found.slower, found)} slower, the rest within 1\N{NO-BREAK SPACE}%"
    title = f"{found.profile} against {data.baseline}, workflow by workflow"
    outside = " The outermost bars hold what lies further out." if len(inner) < len(ratios) else ""
    return figure(
        title,
        svg(title, f"Histogram of ratios. {said}.", frame.axes(), _bars(frame, bins), _unity(frame)),
        f"Filled bars right of the dashed line: workflows that {found.profile} finished faster; hatched bars left of it: "
        f"slower. {said}.{outside}",
    )


def _binned(across: axis.Axis, ratios: Sequence[float]) -> list[tuple[float, float, int]]:
    """(from, to, how many) on the axis; 1 lies between two bins, so that no bar holds faster and slower ones."""
    width = log(across.high / across.low) / BINS
    first, last = floor(log(across.low) / width), ceil(log(across.high) / width) - 1
    counts = [0] * (last - first + 1)
    for ratio in ratios:
        counts[min(max(floor(log(ratio) / width), first), last) - first] += 1
    return [(exp((first + i) * width), exp((first + i + 1) * width), count) for i, count in enumerate(counts)]


def _of(part: int, found: Comparison) -> str:
    return f"{notation.tick_count(part)} ({notation.tick_share(part / len(found.pairs))})"


def _bars(frame: Frame, bins: Sequence[tuple[float, float, int]]) -> Markup:
    return join(
        tag(
            "rect",
            class_="bar slower" if high < 1 + 1e-9 else "bar faster",
            x=frame.x(low) + 1,
            y=frame.y(count),
            width=max(1.0, frame.x(high) - frame.x(low) - 2),
            height=frame.floor - frame.y(count),
        )
        for low, high, count in bins
        if count
    )


def ratio_dots(data: ReportData, found: Comparison) -> Markup:
    """Each workflow's ratio over how long it took under the baseline: short or long ones, who gains?"""
    pairs = sorted(found.pairs)
    every = -(-len(pairs) // DOTS)
    shown = pairs[::every]
    across = axis.log_time(f"completion time under {data.baseline} (logarithmic)", [t for t, _ in pairs])
    up = axis.ratios("ratio (logarithmic)", [ratio for _, ratio in shown])
    frame = Frame(across, up)
    series = data.profiles.index(found.profile)
    dots = tag("g", *(mark(frame.x(t), frame.y(r), series, 2.5) for t, r in shown), class_="dots")
    one = tag("line", class_="unity", x1=frame.left, y1=frame.y(1), x2=WIDTH - RIGHT, y2=frame.y(1))
    title = f"Who gains under {found.profile}"
    picked = f" One in {every} is drawn." if every > 1 else ""
    half = len(pairs) // 2
    said = f"Geometric mean of the shorter half {_mean_of(pairs[:half])}, of the longer half {_mean_of(pairs[half:])}."
    return figure(
        title,
        svg(
            title,
            f"Scatter of ratio over completion time under {data.baseline}. {said}",
            frame.axes(),
            one,
            dots,
        ),
        f"One mark per workflow: above the dashed line it was faster than under {data.baseline}, below slower; the longer "
        f"it took there, the further right it stands. {said}{picked}",
    )


def _mean_of(pairs: Sequence[Point]) -> str:
    return notation.ratio(mean_ratio([ratio for _, ratio in pairs])) if pairs else notation.UNKNOWN
