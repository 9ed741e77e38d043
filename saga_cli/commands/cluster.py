"""`saga up`, `down`, `status`, `url`, `profile`: the cluster as a whole."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from saga_cli.options import command, given
from saga_core.errors import UserError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from saga_cli.folder import ClusterFolder
    from saga_core.views import ClusterView

UP_TIMEOUT_S = 600.0
"""As long as a worker may take to start (`node.start_timeout_s`)."""
DOWN_TIMEOUT_S = 30.0


def declare(app: typer.Typer) -> None:
    command(app, "up")(up)
    command(app, "down")(down)
    command(app, "status")(status)
    command(app, "url")(url)
    command(app, "profile")(profile)


def up(
    ctx: typer.Context,
    local: Annotated[bool, typer.Option("--local", help="On this machine.")] = False,
    workers: Annotated[int | None, typer.Option(help="Number of workers.", metavar="N")] = None,
    model: Annotated[
        str | None, typer.Option(help="Path of a model, or a demo model: nano, agent, small.", metavar="M")
    ] = None,
    engine: Annotated[str | None, typer.Option(help="vllm or fake.", metavar="E")] = None,
    profile: Annotated[str | None, typer.Option(help="How steps are placed.", metavar="P")] = None,
    port: Annotated[int | None, typer.Option(help="Port of the endpoint; 0 takes a free one.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the cluster.")] = None,
    config: Annotated[Path | None, typer.Option(help="A TOML file instead of ./saga.toml.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Any setting, as section.name=value.", metavar="S")
    ] = None,
    timeout: Annotated[float, typer.Option(help="Seconds for the workers to start.")] = UP_TIMEOUT_S,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until the workers are ready.")] = True,
) -> None:
    """Start a cluster. What already runs is kept."""
    from saga_cli.config import parse_sets, resolve
    from saga_cli.local.up import bring_up
    from saga_cli.progress import progress

    if not local:
        raise UserError("say where: `saga up --local` starts a cluster on this machine")
    flags = {"profile": profile, "name": name, "head.port": port, "workers.count": workers}
    flags |= {"workers.model": model, "workers.engine": engine}
    chosen = {key: value for key, value in flags.items() if value is not None} | parse_sets(set_ or [])
    held, wanted = given(ctx), resolve(chosen, file=config)
    with progress(held.renderer) as show:
        started = bring_up(held.folder, wanted, show=show, timeout_s=timeout, wait=wait)
    held.renderer.note(f"already running at {held.folder.path}" if started.already else "the cluster is up")
    _show_started(ctx, started.cluster)


def _show_started(ctx: typer.Context, cluster: ClusterView) -> None:
    folder = given(ctx).folder
    given(ctx).renderer.show(
        cluster, table=lambda c: started_table(c, folder), quiet=lambda c: [f"{c.url}/v1"]
    )


def started_table(cluster: ClusterView, folder: ClusterFolder) -> RenderableType:
    """What a person needs next."""
    from saga_cli.tables import pairs
    from saga_cli.units import plural

    states = [worker.state for worker in cluster.workers]
    told = ", ".join(f"{states.count(state)} {state}" for state in sorted(set(states))) or "not seen yet"
    return pairs({
        "endpoint": f"{cluster.url}/v1",
        "key": "`saga url --key` prints it",
        "models": ", ".join(cluster.models) or "none served yet",
        "profile": cluster.profile,
        "workers": f"{plural(len(states), 'worker')}: {told}",
        "folder": str(folder.path),
        "next": "saga submit -- PROGRAM · saga top · saga down",
    })  # fmt: skip


def down(
    ctx: typer.Context,
    force: Annotated[bool, typer.Option("--force", help="End live workflows too.")] = False,
    timeout: Annotated[float, typer.Option(help="Seconds until what is left is killed.")] = DOWN_TIMEOUT_S,
) -> None:
    """Stop the cluster. Its folder stays: accepted workflows go on at the next `saga up`."""
    from saga_cli.local.down import stop

    held = given(ctx)
    ended = stop(held.folder, force=force, timeout_s=timeout)
    text = (
        f"stopped {ended} daemons at {held.folder.path}"
        if ended
        else f"no cluster is running at {held.folder.path}"
    )
    held.renderer.show({"stopped": bool(ended)}, table=lambda _: text, quiet=lambda _: [])


def status(ctx: typer.Context) -> None:
    """Show the cluster: nodes, workers, totals."""
    from saga_cli.tables import cluster_table

    held = given(ctx)
    held.renderer.show(held.control().cluster(), table=cluster_table, quiet=lambda c: [c.name])


def url(
    ctx: typer.Context, key: Annotated[bool, typer.Option("--key", help="The API key as well.")] = False
) -> None:
    """Print the endpoint for OPENAI_BASE_URL."""
    held = given(ctx)
    access = held.folder.access()
    answer = {"base_url": f"{access.url}/v1"} | ({"api_key": access.api_key} if key else {})
    held.renderer.show(answer, table=_exports if key else lambda a: a["base_url"], quiet=lambda a: a.values())


def _exports(answer: dict[str, str]) -> str:
    names = {"base_url": "OPENAI_BASE_URL", "api_key": "OPENAI_API_KEY"}
    return "\n".join(f"export {names[field]}={value}" for field, value in answer.items())


def profile(
    ctx: typer.Context,
    name: Annotated[str | None, typer.Argument(help="The one to use from here on.")] = None,
) -> None:
    """List the profiles and show which one decides, or change it while the cluster runs."""
    from saga_cli.tables import profile_table
    from saga_core.errors import choose
    from saga_core.policy.profiles import PROFILES

    held = given(ctx)
    if name is not None and name not in PROFILES:
        raise choose("profile", name, list(PROFILES))
    control = held.control()
    if name is not None:
        control.use_profile(name)
    answer: dict[str, Any] = {
        "profile": control.cluster().profile,
        "valid": {name: known.what for name, known in PROFILES.items()},
    }
    held.renderer.show(
        answer,
        table=lambda a: profile_table(a["profile"], a["valid"]),
        quiet=lambda a: [a["profile"]],
    )
