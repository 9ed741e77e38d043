"""Work stealing: who may, from whom, which session; and the way of the stolen step through the head."""

from __future__ import annotations

import hypothesis.strategies as st
from core_rig import Rig, config, dispatched, only, worker
from hypothesis import given

from saga_core.actions import Dispatch
from saga_core.fleet import Pool, Worker
from saga_core.policy.stealing import PATIENCE_S, Stealing, Theft, draw, has_line, may_steal
from saga_core.states import WorkerState, WorkflowState


def pool_of(*names: str) -> Pool:
    pool = Pool()
    for name in names:
        pool.add(Worker(name, "n", "m", state=WorkerState.READY, max_seqs=10))
    return pool


def busy(pool: Pool, name: str, *, running=8, waiting=2) -> None:
    found = pool.workers[name]
    found.running, found.waiting, found.placed = running, waiting, running + waiting
    pool.touch(found)


def test_both_conditions_of_the_paper_are_asked_for():
    assert may_steal(0.2, 0.1, 0.5)
    assert not may_steal(0.2, 0.05, 0.5), "its line has not been empty for 100 ms"
    assert not may_steal(0.25, 0.1, 0.5), "twice the load is not more than twice"
    assert not may_steal(0.0, 0.1, 0.0)


def test_a_line_is_what_the_engine_says_and_what_was_sent_since():
    found = Worker("n/0", "n", "m")
    assert not has_line(found)
    found.placed = 1
    assert has_line(found), "its report does not know of it yet"
    found.running = 1
    assert not has_line(found)
    found.waiting = 1
    assert has_line(found)


def test_a_worker_steals_when_its_line_was_empty_for_100_ms():
    pool, stealing = pool_of("n/0", "n/1"), Stealing()
    busy(pool, "n/0")
    assert stealing.epoch(pool, lambda _: "s", 5.0) == []
    assert stealing.epoch(pool, lambda _: "s", 5.05) == []
    theft = Theft("s", "n/0", "n/1", 5.1)
    assert stealing.epoch(pool, lambda _: "s", 5.1) == [theft]
    stealing.check()
    assert stealing.close("s") == theft
    assert stealing.close("s") is None


def test_a_step_that_came_starts_the_100_ms_anew():
    pool, stealing = pool_of("n/0", "n/1"), Stealing()
    busy(pool, "n/0")
    stealing.epoch(pool, lambda _: "s", 5.0)
    busy(pool, "n/1", running=1, waiting=0)
    assert stealing.epoch(pool, lambda _: "s", 5.1) == []
    assert stealing.epoch(pool, lambda _: "s", 5.2) != []


def test_nobody_is_robbed_without_a_line():
    pool, stealing = pool_of("n/0", "n/1"), Stealing()
    busy(pool, "n/0", running=9, waiting=0)
    for now in (5.0, 5.2, 5.4):
        assert stealing.epoch(pool, lambda _: "s", now) == []


def test_a_thief_has_one_theft_open_and_not_for_good():
    pool, stealing = pool_of("n/0", "n/1"), Stealing()
    busy(pool, "n/0")
    names = iter("abcd")
    stealing.epoch(pool, lambda _: next(names), 5.0)
    assert len(stealing.epoch(pool, lambda _: next(names), 5.2)) == 1
    assert stealing.epoch(pool, lambda _: next(names), 5.4) == []
    later = stealing.epoch(pool, lambda _: next(names), 5.2 + PATIENCE_S)
    assert [theft.session for theft in later] == ["b"]
    assert stealing.stolen.keys() == {"b"}
    stealing.check()


def test_a_session_is_stolen_once():
    pool, stealing = pool_of("n/0", "n/1", "n/2"), Stealing()
    busy(pool, "n/0")
    stealing.epoch(pool, lambda _: "s", 5.0)
    assert [theft.thief for theft in stealing.epoch(pool, lambda _: "s", 5.2)] == ["n/1"]
    stealing.check()


@given(st.sampled_from(["n/0", "n/1"]), st.integers(0, 10_000), st.integers(1, 50))
def test_the_victim_is_one_of_them_and_the_same_for_the_same_epoch(thief, epoch, victims):
    assert draw(thief, epoch, victims) in range(victims)
    assert draw(thief, epoch, victims) == draw(thief, epoch, victims)


def test_every_victim_is_drawn_about_as_often():
    drawn = [draw("n/0", epoch, 4) for epoch in range(4000)]
    assert all(900 < drawn.count(at) < 1100 for at in range(4))


@given(st.lists(st.integers(0, 10), min_size=2, max_size=6), st.integers(0, 3))
def test_whoever_is_robbed_has_a_line_and_more_than_twice_the_load(loads, running):
    pool, stealing = pool_of("n/t", *(f"n/{at}" for at in range(len(loads)))), Stealing()
    busy(pool, "n/t", running=running, waiting=0)
    for at, load in enumerate(loads):
        busy(pool, f"n/{at}", running=max(0, load - 1), waiting=min(1, load))
    thief = pool.workers["n/t"]
    for now in (1.0, 1.2, 2.4, 3.6, 4.8):
        for theft in stealing.epoch(pool, lambda worker: f"of {worker.id}", now):
            victim = pool.workers[theft.victim]
            assert victim.waiting
            assert victim.load > 2 * pool.workers[theft.thief].load
        stealing.check()
    robbed = [worker for worker in pool.workers.values() if worker.waiting and worker.load > 2 * thief.load]
    assert bool(robbed) == any(theft.thief == "n/t" for theft in stealing.stolen.values())


# -- with a head -------------------------------------------------------------------------


def crowded(profile: str = "saga-paper") -> Rig:
    """Two workers; the session of workflow 1 is between two steps at n1/0, which has a line; n1/1 has none."""
    rig = Rig(config(profile))
    rig.up("n1/0", "n1/1")
    flow = rig.submit()
    assert dispatched(rig.step(flow)) == "n1/0"
    rig.finish(1, prompt_tokens=90, output_tokens=10)
    rig.report(worker("n1/0", running=7, waiting=2, kv_usage=0.7), worker("n1/1"))
    return rig


def test_the_next_step_of_a_stolen_session_goes_to_the_thief_and_stays_there():
    rig = crowded()
    for _ in range(3):
        assert not only(rig.tick(0.1), Dispatch)
    sent = only(rig.step(1), Dispatch)[0]
    assert (sent.worker, sent.why) == ("n1/1", "stolen from n1/0, which has a line, by n1/1, which has none")
    rig.finish(2, prompt_tokens=120, output_tokens=10)
    assert dispatched(rig.step(1)) == "n1/1", "its home is there now"


def test_without_an_idle_worker_it_goes_home():
    rig = crowded()
    rig.report(worker("n1/0", running=7, waiting=2, kv_usage=0.7), worker("n1/1", running=4, waiting=1))
    for _ in range(3):
        rig.tick(0.1)
    assert dispatched(rig.step(1)) == "n1/0"


def test_other_profiles_steal_nothing():
    rig = crowded("prefix-aware")
    for _ in range(3):
        rig.tick(0.1)
    assert dispatched(rig.step(1)) == "n1/0"


def test_only_what_is_at_home_and_between_two_steps_is_stolen():
    rig = crowded()
    for flow in (2, 3):
        rig.submit()
        rig.report(worker("n1/0"), worker("n1/1", running=9, kv_usage=0.9))
        assert dispatched(rig.step(flow)) == "n1/0"
        rig.finish(rig.steps, prompt_tokens=90, output_tokens=10)
    rig.report(worker("n1/0", kv_usage=0.9), worker("n1/1"))
    assert dispatched(rig.step(2)) == "n1/1", "its home is too full: it moves, what it left stays"
    rig.finish(rig.steps, prompt_tokens=90, output_tokens=10)
    rig.report(worker("n1/0"), worker("n1/1"))
    rig.step(1)  # runs
    rig.report(worker("n1/0", running=7, waiting=2, kv_usage=0.7), worker("n1/1"))
    assert list(rig.head.fleet.workers["n1/0"].resident) == ["1.main", "2.main", "3.main"]
    for _ in range(3):
        rig.tick(0.1)
    assert list(rig.head._steps.coordinator._stealing["m"].stolen) == ["3.main"]


def test_an_epoch_is_100_ms_whoever_ticks():
    rig = crowded()
    rig.tick(0.1)
    before = rig.head._steps.coordinator._stealing["m"]._epoch
    for _ in range(20):
        rig.tick(0.01)
    assert rig.head._steps.coordinator._stealing["m"]._epoch == before + 2


def test_a_thief_that_is_gone_gets_nothing():
    rig = crowded()
    for _ in range(3):
        rig.tick(0.1)
    rig.report(worker("n1/0", running=7, waiting=2, kv_usage=0.7), worker("n1/1", state=WorkerState.STARTING))
    assert dispatched(rig.step(1)) == "n1/0"


def test_a_workflow_that_ends_is_stolen_no_more():
    rig = crowded()
    for _ in range(3):
        rig.tick(0.1)
    rig.end(1)
    assert rig.head._steps.coordinator._stealing["m"].stolen == {}


# -- shares as priorities ------------------------------------------------------------------


def priorities(rig: Rig, *flows: tuple[int, str]) -> list[int]:
    return [only(rig.step(flow, tenant=tenant), Dispatch)[0].priority for flow, tenant in flows]


def test_with_one_tenant_all_steps_are_equal():
    rig = Rig(config("saga-paper"))
    rig.up("n1/0")
    a, b = rig.submit(work_s=10.0), rig.submit(work_s=100.0)
    assert priorities(rig, (a, "t"), (b, "t")) == [0, 0]
    rig.tick(4.0)
    assert priorities(rig, (a, "t"), (b, "t")) == [0, 0]


def test_the_tenant_with_more_urgent_work_goes_first():
    rig = Rig(config("saga-paper"))
    rig.up("n1/0")
    small, large = rig.submit(work_s=10.0), rig.submit(work_s=10.0, tenant="u")
    more = rig.submit(work_s=10.0, tenant="u")
    priorities(rig, (small, "t"), (large, "u"), (more, "u"))
    # each is due 2.5 times its work after its submission: three equal urgencies, two of them u's
    assert priorities(rig, (small, "t"), (large, "u")) == [667, 333]


def test_a_declared_deadline_is_the_deadline():
    rig = Rig(config("saga-paper"))
    rig.up("n1/0")
    soon, late = (
        rig.submit(work_s=10.0, deadline_s=20.0),
        rig.submit(work_s=10.0, deadline_s=60.0, tenant="u"),
    )
    priorities(rig, (soon, "t"), (late, "u"))
    assert priorities(rig, (soon, "t"), (late, "u")) == [250, 750], (
        "a third of the slack: three times as urgent"
    )


def test_shares_follow_the_epoch():
    rig = Rig(config("saga-paper"))
    rig.up("n1/0")
    early = rig.submit(work_s=10.0, deadline_s=25.0)
    rig.step(early)
    rig.now += 20.0
    rig.report(worker("n1/0"))
    late = rig.submit(work_s=10.0, deadline_s=25.0, tenant="u")
    rig.step(late, tenant="u")
    rig.tick(0.1)  # the same work, in 4.9 seconds and in 24.9: 0.84 and 0.16 of all urgency
    assert priorities(rig, (early, "t"), (late, "u")) == [164, 836]


def test_work_that_was_done_is_urgent_no_more():
    rig = Rig(config("saga-paper"))
    rig.up("n1/0")
    flows = [(rig.submit(work_s=10.0), "t"), (rig.submit(work_s=10.0, tenant="u"), "u")]
    assert priorities(rig, *flows) == [0, 500]
    rig.finish(1, prompt_tokens=70_000, output_tokens=10)  # some 6 seconds of what it takes
    rig.tick(0.1)
    assert priorities(rig, *flows)[1] < 400, "u has more to do"


def test_a_tenant_whose_workflows_are_over_has_no_part():
    rig = Rig(config("saga-paper"))
    rig.up("n1/0")
    flows = [(rig.submit(work_s=10.0), "t"), (rig.submit(work_s=10.0, tenant="u"), "u")]
    priorities(rig, *flows)
    rig.end(1)
    assert priorities(rig, flows[1]) == [0]


def test_deadlines_follow_what_complete_workflows_of_the_type_took():
    rig = Rig(config("saga-paper"))
    rig.up("n1/0")
    times = rig.head._steps.coordinator.times
    for state, took_s in ((WorkflowState.DONE, 3.0), (WorkflowState.FAILED, 30.0)):
        flow = rig.submit(agent_type="coder")
        rig.step(flow)
        rig.now += took_s
        rig.end(flow, state)
        assert times.expected_s("coder") == 3.0, "what failed says nothing"
