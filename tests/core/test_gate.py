"""The gate by itself: who is let in, who is paused, who is resumed, on a pool without a head."""

from __future__ import annotations

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from saga_core.accounts import Account
from saga_core.fleet import Pool, Worker
from saga_core.gate import BYTES_PER_TOKEN, Gate
from saga_core.policy import ordering
from saga_core.policy.admission import Admission
from saga_core.ranked import Ranked
from saga_core.states import WorkerState

PLAIN = Admission(low=0.95, high=1.0, reserve_tokens=0, half_life_s=0.0, adaptive=False)
"""Limits at 0.95 and 1.0 of the memory, and nothing that moves."""


def pool_of(*names: str, capacity: int = 1000) -> Pool:
    pool = Pool()
    for name in names:
        pool.add(Worker(name, "n", "m", state=WorkerState.READY, capacity_tokens=capacity))
    return pool


class Hall:
    """A gate with sessions that are workflows of their own: workflow i arrived at second i."""

    def __init__(self, *names: str, policy: Admission = PLAIN, capacity: int = 1000, key=ordering.arrival):
        self.pool = pool_of(*(names or ("n/0",)), capacity=capacity)
        self.gate = Gate(self.pool, policy, key)
        self.now, self.steps, self.accounts = 100.0, 0, {}

    def ask(self, name: str, tokens: int, *, arrived: float = 0.0) -> int:
        self.steps += 1
        account = self.accounts.setdefault(name, Account(1, arrived, 0.0, 0.0))
        self.gate.ask(self.steps, name, account, int(tokens * BYTES_PER_TOKEN), self.now)
        self.gate.check()
        return self.steps

    def land(self, step: int, tokens: int, *, cached: int = 0, again_s: float = 0.0) -> None:
        self.gate.land(
            step, self.now, prompt_tokens=tokens, cached_tokens=cached, output_tokens=0, again_s=again_s
        )
        self.gate.check()

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.gate.tick(self.now)
        self.gate.check()

    def granted(self) -> list[tuple[int, str]]:
        """Steps let go since the last look, with their workers."""
        return [(grant.step, grant.worker) for grant in self.gate.take_grants()]

    def paused(self) -> list[str]:
        return [pause.session for pause in self.gate.take_pauses()]


# -- letting in --------------------------------------------------------------------------


def test_sessions_are_let_in_up_to_the_lower_limit_and_the_rest_waits_in_order():
    hall = Hall()
    first, second = hall.ask("a", 500, arrived=1), hall.ask("b", 450, arrived=2)
    late, early = hall.ask("d", 100, arrived=4), hall.ask("c", 100, arrived=3)
    assert hall.granted() == [(first, "n/0"), (second, "n/0")]
    assert hall.gate.waiting == 2
    hall.gate.leave("b", hall.now)  # 450 tokens are free again: both fit, the earlier goes first
    assert hall.granted() == [(early, "n/0"), (late, "n/0")]


def test_a_new_session_that_does_not_fit_is_waited_for():
    hall = Hall()
    hall.ask("a", 500, arrived=1)
    large, small = hall.ask("large", 600, arrived=2), hall.ask("small", 10, arrived=3)
    hall.granted()
    assert hall.gate.waiting == 2, "the small one may not pass for ever"
    hall.gate.leave("a", hall.now)
    assert hall.granted() == [(large, "n/0"), (small, "n/0")]


def test_an_empty_room_takes_whatever_comes():
    hall = Hall()
    huge = hall.ask("huge", 5000)
    assert hall.granted() == [(huge, "n/0")]


def test_new_sessions_go_where_the_need_is_least():
    hall = Hall("n/0", "n/1")
    for name in "abcd":
        hall.ask(name, 300)
    assert [worker for _, worker in hall.granted()] == ["n/0", "n/1", "n/0", "n/1"]


def test_steps_of_a_live_session_go_home_at_once():
    hall = Hall("n/0", "n/1")
    hall.land(hall.ask("a", 100), 120)
    hall.ask("b", 10)
    hall.granted()
    again = hall.ask("a", 150)
    assert hall.granted() == [(again, "n/0")]


def test_what_a_session_shares_with_others_counts_once():
    hall = Hall()
    hall.land(hall.ask("a", 500), 500)
    second = hall.ask("b", 450)
    hall.land(second, 450, cached=400)  # b found 400 of its tokens: they are a's
    third = hall.ask("c", 350)
    assert (third, "n/0") in hall.granted()
    assert hall.gate.rooms["n/0"].need(hall.now) == 500 + 50 + 350


def test_memory_that_is_not_known_limits_nobody():
    hall = Hall(capacity=0)
    for name in "abc":
        hall.ask(name, 10**6)
    assert len(hall.granted()) == 3


# -- pausing and resuming ----------------------------------------------------------------


def test_above_the_upper_limit_the_largest_key_that_computes_nothing_is_paused():
    hall = Hall()
    a, b, c = (hall.ask(name, 300, arrived=at) for at, name in enumerate("abc"))
    hall.land(b, 300)
    hall.land(a, 300)
    assert hall.paused() == []
    hall.land(c, 450)  # 1050 of 1000
    assert hall.paused() == ["c"]
    assert hall.gate.rooms["n/0"].need(hall.now) == 600


def test_a_session_with_a_step_on_the_worker_is_never_paused():
    hall = Hall()
    a, _ = hall.ask("a", 300, arrived=1), hall.ask("b", 300, arrived=9)
    hall.land(a, 800)
    assert hall.paused() == ["a"], "b has the larger key, but computes"


def test_who_is_alone_is_not_paused():
    hall = Hall()
    hall.land(hall.ask("a", 300), 3000)
    assert hall.paused() == []


def test_a_returning_session_may_be_the_one_that_is_paused():
    hall = Hall()
    a, b = hall.ask("a", 450, arrived=1), hall.ask("b", 450, arrived=2)
    hall.land(a, 450)
    hall.land(b, 450)
    hall.granted()
    held = hall.ask("b", 600, arrived=2)
    assert hall.paused() == ["b"]
    assert hall.granted() == []
    hall.gate.leave("a", hall.now)
    assert hall.granted() == [(held, "n/0")]


def test_the_paused_go_before_the_new_and_block_nobody_when_they_do_not_fit():
    hall = Hall()
    a, b = hall.ask("a", 450, arrived=1), hall.ask("b", 450, arrived=2)
    hall.land(a, 450)
    hall.land(b, 560)  # b is paused
    held = hall.ask("b", 560, arrived=2)
    small = hall.ask("small", 100, arrived=3)
    assert hall.paused() == ["b"]
    assert (small, "n/0") in hall.granted(), "b does not fit, and the small one does"
    hall.gate.leave("small", hall.now)
    hall.ask("c", 490, arrived=0)  # takes the room that b waits for, being new: it fits and b does not
    hall.gate.leave("a", hall.now)
    assert hall.granted()[-1] != (held, "n/0")
    hall.gate.leave("c", hall.now)
    assert hall.granted() == [(held, "n/0")]


def test_a_paused_session_of_which_little_is_left_at_home_is_resumed_elsewhere():
    hall = Hall("n/0", "n/1")
    a, other = hall.ask("a", 700, arrived=1), hall.ask("x", 900, arrived=1)
    b = hall.ask("b", 200, arrived=2)
    assert hall.granted()[-1] == (b, "n/0")
    hall.land(b, 200)
    hall.land(a, 900)
    assert hall.paused() == ["b"]
    held = hall.ask("b", 200, arrived=2)
    hall.gate.leave("x", hall.now)
    hall.gate.drop(other)
    hall.pool.workers["n/0"].resident["b"] = 150
    hall.wait(1.0)
    assert hall.granted() == [], "most of it is still at home"
    hall.pool.workers["n/0"].resident["b"] = 50
    hall.wait(1.0)
    assert hall.granted() == [(held, "n/1")]


def test_whoever_has_waited_for_long_is_let_in():
    hall = Hall()
    a, b = hall.ask("a", 500, arrived=1), hall.ask("b", 400, arrived=2)
    hall.land(a, 600)
    hall.land(b, 450)
    held = hall.ask("b", 450, arrived=2)
    hall.granted()
    hall.wait(PLAIN.force_s - 1)
    assert hall.granted() == []
    hall.wait(2)
    assert hall.granted() == [(held, "n/0")]


def test_a_new_session_that_has_waited_for_long_is_let_in():
    hall = Hall()
    hall.ask("a", 900, arrived=1)
    held = hall.ask("b", 400, arrived=2)
    hall.granted()
    hall.wait(PLAIN.force_s + 1)
    assert hall.granted() == [(held, "n/0")]


# -- limits that move --------------------------------------------------------------------


def test_what_a_session_in_a_tool_counts_for_halves():
    policy = Admission(low=0.95, high=1.0, reserve_tokens=0, half_life_s=60.0, adaptive=False)
    hall = Hall(policy=policy)
    hall.land(hall.ask("a", 800), 800)
    hall.ask("b", 800)
    hall.granted()
    room = hall.gate.rooms["n/0"]
    assert room.need(hall.now + 60.0) == pytest.approx(400)
    hall.wait(120.0)
    assert [worker for _, worker in hall.granted()] == [], "200 + 800 is above 950"
    hall.wait(60.0)
    assert [worker for _, worker in hall.granted()] == ["n/0"]
    assert room.need(hall.now) == pytest.approx(900)


def test_the_limit_rises_while_the_worker_idles_and_falls_while_it_computes_again():
    policy = Admission(low=0.95, high=1.0, reserve_tokens=0, half_life_s=0.0)
    hall = Hall(policy=policy)
    step = hall.ask("a", 940)
    hall.land(step, 940)
    hall.ask("b", 200)
    hall.granted()
    hall.wait(20.0)
    room = hall.gate.rooms["n/0"]
    assert room.factor == pytest.approx(1.15), "idle, and b waits for room"
    assert hall.granted() == [], "940 + 200 is above 0.95 of 1150"
    hall.wait(20.0)
    assert room.factor == pytest.approx(1.3)
    assert [worker for _, worker in hall.granted()] == ["n/0"]
    room.again_s = 10.0
    hall.wait(20.0)
    assert room.factor == pytest.approx(0.85 * 1.3), "b is on the worker all the time"


@pytest.mark.parametrize(
    ("factor", "busy", "again", "held", "then"),
    [
        (1.0, 0.5, 0.0, True, 1.15),
        (1.0, 0.5, 0.0, False, 1.0),
        (1.0, 0.9, 0.0, True, 1.0),
        (3.95, 0.5, 0.0, True, 4.0),
        (2.0, 0.99, 0.2, True, 1.7),
        (2.0, 0.99, 0.1, True, 2.0),
        (1.1, 0.99, 0.2, False, 1.0),
    ],
)
def test_the_next_factor(factor, busy, again, held, then):
    assert Admission().next_factor(factor, busy=busy, again=again, held=held) == pytest.approx(then)


# -- workers that come and go ------------------------------------------------------------


def test_sessions_of_a_lost_worker_are_let_in_elsewhere_before_new_ones():
    hall = Hall("n/0", "n/1")
    a = hall.ask("a", 500, arrived=5)
    hall.ask("x", 500, arrived=1)
    hall.land(a, 500)
    new = hall.ask("new", 600, arrived=0)
    hall.granted()
    hall.pool.remove("n/0")
    held = hall.ask("a", 500, arrived=5)
    assert hall.granted() == []
    hall.gate.leave("x", hall.now)
    assert hall.granted() == [(held, "n/1")]
    hall.gate.leave("a", hall.now)
    hall.gate.drop(held)
    assert (new, "n/1") in hall.granted()


def test_without_a_worker_everybody_waits_and_goes_when_one_comes():
    hall = Hall()
    hall.pool.remove("n/0")
    step = hall.ask("a", 10)
    assert hall.granted() == []
    hall.pool.add(Worker("n/7", "n", "m", state=WorkerState.READY, capacity_tokens=1000))
    hall.gate.follow(hall.now)
    assert hall.granted() == [(step, "n/7")]


# -- anything in any order ---------------------------------------------------------------


class GateUnderFire(RuleBasedStateMachine):
    """Whatever happens, sums agree, nobody waits while a room is empty, and everybody gets in at last."""

    @initialize(half_life_s=st.sampled_from([0.0, 5.0]), key=st.sampled_from(["arrival", "smallest"]))
    def start(self, half_life_s, key):
        policy = Admission(reserve_tokens=50, half_life_s=half_life_s, force_s=500.0)
        self.hall = Hall("n/0", "n/1", policy=policy, key=getattr(ordering, key))
        self.flying, self.done = {}, set()
        self.held: set[int] = set()

    def look(self):
        for step, worker in self.hall.granted():
            assert worker in self.hall.pool.workers
            assert step in self.held, "granted twice, or never asked"
            self.held.discard(step)
            self.flying[step] = worker
        self.hall.gate.check()

    @rule(name=st.sampled_from("abcdef"), tokens=st.integers(0, 1500), arrived=st.integers(0, 5))
    def ask(self, name, tokens, arrived):
        self.held.add(self.hall.steps + 1)
        self.hall.ask(name, tokens, arrived=arrived)
        self.look()

    @precondition(lambda self: self.flying)
    @rule(data=st.data(), tokens=st.integers(0, 1500), ok=st.booleans())
    def land(self, data, tokens, ok):
        step = data.draw(st.sampled_from(sorted(self.flying)))
        del self.flying[step]
        self.hall.gate.land(
            step,
            self.hall.now,
            prompt_tokens=tokens if ok else None,
            cached_tokens=tokens // 2,
            output_tokens=1,
            again_s=0.5,
        )
        self.look()

    @rule(name=st.sampled_from("abcdef"))
    def end(self, name):
        claim = self.hall.gate.claims.get(name)
        if claim is None:
            return
        for step in list(claim.waiting):
            self.held.discard(step)
            self.hall.gate.drop(step)
        for step in [s for s, f in self.hall.gate.door.flights.items() if f.claim is claim]:
            self.flying.pop(step, None)
            self.hall.gate.land(
                step, self.hall.now, prompt_tokens=None, cached_tokens=0, output_tokens=0, again_s=0.0
            )
        self.hall.gate.leave(name, self.hall.now)
        self.look()

    @rule(name=st.sampled_from(["n/0", "n/1", "n/2"]))
    def come_or_go(self, name):
        if name in self.hall.pool.workers:
            self.hall.pool.remove(name)
        else:
            self.hall.pool.add(Worker(name, "n", "m", state=WorkerState.READY, capacity_tokens=1000))
        self.hall.gate.follow(self.hall.now)
        self.look()

    @rule(seconds=st.sampled_from([0.1, 3.0, 25.0]))
    def wait(self, seconds):
        self.hall.wait(seconds)
        self.look()

    @invariant()
    def what_is_held_is_held(self):
        assert {step for step, _ in self.hall.gate.held()} == self.held

    def teardown(self):
        if not hasattr(self, "hall"):
            return
        if not self.hall.pool.workers:
            self.hall.pool.add(Worker("n/9", "n", "m", state=WorkerState.READY, capacity_tokens=1000))
        self.hall.wait(501.0)
        self.look()
        self.hall.wait(501.0)
        self.look()
        assert not self.held, "somebody waits for good"


TestGateUnderFire = GateUnderFire.TestCase
TestGateUnderFire.settings = settings(
    max_examples=100, stateful_step_count=40, deadline=None, phases=[Phase.generate]
)


@given(st.lists(st.integers(1, 400), min_size=1, max_size=30))
def test_what_is_let_in_at_once_never_needs_more_than_the_limit(sizes):
    hall = Hall("n/0", "n/1")
    for number, tokens in enumerate(sizes):
        hall.ask(f"s{number}", tokens, arrived=number)
    for room in hall.gate.rooms.values():
        assert room.need(hall.now) <= 950


# -- many ----------------------------------------------------------------------------------


def test_sessions_of_one_workflow_change_their_keys_together():
    """What one of them has had counts for the others, also where they wait or are idle."""
    hall = Hall(key=ordering.least_attained)
    account = hall.accounts["a1"] = hall.accounts["a2"] = Account(1, 0.0, 0.0, 0.0)
    steps = {name: hall.ask(name, tokens) for name, tokens in {"a1": 300, "a2": 300, "b": 300}.items()}
    hall.accounts["b"].attained_s = 5.0
    hall.land(steps["a2"], 300)
    hall.land(steps["b"], 300)
    hall.gate.rooms["n/0"].idle.settle()  # a2 stands before b
    account.attained_s = 9.0  # above b, by the step that a1 finishes
    hall.land(steps["a1"], 500)
    assert hall.paused() == ["a2"], "of the same workflow as a1, the larger name of two equal keys"


def test_the_least_cost_of_the_paused_follows_what_lands_while_they_wait():
    hall = Hall()
    flying, other = hall.ask("a", 500, arrived=1), hall.ask("b", 300, arrived=0)
    hall.land(other, 300)
    second = hall.ask("a", 500, arrived=1)
    hall.granted()
    room = hall.gate.rooms["n/0"]
    room.leave(hall.gate.claims["a"], hall.now)  # as if it had been paused before its steps came
    third = hall.ask("a", 900, arrived=1)
    assert hall.gate.holds(third)
    hall.land(flying, 600)  # 900 were too many beside b, 600 are not
    hall.wait(0.1)
    assert (third, "n/0") in hall.granted()
    assert second != third


def test_the_line_keeps_nothing_of_those_who_have_left():
    hall = Hall()
    hall.ask("a", 1000)
    hall.ask("first", 500, arrived=-1.0)  # and all others stand behind it
    hall.granted()
    for number in range(300):
        step = hall.ask(f"s{number}", 500)
        hall.gate.drop(step)
        hall.gate.leave(f"s{number}", hall.now)
    assert len(hall.gate.waiters.line) < 200
    assert hall.gate.claims.keys() == {"a", "first"}


def test_a_tick_does_a_bounded_part_of_much_work_and_the_next_ones_the_rest(monkeypatch):
    monkeypatch.setattr("saga_core.door.AT_ONCE", 3)
    monkeypatch.setattr("saga_core.gate.ROOMS", 2)
    names = [f"n/{number}" for number in range(5)]
    hall = Hall(*names)
    let_in = []
    for number in range(25):
        hall.ask(f"s{number:02d}", 900, arrived=number)
        let_in += hall.granted()
    assert len(let_in) == 5
    for worker in hall.pool.workers.values():
        worker.capacity_tokens = 5000  # for all 25: twenty more get in
    got = []
    for _ in range(12):
        hall.wait(0.1)
        now = hall.granted()
        assert len(now) <= 3
        got += now
    assert len({step for step, _ in got}) == 20
    assert {worker for _, worker in got} == set(names)


class Rankings(RuleBasedStateMachine):
    """`Ranked` against a sorted list."""

    def __init__(self):
        super().__init__()
        self.ranks: dict[str, float] = {}
        self.here: dict[str, Worker] = {}
        self.ranked = Ranked(lambda worker: (self.ranks[worker.id], worker.id))

    @rule(name=st.sampled_from("abcdefgh"), rank=st.integers(0, 4))
    def touch(self, name, rank):
        self.ranks[name] = rank
        self.here[name] = self.here.get(name) or Worker(name, "n", "m")
        self.ranked.touch(self.here[name])

    @rule(name=st.sampled_from("abcdefgh"))
    def remove(self, name):
        self.here.pop(name, None)
        self.ranked.remove(name)

    @rule()
    def look(self):
        wanted = sorted(self.here, key=lambda name: (self.ranks[name], name))
        assert [worker.id for worker in self.ranked] == wanted
        last = self.ranked.last()
        assert (last.id if last else None) == (wanted[-1] if wanted else None)

    @invariant()
    def agrees(self):
        self.ranked.check(set(self.here))


TestRankings = Rankings.TestCase
TestRankings.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, phases=[Phase.generate]
)


def test_a_room_that_empties_forgets_that_it_was_idle():
    hall = Hall(policy=Admission(low=0.95, high=1.0, reserve_tokens=0, half_life_s=0.0))
    hall.land(hall.ask("a", 940), 940)
    hall.ask("b", 200)
    hall.wait(20.0)
    room = hall.gate.rooms["n/0"]
    assert room.factor == pytest.approx(1.15)
    hall.gate.drop(2)
    hall.gate.leave("b", hall.now)
    hall.gate.leave("a", hall.now)
    assert room.factor == 1.0
