"""Who wins by how much, how sure, and what is a loss."""

from __future__ import annotations

from math import exp, lgamma, log, pi, sqrt

import pytest
from report_makers import full, metrics, outcome, report, run

from saga_sim.pairing import Basis, interval, student_95
from saga_sim.report.comparison import compare
from saga_sim.report.verdict import verdict


def plainly(text):
    return text.replace("\N{NO-BREAK SPACE}", " ")


@pytest.mark.parametrize("freedom", [*range(1, 32), 60, 500])
def test_ninety_five_percent_of_students_distribution_lie_within_the_points(freedom):
    """Simpson's rule over the density."""
    scale = exp(lgamma((freedom + 1) / 2) - lgamma(freedom / 2)) / sqrt(freedom * pi)
    reach, parts = student_95(freedom), 2000
    width = reach / parts
    weights = (1 if i in (0, parts) else 4 if i % 2 else 2 for i in range(parts + 1))
    whole = sum(w * (1 + (i * width) ** 2 / freedom) ** (-(freedom + 1) / 2) for i, w in enumerate(weights))
    assert 2 * scale * whole * width / 3 == pytest.approx(0.95, abs=4e-4)


def test_the_interval_is_students_on_logarithms():
    low, high = interval([-0.1, 0.0, 0.1])
    assert log(high) == pytest.approx(4.303 * 0.1 / sqrt(3))
    assert low == pytest.approx(1 / high)
    assert interval([0.1]) == (None, None)


def test_ratios_are_paired_per_seed_and_the_interval_is_over_seeds():
    found = compare(full(), "saga-paper")
    first, second = 2.0, exp((log(11 / 5.4) + log(21 / 10.6) + log(44 / 21.5)) / 3)
    assert found.per_seed == pytest.approx((first, second))
    assert found.ratio == pytest.approx((first * second) ** 0.5)
    assert found.basis is Basis.SEEDS
    assert found.low < found.ratio < found.high
    assert (found.faster, found.slower, found.left_out) == (6, 0, 0)


def test_seeds_that_gave_the_same_run_do_not_count_as_several():
    """Recorded arrivals draw nothing: equal seeds would make an interval of no width."""
    runs = [run(p, t, seed=s) for p, t in (("a", (10, 20, 30)), ("b", (5, 19, 20))) for s in range(3)]
    found = compare(report(*runs), "b")
    assert found.basis is Basis.WORKFLOWS
    assert found.low < 1 < found.high
    assert "All seeds gave the same run" in " ".join(verdict(report(*runs)).remarks)


def test_a_workflow_that_did_not_finish_leaves_its_pair_out_and_is_a_loss():
    data = report(run("a", (10, 20, 30)), run("b", (5, None, 15)))
    assert compare(data, "b").left_out == 1
    judged = verdict(data)
    assert "1 of 3 workflows did not finish" in plainly(judged.losses[0].points[0])
    assert any("did not finish on both sides" in remark for remark in judged.remarks)


def test_a_winner_is_named_with_its_interval_and_its_losses():
    judged = verdict(full())
    assert plainly(judged.headline).startswith(
        "saga-paper wins: workflows finish 2.01 times as fast as under sticky (95 % confidence: 1.88 to 2.15)."
    )
    [loss] = judged.losses
    assert loss.profile == "saga-paper"
    assert list(map(plainly, loss.points)) == ["time to first token, p95: 1.6 s instead of 1.0 s"]


@pytest.mark.parametrize(
    ("times", "headline"),
    [
        ((20, 41, 59), "a wins: the next, b, is 0.4"),
        ((9, 25, 28), "No profile is shown to beat a: the nearest, b, is"),
        ((None, None, None), "No workflow finished under two profiles"),
    ],
)
def test_without_a_winner_none_is_claimed(times, headline):
    judged = verdict(report(run("a", (10, 20, 30)), run("b", times)))
    assert judged.headline.startswith(headline)


def test_one_profile_alone_wins_nothing():
    assert verdict(report(run("a", (1, 2)))).headline.startswith("Only a was run")


def test_a_single_pair_has_no_interval_and_wins_nothing():
    judged = verdict(report(run("a", (10,)), run("b", (5,))))
    assert judged.headline == (
        "No profile is shown to beat a: the nearest, b, is 2.00 times as fast (a single workflow: no confidence interval)."
    )


def test_gains_of_the_best_stand_beside_its_losses():
    better = metrics(tct_mean_s=8.0, cached_tokens=495)
    data = report(run("a", (10, 20), metrics=metrics()), run("b", (9, 21), metrics=better))
    judged = verdict(data)
    assert any("b is better in completion time, mean: 8.0" in remark for remark in judged.remarks)
    assert not any("cached" in point for loss in judged.losses for point in loss.points), "1 % is not notable"
    assert any(
        "50 % of the workflows took longer" in plainly(p) for loss in judged.losses for p in loss.points
    )


def test_groups_are_compared_among_themselves():
    made = [
        run(p, (), outcomes=(outcome(x, tenant="a"), outcome(y, tenant="b")))
        for p, x, y in (("a", 10, 10), ("b", 5, 20))
    ]
    data = report(*made)
    assert compare(data, "b", lambda o: o.tenant == "a").ratio == pytest.approx(2)
    assert compare(data, "b", lambda o: o.tenant == "b").ratio == pytest.approx(0.5)
    assert compare(data, "b", lambda o: o.tenant == "c") is None
