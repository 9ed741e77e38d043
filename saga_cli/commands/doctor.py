"""`saga doctor`: what is wrong, and what to do about it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from saga_cli.options import command, given

if TYPE_CHECKING:
    from rich.console import RenderableType

    from saga_cli.doctor.findings import Finding
    from saga_cli.folder import ClusterFolder
    from saga_cli.slurm.asking import Asked


EXAMPLES = (
    "saga doctor                                # this machine, the folder, the cluster in it",
    "saga doctor --output quiet                 # names of what is not well, for scripts",
    "saga doctor --slurm --nodes 2 --time 4:00:00",
)


def declare(app: typer.Typer) -> None:
    command(app, "doctor", examples=EXAMPLES)(doctor)


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
    """Look at everything that can be wrong, and say what to do about it.

    This machine, the cluster folder, and the cluster that runs in it; with --slurm what `saga up --slurm` needs.
    Exit code 1 where something must be mended.
    """
    from saga_cli.doctor.everything import look
    from saga_cli.doctor.findings import Verdict

    held = given(ctx)
    found = look(held.folder)
    if slurm:
        from saga_cli.slurm.asking import Asked
        from saga_slurm.allocation import Role

        found += _slurm(
            Asked(
                role=Role.CLUSTER, nodes=nodes, gpus_per_node=gpus_per_node, time=time, partition=partition,
                account=account, qos=qos, site=site, settings={},
            ),
            held.folder,
        )  # fmt: skip
    held.renderer.show(
        found, table=findings_table, quiet=lambda f: [x.what for x in f if x.verdict is not Verdict.OK]
    )
    if any(each.verdict is Verdict.FAIL for each in found):
        raise typer.Exit(1)


def _slurm(asked: Asked, folder: ClusterFolder) -> list[Finding]:
    """What stands in the way of `saga up --slurm` with these flags."""
    import asyncio

    from saga_cli.slurm.checks import look

    return asyncio.run(look(asked, folder))


def findings_table(found: list[Finding]) -> RenderableType:
    """A line each, the remedy below what is wrong; at last how many of each."""
    from collections import Counter

    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from saga_cli.units import plain

    styles = {"ok": "green", "warn": "yellow", "fail": "red"}
    table = Table.grid(padding=(0, 2, 0, 0))
    for column in range(3):
        table.add_column(overflow="fold", no_wrap=column < 2)
    for each in found:
        told = Text(plain(each.told))
        if each.remedy:
            told.append(f"\n-> {plain(each.remedy)}", style="bold")
        table.add_row(Text(each.verdict, style=styles[each.verdict]), Text(plain(each.what)), told)
    counts = Counter(each.verdict.value for each in found)
    return Group(
        table, Text(", ".join(f"{counts[verdict]} {verdict}" for verdict in styles if counts[verdict]))
    )
