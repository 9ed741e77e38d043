"""`saga down`, `status`, `url`, `profile`: the cluster as a whole."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from saga_cli.options import Given, command, given

DOWN_TIMEOUT_S = 30.0


def declare(app: typer.Typer) -> None:
    command(app, "down")(down)
    command(app, "status")(status)
    command(app, "url")(url)
    command(app, "profile")(profile)


def down(
    ctx: typer.Context,
    force: Annotated[bool, typer.Option("--force", help="End live workflows too.")] = False,
    drain: Annotated[
        bool, typer.Option("--drain", help="Take no new workflows, and let those that are there end.")
    ] = False,
    within: Annotated[
        str, typer.Option(help="With --drain: for at most so long (90s, 10m, 2h).", metavar="TIME")
    ] = "10m",
    timeout: Annotated[float, typer.Option(help="Seconds until what is left is killed.")] = DOWN_TIMEOUT_S,
) -> None:
    """Stop the cluster. Its folder stays: accepted workflows go on at the next `saga up`."""
    from saga_cli.local.down import stop
    from saga_cli.units import seconds

    held, drain_s = given(ctx), seconds(within, "--within") if drain else None
    in_slurm = stop_in_slurm(held, force=force, timeout_s=timeout, drain_s=drain_s)
    ended = in_slurm
    if ended is None:
        ended = stop(held.folder, force=force, timeout_s=timeout, drain_s=drain_s)
    text = (
        f"stopped {ended} {'daemons' if in_slurm is None else 'Slurm jobs'} at {held.folder.path}"
        if ended
        else f"no cluster is running at {held.folder.path}"
    )
    held.renderer.show({"stopped": bool(ended)}, table=lambda _: text, quiet=lambda _: [])


def stop_in_slurm(held: Given, *, force: bool, timeout_s: float, drain_s: float | None) -> int | None:
    """How many jobs ended; None for a cluster that has none. drain_s: workflows may end first, within that time."""
    from saga_cli.slurm.down import in_slurm

    if not in_slurm(held.folder):
        return None
    import asyncio

    from saga_cli.local.down import refuse_while_live
    from saga_cli.slurm.asking import usual_site
    from saga_cli.slurm.down import take_down
    from saga_slurm.backends import backend_for

    if not force and drain_s is None:
        refuse_while_live(held.folder)

    async def end() -> int:
        async with backend_for(usual_site().slurm) as backend:
            return await take_down(backend, held.folder, drain_s=drain_s, timeout_s=timeout_s)

    return asyncio.run(end())


def status(ctx: typer.Context) -> None:
    """Show the cluster: nodes, workers, totals."""
    from saga_cli.slurm.down import in_slurm
    from saga_cli.tables import cluster_table

    held = given(ctx)
    if in_slurm(held.folder):
        from saga_cli.slurm.status import show_status

        return show_status(held)
    return held.renderer.show(held.control().cluster(), table=cluster_table, quiet=lambda c: [c.name])


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
