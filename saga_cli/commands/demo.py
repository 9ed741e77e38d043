"""`saga demo`: a whole cluster on this machine, agents on it, and what they measured."""

from __future__ import annotations

from typing import Annotated

import typer

from saga_cli.options import command, given


def declare(app: typer.Typer) -> None:
    command(app, "demo")(demo)


def demo(
    ctx: typer.Context,
    engine: Annotated[str, typer.Option(help="vllm, or fake for a fast look without a model.")] = "vllm",
    workers: Annotated[int, typer.Option(help="Number of workers.", min=1)] = 2,
    workflows: Annotated[int, typer.Option(help="Number of workflows per run.", min=1)] = 10,
    seed: Annotated[int, typer.Option(help="Of the workload.")] = 0,
    all_: Annotated[bool, typer.Option("--all", help="Compare with round-robin too.")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the cluster's folder with its logs.")] = False,
) -> None:
    """See it run: a cluster, agents, a comparison.

    Starts a cluster in a folder of its own, replays agents on it under two profiles, compares
    them, and takes the cluster down.
    """
    from saga_cli.comparison import report_table, verdict
    from saga_cli.demonstration import Plan, demonstrate
    from saga_cli.progress import progress

    held = given(ctx)
    plan = Plan(engine=engine, workers=workers, workflows=workflows, seed=seed, more=all_, keep=keep)
    with progress(held.renderer) as show:
        reports = demonstrate(plan, show)
    held.renderer.show(
        reports, table=report_table, quiet=lambda rs: [f"{r.profile} {r.summary.tct_mean_s}" for r in rs]
    )
    held.renderer.note(f"\n{verdict(reports)}")
    if not all(report.ok for report in reports):
        raise typer.Exit(1)
