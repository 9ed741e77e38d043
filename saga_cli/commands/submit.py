"""`saga submit`: a program to run on the cluster, or recordings to replay on it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from saga_cli.options import command, given
from saga_core.errors import UserError

EXAMPLES = (
    "saga submit -- python agent.py                       # one program, one workflow",
    "saga submit --deadline 600 --wait -- python agent.py # its end decides the exit code",
    "saga submit --tasks swe.jsonl -- python agent.py {instance}",
    "                                                     # one per line; again: what is not done yet",
    "saga submit --synth demo                             # a made workload",
)


def declare(app: typer.Typer) -> None:
    settings = {"allow_interspersed_args": False}
    command(app, "submit", context_settings=settings, examples=EXAMPLES)(submit)


def submit(
    ctx: typer.Context,
    program: Annotated[
        list[str] | None, typer.Argument(help="The program and its arguments.", metavar="[--] PROGRAM ARGS")
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the workflow; by default the program's.")] = "",
    agent_type: Annotated[str, typer.Option(help="Class of workflows with the same habits.")] = "",
    tenant: Annotated[str, typer.Option(help="Who it counts for.")] = "default",
    env: Annotated[list[str] | None, typer.Option(help="K=V for the program.", metavar="K=V")] = None,
    workdir: Annotated[Path | None, typer.Option(help="Where it runs; by default here.")] = None,
    work_s: Annotated[
        float | None, typer.Option("--work-s", help="Engine seconds that it will take in all.", metavar="S")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Steps that it will take in all.")] = None,
    instance: Annotated[str, typer.Option(help="What it works on; runs of one instance are alike.")] = "",
    deadline: Annotated[
        float | None, typer.Option(help="Seconds within which it should be over.", metavar="S")
    ] = None,
    aeg: Annotated[
        Path | None, typer.Option(help="Its steps, declared in TOML or JSON.", metavar="FILE")
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Until it ends; exit code 1 unless it is done.")
    ] = False,
    tasks: Annotated[
        Path | None,
        typer.Option(
            help="Run it once per JSON line; {instance} and other fields are put in.", metavar="FILE"
        ),
    ] = None,
    results: Annotated[
        Path | None, typer.Option(help="Of --tasks; by default FILE with .results.jsonl.", metavar="FILE")
    ] = None,
    retries: Annotated[int, typer.Option(help="How often one that failed runs again (--tasks, --wait).")] = 0,
    replay: Annotated[
        list[str] | None, typer.Option(help="Replay a recording (repeatable).", metavar="FILE[:ID]")
    ] = None,
    synth: Annotated[
        str | None, typer.Option(help="Replay a made workload, such as demo.", metavar="PRESET")
    ] = None,
    workflows: Annotated[int | None, typer.Option(help="How many --synth makes.")] = None,
    limit: Annotated[int | None, typer.Option(help="At most so many workflows.")] = None,
    scale_tokens: Annotated[float, typer.Option(help="Factor on token counts.")] = 1.0,
    scale_time: Annotated[float, typer.Option(help="Factor on tool gaps and arrivals; 0: none.")] = 1.0,
    max_context: Annotated[
        int | None, typer.Option(help="Shrink workflows to this context; by default the workers'.")
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option(help="At most so many at once; by default the cluster chooses.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of prompts and drawn times.")] = 0,
) -> None:
    """Run a program, or replay recorded workflows.

    A program finds the endpoint of its own workflow in OPENAI_BASE_URL. What is said of it (--work-s, --steps,
    --deadline, --instance, --aeg) is believed as far as its tenant's words have proved right.

    With --tasks, what is done is kept in the result file and never runs again: after an interruption, the same
    command goes on. How many run at once follows from what the workers' memory takes.
    """
    if bool(replay or synth) == bool(program):
        raise UserError(
            "give either a program (`saga submit -- python agent.py`), or --replay FILE, or --synth demo"
        )
    if tasks is None and results is not None:
        raise UserError("--results goes with --tasks")
    if program and tasks is None and retries and not wait:
        raise UserError("--retries goes with --tasks or --wait: somebody has to see that it failed")
    if program and tasks is not None:
        from saga_cli import entries, runs
        from saga_cli.submission import Said
        from saga_cli.submitting import run_list

        said = Said(work_s=work_s, steps=steps, instance=instance, deadline_s=deadline, file=aeg)
        template = entries.Template(
            program=tuple(program), name=name, agent_type=agent_type, tenant=tenant, env=tuple(env or ()),
            workdir=workdir, said=said,
        )  # fmt: skip
        into = results or Path("tasks" if str(tasks) == entries.STDIN else tasks).with_suffix(
            ".results.jsonl"
        )
        run = runs.of(entries.read(tasks), template, into, retries=retries, at_once=concurrency)
        raise typer.Exit(run_list(given(ctx), run))
    if program:
        from saga_cli.submission import Said, request
        from saga_cli.submitting import send

        said = Said(work_s=work_s, steps=steps, instance=instance, deadline_s=deadline, file=aeg)
        asked = request(
            program, name=name, agent_type=agent_type, tenant=tenant, env=env or [], workdir=workdir, said=said
        )  # fmt: skip
        raise typer.Exit(send(given(ctx), asked, wait=wait, retries=retries))
    from saga_cli.replaying import Workload
    from saga_cli.submitting import replay_workload

    load = Workload(
        files=replay or (), synth=synth, workflows=workflows, limit=limit, scale_tokens=scale_tokens,
        scale_time=scale_time, max_context=max_context, concurrency=concurrency, seed=seed,
    )  # fmt: skip
    raise typer.Exit(replay_workload(given(ctx), load))
