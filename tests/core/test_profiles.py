"""Profiles: each is what its source says, and says so in a line."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from saga_core.accounts import Account
from saga_core.fleet import Pool, Worker
from saga_core.gate import Gate
from saga_core.policy import ordering
from saga_core.policy.admission import Admission
from saga_core.policy.modes import MODES, in_mode
from saga_core.policy.profiles import PROFILES, THUNDER, profile_of
from saga_core.states import WorkerState

SESSION_TOKENS = st.integers(1, 500)


def account(arrived_at=0.0, born_v=0.0, expected_s=0.0, attained_s=0.0, weight=1.0) -> Account:
    return Account(1, arrived_at, born_v, expected_s, weight, attained_s)


def gate_of(name: str, capacity: int = 1000) -> Gate:
    pool = Pool()
    pool.add(Worker("n/0", "n", "m", state=WorkerState.READY, capacity_tokens=capacity))
    profile = PROFILES[name]
    assert profile.admission is not None
    return Gate(pool, profile.admission, profile.key, profile.victim)


def land(gate: Gate, step: int, tokens: int, now: float) -> None:
    gate.land(step, now, prompt_tokens=tokens, cached_tokens=0, output_tokens=0, again_s=0.0)


@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_says_what_it_does_in_a_line(name):
    what = PROFILES[name].what
    assert 20 < len(what) <= 100
    assert "\n" not in what
    assert what[0].islower()
    assert not what.endswith(".")


def test_profiles_differ_in_what_they_say():
    assert len({profile.what for profile in PROFILES.values()}) == len(PROFILES)


def test_settings_of_admission_are_ours_alone():
    mine = Admission(low=0.5)
    assert {name for name in PROFILES if profile_of(name, mine).admission == mine} == {"saga", "saga-blind"}
    assert profile_of("thunder", mine).admission is THUNDER


def test_a_mode_is_a_band_of_admission_unless_the_settings_say_one():
    latency = profile_of("saga", Admission(), "latency").admission
    assert (latency.low, latency.high) == MODES["latency"]
    mine = Admission(low=0.5)
    assert profile_of("saga", mine, "throughput").admission == mine
    assert profile_of("saga", Admission()).admission == Admission()
    assert profile_of("thunder", Admission(), "latency").admission is THUNDER


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_keeps_the_gap_between_letting_in_and_pausing(mode):
    """Without it a policy has 0.38 of the speed (policy study, section 5)."""
    chosen = in_mode(mode, Admission())
    assert chosen.low + 0.04 <= chosen.high < 1.15, "1.15 is beyond the cliff"


def test_keys_by_hand():
    one = account(arrived_at=7.0, born_v=100.0, expected_s=30.0, attained_s=12.0, weight=2.0)
    assert ordering.arrival(one, 500) == 7.0
    assert ordering.least_attained(one, 500) == 12.0
    assert ordering.smallest(one, 500) == 500.0
    assert ordering.smallest_last(one, 500) == -500.0
    assert ordering.virtual_finish(one, 500) == 100.0 + 30.0 / 2
    assert ordering.newest(one, 500) == -7.0
    assert ordering.left(one, 500) == 18.0
    assert ordering.least_left_newest_first(one, 500) == 18.0 - ordering.YOUTH * 100.0
    one.attained_s = 50.0  # more than expected: at least what it took
    assert ordering.virtual_finish(one, 500) == 100.0 + 50.0 / 2
    assert ordering.left(one, 500) == 0.0


def test_thunder_pauses_the_smallest_of_those_in_a_tool_and_resumes_the_smallest():
    gate = gate_of("thunder", capacity=2000)
    for number, tokens in enumerate((300, 200, 400), start=1):
        gate.ask(number, f"s{number}", account(), 4 * tokens, 0.0)
        land(gate, number, tokens, 0.0)
    assert not gate.take_pauses(), "300 + 200 + 400 and 100 each are below 0.95 of 2000"
    gate.ask(4, "s3", account(), 4 * 1150, 0.0)  # it comes back with 1150 tokens: 1950 in all
    assert [pause.session for pause in gate.take_pauses()] == ["s2"], "1650 without it: that does"
    gate.check()


def test_thunder_lets_what_waits_for_its_tool_count_for_half_each_second():
    gate = gate_of("thunder", capacity=1000)
    gate.ask(1, "s1", account(), 4 * 450, 0.0)
    land(gate, 1, 450, 0.0)
    gate.ask(2, "s2", account(), 4 * 295, 0.0)
    assert gate.waiting == 1, "450 + 100 and 295 + 100 are more than 0.8 of 1000"
    gate.tick(1.0)
    assert gate.waiting == 0, "after a second 275 and 395"
    gate.check()


@given(st.lists(SESSION_TOKENS, min_size=1, max_size=12), st.lists(st.integers(0, 11), max_size=20))
def test_thunder_pauses_no_session_while_a_smaller_one_rests(sizes, returns):
    gate, live = gate_of("thunder", capacity=1500), {}
    step, now = 0, 0.0
    for at in [*range(len(sizes)), *returns]:
        step, now, name = step + 1, now + 0.3, f"s{at % len(sizes)}"
        gate.ask(step, name, account(), 4 * (sizes[at % len(sizes)] + step), now)
        resting = {n: c.tokens for n, c in gate.claims.items() if c.live and not c.flying}
        for pause in gate.take_pauses():
            assert gate.claims[pause.session].tokens <= min(resting.values(), default=10**9)
        live |= {grant.step: grant for grant in gate.take_grants()}
        for done in list(live):
            land(gate, done, sizes[at % len(sizes)] + step, now)
            live.pop(done)
            gate.take_pauses()
        gate.check()
