"""`saga trace synth|stats|check`: trace files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from saga_cli.options import command, given, group

if TYPE_CHECKING:
    from rich.console import RenderableType

    from saga_sim.trace.stats import Spread, Stats

File = Annotated[Path, typer.Argument(help="A trace: .jsonl or .jsonl.gz.", metavar="FILE")]


def declare(app: typer.Typer) -> None:
    traces = group("Make, measure and check trace files.")
    for name, function in (("synth", synth), ("stats", stats), ("check", check)):
        command(traces, name)(function)
    app.add_typer(traces, name="trace")


def synth(
    ctx: typer.Context,
    out: File,
    preset: Annotated[str, typer.Option(help="demo, swe-bench-like or webarena-like.")] = "demo",
    workflows: Annotated[int, typer.Option(help="How many.")] = 10,
    seed: Annotated[int, typer.Option(help="Same seed, same bytes.")] = 0,
) -> None:
    """Make a seeded workload."""
    from saga_sim.trace import write_trace
    from saga_sim.trace.synth import synthesise

    made = write_trace(out, synthesise(preset, workflows, seed))
    answer = {"file": str(out), "preset": preset, "seed": seed, "workflows": made}
    given(ctx).renderer.show(
        answer, table=lambda _: f"wrote {made} workflows to {out}", quiet=lambda a: [str(a["file"])]
    )


def stats(ctx: typer.Context, file: File) -> None:
    """Show what a trace holds."""
    from saga_sim.trace import load_trace
    from saga_sim.trace.stats import trace_stats

    given(ctx).renderer.show(
        trace_stats(load_trace(file)), table=stats_table, quiet=lambda s: [str(s.workflows)]
    )


def check(ctx: typer.Context, file: File) -> None:
    """Check every record of a trace; exit code 2 and the first fault if there is one."""
    from saga_sim.trace import read_trace

    count = sum(1 for _ in read_trace(file))
    answer = {"file": str(file), "workflows": count, "valid": True}
    given(ctx).renderer.show(
        answer, table=lambda _: f"{file}: {count} workflows, all valid", quiet=lambda _: []
    )


def stats_table(stats: Stats) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    from saga_cli.grid import Grid
    from saga_cli.tables import pairs
    from saga_cli.units import count, duration

    facts = {
        "workflows": f"{stats.workflows} ({stats.sessions} sessions, {stats.steps} steps)",
        "agent types": ", ".join(f"{name} {number}" for name, number in stats.agent_types.items()),
        "longest context": f"{stats.context_tokens_max} tokens",
        "reusable": f"{stats.reusable_share:.1%} of prompt tokens ({stats.decode_reusable_share:.1%} with outputs)",
        "span": duration(stats.span_s),
    }
    sizes = {
        "steps/workflow": stats.steps_per_workflow, "prompt tokens": stats.prompt_tokens,
        "new prompt tokens": stats.new_prompt_tokens, "output tokens": stats.output_tokens,
    }  # fmt: skip
    head = ("*", ">MEAN", ">P10", ">P50", ">P90", ">P99", ">MAX")
    rows = [(name, *(count(round(value)) for value in _row(spread))) for name, spread in sizes.items()]
    tools = [(name, *map(duration, _row(spread))) for name, spread in list(stats.tools.items())[:12]]
    parts: list[RenderableType] = [pairs(facts), Text(), Grid(*head, rows=rows, empty="")]
    parts += [Text(), Grid("*TOOL", *head[1:], rows=tools, empty="")] if tools else []
    return Group(*parts)


def _row(spread: Spread) -> tuple[float, ...]:
    return spread.mean, spread.p10, spread.p50, spread.p90, spread.p99, spread.max
