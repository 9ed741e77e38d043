"""Replays side by side: one column per run, one row per figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from saga_cli.replaying import Report, failures, figures
from saga_cli.units import plural

if TYPE_CHECKING:
    from rich.console import RenderableType

LEGEND = (
    "TCT: time from a workflow's arrival to its last token. TTFT: time to first token of a step. "
    "Prefilled again: prompt tokens the workflow had computed before and that no cache held any more."
)


def report_table(reports: Sequence[Report]) -> RenderableType:
    """The figures of each run; below it what failed."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    table.add_column("")
    for report in reports:
        table.add_column(report.profile, justify="right", no_wrap=True)
    rows = [figures(report.summary) for report in reports]
    for name in rows[0]:
        table.add_row(name, *(row[name] for row in rows))
    failed = [Text(f"{r.profile}: {line}", style="red") for r in reports for line in failures(r)]
    return Group(table, *failed)


def verdict(reports: Sequence[Report]) -> str:
    """What the figures of the runs do and do not show, from the figures themselves, and what they mean."""
    from textwrap import fill

    ours, *others = reports
    lines = [_against(ours, other) for other in others]
    sizes = f"{plural(ours.summary.workflows, 'workflow')}, {plural(ours.summary.steps, 'step')}"
    lines.append(
        f"One run each ({sizes}) on this machine, where client, head and workers share the cores: read it as a "
        "check that the whole path works. Differences below some 10 % are noise, and the small model makes "
        "prefill cheap, so placement matters less here than on a loaded GPU."
    )
    return "\n".join(fill(line, 79) for line in (*lines, LEGEND))


def _against(ours: Report, other: Report) -> str:
    mine, theirs = ours.summary.tct_mean_s, other.summary.tct_mean_s
    if not mine or not theirs:
        return f"{ours.profile} against {other.profile}: nothing to compare, a run finished no workflow."
    gain = 100 * (theirs - mine) / theirs
    how = "shorter" if gain > 0 else "longer"
    return f"{ours.profile} against {other.profile}: mean TCT {abs(gain):.0f} % {how} ({mine:.1f} s, {theirs:.1f} s)."
