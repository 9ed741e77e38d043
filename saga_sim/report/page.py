"""The whole report: one HTML file that holds all it needs and fetches nothing."""

from __future__ import annotations

from collections.abc import Iterable

from saga_sim.report import curves, pairs, tables, tenants, timelines
from saga_sim.report.comparison import Comparison
from saga_sim.report.data import ReportData
from saga_sim.report.markup import Markup, tag
from saga_sim.report.style import CSS, PATTERNS
from saga_sim.report.verdict import Loss, Verdict, comparisons, verdict

POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""No script, no fetch: the browser holds the page to it."""


def render(report: ReportData) -> str:
    """The report as one HTML document in UTF-8; the same data gives the same bytes."""
    found = comparisons(report)
    head = tag(
        "head",
        Markup('<meta charset="utf-8"/>'),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        tag("title", report.title),
        tag("style", CSS),
    )
    body = tag("body", PATTERNS, tag("main", *_sections(report, found)))
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def _sections(report: ReportData, found: list[Comparison]) -> list[Markup]:
    judged = verdict(report)
    return [
        tag("h1", report.title),
        tag("p", judged.headline, class_="headline"),
        tag("div", _verdict(report, judged, found), _set_up(report), class_="first"),
        tag("div", _losses(judged.losses), _figures(report, found), class_="pair"),
        tag("section", tag("h2", "Plots"), tag("div", *_plots(report, found), class_="plots")),
        *_groups(report),
    ]


def _figures(report: ReportData, found: list[Comparison]) -> Markup:
    return tag(
        "section", tag("h2", "Figures"), tables.figures(report, found), tag("p", FIGURES, class_="remark")
    )


FIGURES = (
    "Means over seeds, in bold the best of its row; below in small type the lowest and the highest seed, for the ratio its "
    "95 % confidence interval. Completion time: from a workflow's arrival to its last token. Regenerated: prompt tokens "
    "prefilled again although computed before. Useful: what an unfinished workflow could still use. Slowdown: completion time over the workflow's time alone on a "
    "worker without a cache; objective: a slowdown that is met; Jain's index of slowdowns: 1 is all alike. Belady ratio: "
    "seconds of prefilling again over an oracle's on the accesses of the same run (each profile has its own), compulsory "
    "misses left out. All times are virtual."
)


def _verdict(report: ReportData, judged: Verdict, found: list[Comparison]) -> Markup:
    remarks = [tag("p", remark, class_="remark") for remark in judged.remarks]
    return tag("section", pairs.verdict_plot(report, found) if found else None, *remarks)


def _set_up(report: ReportData) -> Markup:
    return tag("section", tag("h2", "Set-up"), tables.set_up(report))


def _losses(losses: Iterable[Loss]) -> Markup:
    items = [
        tag("li", tag("b", loss.profile), tag("ul", *(tag("li", point) for point in loss.points)))
        for loss in losses
    ]
    told = tag("ul", *items, class_="losses") if items else tag("p", "No loss shows in these figures.")
    return tag("section", tag("h2", "Losses"), told)


def _plots(report: ReportData, found: list[Comparison]) -> list[Markup | None]:
    plots = [curves.completion_curves(report), curves.slowdown_curves(report), curves.ttft_curves(report)]
    plots += [
        tenants.tenant_plot(report),
        timelines.live_workflows(report),
        timelines.steps_in_service(report),
        timelines.busy_workers(report),
    ]
    for comparison in found:
        plots += [pairs.ratio_histogram(report, comparison), pairs.ratio_dots(report, comparison)]
    return plots + [timelines.memory(report.of(profile)[0]) for profile in report.profiles]


def _groups(report: ReportData) -> list[Markup]:
    parts = []
    for name, table in (
        ("Agent type", tables.groups(report, "agent type", lambda o: o.agent_type)),
        ("Tenant", tenants.table(report)),
    ):
        if table is not None:
            said = tag("p", tenants.READ if name == "Tenant" else GROUPS, class_="remark")
            parts.append(tag("section", tag("h2", f"By {name.lower()}"), table, said))
    return parts


GROUPS = "Mean completion time; below it, how many times as fast as under the baseline, with its 95 % confidence interval."
