"""`saga config show`: the settings and where each came from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from saga_cli.options import command, given, group


def declare(app: typer.Typer) -> None:
    settings = group(
        "Show settings and where each comes from.\n\n"
        "./saga.toml or ~/.config/saga/config.toml < SAGA_<SECTION>_<NAME> < flags."
    )
    command(settings, "show")(show)
    app.add_typer(settings, name="config")


def show(
    ctx: typer.Context,
    config: Annotated[Path | None, typer.Option(help="A TOML file instead of ./saga.toml.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Any setting, as section.name=value.", metavar="S")
    ] = None,
) -> None:
    """Show each setting with its value and origin."""
    from saga_cli.config import parse_sets, resolve
    from saga_cli.tables import settings_table, shown

    found = resolve(parse_sets(set_ or []), file=config)
    answer = {name: {"value": value, "origin": found.origins[name]} for name, value in found.values.items()}
    given(ctx).renderer.show(
        answer,
        table=settings_table,
        quiet=lambda a: [f"{name}={shown(item['value'])}" for name, item in a.items()],
    )
