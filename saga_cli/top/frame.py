"""One frame of `saga top` as plain text: a pure function of a snapshot and a size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeVar

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from saga_cli.tables import gate_text, has_gate, steps_text, workflows_text
from saga_cli.top.choice import Choice, Recent
from saga_cli.top.columns import RESOURCES, TENANTS, WIDE, WORKFLOWS, Column, Moment, fitting, sizes
from saga_cli.top.resources import resources
from saga_cli.units import count, duration, plain, plural
from saga_core.views import ClusterView

FIXED_LINES: Final = 7
"""Three of the cluster, a blank one, three titles."""
R = TypeVar("R")


def frame(
    cluster: ClusterView, width: int, height: int, *, now: float, choice: Choice | None = None
) -> RenderableType:
    """At most `width` columns and `height` lines. `now`: seconds since the epoch."""
    moment = Moment(now, wide=width >= WIDE)
    machines = resources(cluster)
    rows = shares(height - FIXED_LINES, len(machines), len(cluster.tenants))
    chosen = (choice or Choice()).of(cluster.workflows, moment)
    return Group(
        *(cut(line, width) for line in headline(cluster)),
        Text(),
        _table(RESOURCES, machines, rows[0], width, moment, ("node or worker", "no node yet")),
        _table(TENANTS, cluster.tenants, rows[1], width, moment, ("tenant", "nobody yet")),
        _table(WORKFLOWS, chosen, rows[2], width, moment, ("workflow", "none yet")),
    )


def shares(free: int, machines: int, tenants: int) -> tuple[int, int, int]:
    """Rows for nodes and workers, tenants, workflows: the last get what is left, and at least two fifths."""
    free = max(6, free)
    fewest = max(2, free * 2 // 5)
    few = min(max(1, tenants), max(1, free // 8))
    many = min(max(1, machines), max(1, free - few - fewest))
    return many, few, free - few - many


def headline(cluster: ClusterView, recent: Recent | None = None, notice: str = "") -> list[Text]:
    """Three lines: the cluster, its workflows, its steps; what waits comes first, since lines are cut."""
    first = Text.assemble((plain(cluster.name), "bold"), f"  up {duration(cluster.up_s)}  ")
    first.append(cluster.profile, style="cyan")
    first.append(f"  {cluster.url}/v1  {', '.join(map(plain, cluster.models)) or 'no model served yet'}")
    if notice:
        first = Text(plain(notice), style="bold red")
    gate = f"gate: {gate_text(cluster.totals)}; " if has_gate(cluster.workers) else ""
    steps = f"{gate}{_rates(recent)}{steps_text(cluster.totals)}"
    return [
        first,
        Text(f"workflows  {workflows_text(cluster.totals)}"),
        Text(f"steps      {steps}"),
    ]


def _rates(recent: Recent | None) -> str:
    steps = recent.rate(lambda c: c.totals.steps_done) if recent is not None else None
    if recent is None or steps is None:
        return ""
    tokens = recent.rate(lambda c: c.totals.output_tokens) or 0.0
    return f"{steps:.1f}/s, {count(round(tokens))} tokens/s; "


def cut(line: Text, width: int) -> Text:
    """`line` in at most `width` cells."""
    line.truncate(width, overflow="ellipsis")
    line.no_wrap = True
    return line


def _table(
    columns: Sequence[Column[R]],
    rows: Sequence[R],
    lines: int,
    width: int,
    moment: Moment,
    words: tuple[str, str],
) -> Table:
    """At most `lines` rows; the last one tells how many are not shown, an empty table has words."""
    shown_columns = fitting(columns, width)
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold reverse", width=width)
    for column, size in zip(shown_columns, sizes(shown_columns, width), strict=True):
        justify = "right" if column.right else "left"
        table.add_column(column.title, width=size, justify=justify, no_wrap=True, overflow="ellipsis")  # type: ignore[arg-type]
    shown = rows if len(rows) <= lines else rows[: lines - 1]
    for row in shown:
        cells = (column.cell(row, moment) for column in shown_columns)
        table.add_row(*(cell if isinstance(cell, Text) else Text(plain(cell)) for cell in cells))
    noun, empty = words
    if not rows:
        table.add_row(*_sentence(shown_columns, empty))
    elif len(shown) < len(rows):
        left = f"… and {plural(len(rows) - len(shown), f'more {noun}')}"
        table.add_row(*_sentence(shown_columns, left))
    return table


def _sentence(columns: Sequence[Column[R]], text: str) -> list[Text]:
    """In the first column that gives way."""
    place = next(i for i, column in enumerate(columns) if not column.size)
    return [Text(text, style="dim") if i == place else Text() for i in range(len(columns))]
