"""What a cluster did over time: workflows, steps, busy workers, memory by kind."""

from __future__ import annotations

from collections.abc import Sequence

from saga_sim.report import axis, notation
from saga_sim.report.curves import profile_legend
from saga_sim.report.data import MemorySample, ReportData, Run, Sample
from saga_sim.report.markup import Markup, tag
from saga_sim.report.plot import Frame, area, figure, line, svg


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
