"""An evaluation as one HTML file that holds all it needs and fetches nothing."""

from __future__ import annotations

from collections.abc import Iterator

from saga_sim.evaluation import plots, rows
from saga_sim.evaluation.answer import Evaluation, condition_words, gist
from saga_sim.evaluation.plan import Load
from saga_sim.evaluation.targets import ELSEWHERE, State
from saga_sim.report import notation
from saga_sim.report.markup import Child, Markup, join, tag
from saga_sim.report.page import POLICY
from saga_sim.report.style import CSS, PATTERNS
from saga_sim.report.tables import scrolling

PARTS = ("Targets", "Losses", "Plots", "Figures")
MORE_CSS = Markup("""
nav{margin:.8rem 0}nav a{margin-right:1.2rem}.gist{max-width:none;margin:.2rem 0}.verdict td:nth-child(5){white-space:nowrap}.verdict td:nth-child(6){font-size:.85em}
.verdict td,.verdict th{white-space:normal;text-align:left;min-width:4.5rem}
.verdict td:nth-child(5){font-weight:600}
.verdict td:nth-child(2),.verdict td:nth-child(3){white-space:nowrap}
.verdict .met td:nth-child(5){color:var(--good)}.verdict .missed td:nth-child(5){color:var(--bad)}
td.word{text-align:left}details{margin:.4rem 0}summary{cursor:pointer}
""")


def render(evaluation: Evaluation) -> str:
    """The page in UTF-8; the same evaluation gives the same bytes."""
    title = f"saga eval: {evaluation.set_up.suite}"
    head = tag(
        "head",
        Markup('<meta charset="utf-8"/>'),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        tag("style", CSS, MORE_CSS),
    )
    parts = [
        tag("h1", title),
        tag("p", evaluation.headline, class_="headline"),
        *(tag("p", line, class_="gist") for line in gist(evaluation.standings)),
        tag("nav", *(tag("a", name, href=f"#{name.lower()}") for name in PARTS)),
        tag(
            "section",
            *_targets(evaluation),
            tag("p", ELSEWHERE, class_="remark"),
            id="targets",
        ),
        tag("section", tag("h2", "Losses"), _losses(evaluation), id="losses"),
        tag("section", tag("h2", "Plots"), tag("div", *_plots(evaluation), class_="plots"), id="plots"),
        *_overviews(evaluation),
        tag("section", tag("h2", "Set-up"), _set_up(evaluation)),
        tag(
            "section",
            tag("h2", "Figures"),
            *(tag("p", said, class_="remark") for said in rows.LEGENDS),
            *_figures(evaluation),
        ),
    ]
    return f"<!doctype html>\n{tag('html', head, tag('body', PATTERNS, tag('main', *parts)), lang='en')}\n"


def table(shown: rows.Table, class_: str | None = None) -> Markup:
    """A table that scrolls by itself."""
    head = tag("thead", tag("tr", *(tag("th", name, scope="col") for name in shown.head)))
    classes = shown.classes or (None,) * len(shown.rows)
    body = [
        tag("tr", tag("th", row[0], scope="row"), *_cells(shown, row), class_=named)
        for row, named in zip(shown.rows, classes, strict=True)
    ]
    return scrolling(tag("table", head, tag("tbody", *body), class_=class_))


def _cells(shown: rows.Table, row: tuple[str, ...]) -> Iterator[Markup]:
    for at, cell in enumerate(row[1:], start=1):
        yield tag("td", cell, class_="word" if at < shown.words else None)


def _targets(evaluation: Evaluation) -> Iterator[Markup]:
    """The verdict; what was not run is folded away."""
    run = [judged for judged in evaluation.targets if judged.state is not State.NOT_RUN]
    left = [judged for judged in evaluation.targets if judged.state is State.NOT_RUN]
    if run:
        yield table(rows.targets(run), "verdict")
    if left:
        said = f"{notation.plural(len(left), 'target')} not run"
        yield tag("details", tag("summary", said), table(rows.targets(left), "verdict"))


def _losses(evaluation: Evaluation) -> Markup:
    items = [
        tag("li", tag("b", loss.profile), tag("ul", *(tag("li", point) for point in loss.points)))
        for loss in evaluation.losses
    ]
    return tag("ul", *items, class_="losses") if items else tag("p", "No loss shows in these figures.")


def _plots(evaluation: Evaluation) -> Iterator[Markup | None]:
    works = dict.fromkeys((c.work, c.load) for c in evaluation.conditions())
    for work, load in works:
        yield (
            plots.loops(evaluation, work) if load is Load.AT_ONCE else plots.pressures(evaluation, work, load)
        )
    for work, load in works:
        if load is not Load.PRESSURE:
            continue
        hardest = max(
            (c for c in evaluation.conditions() if (c.work, c.load) == (work, load)), key=lambda c: c.level
        )
        yield plots.pareto(evaluation, hardest)


def _overviews(evaluation: Evaluation) -> Iterator[Markup]:
    for baseline in evaluation.set_up.baselines:
        shown = rows.overview(evaluation, baseline)
        if shown.rows:
            remark = tag("p", rows.VERSUS_LEGEND, class_="remark")
            yield tag("section", tag("h2", f"Times as fast as {baseline}"), table(shown), remark)


def _figures(evaluation: Evaluation) -> Iterator[Markup]:
    for condition in evaluation.conditions():
        shown = [rows.figures(evaluation, condition), rows.against(evaluation, condition)]
        parts = [table(one) for one in shown if one.rows]
        for title, one in rows.details(evaluation, condition):
            parts += [tag("p", title, class_="remark"), table(one)]
        yield tag("details", tag("summary", condition_words(condition)), *parts)


def _set_up(evaluation: Evaluation) -> Markup:
    told = evaluation.set_up
    said: list[tuple[str, Child]] = [
        ("Command", tag("code", told.command)),
        ("Profiles", ", ".join(told.profiles)),
        ("Seeds", f"0 to {told.seeds - 1}"),
        ("Cells", f"{evaluation.cells}, {notation.seconds(evaluation.cpu_s)} of CPU time"),
        ("Versions", ", ".join(f"{name} {version}" for name, version in told.versions)),
        ("Code", told.code),
        ("Machine", told.machine),
        *(("Peak", _peak(p.work, p.workers, p.per_min, p.at_once)) for p in evaluation.peaks),
        *(("Not run", f"{name}: {why}") for name, why in told.skipped),
        *(("Failed", f"{failure.cell}: {failure.why}") for failure in evaluation.failures),
    ]
    return tag(
        "dl", *(join([tag("dt", name), tag("dd", value)]) for name, value in said if value), class_="setup"
    )


def _peak(work: str, workers: int, per_min: float, at_once: float) -> str:
    return f"{work}, {workers} workers: {notation.rate(per_min)} workflows/min, at {at_once:g} at a time under sticky"
