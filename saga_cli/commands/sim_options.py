"""What the commands of the simulator ask for alike: each option once, with its words."""

from __future__ import annotations

from typing import Annotated

import typer

Trace = Annotated[list[str] | None, typer.Option(help="A trace, FILE[:ID]; may be repeated.", metavar="FILE")]
Synth = Annotated[str | None, typer.Option(help="A made workload: demo, swe-bench-like or webarena-like.")]
Gpus = Annotated[int | None, typer.Option(help="Size of the cluster in GPUs.", min=1)]
Workers = Annotated[int | None, typer.Option(help="Size of the cluster in workers.", min=1)]
PerNode = Annotated[int | None, typer.Option(help="Workers per node; by default what 8 GPUs hold.", min=1)]
PresetName = Annotated[
    str,
    typer.Option(
        "--preset",
        help="llama3-70b-a100, llama3-8b-h100, moe-30b-a3b-h100, agent-cpu, or a file of `saga calibrate`.",
    ),
]
Host = Annotated[
    float, typer.Option("--host", help="Host memory as a second KV tier, in multiples of the pool.", min=0.0)
]
Pressure = Annotated[
    float | None, typer.Option(help="Poisson arrivals that want this multiple of all KV memory.")
]
ArrivalRate = Annotated[float | None, typer.Option(help="Poisson arrivals per second.")]
Concurrency = Annotated[int | None, typer.Option(help="This many workflows at a time.", min=1)]
ScaleTime = Annotated[float, typer.Option(help="Factor on recorded arrivals and gaps; 0: no waiting.")]
MaxGap = Annotated[float, typer.Option(help="Longest gap between steps in seconds.")]
Workflows = Annotated[int | None, typer.Option(help="How many; a shorter trace is repeated.", min=1)]
Limit = Annotated[int | None, typer.Option(help="Only the first N workflows of the traces.", min=1)]
FaultPlan = Annotated[
    list[str] | None,
    typer.Option(
        "--fault",
        help="crash:n0001/0@120, hang:…, death:n0001@60+30, cut:…, end:…; repeatable.",
        metavar="FAULT",
    ),
]
Lose = Annotated[float, typer.Option(help="Share of control messages that are lost.")]
OneProfile = Annotated[str, typer.Option("--profile", help="The profile that decides.")]

DEFAULT_PRESET = "llama3-70b-a100"
DEFAULT_PROFILE = "saga"
MAX_GAP_S = 600.0
