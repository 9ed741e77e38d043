"""An evaluation as Markdown, for docs/evaluation.md and pull requests."""

from __future__ import annotations

from collections.abc import Iterator

from saga_sim.evaluation import rows
from saga_sim.evaluation.answer import Evaluation, condition_words, gist
from saga_sim.evaluation.targets import ELSEWHERE, State
from saga_sim.report import notation


def render(evaluation: Evaluation) -> str:
    """The whole answer; the same evaluation gives the same bytes."""
    return "\n".join(_lines(evaluation)).replace(notation.THOUSANDS, ",").replace(notation.GAP, " ") + "\n"


def _lines(evaluation: Evaluation) -> Iterator[str]:
    yield f"**{evaluation.headline}**"
    yield ""
    for line in gist(evaluation.standings):
        yield from (line, "")
    yield from _set_up(evaluation)
    yield from _targets(evaluation)
    yield from _losses(evaluation)
    for baseline in evaluation.set_up.baselines:
        table = rows.overview(evaluation, baseline)
        if table.rows:
            yield from _section(f"Against {baseline}", table, "")
    yield from (rows.VERSUS_LEGEND, "", "## Figures", "", *"\n\n".join(rows.LEGENDS).splitlines(), "")
    for condition in evaluation.conditions():
        yield from (f"### {condition_words(condition)}", "")
        yield from table_lines(rows.figures(evaluation, condition))
        ratios = rows.against(evaluation, condition)
        if ratios.rows:
            yield from table_lines(ratios)
        for title, table in rows.details(evaluation, condition):
            yield from (title, "")
            yield from table_lines(table)


def _set_up(evaluation: Evaluation) -> Iterator[str]:
    told = evaluation.set_up
    yield f"- Command: `{told.command}` ({evaluation.cells} cells, {notation.seconds(evaluation.cpu_s)} of CPU time)"
    yield f"- Profiles: {', '.join(told.profiles)}; seeds 0 to {told.seeds - 1}"
    yield f"- Versions: {', '.join(f'{name} {version}' for name, version in told.versions)}; code {told.code}"
    yield f"- Machine: {told.machine}. All times are virtual: simulated, not measured."
    for peak in evaluation.peaks:
        yield (
            f"- Sustainable peak of {peak.work} on {peak.workers} workers: {notation.rate(peak.per_min)} workflows/min, "
            f"at {peak.at_once:g} at a time under `sticky`"
        )
    for name, why in told.skipped:
        yield f"- Not run: {name} ({why})"
    for failure in evaluation.failures:
        yield f"- **Failed**: {failure.cell}: {failure.why}"
    yield ""


def _targets(evaluation: Evaluation) -> Iterator[str]:
    """Those that were run; the others are counted, with what they lack."""
    run = [judged for judged in evaluation.targets if judged.state is not State.NOT_RUN]
    if run:
        yield from _section("Targets", rows.targets(run), "")
    left = [judged.target for judged in evaluation.targets if judged.state is State.NOT_RUN]
    if left:
        names = ", ".join(dict.fromkeys(target.profile for target in left))
        yield from (f"Not run: {len(left)} of {len(evaluation.targets)} targets, of {names}.", "")
    yield from (ELSEWHERE, "")


def _section(title: str, table: rows.Table, remark: str) -> Iterator[str]:
    yield from (f"## {title}", "")
    yield from table_lines(table)
    if remark:
        yield from (remark, "")


def _losses(evaluation: Evaluation) -> Iterator[str]:
    yield from ("## Losses", "")
    if not evaluation.losses:
        yield "No loss shows in these figures."
    for loss in evaluation.losses:
        yield f"- **{loss.profile}**"
        yield from (f"  - {point}" for point in loss.points)
    yield ""


def table_lines(table: rows.Table) -> Iterator[str]:
    """A table and an empty line."""
    yield _row(table.head)
    yield "|" + "|".join("---" if at < table.words else "---:" for at in range(len(table.head))) + "|"
    yield from map(_row, table.rows)
    yield ""


def _row(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
