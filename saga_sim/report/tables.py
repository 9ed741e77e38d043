"""The report's tables: set-up, figures per profile, and completion times per agent type and tenant."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean

from saga_sim.report import notation
from saga_sim.report.comparison import Comparison, compare
from saga_sim.report.data import Outcome, ReportData, Run
from saga_sim.report.markup import Child, Markup, join, tag
from saga_sim.report.measures import HIGHER, MEASURES, NEITHER, Measure
from saga_sim.report.plot import swatch

MOST_GROUPS = 30
"""More rows nobody reads; the largest are shown and the rest is counted."""


def set_up(data: ReportData) -> Markup:
    """What was run, enough to do it again."""
    told = data.set_up
    size = [notation.plural(told.workers, "worker"), f"{told.per_node} per node"]
    if told.gpus:
        size.insert(0, notation.plural(told.gpus, "GPU"))
    rows: list[tuple[str, Child]] = [
        ("Workload", join(tag("div", line) for line in _sources(data))),
        ("Cluster", ", ".join(size)),
        ("Worker", f"{told.preset}: {told.preset_what}"),
        ("Cost figures", told.preset_source),
        ("Arrivals", told.arrivals),
        ("Faults", ", ".join(told.faults)),
        ("Seeds", ", ".join(map(str, data.seeds))),
        ("Versions", ", ".join(f"{name} {version}" for name, version in told.versions)),
        ("Command", tag("code", told.command) if told.command else None),
    ]
    return tag(
        "dl", *(join([tag("dt", name), tag("dd", value)]) for name, value in rows if value), class_="setup"
    )


def _sources(data: ReportData) -> list[str]:
    lines = [
        f"{s.name}: {notation.plural(s.workflows, 'workflow')}, {notation.plural(s.steps, 'step')}, "
        f"{notation.count(s.prompt_tokens)} prompt and {notation.count(s.output_tokens)} output tokens"
        for s in data.set_up.sources
    ]
    in_sources = sum(source.workflows for source in data.set_up.sources)
    if in_sources != data.set_up.workflows:
        lines.append(f"{notation.plural(data.set_up.workflows, 'workflow')} in each run")
    return lines


def figures(data: ReportData, comparisons: Sequence[Comparison]) -> Markup:
    """One row per figure, one column per profile."""
    shown = [m for m in MEASURES if any(m.values(data.of(profile)) for profile in data.profiles)]
    found = {comparison.profile: comparison for comparison in comparisons}
    rows = [
        row("Workflows finished", [_finished(data.of(profile)) for profile in data.profiles]),
        row(f"Times as fast as {data.baseline}", [_against(found.get(p)) for p in data.profiles], "key"),
        *(_measure_row(data, measure) for measure in shown),
    ]
    return scrolling(tag("table", head(data, "Figure"), tag("tbody", *rows)))


def head(data: ReportData, *first: str) -> Markup:
    profiles = [
        tag("th", swatch(index), " ", name, small("baseline") if name == data.baseline else None, scope="col")
        for index, name in enumerate(data.profiles)
    ]
    return tag("thead", tag("tr", *(tag("th", name, scope="col") for name in first), *profiles))


def row(name: str, cells: Sequence[Child], class_: str | None = None) -> Markup:
    return tag("tr", tag("th", name, scope="row"), *(tag("td", cell) for cell in cells), class_=class_)


def _finished(runs: Sequence[Run]) -> str:
    outcomes = [outcome for run in runs for outcome in run.outcomes]
    done = sum(outcome.completion_s is not None for outcome in outcomes)
    return f"{notation.tick_count(done)} of {notation.tick_count(len(outcomes))}"


def _against(found: Comparison | None) -> Child:
    if found is None:
        return notation.ratio(1.0)
    if found.low is None or found.high is None:
        return notation.ratio(found.ratio)
    spread = small(f"{notation.ratio(found.low)} to {notation.ratio(found.high)}")
    return join([notation.ratio(found.ratio), spread])


def small(text: str) -> Markup:
    return tag("small", text)


def _measure_row(data: ReportData, measure: Measure) -> Markup:
    means = [measure.mean(data.of(profile)) for profile in data.profiles]
    best = _best(measure, means)
    return row(
        measure.name,
        [
            _cell(
                measure,
                mean,
                measure.values(data.of(profile)),
                is_best=best is not None and measure.write(mean) == best,
            )
            for mean, profile in zip(means, data.profiles, strict=True)
        ],
    )


def _best(measure: Measure, means: Sequence[float | None]) -> str | None:
    """The best mean as written, if there is a choice at all: what reads the same is as good."""
    known = [mean for mean in means if mean is not None]
    if measure.better == NEITHER or len({measure.write(mean) for mean in known}) < 2:
        return None
    return measure.write(max(known) if measure.better == HIGHER else min(known))


def _cell(measure: Measure, mean: float | None, values: Sequence[float], *, is_best: bool) -> Markup:
    written = measure.write(mean)
    low, high = (measure.write(min(values)), measure.write(max(values))) if values else ("", "")
    spread = small(f"{low} to {high}") if low != high else None
    return join([tag("b", written) if is_best else written, spread])


def scrolling(table: Markup) -> Markup:
    """A wide table scrolls by itself on a narrow screen, and by keyboard."""
    return tag("div", table, class_="scroll", tabindex="0", role="group")


def groups(data: ReportData, name: str, of: Callable[[Outcome], str]) -> Markup | None:
    """Mean completion time and ratio for each agent type or tenant; None if there is only one."""
    counts: dict[str, int] = {}
    for outcome in data.runs[0].outcomes:
        counts[of(outcome)] = counts.get(of(outcome), 0) + 1
    if len(counts) < 2:
        return None
    largest = sorted(counts, key=lambda group: (-counts[group], group))[:MOST_GROUPS]
    rows = [_group_row(data, group, counts[group], of) for group in largest]
    left = len(counts) - len(largest)
    more = tag("p", f"{left} smaller ones are not shown.") if left else None
    top = head(data, name, "workflows")
    return join([scrolling(tag("table", top, tag("tbody", *rows))), more])


def _group_row(data: ReportData, group: str, count: int, of: Callable[[Outcome], str]) -> Markup:
    cells: list[Child] = [notation.tick_count(count)]
    for profile in data.profiles:
        times = [
            o.completion_s
            for run in data.of(profile)
            for o in run.outcomes
            if of(o) == group and o.completion_s is not None
        ]
        found = None if profile == data.baseline else compare(data, profile, lambda o: of(o) == group)
        against = small(f"{found.words}") if found else None
        cells.append(join([notation.seconds(fmean(times) if times else None), against]))
    return row(group, cells)
