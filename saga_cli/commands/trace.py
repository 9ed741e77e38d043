"""`saga trace synth|stats|check|import|export|record`: trace files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from saga_cli.options import command, given, group

if TYPE_CHECKING:
    from rich.console import RenderableType

    from saga_cli.recording import Exported
    from saga_sim.trace.records import Workload
    from saga_sim.trace.stats import Spread, Stats

File = Annotated[Path, typer.Argument(help="A trace: .jsonl or .jsonl.gz.", metavar="FILE")]
Out = Annotated[Path, typer.Option("-o", "--out", help="The trace: .jsonl or .jsonl.gz.", metavar="FILE")]
Kind = Annotated[
    str, typer.Option(help="Workload to call them, such as coding-agent; by default what suits the source.")
]


def declare(app: typer.Typer) -> None:
    traces = group("Make, measure and check trace files.")
    rooms: dict[str, Callable[..., None]] = {"synth": synth, "stats": stats, "check": check}
    rooms |= {"import": import_, "export": export, "record": record}
    for name, function in rooms.items():
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


def import_(
    ctx: typer.Context,
    format_: Annotated[str, typer.Argument(help="mooncake, dynamo, swe-agent or saga.", metavar="FORMAT")],
    files: Annotated[list[Path], typer.Argument(help="What to read; .gz too.", metavar="FILE...")],
    out: Out,
    limit: Annotated[int | None, typer.Option(help="At most so many workflows.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Whose they are.")] = None,
    workload: Kind = "",
    block_size: Annotated[
        int | None, typer.Option(help="Tokens of a block hash, where rows do not say. [512]")
    ] = None,
    tokenizer: Annotated[
        str, typer.Option(help="For text: auto, o200k_base, bytes/4 or a tokenizer.json.", metavar="NAME")
    ] = "auto",
) -> None:
    """Make a trace of other people's recordings."""
    from saga_cli import recording
    from saga_sim.trace.importers import ImportOptions, import_trace

    options = ImportOptions(
        tenant=tenant, workload=_workload(workload), block_size=block_size, tokenizer=tokenizer
    )
    if format_ == "saga":
        made = recording.from_journal(files, options, limit)
    else:
        made = import_trace(format_, files, options, limit)
    _show(ctx, recording.exported(out, made.workflows, made.left_out))


def export(
    ctx: typer.Context,
    out: Out,
    workflows: Annotated[
        list[str] | None, typer.Argument(help="last, all, 3, 3-7; by default all.", metavar="WORKFLOW...")
    ] = None,
    workload: Kind = "",
) -> None:
    """Make a trace of what the cluster ran, from its journal."""
    from saga_cli import recording
    from saga_sim.trace.journal import Recorder

    source = recording.Segments(recording.journal_folder(given(ctx).folder.path))
    recorder = Recorder(workload=_workload(workload), chosen=recording.chosen(source, workflows or ()))
    ended, running = recording.export(recording.Segments(source.folder), recorder)
    made = recording.arranged([*ended, *running])
    _show(ctx, recording.exported(out, made, recorder.left_out, len(running)))


def record(ctx: typer.Context, out: Out, workload: Kind = "") -> None:
    """Like export, and go on until Ctrl-C: each workflow is written when it ends."""
    from saga_cli import recording
    from saga_cli.units import plain, plural
    from saga_sim.trace.journal import Recorder

    folder = recording.journal_folder(given(ctx).folder.path)
    recorder, note = Recorder(workload=_workload(workload)), given(ctx).renderer.note
    note(f"recording {folder} to {out}; Ctrl-C ends it")
    made = recording.record(
        folder, out, recorder, lambda w: note(f"{plain(w.workflow_id)}: {plural(len(w.steps), 'step')}")
    )
    _show(ctx, recording.exported(out, made, recorder.told()))


def _workload(name: str) -> Workload | None:
    """One of the format's words, or None. Raises UserError for another."""
    from saga_sim.trace.importers import workload_named

    return workload_named(name) if name else None


def _show(ctx: typer.Context, answer: Exported) -> None:
    given(ctx).renderer.show(answer, table=_told, quiet=lambda a: [a.file])


def _told(answer: Exported) -> str:
    from saga_cli.units import plural

    lines = [
        f"wrote {plural(answer.workflows, 'workflow')} ({plural(answer.steps, 'step')}) to {answer.file}"
    ]
    if answer.running:
        runs = (
            "1 of them still runs: its"
            if answer.running == 1
            else f"{answer.running} of them still run: their"
        )
        lines.append(f"{runs} steps so far")
    lines += [f"left out: {what}: {count}" for what, count in answer.left_out.items()]
    return "\n".join(lines)


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
