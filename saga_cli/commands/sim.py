"""`saga sim run|validate` and `saga calibrate`: the live scheduler in virtual time, and how true it is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from saga_cli.options import command, given, group


def declare(app: typer.Typer) -> None:
    simulator = group(
        "Run the scheduler in virtual time.\n\nWhat would a cluster do with this work, before anyone asks for one?"
    )
    command(simulator, "run")(run)
    command(simulator, "validate")(validate)
    app.add_typer(simulator, name="sim")
    command(app, "calibrate")(calibrate)


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
        str,
        typer.Option(
            help="llama3-70b-a100, llama3-8b-h100, moe-30b-a3b-h100, agent-cpu, or a file of `saga calibrate`."
        ),
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
    fault: Annotated[
        list[str] | None,
        typer.Option(
            help="crash:n0001/0@120, hang:…, death:n0001@60+30, cut:…; repeatable.", metavar="FAULT"
        ),
    ] = None,
    lose: Annotated[float, typer.Option(help="Share of control messages that are lost.")] = 0.0,
    html_file: Annotated[
        Path | None,
        typer.Option("--html", "-o", help="Write the report with plots there as well.", metavar="FILE"),
    ] = None,
) -> None:
    """Run a workload under several profiles and compare them.

    Contexts longer than the engine takes are scaled down, workflow by workflow.
    """
    from saga_cli import simulating
    from saga_cli.output import Output
    from saga_cli.progress import progress
    from saga_cli.replaying import Workload
    from saga_sim.experiment import Arrivals

    renderer = given(ctx).renderer
    spec = simulating.cluster(preset, gpus, workers, per_node)
    setup = simulating.Setup(
        spec=spec,
        faults=simulating.faults(spec, fault or (), lose),
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
        faults_given=[*(fault or ()), *([f"{lose:g} of the control messages lost"] if lose else [])],
    )
    wanted = html_file is not None or renderer.mode is Output.HTML
    kept = simulating.Kept() if wanted else None
    with progress(renderer) as show:
        answer = simulating.run(setup, show, kept)
    html = simulating.page(setup, kept) if kept is not None else ""
    if html_file is not None:
        html_file.write_text(html, encoding="utf-8")
    renderer.show(
        answer,
        table=simulating.table,
        quiet=lambda a: [f"{f.profile} {f.seed} {f.summary.tct_mean_s}" for f in a.runs],
        html=lambda _: html if html_file is None else "",
    )
    if simulating.failures(answer):
        raise typer.Exit(1)


def validate(
    ctx: typer.Context,
    trace: Annotated[
        list[str] | None, typer.Option(help="A trace, FILE[:ID]; may be repeated.", metavar="FILE")
    ] = None,
    synth: Annotated[str | None, typer.Option(help="A made workload; demo if no trace is given.")] = None,
    profile: Annotated[str, typer.Option(help="Comma-separated.")] = "sticky,round-robin,saga-paper",
    pressure: Annotated[
        str, typer.Option(help="Comma-separated multiples of all KV memory.")
    ] = "0.3,0.6,1.2",
    workers: Annotated[int, typer.Option(help="Live workers.", min=1)] = 2,
    workflows: Annotated[int, typer.Option(help="Workflows per run.", min=1)] = 24,
    engine: Annotated[str, typer.Option(help="vllm, or fake for a look at the way alone.")] = "vllm",
    seed: Annotated[int, typer.Option(help="Of workload and arrivals.")] = 0,
) -> None:
    """Run the same workflows live and simulated, and print the error of each figure.

    Starts workers of its own on this machine; nothing else should run here meanwhile.
    """
    from saga_cli import calibrating, simulating
    from saga_cli.progress import progress
    from saga_cli.replaying import Workload

    renderer = given(ctx).renderer
    plan = calibrating.Plan(
        profiles=simulating.profiles(profile),
        pressures=simulating.numbers("--pressure", pressure),
        workers=workers,
        workload=Workload(
            files=trace or (),
            synth=synth or (None if trace else "demo"),
            workflows=workflows,
            limit=workflows,
            seed=seed,
        ),
        engine=engine,
        seed=seed,
    )
    with progress(renderer) as show:
        answer = calibrating.validate(plan, show)
    renderer.show(
        answer,
        table=calibrating.validation_table,
        quiet=lambda a: [f"{r.profile} {r.pressure:g} {r.tct_error} {r.cached_error}" for r in a.runs],
    )


def calibrate(
    ctx: typer.Context,
    out: Annotated[
        Path | None,
        typer.Option(help="Write a preset for `saga sim run --preset FILE.json`.", metavar="FILE.json"),
    ] = None,
) -> None:
    """Fit the simulator to the running workers.

    Prints the cost table with its residuals. Takes a few minutes.
    """
    from msgspec.structs import replace

    from saga_cli import calibrating
    from saga_cli.progress import progress
    from saga_core.errors import UserError
    from saga_sim.costs import write

    if out is not None and out.suffix != ".json":
        raise UserError(f"--out {out}: a preset's file ends in .json")
    held = given(ctx)
    control = held.control()
    with progress(held.renderer) as show:
        measured = calibrating.calibrate(control, held.folder.settings() or {}, show)
    if out is not None:
        write(out, measured.preset)
        measured = replace(measured, file=str(out))
    held.renderer.show(
        measured, table=calibrating.measured_table, quiet=lambda m: [m.file or f"{m.mean_error}"]
    )
