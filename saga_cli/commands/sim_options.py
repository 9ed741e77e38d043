"""What the commands of the simulator ask for alike: each option once, with its words."""

from __future__ import annotations

from pathlib import Path
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
Moves = Annotated[
    float,
    typer.Option(
        help="Sessions' KV moves between workers at this rate; 0: it does not.",
        metavar="TOKENS_PER_S",
        min=0.0,
    ),
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
Profiles = Annotated[str, typer.Option("--profile", help="Comma-separated; the first is the baseline.")]
Mode = Annotated[str, typer.Option(help="What saga and saga-blind are for: latency, balanced or throughput.")]
Seeds = Annotated[int, typer.Option(help="Runs per profile, with seeds 0 to N-1.", min=1)]
Slo = Annotated[
    float, typer.Option(help="Slowdown, as a multiple of its time alone, that a workflow may have.")
]
WithOracle = Annotated[
    bool, typer.Option("--belady", help="Hold the caches against an oracle; takes about half as long again.")
]
CheckFairness = Annotated[
    bool, typer.Option("--check-fairness", help="Hold every workflow's waits against the fairness bound.")
]
HtmlFile = Annotated[
    Path | None,
    typer.Option("--html", "-o", help="Write the report with plots there as well.", metavar="FILE"),
]
Targets = Annotated[
    list[str],
    typer.Option(
        help="p50, p95, p99, mean, geomean of completion time, ttft p95 or slo, such as 'p95 <= 5m and slo >= 95%'; repeatable.",
        metavar="TARGET",
    ),
]
MaxWorkers = Annotated[int, typer.Option(help="The largest size to try.", min=1)]
AllSeeds = Annotated[int, typer.Option(help="Seeds 0 to N-1; all must reach the targets.", min=1)]
SloOfAll = Annotated[float, typer.Option(help="Multiple of its time alone that a workflow may take.")]
Which = Annotated[
    str, typer.Argument(help="Its id, or slowest, median, fastest, p95, #12.", metavar="WORKFLOW")
]
Seed = Annotated[int, typer.Option(help="Of arrivals, gaps and faults.", min=0)]
OneProfile = Annotated[str, typer.Option("--profile", help="The profile that decides.")]

DEFAULT_PRESET = "llama3-70b-a100"
DEFAULT_PROFILE = "saga"
MAX_GAP_S = 600.0
