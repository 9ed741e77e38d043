"""The tables of an evaluation as rows of text, the same for Markdown and HTML."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from saga_sim.evaluation.answer import Evaluation, condition_words, versus_words
from saga_sim.evaluation.sets import SETS
from saga_sim.evaluation.summary import Condition, Standing
from saga_sim.evaluation.targets import Figure, Judged, Over, State, Target
from saga_sim.report import notation

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
    Column("regenerated", lambda s: notation.share(s.again_share)),
    Column("useful KV", lambda s: notation.share(s.useful_share)),
    Column("Bélády", lambda s: notation.ratio(s.belady)),
    Column("within SLO", lambda s: notation.share(s.slo_share)),
    Column("max slowdown", lambda s: notation.ratio(s.slowdown_max)),
)
LEGEND = (
    "TCT: from a workflow's arrival to its last token; means over seeds. Regenerated: of the engines' busy time, spent on "
    "prefilling what had been computed before. Useful KV: of the cached tokens, those of unfinished workflows. Bélády: seconds of recomputing over those of an "
    "oracle on the same accesses (docs/oracle.md). Within SLO: "
    "workflows whose completion time is at most 2.5 times that alone. Max slowdown: of any workflow in any seed."
)
VERSUS_LEGEND = (
    "Above 1 is better than the baseline, workflow by workflow on the same arrivals. Geomean: geometric mean over workflows and "
    "seeds of (TCT under the baseline / TCT here), in brackets its 95 % confidence interval (Student, over seeds); the others are "
    "ratios of the mean, of the percentiles and of workflows per minute."
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
            notation.ratio(v.p95), notation.ratio(v.p99), notation.ratio(v.throughput), notation.tick_count(v.pairs),
        )
        for s in evaluation.at(condition)
        for v in s.versus
    )  # fmt: skip
    head = ("profile", "against", "geomean (95 %)", "mean", "p50", "p95", "p99", "throughput", "pairs")
    return Table(head, rows, words=2)


def overview(evaluation: Evaluation, baseline: str) -> Table:
    """The geomean against one baseline: a row for each condition, a column for each profile."""
    profiles = [p for p in evaluation.set_up.profiles if p != baseline]
    rows = []
    for condition in evaluation.conditions():
        standings = {s.profile: s for s in evaluation.at(condition)}
        found = [standings[p].against(baseline) if p in standings else None for p in profiles]
        if any(found):
            words = [versus_words(v) if v is not None else notation.UNKNOWN for v in found]
            rows.append((condition_words(condition), *words))
    return Table(("set and load", *profiles), tuple(rows))


def tenants(evaluation: Evaluation, condition: Condition) -> Table | None:
    """Share within the objective by tenant; None where there is only one."""
    standings = [s for s in evaluation.at(condition) if s.tenants]
    if not standings:
        return None
    names = [tenant.name for tenant in standings[0].tenants]
    rows = []
    for s in standings:
        share = {tenant.name: notation.share(tenant.slo_share) for tenant in s.tenants}
        rows.append(
            (s.profile, *(share.get(name, notation.UNKNOWN) for name in names), notation.ratio(s.jain))
        )
    return Table(("profile", *names, "Jain"), tuple(rows))


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


def _write(target: Target, value: float) -> str:
    return notation.share(value) if target.figure in (Figure.SLO, Figure.SLO_LEAST) else notation.ratio(value)


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
