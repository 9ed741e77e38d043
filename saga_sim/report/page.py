"""The whole report: one HTML file that holds all it needs and fetches nothing."""

from __future__ import annotations

from collections.abc import Iterable

from saga_sim.report import charts, tables
from saga_sim.report.comparison import Comparison
from saga_sim.report.data import ReportData
from saga_sim.report.markup import Markup, join, tag
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
    against = charts.verdict_plot(report, found) if found else None
    return [
        tag("h1", report.title),
        _verdict(judged),
        tag("div", against, tag("section", tag("h2", "Set-up"), tables.set_up(report)), class_="first"),
        _losses(judged.losses),
        tag(
            "section", tag("h2", "Figures"), tables.figures(report, found), tag("p", FIGURES, class_="remark")
        ),
        tag("section", tag("h2", "Plots"), tag("div", *_plots(report, found), class_="plots")),
        *_groups(report),
    ]


FIGURES = (
    "Means over seeds, in bold the best of its row; below in small type the lowest and the highest seed, for the ratio its "
    "95 % confidence interval. Completion time: from a workflow's arrival to its last token. Regenerated: prompt tokens "
    "prefilled again although computed before. Useful: what an unfinished workflow could still use. All times are virtual."
)


def _verdict(judged: Verdict) -> Markup:
    remarks = [tag("p", remark, class_="remark") for remark in judged.remarks]
    return join([tag("p", judged.headline, class_="headline"), *remarks])


def _losses(losses: Iterable[Loss]) -> Markup:
    items = [
        tag("li", tag("b", loss.profile), tag("ul", *(tag("li", point) for point in loss.points)))
        for loss in losses
    ]
    told = tag("ul", *items, class_="losses") if items else tag("p", "None that the figures show.")
    return tag("section", tag("h2", "Losses"), told)


def _plots(report: ReportData, found: list[Comparison]) -> list[Markup | None]:
    plots = [charts.completion_curves(report), charts.live_workflows(report)]
    plots += [charts.steps_in_service(report), charts.busy_workers(report)]
    for comparison in found:
        plots += [charts.ratio_histogram(report, comparison), charts.ratio_dots(report, comparison)]
    return plots + [charts.memory(report.of(profile)[0]) for profile in report.profiles]


def _groups(report: ReportData) -> list[Markup]:
    parts = []
    for name, table in (
        ("Agent type", tables.groups(report, "agent type", lambda o: o.agent_type)),
        ("Tenant", tables.groups(report, "tenant", lambda o: o.tenant)),
    ):
        if table is not None:
            said = tag("p", GROUPS, class_="remark")
            parts.append(tag("section", tag("h2", f"By {name.lower()}"), table, said))
    return parts


GROUPS = "Mean completion time; below it, how many times as fast as under the baseline, with its 95 % confidence interval."
