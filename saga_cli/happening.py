"""Events of the head as lines."""

from __future__ import annotations

from datetime import datetime

from saga_cli.output import Output, json_text
from saga_cli.units import UNKNOWN, plain
from saga_core.views import EventView

DIGITS = 6
"""Of a number: seconds with microseconds say more than anybody reads."""


def line(event: EventView, mode: Output) -> str:
    """One event: a JSON value, or time, whose it is, what happened, and the rest as `name=value`."""
    if mode is Output.JSON:
        return json_text(event)
    at = datetime.fromtimestamp(event.at).astimezone().strftime("%H:%M:%S.%f")[:-3]
    session = f".{event.session}" if event.session else ""
    whose = f"{event.workflow}{session}" if event.workflow is not None else UNKNOWN
    step = f" saga-{event.step}" if event.step is not None else ""
    rest = " ".join(f"{name}={_short(value)}" for name, value in event.facts.items())
    return plain(f"{at} {whose:<12} {event.kind}{step} {rest}".rstrip())


def _short(value: str | int | float | bool) -> str:  # noqa: PYI041 - what a fact holds
    if isinstance(value, str):
        return repr(value) if " " in value else value
    return f"{value:.{DIGITS}g}" if isinstance(value, float) else str(value)
