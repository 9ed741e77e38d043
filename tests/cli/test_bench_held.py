"""`python -m saga_bench.held` on a small scale: what it compares is really there."""

from saga_bench import held
from saga_core.config import Config, HeadConfig


async def test_a_row_compares_both_ways_of_replacing_a_journal(tmp_path, monkeypatch):
    monkeypatch.setattr(held, "QUIET_S", 0.05)
    config = Config(head=HeadConfig(snapshot_bytes=50_000))
    row = await held.measure(30, full=False, config=config, folder=tmp_path)
    assert (row.workflows, row.learner_full) == (30, False)
    assert row.steps > 100
    assert 0 < row.turn_ms < 1e3
    assert 0 < row.held_cpu_ms < 1e3
    assert row.at_once_cpu_ms > 0
    assert row.fold_cpu_s > 0
    names = sorted(path.name.partition(".")[0] for path in tmp_path.iterdir())
    assert names == [f"journal-{n:08d}" for n in (1, 2, 3)] + [f"snapshot-{n:08d}" for n in (2, 3)]
