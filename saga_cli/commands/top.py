"""`saga top`: the live view."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from saga_cli.options import Given, command, given
from saga_core.errors import UserError

if TYPE_CHECKING:
    from saga_cli.top.choice import Choice
    from saga_cli.top.replay import Replay

SHORTEST_S = 0.1
EXAMPLES = (
    "saga top                                   # the running cluster; ? shows the keys",
    "saga top --once --filter state:held        # one frame of those that wait",
    "saga top --replay ~/.saga/default/journal  # what happened, ten times as fast",
    "saga top --web                             # the same in a browser",
)
REPLAY_SPEED = 10.0
"""Times the real time, at which a journal begins."""


def declare(app: typer.Typer) -> None:
    command(app, "top", examples=EXAMPLES)(top)


def top(
    ctx: typer.Context,
    once: Annotated[bool, typer.Option("--once", help="Print one frame and exit.")] = False,
    interval: Annotated[float, typer.Option(help="Seconds between two frames.")] = 1.0,
    filter_: Annotated[
        str, typer.Option("--filter", help="Words, or state:held tenant:a home:gpu01.", metavar="WORDS")
    ] = "",
    sort: Annotated[
        str, typer.Option(help="Title of the workflows' column, such as ETA.", metavar="COLUMN")
    ] = "",
    replay: Annotated[
        Path | None,
        typer.Option(help="A journal, or a folder that has some, instead of a cluster.", metavar="PATH"),
    ] = None,
    speed: Annotated[float, typer.Option(help="Of the replay, times the real time.")] = REPLAY_SPEED,
    at: Annotated[float | None, typer.Option(help="Seconds into the replay; --once shows its end.")] = None,
    web: Annotated[bool, typer.Option("--web", help="Serve the view to a browser on this machine.")] = False,
    port: Annotated[int, typer.Option(help="Of --web.")] = 8900,
) -> None:
    """Watch nodes, workers, tenants and workflows; ? shows the keys."""
    held = given(ctx)
    if interval < SHORTEST_S:
        raise UserError(f"--interval {interval:g} is too short (valid: {SHORTEST_S:g} or more)")
    if not speed > 0:
        raise UserError(f"--speed {speed:g} is not valid (valid: above 0)")
    choice = _choice(filter_, sort)
    if web:
        from saga_cli.top.web import serve

        serve(held, _repeated(interval, choice), port=port)
        return
    played = _replay(replay, interval, speed, at, end=once) if replay is not None else None
    if once or not _interactive(held):
        _print(held, choice, played)
        return
    from saga_cli.top.app import run
    from saga_cli.top.sources import Live

    if "NO_COLOR" not in os.environ and held.words.get("color") == "never":
        os.environ["NO_COLOR"] = "1"
    run(played or Live(held.folder), interval_s=interval, choice=choice)


def _repeated(interval_s: float, choice: Choice) -> list[str]:
    """What each page's own `saga top` is told."""
    words = ["--interval", f"{interval_s:g}"]
    words += ["--filter", choice.words] if choice.words else []
    return words + (["--sort", choice.sort] if choice.sort else [])


def _interactive(held: Given) -> bool:
    """Whether there is a person who can press keys: at a terminal, or in a browser."""
    from saga_cli.output import Output

    if "TEXTUAL_DRIVER" in os.environ:
        return True
    return held.renderer.mode is Output.TABLE and held.renderer.console().is_terminal


def _choice(words: str, sort: str) -> Choice:
    from saga_cli.top.choice import Choice
    from saga_cli.top.columns import WORKFLOWS
    from saga_core.errors import choose

    titles = [column.title for column in WORKFLOWS]
    if sort and sort.upper() not in titles:
        raise choose("column", sort, titles, "--sort")
    choice = Choice(words=words, sort=sort.upper())
    choice.check()
    return choice


def _replay(path: Path, interval_s: float, speed: float, at_s: float | None, *, end: bool) -> Replay:
    from saga_cli.top.replay import Replay

    played = Replay(path, interval_s=interval_s, speed=speed, at_s=at_s)
    if end and at_s is None:
        played.end()
    return played


def _print(held: Given, choice: Choice, played: Replay | None) -> None:
    from saga_cli.top.frame import frame

    width, height = held.renderer.console().size
    cluster = played.cluster() if played is not None else held.control().cluster()
    now = played.now() if played is not None else time.time()
    held.renderer.show(
        cluster,
        table=lambda c: frame(c, width, height, now=now, choice=choice),
        quiet=lambda c: [w.id for w in c.workers],
    )
