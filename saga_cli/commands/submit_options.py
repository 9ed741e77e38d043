"""What `saga submit` asks for: each option once, with its words."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Program = Annotated[
    list[str] | None, typer.Argument(help="The program and its arguments.", metavar="[--] PROGRAM ARGS")
]
Name = Annotated[str, typer.Option(help="Name of the workflow; by default the program's.")]
AgentType = Annotated[str, typer.Option(help="Class of workflows with the same habits.")]
Tenant = Annotated[
    str,
    typer.Option(
        help="Who it counts for; by default the Slurm account, where one is named.",
        envvar=["SAGA_TENANT", "SLURM_JOB_ACCOUNT", "SBATCH_ACCOUNT"],
    ),
]
Env = Annotated[list[str] | None, typer.Option(help="K=V for the program.", metavar="K=V")]
Workdir = Annotated[Path | None, typer.Option(help="Where it runs; by default here.")]
Work = Annotated[
    float | None, typer.Option("--work-s", help="Engine seconds that it will take in all.", metavar="S")
]
Steps = Annotated[int | None, typer.Option(help="Steps that it will take in all.")]
Instance = Annotated[str, typer.Option(help="What it works on; runs of one instance are alike.")]
Deadline = Annotated[float | None, typer.Option(help="Seconds within which it should be over.", metavar="S")]
Priority = Annotated[
    int, typer.Option(help="-10 to 10: larger goes sooner, until others are overdue.", metavar="N")
]
Cpus = Annotated[int, typer.Option(help="Cores of its node that it takes.", metavar="N")]
Memory = Annotated[
    str, typer.Option("--mem", help="Memory of its node that it takes: 500M, 4G.", metavar="SIZE")
]
Graph = Annotated[
    Path | None, typer.Option("--aeg", help="Its steps, declared in TOML or JSON.", metavar="FILE")
]
Wait = Annotated[bool, typer.Option("--wait", help="Until it ends; exit code 1 unless it is done.")]
Entries = Annotated[
    Path | None,
    typer.Option(
        "--tasks", help="Run it once per JSON line; {instance} and other fields are put in.", metavar="FILE"
    ),
]
Results = Annotated[
    Path | None, typer.Option(help="Of --tasks; by default FILE with .results.jsonl.", metavar="FILE")
]
Retries = Annotated[int, typer.Option(help="How often one that failed runs again (--tasks, --wait).")]
Replay = Annotated[
    list[str] | None, typer.Option(help="Replay a recording (repeatable).", metavar="FILE[:ID]")
]
Synth = Annotated[str | None, typer.Option(help="Replay a made workload, such as demo.", metavar="PRESET")]
Workflows = Annotated[int | None, typer.Option(help="How many --synth makes.")]
Limit = Annotated[int | None, typer.Option(help="At most so many workflows.")]
ScaleTokens = Annotated[float, typer.Option(help="Factor on token counts.")]
ScaleTime = Annotated[float, typer.Option(help="Factor on tool gaps and arrivals; 0: none.")]
MaxContext = Annotated[
    int | None, typer.Option(help="Shrink workflows to this context; by default the workers'.")
]
Concurrency = Annotated[
    int | None, typer.Option(help="At most so many at once; by default the cluster chooses.")
]
Seed = Annotated[int, typer.Option(help="Of prompts and drawn times.")]
