"""One frame of `saga top`: a pure function of a snapshot and a size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from saga_cli.tables import (
    age_s,
    factor,
    gate_text,
    has_gate,
    needed,
    standing,
    state_text,
    steps_text,
    workflows_text,
)
from saga_cli.units import UNKNOWN, count, duration, plain, plural, share
from saga_core.states import ENDED
from saga_core.views import ClusterView, NodeView, WorkerView, WorkflowView

NARROW: Final = 100
"""Below this width bars are short and columns that can be spared go."""
FIXED_LINES: Final = 8
"""Three of the cluster, three section titles, one blank line, the footer."""


def frame(
    cluster: ClusterView, width: int, height: int, *, now: float, notice: str = "", keys: str = ""
) -> RenderableType:
    """At most `width` columns and `height` lines. `now`: seconds since the epoch; `notice`: a warning on top."""
    nodes, workers, workflows = _shares(cluster, height)
    return Group(
        _first_line(cluster, width, notice),
        _cut(Text(f"workflows  {workflows_text(cluster.totals)}"), width),
        _cut(Text(f"steps      {_steps(cluster)}"), width),
        Text(),
        _nodes(cluster.nodes, nodes, width),
        _workers(cluster.workers, workers, width),
        _workflows(_in_order(cluster.workflows), workflows, width, now),
        *([_cut(Text(keys, style="dim"), width)] if keys else []),
    )


def _steps(cluster: ClusterView) -> str:
    """What waits comes first: the line may be cut."""
    done = steps_text(cluster.totals)
    return f"gate: {gate_text(cluster.totals)}; {done}" if has_gate(cluster.workers) else done


def _shares(cluster: ClusterView, height: int) -> tuple[int, int, int]:
    """Rows for nodes, workers, workflows: the last get what is left, and at least a third of all."""
    free = max(3, height - FIXED_LINES)
    nodes = min(max(1, len(cluster.nodes)), max(1, free // 4))
    workers = min(max(1, len(cluster.workers)), max(1, free - nodes - max(1, free // 3)))
    return nodes, workers, max(1, free - nodes - workers)


def _first_line(cluster: ClusterView, width: int, notice: str) -> Text:
    if notice:
        return _cut(Text(plain(notice), style="bold red"), width)
    line = Text.assemble((plain(cluster.name), "bold"), f"  up {duration(cluster.up_s)}  ")
    line.append(cluster.profile, style="cyan")
    line.append(f"  {cluster.url}/v1  {', '.join(map(plain, cluster.models)) or 'no model served yet'}")
    return _cut(line, width)


def _cut(line: Text, width: int) -> Text:
    line.truncate(width, overflow="ellipsis")
    line.no_wrap = True
    return line


def _table(width: int, *columns: tuple[str, int, bool]) -> Table:
    """Columns as (title, width, right-aligned); width 0 takes what is left."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold reverse", width=width)
    for title, size, right in columns:
        table.add_column(
            title,
            width=size or None,
            ratio=None if size else 1,
            justify="right" if right else "left",
            no_wrap=True,
            overflow="ellipsis",
        )
    table.expand = True
    return table


def _fill(table: Table, rows: Sequence[Sequence[str | Text]], lines: int, noun: str, empty: str) -> Table:
    """At most `lines` rows; the last one tells how many are not shown, an empty table has words."""
    shown = rows if len(rows) <= lines else rows[: lines - 1]
    for row in shown:
        table.add_row(*(cell if isinstance(cell, Text) else Text(plain(cell)) for cell in row))
    if not rows:
        table.add_row(*_words(table, empty))
    elif len(shown) < len(rows):
        table.add_row(*_words(table, f"… and {plural(len(rows) - len(shown), f'more {noun}')}"))
    return table


def _words(table: Table, text: str) -> list[Text]:
    """A sentence in the one flexible column."""
    place = next(i for i, column in enumerate(table.columns) if column.ratio)
    return [Text(text, style="dim") if i == place else Text() for i in range(len(table.columns))]


def _nodes(nodes: Sequence[NodeView], lines: int, width: int) -> Table:
    table = _table(width, ("NODE", 0, False), ("STATE", 8, False), ("HOST", 24, False), ("SEEN", 6, True), ("PROGRAMS", 8, True), ("ENDS IN", 7, True))  # fmt: skip
    rows = [
        (n.id, state_text(n.state), n.host, duration(n.seen_s), str(n.programs), duration(n.end_s))
        for n in nodes
    ]
    return _fill(table, rows, lines, "node", "none has joined yet")


def _workers(workers: Sequence[WorkerView], lines: int, width: int) -> Table:
    wide, gated = width >= NARROW, has_gate(workers)
    bar = 24 if wide else 10
    table = _table(
        width,
        ("WORKER", 0, False), ("STATE", 8, False), ("LOAD", bar + 5, False), ("KV", bar + 5, False),
        *((("NEED", 5, True), *((("FACTOR", 6, True),) if wide else ()), ("HELD", 4, True)) if gated else ()),
        ("RUN", 3, True), ("WAIT", 4, True), ("STEPS", 6, True),
    )  # fmt: skip
    rows = [
        (
            _worker_name(w), state_text(w.state), gauge(w.load, w.load, bar),
            gauge(w.kv_usage, w.resident_tokens / w.capacity_tokens if w.capacity_tokens else 0.0, bar),
            *((needed(w), *((factor(w),) if wide else ()), str(w.held_sessions)) if gated else ()),
            str(w.running), str(w.waiting), count(w.steps_done),
        )
        for w in workers
    ]  # fmt: skip
    return _fill(table, rows, lines, "worker", "none yet")


def _worker_name(worker: WorkerView) -> str:
    return f"{worker.id}: {worker.reason}" if worker.reason else worker.id


def gauge(solid: float, whole: float, size: int) -> Text:
    """A bar of `size` cells and a percentage: `solid` of it in use, up to `whole` taken, the rest free."""
    solid, whole = min(max(solid, 0.0), 1.0), min(max(whole, solid, 0.0), 1.0)
    used, taken = round(solid * size), round(whole * size)
    style = "red" if whole >= 0.9 else "yellow" if whole >= 0.7 else "green"
    return Text.assemble(
        ("█" * used, style),
        ("▒" * (taken - used), style),
        ("·" * (size - taken), "dim"),
        f"{whole * 100:4.0f}%",
    )


def _in_order(workflows: Sequence[WorkflowView]) -> list[WorkflowView]:
    """The live ones by id, then the ended ones, the latest first."""
    live = [w for w in workflows if w.state not in ENDED]
    ended = [w for w in workflows if w.state in ENDED]
    return sorted(live, key=lambda w: w.id) + sorted(ended, key=lambda w: (-(w.ended_at or 0.0), -w.id))


def _workflows(workflows: Sequence[WorkflowView], lines: int, width: int, now: float) -> Table:
    wide = width >= NARROW
    table = _table(
        width,
        ("ID", 5, True), ("WORKFLOW", 0, False), *((("AGENT", 18, False), ("TENANT", 10, False)) if wide else ()),
        ("STATE", 10, False), ("STEPS", 6, True), ("HOME", 12 if wide else 9, False), ("TOKENS", 6, True),
        ("CACHED", 6, True), ("AGE", 6, True),
    )  # fmt: skip
    return _fill(
        table,
        [_workflow(w, wide, now) for w in workflows],
        lines,
        "workflow",
        "none yet",
    )


def _workflow(w: WorkflowView, wide: bool, now: float) -> tuple[str | Text, ...]:
    steps = f"{w.steps}+{w.running_steps}" if w.running_steps else str(w.steps)
    return (
        str(w.id), w.name or UNKNOWN, *((w.agent_type or UNKNOWN, w.tenant) if wide else ()),
        standing(w), steps, w.home or UNKNOWN,
        count(w.prompt_tokens + w.output_tokens), share(w.cached_tokens, w.prompt_tokens),
        duration(age_s(w, now)),
    )  # fmt: skip
