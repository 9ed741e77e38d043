"""Placement: each rule by itself, on a pool without a head."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saga_core.fleet import Pool, Worker
from saga_core.policy.placement import Ask, Placement, PlacementPolicy
from saga_core.policy.placement import place as placed_by
from saga_core.policy.profiles import PROFILES
from saga_core.states import WorkerState

POLICY = PlacementPolicy()


def pool_of(*names: str) -> Pool:
    pool = Pool()
    for name in names:
        pool.add(Worker(name, "n", "m", state=WorkerState.READY, max_seqs=10))
    return pool


def ask(session="1.main", root="workflow 1", home=None, avoid=None) -> Ask:
    return Ask(session, root, home, avoid=avoid)


def place(profile: str, ask: Ask, pool: Pool, policy: PlacementPolicy) -> Placement:
    return placed_by(PROFILES[profile].place, ask, pool, policy)


def loaded(pool: Pool, name: str, *, placed=0, kv=0.0) -> None:
    worker = pool.workers[name]
    worker.placed, worker.kv_usage = placed, kv
    pool.touch(worker)


def test_round_robin_goes_by_name_whoever_asks():
    pool = pool_of("n/2", "n/0", "n/1")
    order = []
    for _ in range(6):
        order.append(place("round-robin", ask(), pool, POLICY).worker)
        pool.turn += 1
    assert order == ["n/0", "n/1", "n/2"] * 2


def test_least_loaded_looks_at_load_then_steps_then_homes_then_names():
    pool = pool_of("n/0", "n/1", "n/2")
    assert place("least-loaded", ask(), pool, POLICY).worker == "n/0"
    loaded(pool, "n/0", kv=0.5)
    assert place("least-loaded", ask(), pool, POLICY).worker == "n/1"
    pool.workers["n/1"].homes = 1
    pool.touch(pool.workers["n/1"])
    assert place("least-loaded", ask(), pool, POLICY).worker == "n/2"
    loaded(pool, "n/2", placed=1)
    assert place("least-loaded", ask(), pool, POLICY).worker == "n/1"
    loaded(pool, "n/1", placed=6)
    decision = place("least-loaded", ask(), pool, POLICY)
    assert (decision.worker, decision.why) == ("n/2", "least loaded (0.10)")


def test_load_is_the_larger_of_memory_and_slots_and_at_most_one():
    worker = Worker("n/0", "n", "m", max_seqs=10)
    worker.kv_usage, worker.placed = 0.3, 2
    assert worker.load == 0.3
    worker.placed = 5
    assert worker.load == 0.5
    worker.placed = 50
    assert worker.load == 1.0


def test_sticky_sends_a_workflow_to_one_worker_whatever_its_load():
    pool = pool_of("n/0", "n/1", "n/2")
    first = place("sticky", ask(), pool, POLICY).worker
    loaded(pool, first, kv=1.0)
    assert place("sticky", ask(session="1.other", home="n/0"), pool, POLICY).worker == first


@pytest.mark.parametrize("count", [3, 10])
def test_a_new_worker_takes_only_its_share_and_takes_it_from_everybody(count):
    names = [f"n/{i}" for i in range(count)]
    pool, keys = pool_of(*names), [f"workflow {i}" for i in range(3000)]
    before = {key: pool.hashed(key).id for key in keys}
    pool.add(Worker("n/new", "n", "m", state=WorkerState.READY))
    after = {key: pool.hashed(key).id for key in keys}
    moved = [key for key in keys if before[key] != after[key]]
    assert {after[key] for key in moved} == {"n/new"}, "nothing moves between the old ones"
    assert 0.5 / (count + 1) < len(moved) / len(keys) < 1.7 / (count + 1)
    pool.remove("n/new")
    assert {key: pool.hashed(key).id for key in keys} == before


def test_sticky_shares_are_even_enough():
    pool = pool_of(*(f"n/{i}" for i in range(8)))
    counts = dict.fromkeys(pool.workers, 0)
    for key in range(8000):
        counts[pool.hashed(f"workflow {key}").id] += 1
    assert min(counts.values()) > 600
    assert max(counts.values()) < 1500


def test_affinity_stays_home_when_resident_and_below_the_limit():
    pool = pool_of("n/0", "n/1")
    pool.workers["n/1"].resident["1.main"] = 64
    loaded(pool, "n/1", kv=0.79)
    decision = place("saga-paper", ask(home="n/1"), pool, POLICY)
    assert decision.worker == "n/1"
    assert decision.why == "home: 64 tokens resident, load 0.79 < 0.8"


@pytest.mark.parametrize(
    ("home", "tokens", "kv", "why"),
    [
        (None, 64, 0.1, "no home yet"),
        ("n/9", 64, 0.1, "home n/9 is not ready"),
        ("n/1", 0, 0.1, "nothing resident at home n/1"),
        ("n/1", 64, 0.8, "home n/1 has load 0.80 >= 0.8"),
    ],
)
def test_affinity_leaves_home_and_says_why(home, tokens, kv, why):
    pool = pool_of("n/0", "n/1")
    if tokens:
        pool.workers["n/1"].resident["1.main"] = tokens
    loaded(pool, "n/1", kv=kv)
    decision = place("saga-paper", ask(home=home), pool, POLICY)
    assert decision.worker == "n/0"
    assert decision.why == f"least loaded (0.00); {why}"
    assert [name for name, _ in decision.scores][-1] == "n/0"


def test_affinity_of_a_step_without_a_session():
    assert place("saga-paper", ask(session=None, home="n/0"), pool_of("n/0"), POLICY).worker == "n/0"


def test_the_limit_is_a_setting():
    pool = pool_of("n/0", "n/1")
    pool.workers["n/1"].resident["1.main"] = 64
    loaded(pool, "n/1", kv=0.5)
    assert place("saga-paper", ask(home="n/1"), pool, PlacementPolicy(max_load=0.4)).worker == "n/0"


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_every_rule_avoids_the_worker_that_has_just_failed(profile):
    pool = pool_of("n/0", "n/1", "n/2")
    wanted = place(profile, ask(), pool, POLICY).worker
    decision = place(profile, ask(avoid=wanted), pool, POLICY)
    assert decision.worker != wanted
    assert wanted in decision.why
    assert place(profile, ask(avoid="n/0"), pool_of("n/0"), POLICY).worker == "n/0", "the only one"


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from("artk"), st.integers(0, 9)), max_size=60))
def test_the_pools_indexes_agree_with_its_workers(moves):
    pool = Pool()
    workers = [Worker(f"n/{i}", "n", "m", state=WorkerState.READY, max_seqs=4) for i in range(6)]
    for number, what, value in moves:
        worker = workers[number]
        if what == "a":
            pool.add(worker)
        elif what == "r":
            pool.remove(worker.id)
        else:
            setattr(worker, "placed" if what == "t" else "homes", value)
            pool.touch(worker)
        pool.check()


def test_the_heap_does_not_grow_with_touches():
    pool = pool_of("n/0", "n/1")
    for placed in range(5000):
        loaded(pool, "n/0", placed=placed % 7)
        pool.least_loaded()
    assert len(pool._least._heap) < 100
