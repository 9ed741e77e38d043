"""GPU-seconds by the clock; how many workers are wanted; since when nobody wants any."""

from __future__ import annotations

import pytest
from core_rig import Rig, config, dump, program, worker
from hypothesis import given
from hypothesis import strategies as st

from saga_core import snapshot
from saga_core.events import HeadStarted, Outcome, StepFinished
from saga_core.usage import HOUR_S, HOURS, OTHERS, TENANTS, Usage


def rig_of(*sizes: int, **more) -> Rig:
    rig = Rig(config("least-loaded", node_timeout_s=1e6))
    rig.hello()
    rig.report(*(worker(f"n1/{i}", gpus=gpus, **more) for i, gpus in enumerate(sizes)))
    return rig


def had(rig: Rig, tenant: str = "t") -> float:
    return rig.head.book.usage.since(0)[tenant].gpu_s


def test_a_step_alone_has_the_worker_with_all_its_gpus():
    rig = rig_of(4)
    flow = rig.submit()
    rig.step(flow)
    rig.now += 10
    rig.finish(1, prompt_tokens=100, cached_tokens=60, output_tokens=7)
    assert had(rig) == pytest.approx(40)
    assert rig.head.book.workflows[flow].gpu_s == pytest.approx(40)
    spent = rig.head.book.usage.since(0)["t"]
    assert (spent.steps, spent.prompt_tokens, spent.cached_tokens, spent.output_tokens) == (1, 100, 60, 7)


def test_steps_that_are_there_together_share_it():
    rig = rig_of(1)
    for tenant in "ab":
        rig.step(rig.submit(tenant=tenant), tenant=tenant)
        rig.now += 10  # the first alone, then both
    rig.finish(1)
    rig.now += 10
    rig.finish(2)
    assert had(rig, "a") == pytest.approx(15)
    assert had(rig, "b") == pytest.approx(15)
    assert rig.head.book.usage.shares == {}, "nobody is there, nothing is kept"


def test_a_lost_step_has_had_what_it_had_and_waiting_is_nobodys():
    rig = rig_of(1)
    rig.step(rig.submit())
    rig.now += 5
    rig.lose(1)
    rig.now += 100
    rig.report(worker())
    rig.now += 5
    rig.finish(1)
    assert had(rig) == pytest.approx(10)
    assert rig.head.book.usage.since(0)["t"].steps == 1


def test_the_time_without_a_head_is_nobodys():
    rig = rig_of(1)
    rig.step(rig.submit())
    rig.now += 5
    rig.step(rig.submit(tenant="u"), tenant="u")
    book = rig.replayed()
    book.apply(HeadStarted(incarnation=9, version="1"), rig.now + 1000)
    assert book.usage.since(0)["t"].gpu_s == pytest.approx(5)
    assert book.usage.stays == {}
    again = rig.restarted()
    assert dump(again.replayed()) == dump(again.head.book)
    assert again.replayed().usage.hours == again.head.book.usage.hours


def test_usage_survives_a_snapshot_with_what_is_under_way():
    rig = rig_of(2)
    rig.step(rig.submit())
    rig.now += 5
    book = snapshot.decode(snapshot.encode(rig.head.book), "test")
    book.apply(StepFinished(step=1, outcome=Outcome.DONE), rig.now + 5)
    assert book.usage.since(0)["t"].gpu_s == pytest.approx(20)


def test_hours_are_kept_apart_and_for_a_month():
    usage = Usage()
    for hour in range(3 * HOURS):
        usage.charge("t", 1.0, None, hour * HOUR_S + 5)
    assert len(usage.hours) == HOURS
    last = 3 * HOURS * HOUR_S
    assert usage.since(last - 2 * HOUR_S)["t"].gpu_s == 2
    assert usage.since(last) == {}


def test_tenants_are_bounded():
    usage = Usage()
    for number in range(3 * TENANTS):
        usage.charge(f"t{number}", 1.0, None, 5.0)
    assert len(usage.hours[0]) == TENANTS + 1
    assert usage.hours[0][OTHERS].gpu_s == 2 * TENANTS


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans(), st.sampled_from([0.0, 0.5, 3.0])), max_size=60))
def test_shares_sum_up_to_the_time_with_somebody_there(moves):
    usage, now, busy_s, total = Usage(), 100.0, 0.0, 0.0
    there: set[int] = set()
    for step, _, after in moves:
        busy_s += after if there else 0.0
        now += after
        if step in there:
            there.discard(step)
            total += usage.end(step, now)
        else:
            there.add(step)
            usage.begin(step, "n1/0", 1, now)
        usage.check()
    for step in list(there):
        total += usage.end(step, now)
    assert total == pytest.approx(busy_s)


# -- growing and shrinking -------------------------------------------------------------------


def gated(*sizes: int) -> Rig:
    rig = Rig(config("saga", node_timeout_s=1e6))
    rig.hello()
    rig.report(*(worker(f"n1/{i}", capacity_tokens=size) for i, size in enumerate(sizes)))
    return rig


def backlog(rig: Rig):
    (found,) = rig.head.backlog()
    return found


def test_as_many_workers_are_wanted_as_have_the_memory_for_all():
    rig = gated(100_000)
    assert (backlog(rig).ready, backlog(rig).wanted) == (1, 0)
    for count, wanted in ((1, 1), (2, 2), (3, 3)):
        rig.step(rig.submit(), body_bytes=4 * 70_000)
        assert backlog(rig).wanted == wanted, count
    found = backlog(rig)
    assert (found.waiting_steps, found.ready) == (2, 1)
    assert 140_000 <= found.waiting_tokens < 145_000
    rig.head.fleet.pools["m"].check()


def test_one_worker_is_wanted_while_anybody_waits_for_a_model_that_none_serves():
    rig = gated(100_000)
    rig.report(worker(state="lost"))
    rig.step(rig.submit())
    assert (backlog(rig).ready, backlog(rig).wanted, backlog(rig).waiting_steps) == (0, 1, 1)


def test_without_a_gate_as_many_are_wanted_as_there_are_while_somebody_is_there():
    rig = rig_of(1, 1)
    assert backlog(rig).wanted == 0
    rig.step(rig.submit())
    assert backlog(rig).wanted == 2


def test_idle_is_without_a_step_and_without_a_program():
    rig = rig_of(1)
    assert rig.head.idle_s is None, "nobody has looked yet"
    rig.tick()
    rig.tick(5)
    assert rig.head.idle_s == pytest.approx(5)
    flow = rig.submit()
    rig.step(flow)
    rig.tick()
    assert rig.head.idle_s is None
    rig.finish(1)
    rig.tick()
    assert rig.head.idle_s == 0
    running = rig.submit(program=True)
    rig.tick()
    assert rig.head.idle_s is None, "it may call at any time"
    rig.report(worker(), programs=[program(running)])
    rig.report(worker(), programs=[program(running, exited=True, exit_code=0)])
    rig.tick()
    rig.tick(7)
    assert rig.head.idle_s == pytest.approx(7)
    rig.step(rig.submit())
    rig.finish(rig.steps)
    assert rig.head.idle_s is None, "it was there, although no tick has seen it"
    rig.tick()
    rig.tick(3)
    assert rig.head.idle_s == pytest.approx(3)
    rig.step(model="unknown")
    assert rig.head.idle_s == pytest.approx(3), "a refused step is none"
