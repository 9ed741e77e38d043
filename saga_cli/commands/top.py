"""`saga top`: the live view."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from saga_cli.options import command, given
from saga_core.errors import UserError


def declare(app: typer.Typer) -> None:
    command(app, "top")(top)


def top(
    ctx: typer.Context,
    once: Annotated[bool, typer.Option("--once", help="Print one frame and exit.")] = False,
    interval: Annotated[float, typer.Option(help="Seconds between two frames.")] = 1.0,
) -> None:
    """Watch nodes, workers and workflows; q or Ctrl-C leaves."""
    from saga_cli.output import Output
    from saga_cli.top.frame import frame

    held = given(ctx)
    if interval < 0.1:
        raise UserError(f"--interval {interval:g} is too short (valid: 0.1 or more)")
    console = held.renderer.console()
    if once or held.renderer.mode is not Output.TABLE or not console.is_terminal:
        width, height = console.size
        held.renderer.show(
            held.control().cluster(),
            table=lambda c: frame(c, width, height, now=time.time()),
            quiet=lambda c: [w.id for w in c.workers],
        )
        return
    from saga_cli.top.live import watch

    watch(held.folder, console, interval_s=interval)
