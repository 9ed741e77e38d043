"""One size against its targets: the values are those of `sim run`, and a run is cut short only when it is lost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saga_core.errors import UserError
from saga_sim.costs import AGENT_CPU
from saga_sim.experiment import Arrivals, fitted, simulate
from saga_sim.faults import Faults, parse
from saga_sim.sizing import TIMES, Limits, Question, attempt, beyond
from saga_sim.targets import Metric, parse_all
from saga_sim.trace.stats import percentile
from saga_sim.trace.synth import synthesise
from saga_sim.world import ClusterSpec

SPEC = ClusterSpec(preset=AGENT_CPU, workers=99, per_node=2)
RATE = Arrivals(per_s=0.5)
EASY = "p50 <= 1h and p95 <= 1h and p99 <= 1h and mean <= 1h and geomean <= 1h and slo >= 0.01 and ttft p95 <= 1h"


def question(*texts, workflows=None, **more):
    asked = {"spec": SPEC, "profile": "sticky", "arrivals": RATE, "targets": parse_all(texts)}
    return Question(**(asked | {"workflows": workflows or fitted(synthesise("demo", 8, 0), SPEC)} | more))


def test_values_are_those_of_a_run_with_its_worst_seed():
    asked = question(EASY, "ttft p50 <= 1h", "ttft mean <= 1h", seeds=3, slo=1.5)
    tried = attempt(asked, 3)
    runs = [
        simulate("sticky", asked.workflows, asked.sized(3), RATE, seed=seed, slo=1.5)[0] for seed in range(3)
    ]
    assert len({run.slowdowns.slo_share for run in runs}) > 1, "else the worst is not told from the best"
    values = {one.target.rpartition(" ")[0].rpartition(" ")[0]: one.value for one in tried.reached}
    assert values == {
        "p50": max(run.tct_p50_s for run in runs),
        "p95": max(run.summary.tct_p95_s for run in runs),
        "p99": max(run.tct_p99_s for run in runs),
        "mean": pytest.approx(max(run.summary.tct_mean_s for run in runs)),
        "geomean": pytest.approx(max(run.summary.tct_geomean_s for run in runs)),
        "slo": min(run.slowdowns.slo_share for run in runs),
        "ttft p50": max(run.ttft_p50_s for run in runs),
        "ttft p95": max(run.summary.ttft_p95_s for run in runs),
        "ttft mean": pytest.approx(max(run.summary.ttft_mean_s for run in runs)),
    }
    assert (tried.met, tried.seeds, tried.why) == (True, 3, "")
    assert (tried.workers, tried.gpus, tried.nodes) == (3, 0, 2)


def test_a_lost_run_is_cut_short_and_the_next_seed_is_not_run():
    ended = []
    tried = attempt(question("mean <= 10ms", seeds=3), 2, lambda: ended.append(1))
    assert (tried.met, tried.seeds, tried.reached[0].value) == (False, 1, None)
    assert tried.why.startswith("cut: ")
    assert len(ended) < 8


def test_a_workflow_that_fails_is_not_enough_and_says_why():
    def crashing(spec):
        return Faults(plan=[parse("death:n0001@1+100000", 1, lambda _: spec.workers)])

    tried = attempt(question(EASY, faults=crashing), 2)
    assert not tried.met
    assert "workflows failed; " in tried.why


@pytest.mark.parametrize("name", ["demo", "webarena-like"])
def test_the_least_that_work_takes_is_below_what_it_takes_on_many_workers(name):
    asked = question(EASY, workflows=fitted(synthesise(name, 6, 1), SPEC))
    assert beyond(asked) == ""
    for one in attempt(asked, 12).reached:
        if one.target.startswith(("p", "mean", "geomean")):
            metric = one.target.split()[0]
            missed = beyond(question(f"{metric} <= {one.value / 4!r}", workflows=asked.workflows))
            assert missed.startswith(f"{metric} is at least "), "four times less than on an empty cluster"
            assert beyond(question(f"{metric} <= {one.value!r}", workflows=asked.workflows)) == ""


def test_arrivals_that_grow_with_the_cluster_are_refused():
    with pytest.raises(UserError, match=r"--pressure scales the work .* \(valid: --arrival-rate PER_S"):
        question("p95 <= 5m", arrivals=Arrivals(pressure=0.5))


@given(
    st.sampled_from([*TIMES, Metric.MEAN]),
    st.floats(0.1, 100),
    st.booleans(),
    st.lists(st.floats(0.01, 200), min_size=1, max_size=40),
)
def test_nothing_is_cut_short_that_would_have_reached_its_target(metric, limit, strict, completions):
    (target,) = parse_all([f"{metric} {'<' if strict else '<='} {limit!r}"])
    limits = Limits([target], len(completions))
    lost = any([limits.add(completion) for completion in completions])  # noqa: C419 - all are told
    ordered = sorted(completions)
    value = sum(ordered) / len(ordered) if metric is Metric.MEAN else percentile(ordered, TIMES[metric])
    if lost:
        assert not target.met(value) or value == pytest.approx(limit)
    elif metric is Metric.MEAN:
        assert target.met(value) or value == pytest.approx(limit)
