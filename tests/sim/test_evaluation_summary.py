"""Cells folded and judged, against figures computed by hand."""

from __future__ import annotations

import os
from math import sqrt
from pathlib import Path

import msgspec
import pytest
from evaluation_makers import cell, result, tenant

from saga_core.aeg import Score
from saga_core.fairness import FairnessFigures
from saga_sim.evaluation import markdown, page, plots, rows
from saga_sim.evaluation.answer import Evaluation, SetUp, condition_words, headline, losses
from saga_sim.evaluation.cells import steady_per_min
from saga_sim.evaluation.course import Failure, Pace, Peak, peaks
from saga_sim.evaluation.plan import Load
from saga_sim.evaluation.standing import COLD, Condition
from saga_sim.evaluation.summary import standings
from saga_sim.evaluation.targets import TARGETS, Figure, Over, State, Target, judge
from saga_sim.oracle.witness import Belady
from saga_sim.pairing import Basis

BELADY = Belady(
    reference="a run", ratio_s=1.2, ratio_tokens=1.3, again_s=12.0, again_tokens=13, oracle_s=10.0, oracle_tokens=10,
    looked_up_tokens=100, compulsory_tokens=10, uncached_share=0.0,
)  # fmt: skip
GOLDEN = Path(__file__).parents[1] / "golden" / "report" / "evaluation.md"


def two_seeds():
    return [
        result("sticky", [10.0, 40.0, 90.0], seed=0, per_min=6.0),
        result("saga", [5.0, 10.0, None], seed=0, per_min=9.0),
        result("sticky", [8.0, 8.0, 8.0], seed=1, per_min=4.0),
        result("saga", [4.0, 2.0, 8.0], seed=1, per_min=4.0),
    ]


def versus(results, profile="saga", baseline="sticky", baselines=("sticky",)):
    found = standings(results, baselines)
    return next(s for s in found if s.profile == profile).against(baseline)


def test_ratios_are_of_the_workflows_that_finished_under_both():
    found = versus(two_seeds())
    # Seed 0: 10/5 = 2 and 40/10 = 4, geometric mean sqrt(8); seed 1: 2, 4 and 1, geometric mean 2.
    assert found.per_seed == pytest.approx((sqrt(8), 2.0))
    assert found.geomean == pytest.approx(sqrt(sqrt(8) * 2))
    assert (found.pairs, found.left_out) == (5, 1)
    # Means of the pairs: (50/2)/(15/2) and 8/(14/3), then their geometric mean.
    assert found.mean == pytest.approx(sqrt((50 / 15) * (24 / 14)))
    # Medians: 25/7.5 and 8/4.
    assert found.p50 == pytest.approx(sqrt((25 / 7.5) * 2))
    # p95 of two is at 0.95 between them: 38.5/9.75; of three at 0.9 between the upper two: 8/7.6.
    assert found.p95 == pytest.approx(sqrt((38.5 / 9.75) * (8 / 7.6)))
    assert found.throughput == pytest.approx(sqrt(1.5 * 1.0))


def test_the_interval_is_students_over_seeds():
    found = versus(two_seeds())
    # Two logarithms a and b have mean (a+b)/2 and standard error |a-b|/2; t for one degree of freedom is 12.706.
    assert found.basis is Basis.SEEDS
    assert found.low == pytest.approx(found.geomean / (sqrt(8) / 2) ** (12.706 / 2), rel=1e-6)
    assert found.high == pytest.approx(found.geomean * (sqrt(8) / 2) ** (12.706 / 2), rel=1e-6)


def test_with_one_seed_it_is_over_workflows_and_says_so():
    found = versus(two_seeds()[:2])
    assert found.basis is Basis.WORKFLOWS
    assert found.low < found.geomean < found.high


def test_only_seeds_that_both_have_are_compared():
    found = versus(two_seeds()[:3])
    assert found.per_seed == pytest.approx((sqrt(8),))


def test_nothing_finished_under_both_is_no_comparison():
    pair = [result("sticky", [1.0, None]), result("saga", [None, 2.0])]
    assert versus(pair) is None


def test_conditions_are_not_mixed():
    results = [*two_seeds(), result("sticky", [1.0], level=0.3), result("saga", [1.0], level=0.3)]
    found = standings(results, ["sticky"])
    assert [(s.condition.level, s.profile) for s in found] == [
        (1.5, "sticky"),
        (1.5, "saga"),
        (0.3, "sticky"),
        (0.3, "saga"),
    ]
    assert found[3].versus[0].geomean == 1.0


def test_figures_are_means_over_seeds_and_the_worst_stays_the_worst():
    results = [
        result("saga", [2.0, 4.0], seed=0, slo_share=1.0, slowdown_max=2.0, per_min=3.0, useful_share=None),
        result("saga", [3.0, None], seed=1, slo_share=0.5, slowdown_max=9.0, per_min=5.0, useful_share=0.4),
    ]
    (found,) = standings(results, ["sticky"])
    assert (found.finished, found.workflows, found.seeds) == (3, 4, (0, 1))
    assert found.tct_mean_s == pytest.approx(3.0)
    assert (found.slo_share, found.slo_least, found.slowdown_max) == (0.75, 0.5, 9.0)
    assert (found.workflows_per_min, found.useful_share) == (4.0, 0.4)
    assert found.versus == ()


def test_tenants_are_told_apart_where_there_are_several():
    several = [
        result("saga", [2.0], seed=s, tenants=(tenant("a", share), tenant("b", 1.0)))
        for s, share in ((0, 0.5), (1, 1.0))
    ]
    (found,) = standings(several, [])
    assert [(t.name, t.slo_share) for t in found.tenants] == [("a", 0.75), ("b", 1.0)]
    assert found.slo_least == 0.5
    (alone,) = standings([result("saga", [2.0])], [])
    assert alone.tenants == ()


def test_what_came_early_is_told_from_the_rest():
    times = [10.0] * 150
    ours = [5.0] * 100 + [2.5] * 50
    cold = versus([result("sticky", times), result("saga", ours)])
    assert (cold.early, cold.late) == pytest.approx(
        (10 / 5 ** (75 / 75), 10 / (5 ** (25 / 75) * 2.5 ** (50 / 75)))
    )
    long = versus([result("sticky", times * 2), result("saga", [5.0] * 100 + [2.5] * 200)])
    assert (long.early, long.late) == pytest.approx((2.0, 4.0))


def test_a_shift_splits_in_the_middle():
    at = Condition(work="swe", load=Load.PRESSURE, level=1.5, workers=4, workflows=400, twist="slow~10")
    assert (at.early, msgspec.structs.replace(at, twist="cv~3").early) == (200, COLD)
    twisted = [
        result(name, times, cell_of=cell(name, workflows=4, twist="then~iso"))
        for name, times in (("sticky", [8.0] * 4), ("saga", [8.0, 8.0, 2.0, 2.0]))
    ]
    found = versus(twisted)
    assert (found.early, found.late) == pytest.approx((1.0, 4.0))


def test_predictions_are_weighted_by_their_number():
    def score(count, error, rule_error):
        return Score(what="work at 25%", count=count, error=error, rule_error=rule_error, within=0.5)

    runs = [
        result("saga", [1.0], seed=0, scores=(score(1, 0.2, 1.0),)),
        result("saga", [1.0], seed=1, scores=(score(3, 0.6, 1.0), score_of_tools(10, 0.95))),
    ]
    (found,) = standings(runs, [])
    work = found.forecast("work at 25%")
    assert (work.count, work.error, work.rule_error) == pytest.approx((4, 0.5, 1.0))
    assert found.forecast("next tool").within == pytest.approx(0.95)
    assert found.forecast("return") is None
    asked = {"baseline": None, "profile": "saga"}
    assert judged(runs, figure=Figure.WORK, most=1.0, **asked).reached == pytest.approx(0.5)
    assert judged(runs, figure=Figure.NEXT_TOOL, least=0.9, **asked).state is State.MET


def score_of_tools(count, right):
    return Score(what="next tool", count=count, error=1 - right, rule_error=0.6, within=right)


def test_the_bound_is_summed_and_the_worst_stays_the_worst():
    def seen(violations, late):
        return FairnessFigures(workflows=10, violations=violations, lateness_max=late, inverted_max_s=late)

    runs = [result("saga", [1.0], seed=seed, fairness=seen(seed, 5.0 - seed)) for seed in (0, 1)]
    (found,) = standings(runs, [])
    assert (found.bound.workflows, found.bound.violations, found.bound.lateness_max) == (20, 1, 5.0)
    assert standings([result("saga", [1.0])], [])[0].bound is None


def test_the_best_of_the_others_is_who_has_the_same_hardware():
    runs = [
        result(name, [1.0], per_min=rate)
        for name, rate in (("sticky", 4.0), ("saga", 9.0), ("thunder", 10.0))
    ]
    hosted = result("sticky+host~2", [1.0], per_min=30.0)
    asked = {"figure": Figure.BEST, "baseline": None, "least": 1.0}
    assert judged([*runs, hosted], **asked).reached == pytest.approx(0.9)
    assert judged(runs[1:2], **asked).state is State.NOT_RUN


def test_a_ratio_of_ratios_needs_its_own_baseline():
    def told(ratio):
        return msgspec.structs.replace(BELADY, ratio_s=ratio)

    runs = [
        result("saga", [1.0], belady=told(1.2)),
        result("saga+lru", [1.0], belady=told(1.5)),
        result("ttl", [1.0], belady=told(1.0)),
    ]
    asked = {"figure": Figure.BELADY, "baseline": "saga+lru", "most": 1.0}
    assert judged(runs, **asked).reached == pytest.approx(0.8)
    assert judged(runs[::2], **asked).state is State.NOT_RUN


def test_twisted_conditions_decide_no_target():
    runs = [
        result(name, [time], cell_of=cell(name, workflows=1, twist="cv~2"))
        for name, time in (("sticky", 9.0), ("saga", 1.0))
    ]
    assert judged(runs, least=4.0).state is State.NOT_RUN


def test_many_profiles_are_rows_and_few_are_columns():
    many = ["saga", *(f"saga+rise={n}" for n in range(12))]
    results = [result(name, [2.0], work=work) for work in ("swe", "iso") for name in many]
    made = evaluation(results, many, ["saga"])
    turned = rows.overview(made, "saga")
    assert turned.head[0] == "profile"
    assert [row[0] for row in turned.rows] == many[1:]
    few = rows.overview(evaluation(results, many[:3], ["saga"]), "saga")
    assert few.head == ("set and load", *many[1:3])


def test_closed_loops_are_drawn_over_their_numbers():
    results = [
        result("sticky", [float(at)], load=Load.AT_ONCE, level=at, steady_per_min=at / 10)
        for at in (8.0, 32.0)
    ]
    made = evaluation(results, ["sticky"], ["sticky"])
    assert "completion time against throughput" in page.render(made)
    assert plots.loops(evaluation(results[:1], ["sticky"], ["sticky"]), "swe") is None


def test_the_steady_rate_leaves_out_ramp_and_drain():
    ends = [0.0, 1.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 500.0, 900.0]
    assert steady_per_min(ends) == pytest.approx(5 / 50 * 60)
    assert steady_per_min([1.0, 1.0, 1.0]) is None


def test_the_peak_is_the_best_concurrency_on_average():
    probed = [
        result("sticky", [1.0], load=Load.AT_ONCE, level=at, seed=seed, steady_per_min=rate)
        for at, seed, rate in (
            (32.0, 0, 3.0),
            (32.0, 1, 5.0),
            (64.0, 0, 6.0),
            (64.0, 1, 1.0),
            (96.0, 0, None),
        )
    ]
    assert peaks(probed) == [Peak(work="swe", workers=4, workflows=1, per_min=4.0, at_once=32.0)]


def test_time_left_goes_by_cells_of_the_same_kind():
    pace = Pace(jobs=2)
    assert pace.left_s([cell()]) is None
    pace.ended(cell("sticky"), 10.0)
    pace.ended(cell("saga"), 2.0)
    assert pace.left_s([cell("sticky", seed=1), cell("ttl", seed=1)]) == pytest.approx((10.0 + 6.0) / 2)


def target(**more):
    return Target(
        **(
            {
                "figure": Figure.GEOMEAN,
                "profile": "saga",
                "works": ("swe",),
                "level": 1.5,
                "baseline": "sticky",
            }
            | more
        )
    )


def judged(results, **more):
    (found,) = judge(standings(results, ["sticky"]), [target(**more)])
    return found


def pair(work, ratio, **more):
    return [result("sticky", [ratio * 10.0], work=work, **more), result("saga", [10.0], work=work, **more)]


def test_a_target_is_met_at_its_bound_and_missed_below():
    assert judged(pair("swe", 4.0), least=4.0).state is State.MET
    missed = judged(pair("swe", 3.9), least=4.0)
    assert (missed.state, missed.reached) == (State.MISSED, pytest.approx(3.9))
    assert judged(pair("swe", 1.03), least=0.98, most=1.02).state is State.MISSED


def test_what_was_not_run_is_neither():
    assert judged(pair("iso", 9.0), least=4.0).state is State.NOT_RUN
    assert judged(pair("swe", 9.0, level=0.3), least=4.0).state is State.NOT_RUN


def test_the_worst_set_decides_or_the_average_and_missing_ones_are_named():
    results = [*pair("swe", 4.0), *pair("iso", 1.0)]
    each = judged(results, works=("swe", "iso", "kvct"), least=2.0)
    assert (each.state, each.reached, each.missing) == (State.MISSED, pytest.approx(1.0), ("kvct",))
    average = judged(results, works=("swe", "iso", "kvct"), least=2.0, over=Over.AVERAGE)
    assert (average.state, average.reached) == (State.PARTLY, pytest.approx(2.0))
    assert judged(results, works=("swe", "iso"), least=2.0, over=Over.AVERAGE).state is State.MET
    low_side = judged([*pair("swe", 1.01), *pair("iso", 0.9)], works=("swe", "iso"), least=0.98, most=1.02)
    assert low_side.reached == pytest.approx(0.9)


def test_objectives_and_slowdowns_are_judged_without_a_baseline():
    mix = [result("saga", [1.0], work="mix", load=Load.PEAK, level=0.97, slo_share=0.96, slowdown_max=3.0)]
    slo = judged(
        mix, figure=Figure.SLO, works=("mix",), load=Load.PEAK, level=0.97, baseline=None, least=0.97
    )
    slow = judged(
        mix, figure=Figure.SLOWDOWN, works=("mix",), load=Load.PEAK, level=0.97, baseline=None, most=4.0
    )
    assert (slo.state, slow.state) == (State.MISSED, State.MET)


def test_the_belady_ratio_has_an_upper_bound():
    runs = [result("saga", [1.0], seed=0, belady=BELADY), result("saga", [1.0], seed=1)]
    assert standings(runs, [])[0].belady == pytest.approx(1.2)
    asked = {"figure": Figure.BELADY, "baseline": None}
    assert judged(runs, **asked, most=1.2).state is State.MET
    assert judged(runs, **asked, most=1.1).state is State.MISSED


def test_targets_count_on_the_studys_cluster():
    results = [*pair("swe", 9.0, workers=64), *pair("swe", 3.0, workers=4)]
    assert judged(results, least=4.0).reached == pytest.approx(3.0)


def test_every_target_of_the_table_can_be_written():
    assert len(rows.targets(judge([])).rows) == len(TARGETS)


def test_losses_are_listed_for_ours_and_name_what_is_worse():
    results = [
        *pair("swe", 4.0),
        result("sticky", [10.0, 10.0], level=0.3), result("saga", [11.0, None], level=0.3, per_min=5.0),
    ]  # fmt: skip
    (loss,) = losses(standings(results, ["sticky"]), ["sticky", "saga"])
    assert loss.profile == "saga"
    unfinished, slower = loss.points
    assert unfinished.endswith("1 of 2\N{NO-BREAK SPACE}workflows did not finish")
    assert "against sticky: geomean 0.909, mean 0.909, p95 0.909, throughput 0.833" in slower


def test_to_know_less_is_no_loss():
    runs = [result("sticky", [9.0]), result("saga", [3.0]), result("saga+declared", [1.0])]
    assert losses(standings(runs, ["sticky", "saga+declared"]), ["sticky", "saga", "saga+declared"]) == []


def test_without_ours_all_are_measured_against_the_first_baseline():
    slow = [result("sticky", [10.0]), result("thunder", [20.0]), result("las", [30.0])]
    found = losses(standings(slow, ["sticky", "thunder"]), ["sticky", "thunder", "las"])
    assert [(loss.profile, len(loss.points)) for loss in found] == [("thunder", 1), ("las", 1)]
    assert "against sticky" in found[1].points[0]


def test_the_headline_counts_targets_or_names_the_best():
    met = judge(standings(pair("swe", 6.0), ["sticky"]))
    assert (
        headline(met, []).replace("\N{NO-BREAK SPACE}", " ")
        == f"1 of {len(TARGETS)} targets met, {len(TARGETS) - 1} not run."
    )
    results = [result("sticky", [25.0, 25.2]), result("ttl", [10.0, 10.0])]
    best = headline(judge([]), standings(results, ["sticky"]))
    assert "Best: ttl, 2.51 times sticky" in best
    assert "no profile" in headline(judge([]), [])


def test_the_front_holds_whom_nobody_beats():
    points = {"a": (1.0, 1.0), "b": (2.0, 0.5), "c": (0.9, 3.0), "d": (0.9, 2.0), "e": (1.0, 1.0)}
    assert plots.front(points) == ["c", "a", "e", "b"]


def whole():
    results = [
        *two_seeds(),
        result("sticky", [5.0, 6.0], level=0.3), result("saga", [5.0, 6.0], level=0.3, scores=(score_of_tools(1234, 0.9),)),
        *(
            result(name, [2.0, 3.0], work="mix", load=Load.PEAK, level=0.8, tenants=(tenant("heavy-1", 1.0), tenant("light-1", share)),
                   fairness=FairnessFigures(workflows=2, overdue=1, lateness_max=0.25))
            for name, share in (("sticky", 0.5), ("saga", 1.0))
        ),
    ]  # fmt: skip
    return evaluation(results, ["sticky", "saga"], ["sticky"])


def evaluation(results, profiles, baselines):
    found = standings(results, baselines)
    judged_ = judge(found)
    return Evaluation(
        set_up=SetUp(
            suite="quick", command="saga eval quick", profiles=tuple(profiles), baselines=tuple(baselines), seeds=2,
            machine="2 cores", versions=(("saga", "1"),), skipped=(("iso", "not <here>"),), code="c0de",
        ),
        headline=headline(judged_, found), targets=tuple(judged_), losses=tuple(losses(found, profiles)),
        standings=tuple(found), peaks=(Peak(work="mix", workers=4, workflows=2, per_min=3.94, at_once=80.0),),
        failures=(Failure(cell=cell("saga", work="kvct"), why="it | broke"),), cells=len(results), cpu_s=8.0,
    )  # fmt: skip


def test_the_markdown_is_as_it_was():
    written = markdown.render(whole())
    if os.environ.get("SAGA_UPDATE_GOLDEN"):
        GOLDEN.write_text(written, encoding="utf-8")
    assert written == GOLDEN.read_text(encoding="utf-8")


def test_the_page_holds_the_verdict_first_and_fetches_nothing():
    html = page.render(whole())
    assert html == page.render(whole())
    first, rest = html.index('class="verdict"'), html.index("<h2>Losses</h2>")
    assert html.index("headline") < first < rest < html.index("<h2>Plots</h2>")
    assert "1.73× over vLLM with prefix cache" in html
    folded = html.index(f"{len(TARGETS) - 4}\N{NO-BREAK SPACE}targets not run</summary>")
    assert html.index("✗ missed") < folded < html.index("– not run") < rest
    assert "not &lt;here&gt;" in html
    assert "<script" not in html
    assert "src=" not in html
    assert "gain over sticky" in html
    assert "Throughput and completion time" in html


def test_the_answer_survives_json():
    made = whole()
    assert msgspec.json.decode(msgspec.json.encode(made), type=Evaluation) == made


def test_words_of_a_condition():
    at = Condition(work="mix", load=Load.PEAK, level=0.97, workers=4, workflows=200)
    assert (
        condition_words(at).replace("\N{NO-BREAK SPACE}", " ")
        == "ten tenants (made), 97 % of the peak, 4 workers"
    )
