"""`saga bench kv`: what keeping KV by worth brings on a real engine whose memory is short."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from saga_cli.options import given

if TYPE_CHECKING:
    from saga_bench.kv import KvRow
    from saga_cli.grid import Grid


def kv(
    ctx: typer.Context,
    model: Annotated[str, typer.Option(help="A demo model: nano, agent, small.")] = "agent",
    pool_tokens: Annotated[int, typer.Option(help="KV pool of the worker.", min=1024)] = 16_384,
    host_tokens: Annotated[int, typer.Option(help="KV in host memory behind it.", min=1024)] = 32_768,
    rounds: Annotated[int, typer.Option(help="Other sessions each; the table has means.", min=1)] = 1,
    seed: Annotated[int, typer.Option(help="Of sessions and their times.", min=0)] = 0,
) -> None:
    """Play sessions on one vLLM CPU worker at 0.5 to 4 times its memory: stock, retain, retain+offload."""
    from saga_bench.kv import KvOptions, run
    from saga_cli.progress import progress
    from saga_core.errors import choose
    from saga_vllm.model import MODEL_SIZES

    if model not in MODEL_SIZES:
        raise choose("model", model, list(MODEL_SIZES), "--model")
    options = KvOptions(
        model=model, pool_tokens=pool_tokens, host_tokens=host_tokens, rounds=rounds, seed=seed
    )
    with progress(given(ctx).renderer) as show:
        rows = run(options, show.say)
    given(ctx).renderer.show(rows, table=kv_table, quiet=lambda rs: [f"{r.cached_share:.3f}" for r in rs])


def kv_table(rows: Sequence[KvRow]) -> Grid:
    """One row per mode and pressure, means over rounds."""
    from saga_cli.grid import Grid

    kinds = list(dict.fromkeys((row.pressure, row.mode) for row in rows))
    cells = []
    for pressure, mode in sorted(kinds, key=lambda kind: kind[0]):
        same = [row for row in rows if (row.pressure, row.mode) == (pressure, mode)]
        cached = [row.cached_share for row in same]
        ttft_ms = sum(row.ttft_ms for row in same) / len(same)
        cells.append(
            (f"{pressure:g}", mode, str(same[0].sessions), f"{sum(cached) / len(cached):.1%}",
             f"{min(cached):.1%}-{max(cached):.1%}", f"{ttft_ms:.0f} ms")
        )  # fmt: skip
    return Grid(
        ">PRESSURE", "MODE", ">SESSIONS", ">CACHED", ">OVER ROUNDS", ">TTFT", rows=cells, empty="nothing ran"
    )
