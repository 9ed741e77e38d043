"""One workflow's life as lanes: what each session did when. Pure functions of its events."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from rich.text import Text

from saga_cli.grid import Grid
from saga_cli.units import UNKNOWN, count, duration, plain, share
from saga_core.views import EventView


class Doing(StrEnum):
    """What a session does."""

    QUEUED = "queued"
    REASONING = "reasoning"
    TOOL = "in a tool"
    PAUSED = "paused"


MARKS: Final = {
    Doing.REASONING: ("█", "green"),
    Doing.QUEUED: ("▒", "yellow"),
    Doing.PAUSED: ("░", "magenta"),
    Doing.TOOL: ("─", "blue"),
}
FOREMOST: Final = (Doing.PAUSED, Doing.QUEUED, Doing.REASONING, Doing.TOOL)
"""Of those that take as much of a cell, the first is drawn: waiting is what one looks for."""
LANES: Final = 12
STEPS: Final = 200
"""Latest steps in the list below the lanes."""
NAME_CELLS: Final = 14
LEAST_CELLS: Final = 10


@dataclass(frozen=True, slots=True)
class Span:
    """From one moment to another, in seconds since the epoch."""

    doing: Doing
    begin: float
    end: float


@dataclass(slots=True)
class Made:
    """One step."""

    number: int
    session: str
    arrived_at: float
    placed_at: float | None = None
    ended_at: float | None = None
    worker: str = ""
    why: str = ""
    outcome: str = ""
    tool: str = ""
    ttft_s: float | None = None
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    output_tokens: int | None = None


@dataclass(slots=True)
class _Lane:
    """One session while its events are read."""

    spans: list[Span] = field(default_factory=list)
    doing: Doing | None = None
    since: float = 0.0

    def turn(self, doing: Doing | None, at: float) -> None:
        if self.doing is not None and at > self.since:
            self.spans.append(Span(self.doing, self.since, at))
        self.doing, self.since = doing, at


@dataclass(frozen=True, slots=True)
class Timeline:
    """What is known of one workflow."""

    begin: float
    end: float
    lanes: dict[str, list[Span]]
    steps: list[Made]


_ENDS: Final = {"WorkflowEnded"}


def timeline(events: Iterable[EventView], now: float) -> Timeline:
    """The lanes up to `now`, or up to the workflow's end."""
    lanes: dict[str, _Lane] = {}
    steps: dict[int, Made] = {}
    begin: float | None = None
    end = now
    for event in events:
        begin = event.at if begin is None else begin
        if event.kind in _ENDS:
            end = event.at
        if event.session:
            lane = lanes.setdefault(event.session, _Lane())
            _read(event, lane, steps)
    for lane in lanes.values():
        lane.turn(None, end)
    known = {name: lane.spans for name, lane in lanes.items()}
    return Timeline(begin if begin is not None else now, end, known, list(steps.values()))


def _read(event: EventView, lane: _Lane, steps: dict[int, Made]) -> None:
    number = event.step
    if event.kind == "SessionPaused":
        lane.turn(Doing.PAUSED, event.at)
    elif number is None:
        return
    elif event.kind == "StepArrived":
        steps[number] = Made(number, event.session, event.at)
        if lane.doing is not Doing.REASONING:
            lane.turn(Doing.PAUSED if lane.doing is Doing.PAUSED else Doing.QUEUED, event.at)
    elif event.kind == "StepPlaced":
        lane.turn(Doing.REASONING, event.at)
        if number in steps:
            _placed(steps[number], event)
    elif event.kind == "StepLost":
        lane.turn(Doing.QUEUED, event.at)
    elif event.kind == "StepFinished":
        if number in steps:
            _finished(steps[number], event)
        open_ = any(s.session == event.session and s.ended_at is None for s in steps.values())
        if not open_:
            lane.turn(Doing.TOOL, event.at)


def _placed(made: Made, event: EventView) -> None:
    made.placed_at = event.at
    made.worker, made.why = str(event.facts.get("worker", "")), str(event.facts.get("why", ""))


def _finished(made: Made, event: EventView) -> None:
    made.ended_at = event.at
    made.outcome, made.tool = str(event.facts.get("outcome", "")), str(event.facts.get("tool", ""))
    ttft_s = event.facts.get("ttft_s")
    made.ttft_s = float(ttft_s) if isinstance(ttft_s, int | float) else None
    made.prompt_tokens = _whole(event, "prompt_tokens")
    made.cached_tokens = _whole(event, "cached_tokens")
    made.output_tokens = _whole(event, "output_tokens")


def _whole(event: EventView, name: str) -> int | None:
    value = event.facts.get(name)
    return value if isinstance(value, int) else None


# -- drawn -------------------------------------------------------------------------------


def lanes_text(line: Timeline, width: int) -> Text:
    """A line per session, an axis and a legend, at most `width` cells wide."""
    cells = max(LEAST_CELLS, width - NAME_CELLS - 1)
    text = Text(no_wrap=True)
    shown = list(line.lanes.items())[:LANES]
    for name, spans in shown:
        text.append(f"{plain(name)[:NAME_CELLS]:<{NAME_CELLS}} ", "bold")
        text.append_text(_bar(spans, line.begin, line.end, cells))
        text.append("\n")
    if len(line.lanes) > len(shown):
        text.append(f"… and {len(line.lanes) - len(shown)} more sessions\n", "dim")
    if not shown:
        return Text("no step is known (any more)", style="dim")
    text.append_text(_axis(line, cells))
    text.append_text(_legend())
    return text


def _bar(spans: Sequence[Span], begin: float, end: float, cells: int) -> Text:
    """Each cell shows what took most of its time."""
    text = Text()
    cell_s = max(end - begin, 1e-9) / cells
    number = 0
    for cell in range(cells):
        low = begin + cell * cell_s
        while number < len(spans) and spans[number].end <= low:
            number += 1
        text.append(*_mark(spans, number, low, low + cell_s))
    return text


def _mark(spans: Sequence[Span], number: int, low: float, high: float) -> tuple[str, str]:
    took = dict.fromkeys(FOREMOST, 0.0)
    for span in spans[number:]:
        if span.begin >= high:
            break
        took[span.doing] += min(span.end, high) - max(span.begin, low)
    most = max(FOREMOST, key=lambda doing: took[doing])
    return MARKS[most] if took[most] > 0 else (" ", "")


def _axis(line: Timeline, cells: int) -> Text:
    """The length of the whole below its right end."""
    first, last = "0", duration(line.end - line.begin)
    middle = duration((line.end - line.begin) / 2)
    axis = f"{first}{middle:^{cells - 2 * len(last)}}".ljust(cells - len(last)) + last
    return Text(" " * (NAME_CELLS + 1) + axis[:cells] + "\n", style="dim")


def _legend() -> Text:
    text = Text(" " * (NAME_CELLS + 1))
    for doing, (mark, style) in MARKS.items():
        text.append(mark, style)
        text.append(f" {doing}  ", "dim")
    return text


def steps_table(line: Timeline) -> Grid:
    """The latest steps, newest first."""
    latest = sorted(line.steps, key=lambda made: -made.number)[:STEPS]
    return Grid(
        ">AT", ">STEP", "*SESSION", ">WAITED", ">TTFT", ">TOOK", ">PROMPT", ">CACHED", ">OUT", "WORKER", "*THEN", "*WHY",
        rows=[_step(made, line.begin) for made in latest],
        empty="no step is known (any more)",
    )  # fmt: skip


def _step(made: Made, begin: float) -> tuple[str | Text, ...]:
    over = made.ended_at is not None
    then = (made.tool.replace("-", "an answer") if made.tool == "-" else made.tool) or UNKNOWN
    return (
        duration(made.arrived_at - begin),
        str(made.number),
        made.session,
        duration(made.placed_at - made.arrived_at if made.placed_at is not None else None),
        duration(made.ttft_s),
        duration(made.ended_at - made.placed_at) if over and made.ended_at and made.placed_at else UNKNOWN,
        count(made.prompt_tokens),
        share(made.cached_tokens or 0, made.prompt_tokens or 0),
        count(made.output_tokens),
        made.worker or UNKNOWN,
        Text(made.outcome, style="red") if made.outcome not in {"", "done"} else then,
        made.why,
    )
