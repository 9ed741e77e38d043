"""Ratios over the same workflows, and whether their confidence intervals hold what they promise."""

from math import exp, log
from random import Random

import pytest
import report_makers as make

from saga_sim.pairing import Basis, compared, interval, ratio_spread, student_95
from saga_sim.report.comparison import compare
from saga_sim.runs import ReplayResult, RunState, StepRun, WorkflowRun


def took(seconds, state=RunState.FINISHED):
    one = StepRun(step=0, session="s", started_s=0.0, ttft_s=0.1, duration_s=seconds, prompt_tokens=1, cached_tokens=0,
                  output_tokens=1, regenerated_tokens=0, attempts=1)  # fmt: skip
    return WorkflowRun(workflow_id="w", agent_type="t", state=state, arrived_s=0.0, ended_s=seconds, steps=(one,),
                       expected_steps=1)  # fmt: skip


def runs(*seeds):
    """One result per seed, of workflows that took so long; None: it failed."""
    return [
        ReplayResult(runs=tuple(took(1.0, RunState.FAILED) if t is None else took(t) for t in times), wall_s=1.0)
        for times in seeds
    ]  # fmt: skip


BASE = ([10.0, 20.0, 40.0], [12.0, 18.0, 30.0])
OURS = ([5.0, 10.0, 20.0], [4.0, 6.0, 10.0])


def test_a_ratio_is_the_mean_over_seeds_with_students_interval():
    got = compared("new", "old", runs(*OURS), runs(*BASE))
    assert got.geomean == pytest.approx((2 * 3) ** 0.5)
    assert (got.low, got.high) == (pytest.approx(2), pytest.approx(3))
    reach = (
        12.706 * (log(3) - log(2)) / 2
    )  # one degree of freedom: stdev / sqrt(2) of two values is half their gap
    assert got.ci_low == pytest.approx(exp(log(6) / 2 - reach))
    assert got.ci_high == pytest.approx(exp(log(6) / 2 + reach))
    assert (got.basis, got.seeds, got.pairs, got.left_out) == (Basis.SEEDS, 2, 6, 0)


def test_one_run_has_an_interval_over_its_workflows():
    got = compared("new", "old", runs([5.0, 4.0, 10.0]), runs([10.0, 10.0, 20.0]))
    assert got.basis is Basis.WORKFLOWS
    assert got.geomean == pytest.approx((2 * 2.5 * 2) ** (1 / 3))
    assert got.ci_low < got.geomean < got.ci_high


def test_what_did_not_finish_on_both_sides_makes_no_pair():
    got = compared("new", "old", runs([5.0, None, 20.0]), runs([10.0, 20.0, None]))
    assert (got.geomean, got.pairs, got.left_out) == (pytest.approx(2.0), 1, 2)
    assert (got.ci_low, got.ci_high) == (None, None)
    none = compared("new", "old", runs([None]), runs([3.0]))
    assert (none.geomean, none.low, none.ci_low, none.pairs) == (None, None, None, 0)


def test_the_report_says_the_same():
    made = make.report(
        *(make.run("old", times, seed=seed) for seed, times in enumerate(BASE)),
        *(make.run("new", times, seed=seed) for seed, times in enumerate(OURS)),
    )
    shown, told = compare(made, "new"), compared("new", "old", runs(*OURS), runs(*BASE))
    assert (shown.ratio, shown.low, shown.high) == (told.geomean, told.ci_low, told.ci_high)


@pytest.mark.parametrize("seeds", [3, 8])
def test_the_interval_holds_the_truth_in_nineteen_of_twenty_cases(seeds):
    """Workflows of one run share its luck, so an interval over all pairs would be far too sure of itself."""
    draw = Random(7)
    held = held_naive = 0
    for _ in range(600):
        by_seed = []
        for _ in range(seeds):
            luck = draw.gauss(0, 0.2)
            by_seed.append([(1.0, exp(-0.5 - luck - draw.gauss(0, 0.3))) for _ in range(20)])
        spread = ratio_spread(by_seed)
        held += spread.low <= exp(0.5) <= spread.high
        low, high = interval([log(a / b) for seed in by_seed for a, b in seed])
        held_naive += low <= exp(0.5) <= high
    assert 0.93 <= held / 600 <= 0.97
    assert held_naive / 600 < 0.75


def test_students_points_go_on_beyond_the_table():
    assert student_95(30) == 2.042
    assert student_95(31) == pytest.approx(2.0395, abs=5e-3)
    assert student_95(10_000) == pytest.approx(1.9602, abs=2e-4)
