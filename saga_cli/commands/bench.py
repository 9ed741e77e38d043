"""`saga bench gateway|decide`: speed and size, printed with their spread."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from saga_cli.options import command, given, group

if TYPE_CHECKING:
    from saga_bench.decide import Row
    from saga_bench.summary import Summary
    from saga_cli.grid import Grid

Quick = Annotated[bool, typer.Option("--quick", help="Less sure, in under a minute.")]
Rounds = Annotated[int | None, typer.Option(help="Repetitions; the spread is over them.", min=1)]


def declare(app: typer.Typer) -> None:
    benches = group("Measure saga itself.")
    command(benches, "gateway")(gateway)
    command(benches, "decide")(decide)
    app.add_typer(benches, name="bench")


def decide(ctx: typer.Context, quick: Quick = False, rounds: Rounds = None) -> None:
    """Time of one placement decision, at 8 to 512 workers and 10 to 10,000 workflows."""
    from dataclasses import replace

    from saga_bench.decide import DecideOptions, run_decide
    from saga_cli.progress import progress

    options = DecideOptions.quick() if quick else DecideOptions()
    options = replace(options, rounds=rounds or options.rounds)
    with progress(given(ctx).renderer) as show:
        show.phase(f"{options.rounds} rounds of {options.decisions} decisions per row")
        rows = run_decide(options, lambda row: show.say(f"  {row.profile} {row.workers} x {row.workflows}"))
    given(ctx).renderer.show(rows, table=decide_table, quiet=lambda rs: [f"{r.p50_us:.1f}" for r in rs])


def gateway(
    ctx: typer.Context,
    quick: Quick = False,
    rounds: Rounds = None,
    candidates: Annotated[str, typer.Option(help="Comma-separated; by default all there are here.")] = "",
    vllm_router: Annotated[Path | None, typer.Option(help="A vllm-router to measure beside.")] = None,
) -> None:
    """Latency, requests/s, CPU and memory of the gateway, beside a direct call."""
    from dataclasses import replace

    from saga_bench.gateway import GatewayOptions, run_gateway
    from saga_bench.summary import summarise
    from saga_cli.progress import progress

    names = tuple(filter(None, candidates.split(",")))
    options = GatewayOptions(candidates=names, vllm_router=vllm_router)
    options = options.quick() if quick else options
    options = replace(options, rounds=rounds or options.rounds)
    with progress(given(ctx).renderer) as show:
        rows = run_gateway(options, on_start=lambda name, turn: show.phase(f"round {turn + 1}: {name}"))
    answer = {"rows": rows, "summary": summarise(rows)}
    given(ctx).renderer.show(answer, table=lambda _: gateway_table(summarise(rows)), quiet=lambda _: [])


def decide_table(rows: list[Row]) -> Grid:
    from saga_cli.grid import Grid

    return Grid(
        "*PROFILE", ">WORKERS", ">WORKFLOWS", ">P50 µs", ">(MIN-MAX)", ">P99 µs", ">PER S", ">STEP µs",
        rows=[
            (
                r.profile, str(r.workers), str(r.workflows), f"{r.p50_us:.1f}", f"{r.p50_min_us:.1f}-{r.p50_max_us:.1f}",
                f"{r.p99_us:.1f}", f"{r.per_s:.0f}", f"{r.step_us:.1f}",
            )
            for r in sorted(rows, key=lambda r: (r.profile, r.workers, r.workflows))
        ],
        empty="nothing was measured",
    )  # fmt: skip


def gateway_table(summaries: list[Summary]) -> Grid:
    from saga_cli.grid import Grid

    return Grid(
        "*SCENARIO", "*FIGURE", "*CANDIDATE", ">MEDIAN", ">MIN", ">MAX", "*RATIO TO",
        rows=[
            (
                s.scenario, s.figure, s.candidate, f"{s.median:.4g}", f"{s.min:.4g}", f"{s.max:.4g}",
                " ".join(f"{name} {ratio:.2f}" for name, ratio in s.ratio_to.items()) or "-",
            )
            for s in summaries
        ],
        empty="nothing was measured",
    )  # fmt: skip
