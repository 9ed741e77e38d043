"""The workload of `saga bench kv` and its table; the run itself is of a real engine, by hand."""

from itertools import pairwise

from saga_bench.kv import KvOptions, KvRow, played
from saga_cli.commands.bench_kv import kv_table

OPTIONS = KvOptions()


def test_the_contexts_are_the_pressure_times_the_pool():
    for pressure in OPTIONS.pressures:
        need = OPTIONS.sessions(pressure) * OPTIONS.mean_tokens / OPTIONS.pool_tokens
        assert abs(need - pressure) < 0.15


def test_each_session_takes_its_turns_in_order_and_grows():
    turns = played(OPTIONS, 2.0, 0)
    for session in range(OPTIONS.sessions(2.0)):
        mine = [turn for turn in turns if turn.session == session]
        assert [turn.number for turn in mine] == list(range(OPTIONS.turns))
        assert all(b.tokens - a.tokens == OPTIONS.turn_tokens for a, b in pairwise(mine))
        assert [turn.away_s > 0 for turn in mine] == [True] * (OPTIONS.turns - 1) + [False]
        assert len({turn.away_s for turn in mine[:-1]}) == 1


def test_the_same_seed_plays_the_same_and_rounds_differ():
    assert played(OPTIONS, 1.0, 0) == played(OPTIONS, 1.0, 0)
    assert played(OPTIONS, 1.0, 0) != played(OPTIONS, 1.0, 1)


def test_rows_are_shown_by_pressure_with_their_spread():
    row = {"sessions": 6, "turns": 30, "ttft_p50_ms": 1.0}
    rows = [
        KvRow(mode=mode, pressure=pressure, round=n, cached_share=0.4 + 0.2 * n, ttft_ms=100.0, **row)
        for mode in ("stock", "retain") for pressure in (1.0, 2.0) for n in range(2)
    ]  # fmt: skip
    cells = [[cell.plain for cell in line] for line in kv_table(rows).rows]
    assert cells[0] == ["1", "stock", "6", "50.0%", "40.0%-60.0%", "100 ms"]
    assert [line[:2] for line in cells] == [["1", "stock"], ["1", "retain"], ["2", "stock"], ["2", "retain"]]
