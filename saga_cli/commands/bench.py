"""`saga bench gateway|decide|sim|live|kv`: speed and size, printed with their spread."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from saga_cli.commands.bench_kv import kv
from saga_cli.commands.bench_live import live
from saga_cli.options import command, given, group

if TYPE_CHECKING:
    from rich.console import RenderableType

    from saga_bench.decide import Row
    from saga_bench.full import FullRow, Spread
    from saga_bench.simulation import Measured, SimulationBench
    from saga_bench.summary import Summary
    from saga_cli.grid import Grid

Quick = Annotated[bool, typer.Option("--quick", help="Less sure, in under a minute.")]
Rounds = Annotated[int | None, typer.Option(help="Repetitions; the spread is over them.", min=1)]


def declare(app: typer.Typer) -> None:
    benches = group("Measure saga itself.")
    command(benches, "gateway")(gateway)
    command(benches, "decide")(decide)
    command(benches, "sim")(sim)
    command(benches, "live")(live)
    command(benches, "kv")(kv)
    app.add_typer(benches, name="bench")


def decide(
    ctx: typer.Context,
    full: Annotated[
        bool, typer.Option("--full", help="With pools that are full: 64 to 1,000 workers, the gate at work.")
    ] = False,
    profile: Annotated[
        str, typer.Option(help="With --full: profiles, comma-separated.")
    ] = "saga,thunder,sticky",
    quick: Quick = False,
    rounds: Rounds = None,
) -> None:
    """Time of one placement decision, at 8 to 512 workers and 10 to 10,000 workflows."""
    if full:
        decide_full(ctx, profile, quick=quick)
        return
    from dataclasses import replace

    from saga_bench.decide import DecideOptions, run_decide
    from saga_cli.progress import progress

    options = DecideOptions.quick() if quick else DecideOptions()
    options = replace(options, rounds=rounds or options.rounds)
    with progress(given(ctx).renderer) as show:
        show.phase(f"{options.rounds} rounds of {options.decisions} decisions per row")
        rows = run_decide(options, lambda row: show.say(f"  {row.profile} {row.workers} x {row.workflows}"))
    given(ctx).renderer.show(rows, table=decide_table, quiet=lambda rs: [f"{r.p50_us:.1f}" for r in rs])


def decide_full(ctx: typer.Context, profile: str, *, quick: bool) -> None:
    """The same and the other events where memory is short."""
    from msgspec.structs import replace

    from saga_bench.full import FullOptions, run_full
    from saga_cli.progress import progress
    from saga_cli.simulating import profiles

    options = replace(FullOptions(), profiles=tuple(profiles(profile)))
    options = options.quick() if quick else options
    with progress(given(ctx).renderer) as show:
        rows = run_full(
            options,
            lambda name, workers, workflows: show.phase(f"{name}: {workers} workers, {workflows} workflows"),
            lambda row: show.say(
                f"  {row.profile} {row.workers} x {row.workflows}: {row.arrive.p50_us:.1f} µs"
            ),
        )
    given(ctx).renderer.show(rows, table=full_table, quiet=lambda rs: [f"{r.arrive.p50_us:.1f}" for r in rs])


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


def sim(
    ctx: typer.Context,
    max_workers: Annotated[
        int, typer.Option(help="The largest cluster, of one GPU each.", min=16, max=10_000)
    ] = 1024,
    profile: Annotated[str, typer.Option(help="The profile that decides.")] = "saga",
    live: Annotated[int, typer.Option(help="Workflows alive at once, per worker.", min=1)] = 10,
    quick: Quick = False,
    rounds: Rounds = None,
) -> None:
    """Events/s and peak memory of the simulator, from 16 GPUs to --max-workers."""
    from msgspec.structs import replace

    from saga_bench.simulation import SimulationOptions, run_simulation
    from saga_cli.progress import progress
    from saga_cli.simulating import profiles

    (named,) = profiles(profile)[:1]
    options = SimulationOptions(most_gpus=max_workers, profile=named, live=live)
    options = options.quick() if quick else options
    options = replace(options, rounds=rounds or options.rounds)
    with progress(given(ctx).renderer) as show:
        answer = run_simulation(
            options,
            lambda number, gpus: show.phase(f"round {number + 1} of {options.rounds}: {gpus} GPUs"),
            lambda found: show.say(f"  {measured_line(found)}"),
        )
    given(ctx).renderer.show(
        answer, table=sim_table, quiet=lambda a: [f"{r.events_per_s:.0f}" for r in a.rows]
    )


def measured_line(found: Measured) -> str:
    """One process in one line."""
    from saga_cli.units import count, duration

    rate = count(round(found.events / found.core_s))
    return f"{found.gpus} GPUs: {rate} events/s, {found.peak_mb:.0f} MB, {duration(found.start_s + found.core_s)}"


def sim_table(answer: SimulationBench) -> RenderableType:
    """One row per size, and what the cost of an event does as the cluster grows."""
    from textwrap import fill

    from rich.console import Group
    from rich.text import Text

    from saga_cli.grid import Grid
    from saga_cli.units import UNKNOWN, count, duration, plural

    grid = Grid(
        ">GPUS", ">LIVE", ">EVENTS", ">EVENTS/S", ">(MIN-MAX)", ">µs", ">PER x2", ">SPEED", ">START", ">MB",
        rows=[
            (
                str(r.gpus), count(r.live), count(r.events), count(round(r.events_per_s)),
                f"{count(round(r.events_per_s_min))}-{count(round(r.events_per_s_max))}", f"{r.event_us:.1f}",
                UNKNOWN if r.per_doubling_us is None else f"{r.per_doubling_us:+.2f}", f"{r.speed:.{0 if r.speed >= 10 else 1}f}x",
                duration(r.start_s), f"{r.peak_mb:.0f}",
            )
            for r in answer.rows
        ],
        empty="nothing was measured",
    )  # fmt: skip
    loads = [row.load for row in answer.rows]
    what = (
        f"{answer.options.profile}, {answer.workload} on {answer.preset}, {answer.options.live} workflows alive per GPU, "
        f"{answer.options.span_s:g} virtual seconds, {plural(answer.options.rounds, 'round')}; load average up to {max(loads):.1f}"
    )
    return Group(
        Text(fill(what, 79)),
        Text(),
        grid,
        Text(),
        Text(fill(growth_text(answer), 79)),
        Text(),
        Text(fill(SIM_LEGEND, 79)),
    )


SIM_LEGEND = (
    "EVENTS/S: of the simulated clock, per second of one core. µs: of one event; PER x2: what it grew by for each "
    "doubling since the row above. SPEED: virtual over core time. START: to build and fill the cluster. MB: the "
    "process at its peak, workload included."
)


def growth_text(answer: SimulationBench) -> str:
    """The cost against the logarithm, in words."""
    grown = answer.growth
    if grown is None:
        return "One size says nothing of growth."
    first, last = answer.rows[0].gpus, answer.rows[-1].gpus
    verdict = "no faster" if grown.within_log else "faster"
    bend = (
        ""
        if grown.bend is None
        else f" A doubling costs {grown.bend:.1f} times as much at the end as at the start."
    )
    return (
        f"An event costs {grown.base_us:.1f} µs + {grown.doubling_us:.2f} µs x log2(GPUs), every size within "
        f"{100 * grown.off:.0f}% of that. From {first} to {last} GPUs it grew {grown.cost_ratio:.2f}-fold, the "
        f"logarithm {grown.log_ratio:.2f}-fold: {verdict} than the logarithm.{bend}"
    )


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


def full_table(rows: list[FullRow]) -> RenderableType:
    """One row per profile and size, and what the columns mean."""
    from textwrap import fill

    from rich.console import Group
    from rich.text import Text

    from saga_cli.grid import Grid
    from saga_cli.units import UNKNOWN, count

    def pair(spread: Spread, second: float) -> str:
        return f"{spread.p50_us:.0f}/{second:.0f}"

    grid = Grid(
        "*PROFILE", ">SIZE", ">HELD", ">ARRIVE", ">FINISH", ">END", ">REPORT", ">TICK", ">BYTES",
        rows=[
            (
                r.profile, f"{r.workers}x{count(r.workflows)}", count(round(r.held)), pair(r.arrive, r.arrive.p99_us),
                pair(r.finish, r.finish.p99_us), f"{r.end.p50_us:.0f}", f"{r.report.p50_us:.0f}",
                pair(r.tick, r.tick.max_us), UNKNOWN if r.per_workflow_bytes is None else count(r.per_workflow_bytes),
            )
            for r in rows
        ],
        empty="nothing was measured",
    )  # fmt: skip
    load = max((row.load for row in rows), default=0.0)
    return Group(grid, Text(), Text(fill(f"{FULL_LEGEND} Load average up to {load:.1f}.", 79)))


FULL_LEGEND = (
    "SIZE: workers x live workflows. HELD: steps waiting at the gate. µs of processor time: ARRIVE, FINISH: of a step, "
    "median/p99; END: of a workflow; REPORT: of a node; TICK: an epoch, median/longest. BYTES: Python objects per live "
    "workflow."
)


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
