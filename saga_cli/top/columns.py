"""What `saga top` shows of a node or worker, a tenant, a workflow: the columns, from 80 cells up.

Plain frames and the live view draw the same columns; each fits the widths that it says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

from rich.text import Text

from saga_cli.tables import age_s, named, standing, state_text
from saga_cli.top.resources import Resource
from saga_cli.units import UNKNOWN, count, duration, plain, share
from saga_core.views import TenantView, WorkflowView

R = TypeVar("R")
WIDE: Final = 100
"""From here on bars are longer and there is more to see."""
WIDER: Final = 124
WIDEST: Final = 150
"""Names keep at least twenty cells at each of these."""
Cell = str | Text


@dataclass(frozen=True, slots=True)
class Moment:
    """What a cell needs beside its row."""

    now: float
    """Seconds since the epoch."""
    wide: bool = False
    recent: Mapping[str, float] = field(default_factory=dict)
    """Share of each tenant in the latest work; of those not in it, what it had in all."""


@dataclass(frozen=True, slots=True)
class Column(Generic[R]):
    """One column. `size` in cells, 0 takes what is left; shown on terminals of at least `least` cells."""

    title: str
    size: int
    cell: Callable[[R, Moment], Cell]
    key: Callable[[R, Moment], Any]
    """What it is sorted by."""
    right: bool = False
    least: int = 0
    falls: bool = False
    """Whether the largest is what one looks for first."""


def fitting(columns: Sequence[Column[R]], width: int) -> list[Column[R]]:
    """Those for a terminal of `width` cells; of two with one title (a short and a long bar) the later."""
    last = {column.title: column for column in columns if column.least <= width}
    return [column for column in columns if last.get(column.title) is column]


def sizes(columns: Sequence[Column[R]], width: int) -> list[int]:
    """Cells of each: those without a size share what is left, one blank stands between two."""
    left = width - sum(column.size for column in columns) - (len(columns) - 1)
    loose = [column for column in columns if not column.size]
    each, rest = divmod(max(left, len(loose)), max(1, len(loose)))
    return [column.size or each + (rest if column is loose[0] else 0) for column in columns]


def gauge(parts: Sequence[tuple[float, str]], whole: float, size: int) -> Text:
    """A bar of `size` cells and a percentage. `parts`: growing shares with their marks; `whole`: what is taken."""
    whole = min(max(whole, 0.0), 1.0)
    style = "red" if whole >= 0.9 else "yellow" if whole >= 0.7 else "green"
    bar, drawn = Text(), 0
    for upto, mark in parts:
        cells = round(min(max(upto, 0.0), 1.0) * size)
        bar.append(mark * max(0, cells - drawn), style)
        drawn = max(drawn, cells)
    bar.append("·" * (size - drawn), "dim")
    return bar.append(f"{whole * 100:4.0f}%")


# -- nodes and workers -------------------------------------------------------------------


def _bar(moment: Moment) -> int:
    return 14 if moment.wide else 6


def _named(r: Resource, _: Moment) -> Cell:
    words = plain(f"{r.id}: {r.reason}" if r.reason else r.id)
    return Text(words, style="bold") if r.node else Text(f"  {words}")


def _load(r: Resource, moment: Moment) -> Cell:
    return gauge([(r.load, "█")], r.load, _bar(moment)) if r.workers else UNKNOWN


def _kv(r: Resource, moment: Moment) -> Cell:
    """In use █, kept for who is in a tool ▓, paused ▒."""
    if not r.capacity_tokens:
        return UNKNOWN
    pinned, whole = r.pinned_tokens, float(r.capacity_tokens)
    kept = pinned + r.retained_tokens
    parts = [(pinned / whole, "█"), (kept / whole, "▓"), ((kept + r.evictable_tokens) / whole, "▒")]
    return gauge(parts, (kept + r.evictable_tokens) / whole, _bar(moment))


def _queue(r: Resource, _: Moment) -> Cell:
    return f"{count(r.running)}/{count(r.waiting)}/{count(r.held)}"


def _gauged(title: str, cell: Callable[[Resource, Moment], Cell], key: Callable[[Resource, Moment], Any]) -> tuple[Column[Resource], ...]:  # fmt: skip
    return Column(title, 11, cell, key), Column(title, 19, cell, key, least=WIDE)


RESOURCES: Final[tuple[Column[Resource], ...]] = (
    Column("NODE, WORKER", 0, _named, lambda r, _: r.id),
    Column("STATE", 8, lambda r, _: state_text(r.state), lambda r, _: r.state),
    *_gauged("LOAD", _load, lambda r, _: r.load),
    *_gauged("KV", _kv, lambda r, _: r.pinned_tokens),
    Column("HIT", 4, lambda r, _: share(r.cached_tokens, r.prompt_tokens), lambda r, _: r.cached_tokens, right=True),
    Column("RUN/WAIT/HELD", 13, _queue, lambda r, _: r.running, right=True),
    Column("NEED", 5, lambda r, _: share(r.need_tokens, r.limit_tokens), lambda r, _: r.need_tokens, right=True, least=WIDER),
    Column("FACTOR", 6, lambda r, _: UNKNOWN if r.factor is None else f"{r.factor:.2f}", lambda r, _: r.factor or 0, right=True, least=WIDER),
    Column("STEPS", 6, lambda r, _: count(r.steps), lambda r, _: r.steps, right=True, least=WIDER),
    Column("PROG", 4, lambda r, _: UNKNOWN if r.programs is None else str(r.programs), lambda r, _: r.programs or 0, right=True),
    Column("LEFT", 6, lambda r, _: duration(r.left_s), lambda r, _: r.left_s or 0, right=True),
    Column("HOST", 24, lambda r, _: r.host, lambda r, _: r.host, least=WIDEST),
)  # fmt: skip

# -- tenants -----------------------------------------------------------------------------


def _share(t: TenantView, moment: Moment) -> Cell:
    part = moment.recent.get(t.id, t.share)
    bar = round(part * 8)
    return Text.assemble(("█" * bar, "cyan"), ("·" * (8 - bar), "dim"), f"{part * 100:4.0f}%")


def _promise(t: TenantView, _: Moment) -> Cell:
    if not t.promised:
        return UNKNOWN
    style = "" if t.kept == t.promised else "yellow" if t.kept * 10 >= t.promised * 9 else "red"
    return Text(f"{share(t.kept, t.promised)} of {count(t.promised)}", style=style)


def _slowdown(t: TenantView, _: Moment) -> Cell:
    return UNKNOWN if t.slowdown is None else f"{t.slowdown:.2f}x"


TENANTS: Final[tuple[Column[TenantView], ...]] = (
    Column("TENANT", 0, lambda t, _: t.id, lambda t, _: t.id),
    Column("WEIGHT", 6, lambda t, _: f"{t.weight:g}", lambda t, _: t.weight, right=True),
    Column("SHARE", 13, _share, lambda t, moment: moment.recent.get(t.id, t.share)),
    Column("LIVE", 5, lambda t, _: count(t.live), lambda t, _: t.live, right=True),
    Column("HELD", 5, lambda t, _: count(t.held), lambda t, _: t.held, right=True),
    Column("ENDED", 6, lambda t, _: count(t.ended), lambda t, _: t.ended, right=True),
    Column("WORK", 7, lambda t, _: duration(t.attained_s), lambda t, _: t.attained_s, right=True, least=WIDE),
    Column("SLOWDOWN", 8, _slowdown, lambda t, _: t.slowdown or 0.0, right=True),
    Column("SLO", 11, _promise, lambda t, _: t.kept / t.promised if t.promised else 2.0, right=True),
)  # fmt: skip

# -- workflows ---------------------------------------------------------------------------


def _steps(w: WorkflowView, _: Moment) -> Cell:
    return f"{w.steps}+{w.running_steps}" if w.running_steps else str(w.steps)


def _slack(w: WorkflowView, _: Moment) -> Cell:
    if w.slack_s is None:
        return UNKNOWN
    if w.slack_s < 0:
        return Text(f"-{duration(-w.slack_s)}", style="red")
    short = w.eta_s is not None and w.eta_s > w.slack_s
    return Text(duration(w.slack_s), style="yellow" if short else "")


FAR: Final = 1e18


def _far(value: float | None) -> float:
    """What is not known comes last."""
    return FAR if value is None else value


WORKFLOWS: Final[tuple[Column[WorkflowView], ...]] = (
    Column("ID", 5, lambda w, _: str(w.id), lambda w, _: w.id, right=True),
    Column("WORKFLOW", 0, lambda w, _: named(w), lambda w, _: w.name),
    Column("AGENT", 14, lambda w, _: w.agent_type or UNKNOWN, lambda w, _: w.agent_type, least=WIDE),
    Column("TENANT", 9, lambda w, _: w.tenant, lambda w, _: w.tenant, least=WIDER),
    Column("STATE", 11, lambda w, _: standing(w), lambda w, _: (standing(w).plain, w.id)),
    Column("STEPS", 6, _steps, lambda w, _: w.steps, right=True, falls=True),
    Column("KV", 5, lambda w, _: count(w.resident_tokens) if w.resident_tokens else UNKNOWN, lambda w, _: w.resident_tokens, right=True, falls=True),
    Column("HOME", 9, lambda w, _: w.home or UNKNOWN, lambda w, _: w.home or ""),
    Column("TOKENS", 6, lambda w, _: count(w.prompt_tokens + w.output_tokens), lambda w, _: w.prompt_tokens + w.output_tokens, right=True, least=WIDEST, falls=True),
    Column("CACHED", 6, lambda w, _: share(w.cached_tokens, w.prompt_tokens), lambda w, _: w.cached_tokens / max(1, w.prompt_tokens), right=True, least=WIDEST),
    Column("SLACK", 6, _slack, lambda w, _: _far(w.slack_s), right=True),
    Column("ETA", 6, lambda w, _: duration(w.eta_s), lambda w, _: _far(w.eta_s), right=True),
    Column("AGE", 6, lambda w, m: duration(age_s(w, m.now)), lambda w, m: age_s(w, m.now), right=True, falls=True),
    Column("WHY", 0, lambda w, _: w.why or w.reason, lambda w, _: w.why or w.reason, least=WIDEST),
)  # fmt: skip
