"""The report's plots, each from the data to a figure with a caption that says how to read it."""

from __future__ import annotations

from collections.abc import Sequence

from saga_sim.report import axis, notation
from saga_sim.report.comparison import Basis, Comparison
from saga_sim.report.data import MemorySample, ReportData, Run, Sample
from saga_sim.report.markup import Markup, join, tag
from saga_sim.report.plot import (
    TOP,
    WIDTH,
    Frame,
    Point,
    area,
    figure,
    label,
    legend,
    line,
    mark,
    svg,
)

CURVE_POINTS = 240
"""More cannot be told apart at this size."""
DOTS = 500
BINS = 24


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


def verdict_plot(data: ReportData, comparisons: Sequence[Comparison]) -> Markup:
    """Each profile's ratio to the baseline with its confidence interval and its seeds."""
    height = 78 + 34 * len(comparisons)
    values = [v for c in comparisons for v in (c.ratio, c.low, c.high, *c.per_seed) if v is not None]
    across = axis.ratios(f"times as fast as {data.baseline} (logarithmic)", values)
    rows = axis.Axis("", 0.0, 1.0, (), str)
    frame = Frame(across, rows, height=height, left=14)
    parts = [frame.axes(), _unity(frame)]
    for row, found in enumerate(comparisons):
        parts.append(_whisker(frame, found, data.profiles.index(found.profile), TOP + 22 + 34 * row))
    title = f"Speed against {data.baseline}"
    return figure(
        title,
        svg(title, " ".join(f"{c.profile}: {ratio_words(c)}." for c in comparisons), *parts, height=height),
        f"Right of the dashed line is faster than {data.baseline}. The mark is the geometric mean over the same workflows, the "
        "bar its 95 % confidence interval" + _seed_words(comparisons),
    )


def _seed_words(comparisons: Sequence[Comparison]) -> str:
    if any(c.basis is Basis.SEEDS for c in comparisons):
        return " over seeds, each thin stroke one seed."
    return " over the workflows of one run."


def ratio_words(found: Comparison) -> str:
    """`1.23 (1.15 to 1.31)`."""
    if found.low is None or found.high is None:
        return notation.ratio(found.ratio)
    return f"{notation.ratio(found.ratio)} ({notation.ratio(found.low)} to {notation.ratio(found.high)})"


def _whisker(frame: Frame, found: Comparison, series: int, y: float) -> Markup:
    low, high = found.low or found.ratio, found.high or found.ratio
    seeds = found.per_seed if found.basis is Basis.SEEDS else ()
    return join(
        [
            label(18, y - 8, f"{found.profile}: {ratio_words(found)}", anchor="start", class_="row"),
            tag(
                "line", class_=f"whisker c{series % 7}", x1=frame.x(low), y1=y + 5, x2=frame.x(high), y2=y + 5
            ),
            *(tag("line", class_="seed", x1=frame.x(s), y1=y, x2=frame.x(s), y2=y + 10) for s in seeds),
            mark(frame.x(found.ratio), y + 5, series, 5),
        ]
    )


def _unity(frame: Frame) -> Markup:
    return tag("line", class_="unity", x1=frame.x(1), y1=TOP, x2=frame.x(1), y2=frame.floor)


def ratio_histogram(data: ReportData, found: Comparison) -> Markup:
    """How many workflows were how much faster or slower than under the baseline."""
    ratios = sorted(ratio for _, ratio in found.pairs)
    inner = ratios[len(ratios) // 100 : len(ratios) - len(ratios) // 100]
    across = axis.ratios(f"time under {data.baseline} / time under {found.profile}", inner)
    bins = [0] * BINS
    for ratio in ratios:
        bins[min(BINS - 1, int(across.place(ratio) * BINS))] += 1
    frame = Frame(across, axis.counts("workflows", max(bins)))
    said = f"{_of(found.faster, found)} faster, {_of(found.slower, found)} slower, the rest within 1 %"
    title = f"{found.profile} against {data.baseline}, workflow by workflow"
    outside = " The outermost bars hold what lies further out." if len(inner) < len(ratios) else ""
    return figure(
        title,
        svg(title, f"Histogram of ratios. {said}.", frame.axes(), _bars(frame, bins), _unity(frame)),
        f"Filled bars right of the dashed line: workflows that {found.profile} finished faster; hatched bars left of it: "
        f"slower. {said}.{outside}",
    )


def _of(part: int, found: Comparison) -> str:
    return f"{notation.tick_count(part)} ({notation.tick_share(part / len(found.pairs))})"


def _bars(frame: Frame, bins: Sequence[int]) -> Markup:
    width = (frame.x(frame.across.high) - frame.left) / len(bins)
    return join(
        tag(
            "rect",
            class_="bar slower" if index < len(bins) / 2 else "bar faster",
            x=frame.left + index * width + 1,
            y=frame.y(count),
            width=width - 2,
            height=frame.floor - frame.y(count),
        )
        for index, count in enumerate(bins)
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
    one = tag("line", class_="unity", x1=frame.left, y1=frame.y(1), x2=WIDTH - 14, y2=frame.y(1))
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
    from saga_sim.report.comparison import mean_ratio

    return notation.ratio(mean_ratio([ratio for _, ratio in pairs])) if pairs else notation.UNKNOWN


def live_workflows(data: ReportData) -> Markup | None:
    """Workflows that had arrived and not ended, over time."""
    return _over_time(
        data,
        {run.profile: run.live_workflows for run in _firsts(data)},
        title="Live workflows",
        up="workflows",
        caption="Workflows that had arrived and not ended. Arrivals are the same under all profiles, so a lower line is better; "
        "one that keeps rising is a cluster that cannot follow.",
    )


def busy_workers(data: ReportData) -> Markup | None:
    """Workers that had a step, over time."""
    return _over_time(
        data,
        {run.profile: run.busy_workers for run in _firsts(data)},
        title="Busy workers",
        up=f"workers (of {notation.tick_count(data.set_up.workers)})",
        caption="Workers with at least one step, in service or waiting there. For the same work, fewer is less computing; a "
        "line at the number of workers is a full cluster.",
    )


def steps_in_service(data: ReportData) -> Markup | None:
    """Steps that were sent and not answered, over time."""
    return _over_time(
        data,
        {run.profile: run.steps_in_service for run in _firsts(data)},
        title="Steps under way",
        up="steps",
        caption="Steps that were sent and not yet answered, waiting or in service. The rest of the live workflows waits for "
        "tools.",
    )


def _firsts(data: ReportData) -> list[Run]:
    return [data.of(profile)[0] for profile in data.profiles]


def _over_time(
    data: ReportData, series: dict[str, tuple[Sample, ...]], *, title: str, up: str, caption: str
) -> Markup | None:
    if not any(series.values()):
        return None
    until_s = max(samples[-1].at_s for samples in series.values() if samples)
    most = max(sample.value for samples in series.values() for sample in samples)
    frame = Frame(axis.time("time since the first arrival", until_s), axis.counts(up, most))
    lines = [
        line([(frame.x(s.at_s), frame.y(s.value)) for s in samples], at, stairs=True)
        for at, samples in enumerate(series.values())
    ]
    said = "; ".join(
        f"{profile}: at most {notation.count(max(s.value for s in samples))}"
        for profile, samples in series.items()
        if samples
    )
    return figure(
        title,
        svg(title, f"Number over time. {said}.", frame.axes(), *lines),
        f"{caption} Seed {data.seeds[0]}.",
        profile_legend(data),
    )


KINDS = (
    ("running", "of steps in service"),
    ("kept", "kept for workflows that go on"),
    ("leftover", "left by ended workflows"),
)


def memory(run: Run) -> Markup | None:
    """What the workers' KV memory held over time, by kind."""
    if not run.memory:
        return None
    frame = Frame(
        axis.time("time since the first arrival", run.memory[-1].at_s), axis.shares("share of all KV memory")
    )
    title = f"KV memory under {run.profile}"
    means = [sum(getattr(s, kind) for s in run.memory) / len(run.memory) for kind, _ in KINDS]
    said = ", ".join(f"{notation.share(m)} {words}" for m, (_, words) in zip(means, KINDS, strict=True))
    return figure(
        title,
        svg(title, f"Stacked areas over time. On average {said}.", frame.axes(), *_stack(frame, run.memory)),
        f"Blank is free. What ended workflows left can serve nobody but a shared prompt. On average {said}. Seed {run.seed}.",
        tag("ul", *(tag("li", _patch(kind), words) for kind, words in KINDS), class_="legend"),
    )


def _patch(kind: str) -> Markup:
    patch = tag("rect", class_=f"kind {kind}", x=1, y=2, width=34, height=12)
    return tag("svg", patch, viewBox="0 0 36 16", class_="swatch", aria_hidden="true")


def _stack(frame: Frame, samples: Sequence[MemorySample]) -> list[Markup]:
    below = [(frame.x(s.at_s), frame.floor) for s in samples]
    sums = [0.0] * len(samples)
    layers = []
    for kind, _ in KINDS:
        sums = [total + getattr(s, kind) for total, s in zip(sums, samples, strict=True)]
        top = [(frame.x(s.at_s), frame.y(total)) for s, total in zip(samples, sums, strict=True)]
        layers.append(area(top, below, f"kind {kind}"))
        below = top
    return layers


__all__ = [
    "busy_workers",
    "completion_curves",
    "live_workflows",
    "memory",
    "ratio_dots",
    "ratio_histogram",
    "ratio_words",
    "steps_in_service",
    "verdict_plot",
]
