"""Tenant by tenant: how much longer than alone their workflows took, and whether the objective was met."""

from __future__ import annotations

from statistics import fmean

from saga_sim.report import axis, notation
from saga_sim.report.comparison import compare
from saga_sim.report.curves import profile_legend
from saga_sim.report.data import Outcome, ReportData
from saga_sim.report.markup import Child, Markup, join, tag
from saga_sim.report.plot import BOTTOM, TOP, Frame, figure, label, mark, svg
from saga_sim.report.tables import MOST_GROUPS, head, row, scrolling, small

ROW = 24
"""Height of one tenant in the plot."""
NAME_CHARS = 14
"""More of a name has no room beside the plot; the table has it whole."""

READ = (
    "Mean slowdown and the share of workflows within the objective (what did not finish is not); below it mean completion "
    "time, and how many times as fast as under the baseline, with its 95 % confidence interval."
)


def tenants(data: ReportData) -> list[str]:
    """By name, at most MOST_GROUPS: those with the most workflows. None where there is only one."""
    counts: dict[str, int] = {}
    for outcome in data.runs[0].outcomes:
        counts[outcome.tenant] = counts.get(outcome.tenant, 0) + 1
    largest = sorted(counts, key=lambda name: (-counts[name], name))[:MOST_GROUPS]
    return sorted(largest) if len(counts) > 1 else []


def tenant_plot(data: ReportData) -> Markup | None:
    """Each tenant's mean slowdown under each profile, on one line per tenant."""
    names = tenants(data)
    means = {
        (name, profile): _slowdown(_outcomes(data, profile, name))
        for name in names
        for profile in data.profiles
    }
    known = [value for value in means.values() if value is not None]
    if not known:
        return None
    height = TOP + BOTTOM + ROW * len(names)
    across = axis.ratios("mean completion time / time alone (logarithmic)", known)
    frame = Frame(across, axis.Axis("", 0.0, 1.0, (), str), height=height, left=100)
    parts = [frame.axes()]
    for at, name in enumerate(names):
        y = TOP + ROW * (at + 0.5)
        parts.append(label(frame.left - 7, y + 4.5, _short(name), anchor="end"))
        for series, profile in enumerate(data.profiles):
            mean = means[name, profile]
            if mean is not None:
                parts.append(mark(frame.x(mean), y, series))
    title = "Slowdown by tenant"
    return figure(
        title,
        svg(title, "Mean slowdown of each tenant under each profile.", *parts, height=height),
        "Left is better; marks of one profile that stand in one column are fair to all tenants. All seeds together.",
        profile_legend(data),
    )


def table(data: ReportData) -> Markup | None:
    """Slowdown, objective and completion time of each tenant; None if there is only one."""
    names = tenants(data)
    if not names:
        return None
    left = len({outcome.tenant for outcome in data.runs[0].outcomes}) - len(names)
    more = tag("p", f"{left} smaller ones are not shown.") if left else None
    rows = [_row(data, name) for name in names]
    return join([scrolling(tag("table", head(data, "tenant", "workflows"), tag("tbody", *rows))), more])


def _row(data: ReportData, name: str) -> Markup:
    asked = len(_outcomes(data, data.baseline, name)) // len(data.seeds)
    return row(name, [notation.tick_count(asked), *(_cell(data, profile, name) for profile in data.profiles)])


def _cell(data: ReportData, profile: str, name: str) -> Child:
    outcomes = _outcomes(data, profile, name)
    slowed, slo = _slowdown(outcomes), data.set_up.slo
    times = [o.completion_s for o in outcomes if o.completion_s is not None]
    below = [notation.seconds(fmean(times) if times else None)]
    found = None if profile == data.baseline else compare(data, profile, lambda o: o.tenant == name)
    if found is not None:
        below.append(found.words)
    if slowed is None:
        return small(", ".join(below))
    met = sum(o.slowdown is not None and slo is not None and o.slowdown <= slo for o in outcomes)
    within = f", {notation.tick_share(met / len(outcomes))}" if slo is not None else ""
    return join([f"{notation.ratio(slowed)}{within}", small(", ".join(below))])


def _outcomes(data: ReportData, profile: str, name: str) -> list[Outcome]:
    return [o for run in data.of(profile) for o in run.outcomes if o.tenant == name]


def _slowdown(outcomes: list[Outcome]) -> float | None:
    known = [o.slowdown for o in outcomes if o.slowdown is not None]
    return fmean(known) if known else None


def _short(name: str) -> str:
    return name if len(name) <= NAME_CHARS else f"{name[: NAME_CHARS - 1]}…"
