"""The workload of `saga bench kv` and its tables; the runs themselves are of real engines, by hand."""

import os
import subprocess
import sys
from itertools import pairwise

import msgspec

from saga_bench.kv import KvOptions, KvRow, played
from saga_cli.commands.bench_kv import drains_table, kv_table
from saga_cli.drained import DrainRow

DRAIN = """
import sys, msgspec
from saga_cli.drained import Plan, bench
from saga_cli.progress import Silent
plan = Plan(model="m", engine="fake", contexts=(2000,), rounds=1)
sys.stdout.buffer.write(msgspec.json.encode(bench(plan, Silent())))
"""
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


def test_a_drained_workflow_goes_on_at_the_other_of_two_nodes_and_nothing_is_left(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", DRAIN],
        capture_output=True,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    (row,) = msgspec.json.decode(done.stdout, type=list[DrainRow])
    assert (row.tokens, row.round, row.failed) == (2000, 0, "")
    assert row.move_ms is not None
    assert row.next_ms > row.move_ms > 0.0
    assert row.priced_ms < row.again_ms, "else it is not moved"
    assert row.found_tokens >= 1900
    assert not list(tmp_path.glob("saga-drains-*"))


def test_medians_of_moves_are_of_those_that_arrived():
    row = {"tokens": 2048, "first_ms": 300.0, "found_tokens": 2032}
    moved = {"priced_ms": 30.0, "again_ms": 250.0}
    rows = [
        DrainRow(round=0, next_ms=90.0, move_ms=40.0, **row, **moved),
        DrainRow(round=1, next_ms=110.0, move_ms=60.0, **row, **moved),
        DrainRow(
            round=2, next_ms=700.0, move_ms=500.0, failed="the disk is full", **row | {"found_tokens": 0}
        ),
        DrainRow(tokens=64, round=0, first_ms=20.0, next_ms=21.0, found_tokens=0),
    ]
    cells = [[cell.plain for cell in line] for line in drains_table(rows).rows]
    assert cells == [
        ["2048", "300 ms", "110 ms", "2 of 3", "50 ms", "30 ms", "250 ms", "0"],
        ["64", "20 ms", "21 ms", "0 of 1", "-", "-", "-", "0"],
    ]
