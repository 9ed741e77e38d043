"""`saga bench live`: profiles side by side on real workers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from saga_cli.options import given

Profiles = Annotated[
    str,
    typer.Option(
        "--profile",
        help="Comma-separated, the first is the baseline; NAME+declared is told the work, NAME+warm has learned.",
    ),
]
Trace = Annotated[
    list[str] | None, typer.Option(help="A trace, FILE[:ID], instead; may be repeated.", metavar="FILE")
]
Synth = Annotated[str | None, typer.Option(help="A made workload. [live-gate if no trace is given]")]
Workflows = Annotated[int, typer.Option(help="Workflows per run; 48 are past the cliff.", min=1)]
Over = Annotated[
    float | None, typer.Option(help="Seconds over which they arrive. [20; a trace's: as recorded]", min=0.001)
]
Rounds = Annotated[int, typer.Option(help="Runs of each profile, in alternation.", min=1)]
Workers = Annotated[int, typer.Option(help="Workers, with an equal share of the cores each.", min=1)]
KvTokens = Annotated[int, typer.Option(help="KV pool of each worker.", min=1)]
Preset = Annotated[str, typer.Option(help="What the engine costs: agent-cpu, or a file of `saga calibrate`.")]
Engine = Annotated[str, typer.Option(help="vllm, or fake for a look at the way alone.")]
Warm = Annotated[bool, typer.Option("--warm", help="Let every profile that learns see another draw first.")]
Declare = Annotated[bool, typer.Option("--declare", help="Tell every profile that heeds it the work.")]
Redraw = Annotated[bool, typer.Option("--redraw", help="Other workflows and arrivals in each round.")]
Seed = Annotated[int, typer.Option(help="Of workload and arrivals.", min=0)]
Out = Annotated[
    Path | None,
    typer.Option("--out", "-o", help="Write the JSON answer there after each run.", metavar="FILE"),
]
Keep = Annotated[bool, typer.Option("--keep", help="Keep the clusters' folders with their logs.")]


def live(
    ctx: typer.Context,
    profile: Profiles = "sticky,thunder,saga,saga+declared",
    trace: Trace = None,
    synth: Synth = None,
    workflows: Workflows = 48,
    over: Over = None,
    rounds: Rounds = 3,
    workers: Workers = 2,
    kv_tokens: KvTokens = 32768,
    preset: Preset = "agent-cpu",
    engine: Engine = "vllm",
    warm: Warm = False,
    declare: Declare = False,
    redraw: Redraw = False,
    seed: Seed = 0,
    out: Out = None,
    keep: Keep = False,
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
        arms=arms(profile, declared=declare, warm=warm), workload=Workload(files=trace or (), synth=made, seed=seed),
        workflows=workflows, over_s=over or (None if trace else benching.OVER_S), rounds=rounds, workers=workers,
        kv_tokens=kv_tokens, preset=preset_of(preset), engine=engine, redraw=redraw, keep=keep, out=out,
    )  # fmt: skip
    with progress(renderer) as show:
        answer = benching.bench(plan, show)
    renderer.show(answer, table=benched.table, quiet=benched.quiet)
    if answer.interrupted:
        raise KeyboardInterrupt
    if not answer.ok:
        raise typer.Exit(1)
