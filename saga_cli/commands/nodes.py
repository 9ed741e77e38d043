"""`saga node list`, `drain`, `undrain`, `remove`, `grow`: machines of the cluster, one by one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from saga_cli.options import command, given, group

if TYPE_CHECKING:
    from saga_core.views import NodeView

Names = Annotated[list[str], typer.Argument(help="Names of nodes (`saga node list`).", metavar="NODE...")]
Within = Annotated[
    str | None,
    typer.Option(help="Break off what is left after this time: 90s, 5m, 1h30m.", metavar="TIME"),
]
Reason = Annotated[str, typer.Option(help="Shown where sessions move and in `saga status`.", metavar="TEXT")]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Return when nothing is left there.")]


def declare(app: typer.Typer) -> None:
    nodes = group("The machines of the cluster: empty them, take that back, let them go.")
    command(nodes, "list")(list_)
    command(
        nodes,
        "drain",
        examples=["saga node drain n3 --within 5m --reason 'new driver' --wait", "saga node undrain n3"],
    )(drain)
    command(nodes, "undrain")(undrain)
    command(nodes, "remove")(remove)
    command(nodes, "grow")(grow)
    app.add_typer(nodes, name="node")


def list_(ctx: typer.Context) -> None:
    """List the nodes: whether they take sessions, what runs there, when they end."""
    _show(ctx, given(ctx).control().cluster().nodes)


def drain(
    ctx: typer.Context, nodes: Names, within: Within = None, reason: Reason = "", wait: Wait = False
) -> None:
    """Empty nodes: no new sessions, those that are there go on elsewhere with their next step."""
    _empty(ctx, nodes, within, reason, wait=wait, remove=False)


def remove(
    ctx: typer.Context, nodes: Names, within: Within = None, reason: Reason = "", wait: Wait = False
) -> None:
    """Empty nodes, then end their daemons. A node that is gone already is forgotten."""
    _empty(ctx, nodes, within, reason, wait=wait, remove=True)


def undrain(ctx: typer.Context, nodes: Names) -> None:
    """Let nodes take sessions again."""
    control = given(ctx).control()
    _show(ctx, [control.undrain(node) for node in nodes])


def grow(ctx: typer.Context) -> None:
    """Slurm: ask for nodes from here as the cluster wants them, where its own job may not. Ctrl-C ends it."""
    import asyncio

    from saga_cli.slurm import growing
    from saga_shell import log

    held = given(ctx)
    growing.growable(held.folder)
    log.start()
    held.renderer.note("asking for nodes as they are wanted; Ctrl-C ends this, not the cluster")
    asyncio.run(growing.grow(held.folder))


def _empty(
    ctx: typer.Context, nodes: list[str], within: str | None, reason: str, *, wait: bool, remove: bool
) -> None:
    from saga_cli.emptying import await_empty
    from saga_cli.progress import progress
    from saga_cli.units import seconds
    from saga_core.views import DrainRequest

    within_s = seconds(within, "--within") if within is not None else None
    held, control = given(ctx), given(ctx).control()
    wanted = DrainRequest(reason=reason, within_s=within_s, remove=remove)
    found = [view for node in nodes if (view := control.drain(node, wanted)) is not None]
    if wait:
        with progress(held.renderer) as show:
            found = await_empty(control, [view.id for view in found], show=show, gone=remove)
    _show(ctx, found)


def _show(ctx: typer.Context, found: list[NodeView]) -> None:
    from saga_cli.tables import node_details

    given(ctx).renderer.show(found, table=node_details, quiet=lambda views: [view.id for view in views])
