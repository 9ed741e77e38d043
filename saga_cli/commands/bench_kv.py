"""`saga bench kv`: what keeping KV by worth brings on a real engine whose memory is short."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from saga_cli.options import given

if TYPE_CHECKING:
    from saga_bench.kv import KvRow
    from saga_bench.kv_moves import MoveRow
    from saga_cli.drained import DrainRow
    from saga_cli.grid import Grid


def kv(
    ctx: typer.Context,
    model: Annotated[str, typer.Option(help="A demo model: nano, agent, small.")] = "agent",
    pool_tokens: Annotated[int, typer.Option(help="KV pool of the worker.", min=1024)] = 16_384,
    host_tokens: Annotated[int, typer.Option(help="KV in host memory behind it.", min=1024)] = 32_768,
    rounds: Annotated[int, typer.Option(help="Other sessions each; the table has means.", min=1)] = 1,
    seed: Annotated[int, typer.Option(help="Of sessions and their times.", min=0)] = 0,
    moves: Annotated[
        bool,
        typer.Option(
            "--moves", help="Instead: a session brought to another worker, against computing it there."
        ),
    ] = False,
    drains: Annotated[
        bool,
        typer.Option(
            "--drains", help="Instead: a workflow's next step after its node was drained, by two nodes."
        ),
    ] = False,
) -> None:
    """Play sessions on one vLLM CPU worker at 0.5 to 4 times its memory: stock, retain, retain+offload."""
    from saga_bench.kv import KvOptions, run
    from saga_cli.progress import progress
    from saga_core.errors import choose
    from saga_vllm.model import MODEL_SIZES

    if model not in MODEL_SIZES:
        raise choose("model", model, list(MODEL_SIZES), "--model")
    if moves:
        _moves(ctx, model, seed)
        return
    if drains:
        _drains(ctx, model, seed)
        return
    options = KvOptions(
        model=model, pool_tokens=pool_tokens, host_tokens=host_tokens, rounds=rounds, seed=seed
    )
    with progress(given(ctx).renderer) as show:
        rows = run(options, show.say)
    given(ctx).renderer.show(rows, table=kv_table, quiet=lambda rs: [f"{r.cached_share:.3f}" for r in rs])


def _moves(ctx: typer.Context, model: str, seed: int) -> None:
    from saga_bench.kv_moves import run
    from saga_cli.progress import progress

    with progress(given(ctx).renderer) as show:
        rows = run(model, show.say, seed)
    given(ctx).renderer.show(rows, table=moves_table, quiet=lambda rs: [f"{r.moved_ms:.0f}" for r in rs])


def _drains(ctx: typer.Context, model: str, seed: int) -> None:
    from saga_cli.drained import Plan, bench
    from saga_cli.progress import progress

    with progress(given(ctx).renderer) as show:
        rows = bench(Plan(model=model, seed=seed), show)
    given(ctx).renderer.show(rows, table=drains_table, quiet=lambda rs: [f"{r.next_ms:.0f}" for r in rs])


def drains_table(rows: Sequence[DrainRow]) -> Grid:
    """One row per context, medians over rounds; of moves only those that arrived."""
    from statistics import median

    from saga_cli.grid import Grid

    def middle(some: Sequence[DrainRow], *names: str) -> list[str]:
        return [f"{median(getattr(row, name) for row in some):.0f} ms" if some else "-" for name in names]

    cells = []
    for tokens in dict.fromkeys(row.tokens for row in rows):
        same = [row for row in rows if row.tokens == tokens]
        moved = [row for row in same if row.move_ms is not None and not row.failed]
        cells.append(
            [
                str(tokens),
                *middle(same, "first_ms", "next_ms"),
                f"{len(moved)} of {len(same)}",
                *middle(moved, "move_ms", "priced_ms", "again_ms"),
                str(min(row.found_tokens for row in same)),
            ]
        )
    return Grid(
        ">CONTEXT", ">FIRST STEP", ">NEXT STEP", ">MOVED", ">MOVE", ">EXPECTED", ">COMPUTING", ">FOUND",
        rows=cells, empty="nothing was drained",
    )  # fmt: skip


def moves_table(rows: Sequence[MoveRow]) -> Grid:
    """One row per context, medians over rounds."""
    from statistics import median

    from saga_cli.grid import Grid

    cells = []
    for tokens in dict.fromkeys(row.tokens for row in rows):
        same = [row for row in rows if row.tokens == tokens]
        cells.append(
            (str(tokens), *(
                f"{median(getattr(row, name) for row in same):.0f} ms"
                for name in ("cold_ms", "moved_ms", "export_ms", "adopt_ms", "turn_ms")
            ), str(min(row.cached_tokens for row in same)), f"{same[0].copied_bytes / 1e6:.1f} MB")
        )  # fmt: skip
    return Grid(
        ">CONTEXT", ">COLD", ">MOVED", ">EXPORT", ">ADOPT", ">TURN", ">FOUND", ">COPIED",
        rows=cells, empty="nothing moved",
    )  # fmt: skip


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
