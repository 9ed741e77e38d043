"""`saga explain` for a person: what was decided and why, what is known and expected, in 80 columns."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from saga_cli.grid import Grid
from saga_cli.tables import at_gate, pairs, standing
from saga_cli.units import UNKNOWN, count, duration, plain, share

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

    from saga_core.aeg.scores import Score
    from saga_core.explanation import (
        AccountView,
        DecisionView,
        EstimateView,
        Explanation,
        ForecastView,
    )
    from saga_core.views import WorkflowView

WIDTH: Final = 80
INDENT: Final = "    "
_STEP = re.compile(r"saga-(\d{1,18})", re.ASCII)


def step_number(text: str) -> int | None:
    """The step that `text` names, as `x-request-id` does; None: it means a workflow."""
    found = _STEP.fullmatch(text)
    return int(found[1]) if found else None


def verdicts(told: Explanation) -> Iterator[str]:
    """A line per decision, oldest first: when, what, which session, where."""
    from saga_cli.output import iso

    for made in told.decisions:
        yield plain(f"{iso(made.at)} {made.verdict} {made.session} {made.worker or UNKNOWN}")


def explanation_view(told: Explanation, now: float) -> RenderableType:
    """Whose it is, the account, the sessions, the predictions, the decisions. `now`: seconds since the epoch."""
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = [pairs(_head(told))]
    if told.sessions:
        parts += [Text(), forecast_table(told.sessions)]
    if told.scores:
        parts += [Text(), score_table(told.scores)]
    parts += [Text(), *(Text(line) for line in _decisions(told, now))]
    return Group(*parts)


def _head(told: Explanation) -> dict[str, str | Text]:
    facts: dict[str, str | Text] = {"step": f"saga-{told.step}"} if told.step is not None else {}
    if told.workflow is None:
        facts["workflow"] = "none: nothing is known of who makes this step"
    else:
        facts["workflow"] = f"{told.workflow.id} {told.workflow.name}".rstrip()
        facts["state"] = standing(told.workflow)
        facts |= {"priority": str(told.workflow.priority)} if told.workflow.priority else {}
        facts |= _recognised(told.workflow)
    facts["profile"] = f"{told.profile}, in the order of {told.order}"
    return facts | (_account(told.account) if told.account is not None else {})


def _recognised(workflow: WorkflowView) -> dict[str, str | Text]:
    """By which rules of the identity table its sessions are known; how sure, where that is in doubt."""
    rules = {
        s.rule + (f" ({s.confidence:.2f})" if s.confidence < 1.0 else "") for s in workflow.sessions if s.rule
    }
    return {"known by": ", ".join(sorted(rules))} if rules else {}


def _account(a: AccountView) -> dict[str, str | Text]:
    weight = f", weight {a.weight:g}" if a.weight != 1.0 else ""
    return {
        "work": f"{duration(a.attained_s)} of {_band(a.total)} expected ({_source(a.total)})",
        "to come": f"{_band(a.remaining)} of work, {_steps(a.steps)}",
        "fair share": f"done at {a.finish_s:.1f}s of virtual time, began at {a.born_s:.1f}s, now {a.virtual_s:.1f}s{weight}",
    }


def _band(e: EstimateView) -> str:
    return f"{duration(e.mean)} [{duration(e.low)} to {duration(e.high)}]"


def _steps(e: EstimateView) -> str:
    return f"{e.mean:.0f} steps [{e.low:.0f} to {e.high:.0f}]"


def _source(e: EstimateView) -> str:
    return f"{e.source}, of {e.samples}" if e.samples else e.source


def forecast_table(sessions: Sequence[ForecastView]) -> Grid:
    """Where each session stands, and what is expected of it."""
    return Grid(
        "*SESSION", "GATE", ">NEEDS", ">KEY", ">AHEAD", "*NEXT TOOL", ">BACK IN", ">GROWS", ">LAST",
        rows=[
            (
                s.id, at_gate(s.gate, s.waits_s), count(s.needs_tokens), UNKNOWN if s.key is None else _key(s.key),
                count(s.ahead), _tool(s), duration(s.returns_s.mean if s.returns_s is not None else None),
                count(round(s.growth_tokens.mean)), share(s.end_probability, 1),
            )
            for s in sessions
        ],
        empty="no session",
    )  # fmt: skip


def _key(key: float) -> str:
    """Keys are seconds, or tokens; arrival is seconds since the epoch, of which the last digits tell."""
    return f"…{key % 10_000:06.1f}" if key >= 1e8 else f"{key:.1f}"


def _tool(s: ForecastView) -> str:
    if not s.next_tool:
        return UNKNOWN
    name = "none (an answer)" if s.next_tool == "-" else s.next_tool
    return f"{share(s.next_tool_probability, 1)} {name}"


def score_table(scores: Sequence[Score]) -> Grid:
    """How predictions for this agent type fared of late."""
    return Grid(
        "PREDICTED", ">COUNT", ">ERROR", ">SIMPLE RULE'S", ">WITHIN BAND",
        rows=[
            (s.what, count(s.count), f"{s.error:.2f}", f"{s.rule_error:.2f}", share(s.within, 1)) for s in scores
        ],
        empty="nothing was predicted yet",
    )  # fmt: skip


def _decisions(told: Explanation, now: float) -> Iterator[str]:
    if not told.decisions:
        yield "no decision is known any more; the journal keeps the short reasons of all time"
        return
    yield "DECISIONS, oldest first"
    for made in told.decisions:
        yield plain(_line(made, now))[:WIDTH]
        yield from _wrapped(made.why)
        if made.otherwise:
            yield from _wrapped(f"otherwise: {made.otherwise}")
        if len(made.candidates) > 1:
            yield from _wrapped(
                "candidates: " + ", ".join(f"{c.worker} {c.score:.2f}" for c in made.candidates)
            )


def _line(made: DecisionView, now: float) -> str:
    ago = f"{duration(max(0.0, now - made.at))} ago"
    to = {"held": " at ", "paused": " at ", "lost": " at "}.get(made.verdict, " -> ")
    where = f"{to}{made.worker}" if made.worker else ""
    many = f", {made.times} steps in {duration(made.at - made.since_at)}" if made.times > 1 else ""
    step = f" (saga-{made.step})" if made.step is not None else ""
    return f"{ago:>10}  {made.session} {made.verdict}{where}{many}{step}"


def _wrapped(text: str) -> Iterator[str]:
    from textwrap import wrap

    yield from wrap(plain(text), WIDTH, initial_indent=INDENT, subsequent_indent=INDENT + "  ")
