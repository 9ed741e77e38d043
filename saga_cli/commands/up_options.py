"""What `saga up` asks for: each option once, with its words."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Local = Annotated[bool, typer.Option("--local", help="On this machine.")]
Slurm = Annotated[bool, typer.Option("--slurm", help="In a Slurm allocation, asked for here.")]
Join = Annotated[bool, typer.Option("--join", help="A further allocation for the running cluster.")]
Workers = Annotated[int | None, typer.Option(help="Number of workers (Slurm: per node).", metavar="N")]
Model = Annotated[
    str | None, typer.Option(help="Path of a model, or a demo model: nano, agent, small.", metavar="M")
]
Engine = Annotated[str | None, typer.Option(help="vllm or fake.", metavar="E")]
Tp = Annotated[int | None, typer.Option(help="GPUs per worker.", metavar="T")]
Profile = Annotated[str | None, typer.Option(help="How steps are placed.", metavar="P")]
Mode = Annotated[str | None, typer.Option(help="What for: latency, balanced or throughput.", metavar="M")]
Port = Annotated[int | None, typer.Option(help="Port of the endpoint; 0 takes a free one.")]
Name = Annotated[str | None, typer.Option(help="Name of the cluster.")]
Config = Annotated[Path | None, typer.Option(help="A TOML file instead of ./saga.toml.")]
Sets = Annotated[
    list[str] | None, typer.Option("--set", help="Any setting, as section.name=value.", metavar="S")
]
Timeout = Annotated[float, typer.Option(help="Seconds for the workers to start.")]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Until the workers are ready.")]
Nodes = Annotated[int | None, typer.Option(help="Slurm: nodes.", metavar="N")]
Gpus = Annotated[int | None, typer.Option(help="Slurm: GPUs of each.", metavar="G")]
WallTime = Annotated[str | None, typer.Option(help="Slurm: wall time, as 8:00:00.", metavar="T")]
Partition = Annotated[str | None, typer.Option(help="Slurm: partition.", metavar="P")]
Account = Annotated[str | None, typer.Option(help="Slurm: account.", metavar="A")]
Qos = Annotated[str | None, typer.Option(help="Slurm: quality of service.", metavar="Q")]
SiteFile = Annotated[
    Path | None, typer.Option(help="Slurm: a site file (docs/slurm.md). [SAGA_SITE]", metavar="FILE")
]
Chain = Annotated[int | None, typer.Option(help="Slurm: allocations that follow each other.", metavar="N")]
Least = Annotated[
    int | None, typer.Option(help="Slurm: grow to so many at once, and keep them.", metavar="N")
]
Most = Annotated[int | None, typer.Option(help="Slurm: grow to so many while workflows wait.", metavar="N")]
IdleTimeout = Annotated[
    str | None, typer.Option(help="Slurm: end when nothing ran for so long (90s, 30m).", metavar="TIME")
]
Tools = Annotated[bool, typer.Option("--tools", help="Slurm: join nodes without engines, for programs.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Slurm: print the script only.")]
