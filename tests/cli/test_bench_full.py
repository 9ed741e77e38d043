"""`saga bench decide --full`: the load is what it says, every row is measured, and the command shows them."""

from __future__ import annotations

import pytest
from test_golden import MODES, _compare, _section

from saga_bench.agents import Agents
from saga_bench.full import FullOptions, FullRow, Spread, measure, run_full, traced
from saga_core.config import Config
from saga_core.errors import ClusterError
from saga_core.head import Head

TINY = FullOptions(
    sizes=((4, 60),), profiles=("saga",), warm_s=40.0, decisions=60, ticks=5, pressure=4.0, traced=0
)


def agents(profile, pressure=4.0):
    made = Agents(Head(Config(profile=profile)), 4, 60, pressure)
    made.begin(5.0)
    return made


def test_with_a_gate_the_pools_are_full_and_the_head_contradicts_itself_nowhere():
    load, seen = agents("saga"), []

    def handle(name, event):
        actions = load.head.handle(event, now=load.now)
        seen.append(name)
        return actions

    load.run(lambda: load.now >= 1_000_060.0, handle)
    load.head.check()
    assert load.head.book.live == 60, "as many begin as end"
    assert load.held > 10, "some wait at the gate"
    assert load.held == len([step for step in load.head.book.steps.values() if step.worker is None])
    assert {"submit", "arrive", "finish", "end", "report", "tick"} == set(seen)
    assert {workflow.tenant for workflow in load.head.book.workflows.values()} == {
        f"tenant-{i}" for i in range(10)
    }


@pytest.mark.parametrize(("profile", "pressure"), [("saga", 0.1), ("sticky", 4.0)])
def test_below_the_cliff_or_without_a_gate_nobody_waits(profile, pressure):
    load = agents(profile, pressure)
    load.run(lambda: load.now >= 1_000_030.0, lambda _, event: load.head.handle(event, now=load.now))
    assert load.held == 0
    load.head.check()


def test_a_size_is_measured_in_this_process():
    row = measure(TINY)
    assert (row.profile, row.workers, row.workflows, row.pressure) == ("saga", 4, 60, 4.0)
    assert row.held > 5
    for spread in (row.arrive, row.finish, row.end, row.report, row.tick):
        assert 0 <= spread.p50_us <= spread.p99_us <= spread.max_us
    assert row.arrive.count >= 60
    assert row.tick.count >= 5
    assert 1_000 < traced(TINY) < 60_000


def test_rows_come_from_processes_of_their_own_and_failures_say_their_last_words():
    seen = []
    (row,) = run_full(TINY, on_row=seen.append)
    assert seen == [row]
    assert row.per_workflow_bytes is None, "not traced at this size"
    wrong = FullOptions(sizes=((4, 60),), profiles=("no-such-profile",))
    with pytest.raises(ClusterError, match="no-such-profile"):
        run_full(wrong)


def canned():
    def spread(p50_us):
        return Spread(count=20_000, p50_us=p50_us, p99_us=3.3 * p50_us, max_us=20 * p50_us)

    return [
        FullRow(
            profile=profile, workers=workers, workflows=workflows, pressure=2.0, held=0.287 * workflows * held,
            arrive=spread(29.6), finish=spread(40.8), end=spread(293.5), report=spread(41.7), tick=spread(111.0),
            rss_per_workflow_bytes=7_000, per_workflow_bytes=6_824 if workflows == 1000 else None, gc_max_us=1000.0,
            load=1.2,
        )
        for workers, workflows in FullOptions().sizes
        for profile, held in (("saga", 1), ("program-fcfs", 0))
    ]  # fmt: skip


def test_the_answer_in_all_three_modes(saga, folder, stub, monkeypatch):
    monkeypatch.setattr("saga_bench.full.run_full", lambda *_: canned())
    command = ["bench", "decide", "--full"]
    _compare("bench-decide-full", "\n".join(_section(saga, mode, command, stub, folder) for mode in MODES))
    out = saga(*command).out
    assert max(map(len, out.splitlines())) <= 80


def test_profiles_are_chosen_and_quick_is_the_smallest_size(saga, monkeypatch):
    asked = []
    monkeypatch.setattr("saga_bench.full.run_full", lambda options, *_: asked.append(options) or canned())
    saga("bench", "decide", "--full", "--quick", "--profile", "saga, las")
    assert asked[0].profiles == ("saga", "las")
    assert asked[0].sizes == ((64, 1_000),)
