"""The answer of `saga bench live` as a table for people: 80 columns."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import fill
from typing import TYPE_CHECKING

from saga_cli.units import UNKNOWN, duration, plain, plural

if TYPE_CHECKING:
    from rich.console import RenderableType

    from saga_bench.live import LiveBench, LiveRow, LiveRun

WIDTH = 79
LEGEND = (
    "SPAN: first arrival to last end. MEAN, GEO, P95: completion time of workflows. CACHED: of all prompt tokens. "
    "/MIN: workflows. RATIO: how many times as fast as the first profile, geometric mean of the paired completion times; "
    "beside it the lowest and the highest round. OTHERS: CPU cores that other processes took meanwhile."
)


def table(answer: LiveBench) -> RenderableType:
    """Each arm over its rounds; below it each run, and what failed."""
    from rich.console import Group
    from rich.text import Text

    from saga_cli.grid import Grid

    arms = Grid(
        "*PROFILE", ">SPAN", ">MEAN", ">GEO", ">P95", ">CACHED", ">/MIN", ">RATIO", ">(MIN-MAX)", ">OTHERS",
        rows=[_arm(row) for row in answer.rows], empty="nothing was measured",
    )  # fmt: skip
    parts: list[RenderableType] = [Text(fill(_what(answer), WIDTH)), Text(), arms]
    if len(answer.runs) > len(answer.rows):
        runs = Grid(
            ">ROUND", "*PROFILE", ">SPAN", ">MEAN", ">GEO", ">P95", ">CACHED", ">RATIO", ">OTHERS",
            rows=[_run(run, answer.rows) for run in answer.runs], empty="",
        )  # fmt: skip
        parts += [Text(), runs]
    lost = [
        Text(f"{run.arm}, round {run.round}: {line}", style="red") for run in answer.runs for line in run.lost
    ]
    return Group(*parts, *lost, Text(), Text(fill(_words(answer), WIDTH)))


def quiet(answer: LiveBench) -> list[str]:
    """`profile geomean ratio` a line."""
    return [
        f"{row.arm} {row.tct_geomean_s} {row.ratio if row.ratio is not None else 1.0}" for row in answer.rows
    ]


def _what(answer: LiveBench) -> str:
    engine = "vLLM" if answer.engine == "vllm" else "engine double"
    over = "as recorded" if answer.over_s is None else f"over {answer.over_s:g} s"
    return (
        f"{plural(answer.workflows, 'workflow')} of {plain(answer.workload)}, arriving {over}, seed {answer.seed}; "
        f"{plural(answer.workers, f'{engine} worker')} with pools of {answer.kv_tokens:,} tokens on "
        f"{plural(answer.cores, 'core')} (pressure {answer.pressure:.1f}); saga {answer.version}"
    )


def _arm(row: LiveRow) -> tuple[str, ...]:
    rounds = row.ratios.values()
    many = f"({min(rounds):.2f}-{max(rounds):.2f})" if len(rounds) > 1 else ""
    return (
        row.arm, duration(row.makespan_s), duration(row.tct_mean_s), duration(row.tct_geomean_s),
        duration(row.tct_p95_s), _share(row.cached_share), f"{row.workflows_per_min:.1f}", _times(row.ratio), many,
        f"{row.others_cores:.2f}",
    )  # fmt: skip


def _run(run: LiveRun, rows: Sequence[LiveRow]) -> tuple[str, ...]:
    s = run.summary
    ratio = next(row.ratios.get(run.round) for row in rows if row.arm == run.arm)
    return (
        str(run.round), run.arm, duration(s.wall_s), duration(s.tct_mean_s), duration(s.tct_geomean_s),
        duration(s.tct_p95_s), _share(s.cached_share), _times(ratio), f"{run.others_cores:.2f}",
    )  # fmt: skip


def _words(answer: LiveBench) -> str:
    cut = " Interrupted: not all rounds were through." if answer.interrupted else ""
    fake = (
        " The engine double's times are a tenth of an engine's: no measurement."
        if answer.engine == "fake"
        else ""
    )
    sure = [
        f"{r.arm} {r.low:.2f} to {r.high:.2f}"
        for r in answer.rows
        if r.low is not None and r.high is not None
    ]
    confident = f" 95 % confidence: {'; '.join(sure)}." if sure and answer.rounds > 1 else ""
    return f"{LEGEND}{confident}{cut}{fake}"


def _share(share: float | None) -> str:
    return UNKNOWN if share is None else f"{share:.1%}"


def _times(ratio: float | None) -> str:
    return UNKNOWN if ratio is None else f"{ratio:.2f}"
