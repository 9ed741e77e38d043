"""`saga up`: a cluster on this machine, or in Slurm allocations."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from saga_cli.options import Given, command, given
from saga_core.errors import UserError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from saga_cli.folder import ClusterFolder
    from saga_cli.slurm.asking import Asked
    from saga_core.views import ClusterView

UP_TIMEOUT_S = 600.0
"""As long as a worker may take to start (`node.start_timeout_s`)."""
SLURM_ONLY = (
    "nodes",
    "gpus_per_node",
    "time",
    "partition",
    "account",
    "qos",
    "site",
    "chain",
    "tools",
    "min_nodes",
    "max_nodes",
    "idle_timeout",
)


def declare(app: typer.Typer) -> None:
    command(app, "up")(up)


def up(
    ctx: typer.Context,
    local: Annotated[bool, typer.Option("--local", help="On this machine.")] = False,
    slurm: Annotated[bool, typer.Option("--slurm", help="In a Slurm allocation, asked for here.")] = False,
    join: Annotated[
        bool, typer.Option("--join", help="A further allocation for the running cluster.")
    ] = False,
    workers: Annotated[
        int | None, typer.Option(help="Number of workers (Slurm: per node).", metavar="N")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Path of a model, or a demo model: nano, agent, small.", metavar="M")
    ] = None,
    engine: Annotated[str | None, typer.Option(help="vllm or fake.", metavar="E")] = None,
    tp: Annotated[int | None, typer.Option(help="GPUs per worker.", metavar="T")] = None,
    profile: Annotated[str | None, typer.Option(help="How steps are placed.", metavar="P")] = None,
    mode: Annotated[
        str | None, typer.Option(help="What for: latency, balanced or throughput.", metavar="M")
    ] = None,
    port: Annotated[int | None, typer.Option(help="Port of the endpoint; 0 takes a free one.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the cluster.")] = None,
    config: Annotated[Path | None, typer.Option(help="A TOML file instead of ./saga.toml.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Any setting, as section.name=value.", metavar="S")
    ] = None,
    timeout: Annotated[float, typer.Option(help="Seconds for the workers to start.")] = UP_TIMEOUT_S,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Until the workers are ready.")] = True,
    nodes: Annotated[int | None, typer.Option(help="Slurm: nodes.", metavar="N")] = None,
    gpus_per_node: Annotated[int | None, typer.Option(help="Slurm: GPUs of each.", metavar="G")] = None,
    time: Annotated[str | None, typer.Option(help="Slurm: wall time, as 8:00:00.", metavar="T")] = None,
    partition: Annotated[str | None, typer.Option(help="Slurm: partition.", metavar="P")] = None,
    account: Annotated[str | None, typer.Option(help="Slurm: account.", metavar="A")] = None,
    qos: Annotated[str | None, typer.Option(help="Slurm: quality of service.", metavar="Q")] = None,
    site: Annotated[
        Path | None, typer.Option(help="Slurm: a site file (docs/slurm.md). [SAGA_SITE]", metavar="FILE")
    ] = None,
    chain: Annotated[
        int | None, typer.Option(help="Slurm: allocations that follow each other.", metavar="N")
    ] = None,
    min_nodes: Annotated[
        int | None, typer.Option(help="Slurm: grow to so many at once, and keep them.", metavar="N")
    ] = None,
    max_nodes: Annotated[
        int | None, typer.Option(help="Slurm: grow to so many while workflows wait.", metavar="N")
    ] = None,
    idle_timeout: Annotated[
        str | None, typer.Option(help="Slurm: end when nothing ran for so long (90s, 30m).", metavar="TIME")
    ] = None,
    tools: Annotated[
        bool, typer.Option("--tools", help="Slurm: join nodes without engines, for programs.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Slurm: print the script only.")] = False,
) -> None:
    """Start a cluster, or grow one (--join). What already runs is kept."""
    from saga_cli.config import parse_sets

    said = {key: value for key, value in locals().items() if key in SLURM_ONLY}
    given_words = {key: value for key, value in said.items() if value is not None and value is not False}
    flags = {"profile": profile, "mode": mode, "name": name, "head.port": port}
    flags |= {"workers.model": model, "workers.engine": engine}
    chosen = {key: value for key, value in flags.items() if value is not None} | parse_sets(set_ or [])
    if slurm or join or tools:
        asked = _asked(given_words, chosen, workers=workers, tp=tp, config=config, join=join)
        _in_slurm(given(ctx), asked, timeout_s=timeout, wait=wait, dry_run=dry_run)
        return
    if not local:
        raise UserError(
            "say where: `saga up --local` starts a cluster on this machine, `saga up --slurm` in an allocation"
        )
    if given_words or dry_run:
        odd = ", ".join("--" + key.replace("_", "-") for key in [*given_words, *(["dry_run"] * dry_run)])
        raise UserError(f"{odd}: only valid with --slurm or --join")
    chosen |= {"workers.count": workers} if workers is not None else {}
    chosen |= {"workers.tp": tp} if tp is not None else {}
    _here(given(ctx), chosen, config=config, timeout_s=timeout, wait=wait)


def _here(
    held: Given, chosen: Mapping[str, Any], *, config: Path | None, timeout_s: float, wait: bool
) -> None:
    from saga_cli.config import resolve
    from saga_cli.local.up import bring_up
    from saga_cli.progress import progress

    wanted = resolve(chosen, file=config)
    with progress(held.renderer) as show:
        started = bring_up(held.folder, wanted, show=show, timeout_s=timeout_s, wait=wait)
    held.renderer.note(f"already running at {held.folder.path}" if started.already else "the cluster is up")
    _show_started(held, started.cluster)


def _asked(
    words: Mapping[str, Any], chosen: Mapping[str, Any], *, workers: int | None, tp: int | None,
    config: Path | None, join: bool,
) -> Asked:  # fmt: skip
    from saga_cli.slurm.asking import Asked
    from saga_slurm.allocation import Role

    role = Role.TOOLS if words.get("tools") else Role.JOIN if join else Role.CLUSTER
    plain = {key: value for key, value in words.items() if key != "tools"}
    return Asked(role=role, settings=chosen, workers=workers, tp=tp, config=config, **plain)


def _in_slurm(held: Given, asked: Asked, *, timeout_s: float, wait: bool, dry_run: bool) -> None:
    import asyncio

    from saga_cli.slurm.up import script

    if dry_run:
        text = script(asked, held.folder)
        held.renderer.show(
            {"script": text}, table=lambda a: a["script"].rstrip("\n"), quiet=lambda a: [a["script"]]
        )
        return
    asyncio.run(_launch(held, asked, timeout_s=timeout_s, wait=wait))


async def _launch(held: Given, asked: Asked, *, timeout_s: float, wait: bool) -> None:
    from saga_cli.slurm.asking import site_for
    from saga_cli.slurm.picture import summary
    from saga_cli.slurm.reach import tunnel_hint
    from saga_cli.slurm.show import showing
    from saga_cli.slurm.up import launch
    from saga_slurm.backends import backend_for
    from saga_slurm.plan import read_course

    async with backend_for(site_for(asked).slurm) as backend:
        with showing(held.renderer) as show:
            done = await launch(backend, asked, held.folder, show=show, timeout_s=timeout_s, wait=wait)
    job = done.record.job
    if done.cluster is None:
        answer = {"job": job, "folder": str(held.folder.path)}
        told = f"job {job} is submitted; `saga up --slurm` follows it, `saga down` cancels it"
        held.renderer.show(answer, table=lambda _: told, quiet=lambda a: [a["job"]])
        return
    if done.already or done.times is None:
        held.renderer.note(f"already there: job {job}")
    else:
        held.renderer.note(summary(done.times))
    if problem := read_course(held.folder.path).problem:
        held.renderer.note(
            f"this cluster cannot ask for nodes from inside its job ({problem}); `saga node grow` does it from here"
        )
    if hint := tunnel_hint(held.folder.access(), held.control().way):
        held.renderer.note(hint)
    _show_started(held, done.cluster)


def _show_started(held: Given, cluster: ClusterView) -> None:
    folder = held.folder
    held.renderer.show(cluster, table=lambda c: started_table(c, folder), quiet=lambda c: [f"{c.url}/v1"])


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
