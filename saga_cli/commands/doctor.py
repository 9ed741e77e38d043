"""`saga doctor`: what will not work here, before anything is started."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from saga_cli.options import command, given

if TYPE_CHECKING:
    from rich.console import RenderableType

    from saga_cli.slurm.checks import Finding


def declare(app: typer.Typer) -> None:
    command(app, "doctor")(doctor)


def doctor(
    ctx: typer.Context,
    slurm: Annotated[bool, typer.Option("--slurm", help="For a cluster in Slurm.")] = False,
    nodes: Annotated[int, typer.Option(help="As for `saga up`.")] = 1,
    gpus_per_node: Annotated[int, typer.Option(help="As for `saga up`.")] = 0,
    time: Annotated[str, typer.Option(help="As for `saga up`.")] = "1:00:00",
    partition: Annotated[str, typer.Option(help="As for `saga up`.")] = "",
    account: Annotated[str, typer.Option(help="As for `saga up`.")] = "",
    qos: Annotated[str, typer.Option(help="As for `saga up`.")] = "",
    site: Annotated[Path | None, typer.Option(help="A site file. [SAGA_SITE]")] = None,
) -> None:
    """Check this machine: what will not work, and why. Exit code 1 where something must be mended."""
    import asyncio

    from saga_cli.slurm.asking import Asked
    from saga_cli.slurm.checks import Verdict, look
    from saga_core.errors import UserError
    from saga_slurm.allocation import Role

    if not slurm:
        raise UserError("say what for: `saga doctor --slurm` checks a login node")
    asked = Asked(
        role=Role.CLUSTER, nodes=nodes, gpus_per_node=gpus_per_node, time=time, partition=partition,
        account=account, qos=qos, site=site, settings={},
    )  # fmt: skip
    held = given(ctx)
    found = asyncio.run(look(asked, held.folder))
    held.renderer.show(
        found, table=findings_table, quiet=lambda f: [x.what for x in f if x.verdict != Verdict.OK]
    )
    if any(each.verdict is Verdict.FAIL for each in found):
        raise typer.Exit(1)


def findings_table(found: list[Finding]) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    styles = {"ok": "green", "warn": "yellow", "fail": "red"}
    table = Table.grid(padding=(0, 2, 0, 0))
    for each in found:
        table.add_row(
            Text(each.verdict, style=styles[each.verdict]), each.what, Text(each.told, overflow="fold")
        )
    return table
