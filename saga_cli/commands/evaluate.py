"""`saga eval`: all profiles over the same arrivals, and the verdict."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from saga_cli.options import command, given

Suite = Annotated[
    str,
    typer.Argument(
        help="quick, standard, loads, sizes, ablation, shift, variance, throughput, instance, full."
    ),
]
Profiles = Annotated[
    str | None,
    typer.Option(
        "--profile", help="Comma-separated; NAME+declared is told the work. [the suite's]", metavar="NAMES"
    ),
]
Baselines = Annotated[
    str | None,
    typer.Option("--baseline", help="Comma-separated; by default the targets'.", metavar="NAMES"),
]
Sets = Annotated[
    str | None,
    typer.Option(
        help="Of the suite's: swe, swe-again, web, web-own, iso, entire, kvct, chat, mix.", metavar="NAMES"
    ),
]
Pressures = Annotated[
    str | None,
    typer.Option("--pressure", help="Comma-separated, instead of the suite's.", metavar="NUMBERS"),
]
Seeds = Annotated[int | None, typer.Option(help="Seeds 0 to N-1.", min=1)]
Workflows = Annotated[int | None, typer.Option(help="In each cell.", min=1)]
HalfName = Annotated[str, typer.Option("--half", help="all; tune or report: a half of the workflows.")]
Traces = Annotated[Path | None, typer.Option(help="Folder of trace files. [SAGA_TRACES]", metavar="DIR")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder of results and reports.", metavar="DIR")]
Jobs = Annotated[int | None, typer.Option("--jobs", "-j", help="Processes; by default one per core.")]


def declare(app: typer.Typer) -> None:
    command(app, "eval")(evaluate)


def evaluate(
    ctx: typer.Context,
    suite: Suite = "quick",
    profile: Profiles = None,
    baseline: Baselines = None,
    sets: Sets = None,
    pressure: Pressures = None,
    seeds: Seeds = None,
    workflows: Workflows = None,
    half: HalfName = "all",
    traces: Traces = None,
    out: Out = Path("saga-eval"),
    jobs: Jobs = None,
) -> None:
    """Run all profiles over the same arrivals, judge them, write HTML, Markdown and JSON.

    Results are kept one by one: the same command goes on where it was interrupted.
    """
    from saga_cli import evaluating, simulating
    from saga_cli.progress import progress
    from saga_sim.evaluation.course import check_jobs
    from saga_sim.evaluation.plan import Choice, Half

    renderer = given(ctx).renderer
    chosen = evaluating.profiles(profile)
    profiles = evaluating.planned(suite, chosen)
    choice = Choice(
        works=evaluating.works(sets),
        pressures=tuple(simulating.numbers("--pressure", pressure)) if pressure else None,
        seeds=seeds,
        workflows=workflows,
        half=Half(evaluating.half(half)),
    )
    setup = evaluating.Setup(
        suite=suite, chosen=chosen, profiles=profiles, choice=choice, folder=out,
        baselines=evaluating.baselines(baseline, suite, profiles), traces=evaluating.traces_folder(traces),
        jobs=check_jobs(jobs if jobs is not None else os.cpu_count() or 1),
    )  # fmt: skip
    with progress(renderer) as show:
        answer = evaluating.run(setup, show)
    renderer.show(
        answer,
        table=lambda a: evaluating.table(a, out),
        quiet=lambda a: [
            f"{j.state}\t{j.target.profile}\t{j.target.figure}\t{','.join(j.target.works)}" for j in a.targets
        ],
    )
    if answer.failures:
        raise typer.Exit(1)
