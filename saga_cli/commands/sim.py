"""`saga sim run|plan|explain|validate` and `saga calibrate`: the live scheduler in virtual time, and how true it is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from saga_cli.commands.sim_options import (
    DEFAULT_PRESET,
    DEFAULT_PROFILE,
    MAX_GAP_S,
    AllSeeds,
    ArrivalRate,
    CheckFairness,
    Concurrency,
    FaultPlan,
    Gpus,
    Host,
    HtmlFile,
    Limit,
    Lose,
    MaxGap,
    MaxWorkers,
    Mode,
    Moves,
    OneProfile,
    PerNode,
    PresetName,
    Pressure,
    Profiles,
    ScaleTime,
    Seed,
    Seeds,
    Slo,
    SloOfAll,
    Synth,
    Targets,
    Trace,
    Which,
    WithOracle,
    Workers,
    Workflows,
)
from saga_cli.options import command, given, group

if TYPE_CHECKING:
    from saga_cli.output import Renderer
    from saga_cli.simulating import Setup


def declare(app: typer.Typer) -> None:
    simulator = group(
        "Run the scheduler in virtual time.\n\nWhat would a cluster do with this work, before anyone asks for one?"
    )
    command(simulator, "run")(run)
    command(simulator, "plan")(plan)
    command(simulator, "explain")(explain)
    command(simulator, "validate")(validate)
    app.add_typer(simulator, name="sim")
    command(app, "calibrate")(calibrate)


def run(
    ctx: typer.Context,
    trace: Trace = None,
    synth: Synth = None,
    profile: Profiles = "sticky,saga-paper,thunder,saga",
    mode: Mode = "balanced",
    gpus: Gpus = None,
    workers: Workers = None,
    per_node: PerNode = None,
    preset: PresetName = DEFAULT_PRESET,
    host: Host = 0.0,
    moves: Moves = 0.0,
    pressure: Pressure = None,
    arrival_rate: ArrivalRate = None,
    concurrency: Concurrency = None,
    scale_time: ScaleTime = 1.0,
    max_gap: MaxGap = MAX_GAP_S,
    workflows: Workflows = None,
    limit: Limit = None,
    seeds: Seeds = 1,
    slo: Slo = 2.5,
    belady: WithOracle = False,
    check_fairness: CheckFairness = False,
    fault: FaultPlan = None,
    lose: Lose = 0.0,
    html_file: HtmlFile = None,
) -> None:
    """Run a workload under several profiles and compare them.

    Contexts longer than the engine takes are scaled down, workflow by workflow.
    """
    from saga_cli import simulating
    from saga_cli.replaying import Workload
    from saga_sim.experiment import Arrivals

    spec = simulating.cluster(preset, gpus, workers, per_node, host, moves)
    arrivals = Arrivals(
        pressure=pressure, per_s=arrival_rate, scale_time=scale_time, max_gap_s=max_gap, max_live=concurrency
    )
    setup = simulating.Setup(
        spec=spec, arrivals=arrivals, workflows=workflows, seeds=seeds, belady=belady, fair=check_fairness,
        workload=Workload(files=trace or (), synth=synth, workflows=workflows, limit=limit),
        profiles=simulating.profiles(profile), mode=simulating.mode(mode), slo=simulating.objective(slo),
        faults=simulating.faults(spec, fault or (), lose),
        faults_given=[*(fault or ()), *([f"{lose:g} of the control messages lost"] if lose else [])],
    )  # fmt: skip
    if not _show_runs(given(ctx).renderer, setup, html_file):
        raise typer.Exit(1)


def _show_runs(renderer: Renderer, setup: Setup, html_file: Path | None) -> bool:
    """Run it, print the answer, write the page where one is wanted; whether every workflow finished."""
    from saga_cli import simulated, simulating
    from saga_cli.output import Output
    from saga_cli.progress import progress

    wanted = html_file is not None or renderer.mode is Output.HTML
    kept = simulating.Kept() if wanted else None
    with progress(renderer) as show:
        answer = simulating.run(setup, show, kept)
    html = simulating.page(setup, kept) if kept is not None else ""
    if html_file is not None:
        html_file.write_text(html, encoding="utf-8")
    renderer.show(
        answer,
        table=simulated.table,
        quiet=lambda a: [f"{f.profile} {f.seed} {f.summary.tct_mean_s}" for f in a.runs],
        html=lambda _: html if html_file is None else "",
    )
    return not simulating.failures(answer)


def plan(
    ctx: typer.Context,
    target: Targets,
    trace: Trace = None,
    synth: Synth = None,
    profile: OneProfile = DEFAULT_PROFILE,
    max_workers: MaxWorkers = 1024,
    per_node: PerNode = None,
    preset: PresetName = DEFAULT_PRESET,
    pressure: Pressure = None,
    arrival_rate: ArrivalRate = None,
    concurrency: Concurrency = None,
    scale_time: ScaleTime = 1.0,
    max_gap: MaxGap = MAX_GAP_S,
    workflows: Workflows = None,
    limit: Limit = None,
    seeds: AllSeeds = 1,
    slo: SloOfAll = 2.5,
    fault: FaultPlan = None,
    lose: Lose = 0.0,
) -> None:
    """Find how many workers this work needs to reach a target.

    Simulates sizes by doubling, then by bisection. --pressure is refused: it grows with the cluster.
    """
    from saga_cli import planning, simulating
    from saga_cli.progress import progress
    from saga_cli.replaying import Workload
    from saga_sim.experiment import Arrivals, fitted, repeated
    from saga_sim.sizing import Question
    from saga_sim.targets import parse_all

    targets = parse_all(target)
    spec = simulating.cluster(preset, None, max_workers, per_node)
    arrivals = Arrivals(
        pressure=pressure, per_s=arrival_rate, scale_time=scale_time, max_gap_s=max_gap, max_live=concurrency
    )
    loaded = fitted(Workload(files=trace or (), synth=synth, workflows=workflows, limit=limit).load(), spec)
    question = Question(
        spec=spec, profile=_single(profile), arrivals=arrivals, targets=targets, seeds=seeds,
        slo=simulating.objective(slo), workflows=repeated(loaded, workflows or len(loaded)),
        faults=lambda sized: simulating.faults(sized, fault or (), lose),
    )  # fmt: skip
    renderer = given(ctx).renderer
    with progress(renderer) as show:
        answer = planning.plan(question, max_workers, show)
    renderer.show(answer, table=planning.table, quiet=lambda a: [] if a.workers is None else [f"{a.workers}"])
    if answer.workers is None:
        raise typer.Exit(1)


def explain(
    ctx: typer.Context,
    workflow: Which,
    trace: Trace = None,
    synth: Synth = None,
    profile: OneProfile = DEFAULT_PROFILE,
    gpus: Gpus = None,
    workers: Workers = None,
    per_node: PerNode = None,
    preset: PresetName = DEFAULT_PRESET,
    pressure: Pressure = None,
    arrival_rate: ArrivalRate = None,
    concurrency: Concurrency = None,
    scale_time: ScaleTime = 1.0,
    max_gap: MaxGap = MAX_GAP_S,
    workflows: Workflows = None,
    limit: Limit = None,
    seed: Seed = 0,
    fault: FaultPlan = None,
    lose: Lose = 0.0,
) -> None:
    """Tell one workflow's life in a simulated run, step by step.

    Where each step went and why, what it found in the cache, and where the completion time went.
    """
    from saga_cli import simulating, telling
    from saga_cli.progress import progress
    from saga_cli.replaying import Workload
    from saga_cli.units import plain
    from saga_sim.experiment import Arrivals

    renderer = given(ctx).renderer
    spec = simulating.cluster(preset, gpus, workers, per_node)
    arrivals = Arrivals(
        pressure=pressure, per_s=arrival_rate, scale_time=scale_time, max_gap_s=max_gap, max_live=concurrency
    )
    asked = telling.Asked(
        which=workflow, spec=spec, profile=_single(profile), arrivals=arrivals, workflows=workflows, seed=seed,
        workload=Workload(files=trace or (), synth=synth, workflows=workflows, limit=limit),
        faults=simulating.faults(spec, fault or (), lose),
    )  # fmt: skip
    with progress(renderer) as show:
        answer = telling.explain(asked, show)
    renderer.show(
        answer,
        table=telling.table,
        quiet=lambda a: [f"{plain(a.story.workflow_id)} {a.story.completion_s}"],
    )


def _single(profile: str) -> str:
    """The one profile of that name. Raises UserError for none such, and for several."""
    from saga_cli import simulating
    from saga_core.errors import UserError

    names = simulating.profiles(profile)
    if len(names) > 1:
        raise UserError(f"--profile {profile!r}: one profile at a time here")
    return names[0]


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
    rounds: Annotated[int, typer.Option(help="Live runs of each cell; means are compared.", min=1)] = 1,
    engine: Annotated[str, typer.Option(help="vllm, or fake for a look at the way alone.")] = "vllm",
    seed: Annotated[int, typer.Option(help="Of workload and arrivals.")] = 0,
) -> None:
    """Run the same workflows live and simulated, and print the error of each figure.

    Starts workers of its own on this machine; nothing else should run here meanwhile.
    """
    from saga_cli import simulating, validating
    from saga_cli.progress import progress
    from saga_cli.replaying import Workload

    renderer = given(ctx).renderer
    plan = validating.Plan(
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
        rounds=rounds,
    )
    with progress(renderer) as show:
        answer = validating.validate(plan, show)
    renderer.show(
        answer,
        table=validating.table,
        quiet=lambda a: [f"{c.profile} {c.pressure:g} {c.tct_error} {c.cached_error}" for c in a.cells],
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
