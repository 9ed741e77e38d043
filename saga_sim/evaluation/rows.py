"""The tables of an evaluation as rows of text, the same for Markdown and HTML."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from saga_core.aeg.scores import NEXT_TOOL
from saga_sim.evaluation.answer import Evaluation, condition_words, is_ours, versus_words
from saga_sim.evaluation.sets import SETS
from saga_sim.evaluation.standing import COLD, Condition, Forecast, Standing, Tenant
from saga_sim.evaluation.targets import Figure, Judged, Over, State, Target
from saga_sim.report import notation
from saga_sim.slowdown import STARVED

WIDEST = 9
"""Profiles that fit beside each other on a page."""

SIGNS = {
    State.MET: "✓ met",
    State.PARTLY: "(✓) met where run",
    State.MISSED: "✗ missed",
    State.NOT_RUN: "– not run",
}


@dataclass(frozen=True, slots=True)
class Table:
    """Head and rows; the first `words` columns hold words, the others figures. key: the row to stress."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: int = 1
    classes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Column:
    """One figure of a standing."""

    name: str
    write: Callable[[Standing], str]


COLUMNS = (
    Column("TCT mean", lambda s: notation.seconds(s.tct_mean_s)),
    Column("geomean", lambda s: notation.seconds(s.tct_geomean_s)),
    Column("p50", lambda s: notation.seconds(s.tct_p50_s)),
    Column("p95", lambda s: notation.seconds(s.tct_p95_s)),
    Column("p99", lambda s: notation.seconds(s.tct_p99_s)),
    Column("TTFT p95", lambda s: notation.seconds(s.ttft_p95_s)),
    Column("workflows/min", lambda s: notation.rate(s.workflows_per_min)),
    Column("steady", lambda s: notation.rate(s.steady_per_min)),
    Column("regenerated", lambda s: notation.share(s.again_share)),
    Column("useful KV", lambda s: notation.share(s.useful_share)),
    Column("Bélády", lambda s: notation.ratio(s.belady)),
    Column("within SLO", lambda s: notation.share(s.slo_share)),
    Column("max slowdown", lambda s: notation.ratio(s.slowdown_max)),
    Column("starved", lambda s: notation.share(s.starved_share)),
)
LEGEND = (
    "TCT: from a workflow's arrival to its last token; means over seeds. Steady: workflows/min without the first and the last fifth of the ends. Regenerated: of the engines' busy time, spent on "
    "prefilling what had been computed before. Useful KV: of the cached tokens, those of unfinished workflows. Bélády: seconds of recomputing over those of an "
    "oracle on the same accesses (docs/oracle.md). Within SLO: "
    "workflows whose completion time is at most 2.5 times that alone. Max slowdown: of any workflow in any seed. "
    f"Starved: workflows that took {STARVED:g} times their time alone, or did not finish."
)
FORECAST_LEGEND = (
    "Predictions of work: mean |log(predicted / came)| of a workflow's engine seconds at its arrival and when so much of it was done; the rule is the median of "
    "those that ended of late. Next tool: share wrong; the rule is the commonest one. Within: inside the 10 to 90 % band; for tools the share right."
)
BOUND_LEGEND = "The fairness bound: docs/fairness.md. Late: ended after a fair share would have finished them; lateness in lives without waiting."
LEGENDS = (LEGEND, FORECAST_LEGEND, BOUND_LEGEND)
VERSUS_LEGEND = (
    "Above 1 is better than the baseline, workflow by workflow on the same arrivals. Geomean: geometric mean over workflows and "
    "seeds of (TCT under the baseline / TCT here), in brackets its 95 % confidence interval (Student, over seeds); the others are "
    "ratios of the mean, of the percentiles and of workflows per minute. Early, late: the geomean over the first half and the second one where "
    f"something changes from the middle on, else over the first {COLD} workflows to come and over the others."
)


def figures(evaluation: Evaluation, condition: Condition) -> Table:
    """Absolute figures, a row for each profile."""
    rows = tuple(
        (s.profile, f"{s.finished}/{s.workflows}", *(column.write(s) for column in COLUMNS))
        for s in evaluation.at(condition)
    )
    return Table(("profile", "finished", *(column.name for column in COLUMNS)), rows)


def against(evaluation: Evaluation, condition: Condition) -> Table:
    """Ratios, a row for each profile and baseline."""
    rows = tuple(
        (
            s.profile, v.baseline, versus_words(v), notation.ratio(v.mean), notation.ratio(v.p50),
            notation.ratio(v.p95), notation.ratio(v.p99), notation.ratio(v.throughput), notation.ratio(v.early),
            notation.ratio(v.late), notation.tick_count(v.pairs),
        )
        for s in evaluation.at(condition)
        for v in s.versus
    )  # fmt: skip
    head = (
        "profile",
        "against",
        "geomean (95 %)",
        "mean",
        "p50",
        "p95",
        "p99",
        "throughput",
        "early",
        "late",
        "pairs",
    )
    return Table(head, rows, words=2)


def overview(evaluation: Evaluation, baseline: str) -> Table:
    """The geomean against one baseline by condition and profile: whichever there are fewer of are the columns."""
    profiles = [p for p in evaluation.set_up.profiles if p != baseline]
    found: dict[tuple[Condition, str], str] = {
        (s.condition, s.profile): versus_words(v)
        for s in evaluation.standings
        if (v := s.against(baseline)) is not None
    }
    conditions = [c for c in evaluation.conditions() if any((c, p) in found for p in profiles)]
    names = [condition_words(condition) for condition in conditions]
    cells = [[found.get((c, p), notation.UNKNOWN) for p in profiles] for c in conditions]
    if len(profiles) <= max(WIDEST, len(conditions)):
        shown = tuple((name, *row) for name, row in zip(names, cells, strict=True))
        return Table(("set and load", *profiles), shown)
    turned = tuple((p, *(row[at] for row in cells)) for at, p in enumerate(profiles)) if cells else ()
    return Table(("profile", *names), turned)


def shares(
    evaluation: Evaluation, condition: Condition, of: Callable[[Standing], Sequence[Tenant]]
) -> Table | None:
    """Share within the objective by tenant or class; None where there is only one."""
    standings = [s for s in evaluation.at(condition) if of(s)]
    if not standings:
        return None
    names = [group.name for group in of(standings[0])]
    rows = []
    for s in standings:
        share = {group.name: notation.share(group.slo_share) for group in of(s)}
        rows.append(
            (s.profile, *(share.get(name, notation.UNKNOWN) for name in names), notation.ratio(s.jain))
        )
    return Table(("profile", *names, "Jain of tenants"), tuple(rows))


def forecasts(evaluation: Evaluation, condition: Condition) -> Table | None:
    """What the head predicted of ours beside simple rules; None where nothing was predicted."""
    rows = tuple(
        (s.profile, f.what, notation.tick_count(f.count), _figure(f, f.error), _figure(f, f.rule_error), notation.share(f.within))
        for s in evaluation.at(condition)
        if is_ours(s.profile)
        for f in s.scores
    )  # fmt: skip
    return (
        Table(("profile", "prediction", "number", "error", "the rule's", "within"), rows, words=2)
        if rows
        else None
    )


def _figure(forecast: Forecast, error: float) -> str:
    return notation.share(error) if forecast.what == NEXT_TOOL else notation.ratio(error)


def bounds(evaluation: Evaluation, condition: Condition) -> Table | None:
    """The fairness bound against what was seen, of ours: others do not promise it."""
    rows = tuple(
        (
            s.profile, notation.tick_count(s.bound.workflows), notation.tick_count(s.bound.violations),
            notation.tick_count(s.bound.overdue), notation.ratio(s.bound.lateness_p99), notation.ratio(s.bound.lateness_max),
            notation.seconds(s.bound.inverted_max_s), notation.seconds(s.bound.unserved_max_s),
        )
        for s in evaluation.at(condition)
        if s.bound is not None and is_ours(s.profile)
    )  # fmt: skip
    head = (
        "profile",
        "workflows",
        "beyond the bound",
        "late",
        "lateness p99",
        "max",
        "longest behind larger keys",
        "without a step's end",
    )
    return Table(head, rows) if rows else None


def targets(judged: Sequence[Judged]) -> Table:
    """Each target, what was reached, and the paper's figure beside it."""
    rows = tuple(
        (
            _asked(j.target),
            j.target.profile,
            _bound(j.target),
            _reached(j),
            SIGNS[j.state],
            j.target.paper or notation.UNKNOWN,
        )
        for j in judged
    )
    classes = tuple(j.state.replace(" ", "-") for j in judged)
    return Table(
        ("what", "profile", "target", "reached", "verdict", "the paper"), rows, words=2, classes=classes
    )


def _asked(target: Target) -> str:
    where = ", ".join(SETS[work].what if len(target.works) == 1 else work for work in target.works)
    load = (
        f"pressure {target.level:g}" if target.load == "pressure" else f"{100 * target.level:g} % of the peak"
    )
    against_ = f" against {target.baseline}" if target.baseline else ""
    over = f", {target.over}" if len(target.works) > 1 else ""
    return f"{target.figure.capitalize()}{against_}: {where}, {load}{over}"


SHARES = (Figure.SLO, Figure.SLO_LEAST, Figure.NEXT_TOOL)


def _write(target: Target, value: float) -> str:
    return notation.share(value) if target.figure in SHARES else notation.ratio(value)


def _bound(target: Target) -> str:
    least, most = (notation.UNKNOWN if b is None else _write(target, b) for b in (target.least, target.most))
    if target.most is None:
        return f"≥ {least}"
    return f"≤ {most}" if target.least is None else f"{least} to {most}"


def _reached(judged: Judged) -> str:
    target = judged.target
    if judged.reached is None:
        return notation.UNKNOWN
    words = _write(target, judged.reached)
    if judged.low is not None and judged.high is not None:
        words += f" ({_write(target, judged.low)} to {_write(target, judged.high)})"
    if len(target.works) > 1:
        said = "on average" if target.over is Over.AVERAGE else "at worst"
        words += f" {said}; " + ", ".join(f"{work} {_write(target, value)}" for work, value in judged.each)
        if judged.missing:
            words += f"; without {', '.join(judged.missing)}"
    return words


def details(evaluation: Evaluation, condition: Condition) -> Iterator[tuple[str, Table]]:
    """What else there is to say of a condition, each table with a line before it."""
    found = (
        ("Within the objective, by tenant:", shares(evaluation, condition, lambda s: s.tenants)),
        ("Within the objective, by class:", shares(evaluation, condition, lambda s: s.classes)),
        ("Predictions:", forecasts(evaluation, condition)),
        ("The fairness bound against what was seen:", bounds(evaluation, condition)),
    )
    yield from ((title, table) for title, table in found if table is not None)
