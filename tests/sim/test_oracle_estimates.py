"""What the online rules learn: expected return times and chances of a return."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle_cases import access

from saga_sim.oracle.estimates import COLD_WORKFLOWS, LEAST_SAMPLES, RING, ReturnChances, ReturnTimes


def times(samples, *, tool="t", median=False):
    made = ReturnTimes(median=median)
    for sample in samples:
        made.observe(tool, sample)
    return made


def test_without_samples_as_long_again_and_a_second():
    assert times([]).residual_s("t", 7.0) == 8.0
    assert times([1.0] * (LEAST_SAMPLES - 1)).residual_s("t", 7.0) == 8.0


def test_the_mean_counts_what_is_longer_than_elapsed_and_one_more_of_twice_that():
    made = times([1.0, 2.0, 4.0, 8.0, 8.0, 16.0, 1.0, 1.0])
    assert made.residual_s("t", 0.0) == pytest.approx(41 / 9)
    assert made.residual_s("t", 4.0) == pytest.approx((4 + 4 + 12 + 4) / 4)
    assert made.residual_s("t", 20.0) == 20.0


def test_the_median_likewise():
    made = times([1.0, 2.0, 4.0, 8.0, 8.0, 16.0, 1.0, 1.0], median=True)
    assert made.residual_s("t", 7.0) == pytest.approx((1.0 + 7.0) / 2)
    assert made.residual_s("t", 20.0) == 20.0


def test_an_unknown_tool_is_judged_by_all_tools():
    made = times([10.0] * LEAST_SAMPLES)
    assert made.residual_s("new", 0.0) == made.residual_s("t", 0.0) == pytest.approx(80 / 9)
    made.observe("rare", 1.0)
    assert made.residual_s("rare", 0.0) == pytest.approx(81 / 10)


def test_the_ring_forgets_the_oldest_sample_not_the_least():
    made = times([*[1000.0] * RING, *[1.0] * RING])
    assert made.residual_s("t", 0.0) == pytest.approx(RING / (RING + 1))
    made = times([*[1.0] * RING, *[1000.0] * RING])
    assert made.residual_s("t", 0.0) == pytest.approx(1000 * RING / (RING + 1))


@given(st.lists(st.floats(0, 1e4), min_size=LEAST_SAMPLES, max_size=3 * RING), st.floats(0, 1e4))
@settings(max_examples=60, deadline=None)
def test_the_sums_agree_with_the_samples(samples, elapsed):
    left = [sample - elapsed for sample in samples[-RING:] if sample > elapsed] + [elapsed]
    assert times(samples).residual_s("t", elapsed) == pytest.approx(sum(left) / len(left), abs=1e-6)


def test_chances_are_the_share_that_came_back_once_enough_was_seen():
    made = ReturnChances(0.95)
    for i in range(COLD_WORKFLOWS):
        made.observe(access(f"w{i}", i, i + 1, (i, 0, 1), tool="go"), None)
    asked = access("w0", 99, 100, (0, 0, 1), tool="go")
    assert made.returns(asked) == 0.95
    for i in range(COLD_WORKFLOWS, 40):
        made.observe(access(f"w{i}", i, i + 1, (i, 0, 1), tool="go"), None)
    assert made.returns(asked) == 0.0
    for i in range(10):
        before = access(f"w{i}", i, i + 1, (i, 0, 1), tool="go")
        made.observe(access(f"w{i}", 50 + i, 51 + i, (i, 0, 1), tool="end", new_tokens=i), before)
    assert made.returns(asked) == 10 / 40
    assert made.new_tokens == 4.5
    assert made.returns(access("w0", 99, 100, (0, 0, 1), tool="never seen")) == 0.95
