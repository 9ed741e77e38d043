"""`saga up`: a cluster on this machine, or in Slurm allocations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from saga_cli.commands.up_options import (
    Account,
    Chain,
    Config,
    DryRun,
    Engine,
    Gpus,
    IdleTimeout,
    Join,
    Least,
    Local,
    Mode,
    Model,
    Most,
    Name,
    Nodes,
    Partition,
    Port,
    Profile,
    Qos,
    Sets,
    SiteFile,
    Slurm,
    Timeout,
    Tools,
    Tp,
    Wait,
    WallTime,
    Workers,
)
from saga_cli.options import Given, command, given
from saga_core.errors import UserError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from saga_cli.folder import ClusterFolder
    from saga_cli.slurm.asking import Asked
    from saga_core.views import ClusterView

UP_TIMEOUT_S = 600.0
"""As long as a worker may take to start (`node.start_timeout_s`)."""


def declare(app: typer.Typer) -> None:
    command(app, "up")(up)


def up(
    ctx: typer.Context,
    local: Local = False,
    slurm: Slurm = False,
    join: Join = False,
    workers: Workers = None,
    model: Model = None,
    engine: Engine = None,
    tp: Tp = None,
    profile: Profile = None,
    mode: Mode = None,
    port: Port = None,
    name: Name = None,
    config: Config = None,
    set_: Sets = None,
    timeout: Timeout = UP_TIMEOUT_S,
    wait: Wait = True,
    nodes: Nodes = None,
    gpus_per_node: Gpus = None,
    time: WallTime = None,
    partition: Partition = None,
    account: Account = None,
    qos: Qos = None,
    site: SiteFile = None,
    chain: Chain = None,
    min_nodes: Least = None,
    max_nodes: Most = None,
    idle_timeout: IdleTimeout = None,
    tools: Tools = False,
    dry_run: DryRun = False,
) -> None:
    """Start a cluster, or grow one (--join). What already runs is kept."""
    chosen = _settings(
        model=model, engine=engine, profile=profile, mode=mode, port=port, name=name, sets=set_
    )
    words = {
        "nodes": nodes, "gpus_per_node": gpus_per_node, "time": time, "partition": partition, "account": account,
        "qos": qos, "site": site, "chain": chain, "min_nodes": min_nodes, "max_nodes": max_nodes,
        "idle_timeout": idle_timeout, "tools": tools or None,
    }  # fmt: skip
    words = {key: value for key, value in words.items() if value is not None}
    if slurm or join or tools:
        asked = _asked(words, chosen, workers=workers, tp=tp, config=config, join=join)
        _in_slurm(given(ctx), asked, timeout_s=timeout, wait=wait, dry_run=dry_run)
        return
    _refuse_of_slurm([*words, *(["dry_run"] * dry_run)], local=local)
    chosen |= {"workers.count": workers} if workers is not None else {}
    chosen |= {"workers.tp": tp} if tp is not None else {}
    _here(given(ctx), chosen, config=config, timeout_s=timeout, wait=wait)


def _settings(
    *, model: str | None, engine: str | None, profile: str | None, mode: str | None, port: int | None,
    name: str | None, sets: list[str] | None,
) -> dict[str, Any]:  # fmt: skip
    """By dotted name, as --set has them."""
    from saga_cli.config import parse_sets

    flags = {"profile": profile, "mode": mode, "name": name, "head.port": port}
    flags |= {"workers.model": model, "workers.engine": engine}
    return {key: value for key, value in flags.items() if value is not None} | parse_sets(sets or [])


def _refuse_of_slurm(words: Sequence[str], *, local: bool) -> None:
    """A cluster on this machine takes none of these."""
    if not local:
        raise UserError(
            "say where: `saga up --local` starts a cluster on this machine, `saga up --slurm` in an allocation"
        )
    if words:
        odd = ", ".join("--" + key.replace("_", "-") for key in words)
        raise UserError(f"{odd}: only valid with --slurm or --join")


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

    from saga_cli.doctor.findings import Verdict
    from saga_cli.slurm.checks import steps_finding
    from saga_cli.slurm.up import script

    steps = steps_finding(asked.nodes)
    if steps.verdict is Verdict.WARN:
        held.renderer.note(f"{steps.told}; better: {steps.remedy}")
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
