"""`saga bench live`: profiles side by side on real workers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from saga_cli.options import given

Trace = Annotated[
    list[str] | None, typer.Option(help="A trace, FILE[:ID], instead; may be repeated.", metavar="FILE")
]


def live(
    ctx: typer.Context,
    profile: Annotated[
        str,
        typer.Option(
            help="Comma-separated, the first is the baseline; NAME+declared is told the work, NAME+warm has learned."
        ),
    ] = "sticky,thunder,saga,saga+declared",
    trace: Trace = None,
    synth: Annotated[
        str | None, typer.Option(help="A made workload. [live-gate if no trace is given]")
    ] = None,
    workflows: Annotated[int, typer.Option(help="Workflows per run; 20 are below the cliff.", min=1)] = 48,
    over: Annotated[
        float | None,
        typer.Option(help="Seconds over which they arrive. [20; a trace's: as recorded]", min=0.001),
    ] = None,
    rounds: Annotated[int, typer.Option(help="Runs of each profile, in alternation.", min=1)] = 3,
    workers: Annotated[int, typer.Option(help="Workers, with an equal share of the cores each.", min=1)] = 2,
    kv_tokens: Annotated[int, typer.Option(help="KV pool of each worker.", min=1)] = 32768,
    preset: Annotated[
        str, typer.Option(help="What the engine costs: agent-cpu, or a file of `saga calibrate`.")
    ] = "agent-cpu",
    engine: Annotated[str, typer.Option(help="vllm, or fake for a look at the way alone.")] = "vllm",
    warm: Annotated[
        bool, typer.Option("--warm", help="Let every profile that learns see another draw first.")
    ] = False,
    declare: Annotated[
        bool, typer.Option("--declare", help="Tell every profile that heeds it the work.")
    ] = False,
    redraw: Annotated[
        bool, typer.Option("--redraw", help="Other workflows and arrivals in each round.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of workload and arrivals.", min=0)] = 0,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Write the JSON answer there after each run.", metavar="FILE"),
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the clusters' folders with their logs.")] = False,
) -> None:
    """Run the same workflows live under several profiles.

    Each run starts workers of its own and ends them; nothing else should run on the machine meanwhile.
    """
    from saga_bench.live import arms
    from saga_cli import benched, benching
    from saga_cli.progress import progress
    from saga_cli.replaying import Workload
    from saga_core.config import ENGINES
    from saga_core.errors import choose
    from saga_sim.costs import preset as preset_of

    if engine not in ENGINES:
        raise choose("engine", engine, ENGINES, "--engine")
    renderer, made = given(ctx).renderer, synth or (None if trace else benching.SYNTH)
    plan = benching.Plan(
        arms=arms(profile, declared=declare, warm=warm),
        workload=Workload(files=trace or (), synth=made, seed=seed),
        workflows=workflows,
        over_s=over or (None if trace else benching.OVER_S),
        rounds=rounds,
        workers=workers,
        kv_tokens=kv_tokens,
        preset=preset_of(preset),
        engine=engine,
        redraw=redraw,
        keep=keep,
        out=out,
    )
    with progress(renderer) as show:
        answer = benching.bench(plan, show)
    renderer.show(answer, table=benched.table, quiet=benched.quiet)
    if answer.interrupted:
        raise KeyboardInterrupt
    if not answer.ok:
        raise typer.Exit(1)
