"""`saga sim run`: the live scheduler in virtual time."""

from __future__ import annotations

from typing import Annotated

import typer

from saga_cli.options import command, given, group


def declare(app: typer.Typer) -> None:
    simulator = group("Run the scheduler in virtual time: what would a cluster do with this work?")
    command(simulator, "run")(run)
    app.add_typer(simulator, name="sim")


def run(
    ctx: typer.Context,
    trace: Annotated[
        list[str] | None, typer.Option(help="A trace, FILE[:ID]; may be repeated.", metavar="FILE")
    ] = None,
    synth: Annotated[
        str | None, typer.Option(help="A made workload: demo, swe-bench-like or webarena-like.")
    ] = None,
    profile: Annotated[
        str, typer.Option(help="Comma-separated; the first is the baseline.")
    ] = "sticky,round-robin,least-loaded,saga-paper",
    gpus: Annotated[int | None, typer.Option(help="Size of the cluster in GPUs.", min=1)] = None,
    workers: Annotated[int | None, typer.Option(help="Size of the cluster in workers.", min=1)] = None,
    per_node: Annotated[
        int | None, typer.Option(help="Workers per node; by default what 8 GPUs hold.", min=1)
    ] = None,
    preset: Annotated[
        str, typer.Option(help="Kind of worker: llama3-70b-a100, llama3-8b-h100, agent-cpu.")
    ] = "llama3-70b-a100",
    pressure: Annotated[
        float | None, typer.Option(help="Poisson arrivals that want this multiple of all KV memory.")
    ] = None,
    arrival_rate: Annotated[float | None, typer.Option(help="Poisson arrivals per second.")] = None,
    concurrency: Annotated[int | None, typer.Option(help="This many workflows at a time.", min=1)] = None,
    scale_time: Annotated[
        float, typer.Option(help="Factor on recorded arrivals and gaps; 0: no waiting.")
    ] = 1.0,
    max_gap: Annotated[float, typer.Option(help="Longest gap between steps in seconds.")] = 600.0,
    workflows: Annotated[
        int | None, typer.Option(help="How many; a shorter trace is repeated.", min=1)
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="Only the first N workflows of the traces.", min=1)
    ] = None,
    seeds: Annotated[int, typer.Option(help="Runs per profile, with seeds 0 to N-1.", min=1)] = 1,
) -> None:
    """Run a workload under several profiles and compare them.

    Contexts longer than the engine takes are scaled down, workflow by workflow.
    """
    from saga_cli import simulating
    from saga_cli.progress import progress
    from saga_cli.replaying import Workload
    from saga_sim.experiment import Arrivals

    renderer = given(ctx).renderer
    setup = simulating.Setup(
        spec=simulating.cluster(preset, gpus, workers, per_node),
        profiles=simulating.profiles(profile),
        workload=Workload(files=trace or (), synth=synth, workflows=workflows, limit=limit),
        arrivals=Arrivals(
            pressure=pressure,
            per_s=arrival_rate,
            scale_time=scale_time,
            max_gap_s=max_gap,
            max_live=concurrency,
        ),
        seeds=seeds,
        workflows=workflows,
    )
    with progress(renderer) as show:
        answer = simulating.run(setup, show)
    renderer.show(
        answer,
        table=simulating.table,
        quiet=lambda a: [f"{f.profile} {f.seed} {f.summary.tct_mean_s}" for f in a.runs],
    )
    if simulating.failures(answer):
        raise typer.Exit(1)
