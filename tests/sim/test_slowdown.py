"""Isolated times against lone runs in the simulator; slowdowns, objectives and fairness against numbers by hand."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trace_makers import TRACES, chain, needs_traces, step, workflow

from saga_core.errors import UserError
from saga_sim.cluster import Link
from saga_sim.costs import AGENT_CPU, LLAMA_8B_H100, LLAMA_70B_A100
from saga_sim.experiment import Arrivals, fitted, simulate
from saga_sim.isolation import isolated_s
from saga_sim.runs import ReplayResult, RunState, StepRun, WorkflowRun
from saga_sim.slowdown import jain, slowdown_of, slowdowns
from saga_sim.trace import load_trace
from saga_sim.trace.synth import synthesise
from saga_sim.world import ClusterSpec


def lone(preset):
    return ClusterSpec(preset=preset, workers=1, per_node=1, link=Link.of(preset.way_s))


def computed_and_run(work, spec, seed=0):
    """Each workflow's isolated time as computed, and what a cluster of one worker with nobody else takes for it."""
    arrivals = Arrivals()
    alone = isolated_s(spec.preset, spec.link, arrivals.pace(spec, work, seed), work)
    runs = [simulate("sticky", [one], spec, arrivals, seed=seed)[1].runs[0] for one in work]
    return alone, [run.completion_s for run in runs]


@pytest.mark.parametrize(
    ("name", "preset"),
    [("swe-bench-like", LLAMA_70B_A100), ("webarena-like", LLAMA_8B_H100), ("demo", AGENT_CPU)],
)
def test_an_isolated_time_is_that_of_a_lone_run(name, preset):
    spec = lone(preset)
    alone, run = computed_and_run(fitted(synthesise(name, 5, 3), spec), spec)
    assert alone == pytest.approx(run, rel=1e-9)


@needs_traces
@pytest.mark.parametrize("name", ["entire-cli", "iso-bench-trae", "kv-cache-tester"])
def test_recorded_workflows_too(name):
    spec = lone(LLAMA_8B_H100)
    work = fitted(load_trace(TRACES / f"{name}.jsonl.gz"), spec)[10:250:60]
    alone, run = computed_and_run(work, spec)
    assert alone == pytest.approx(run, rel=1e-3)


@given(st.integers(2, 6), st.sampled_from([0.0, 0.5]), st.integers(40, 900))
@settings(max_examples=15, deadline=None)
def test_steps_side_by_side_make_it_a_lower_bound(branches, gap_s, tokens):
    """Branches share one engine in a run and not in the computation; forks find what was computed before them."""
    root = step(0, 3000, output=50, shared_prefix_group="g", shared_prefix_tokens=1000)
    forks = [step(i, 3000 + tokens, tokens, 20, ctx=0, gap_s=gap_s) for i in range(1, branches)]
    fresh = step(branches, 1500, output=30, ctx=None, parents=(0,), gap_s=gap_s, shared_prefix_group="g",
                 shared_prefix_tokens=1000)  # fmt: skip
    spec = lone(AGENT_CPU)
    alone, run = computed_and_run([workflow(root, *forks, fresh)], spec)
    serial = sum(isolated_s(AGENT_CPU, spec.link, Arrivals().pace(spec, [], 0), [workflow(root, forks[0])]))
    assert serial - 1e-9 <= alone[0] <= run[0] + 1e-9


def test_a_long_output_grows_its_own_context():
    """Thousands of decode steps, each dearer than the last: summed, not taken at the mean."""
    spec = lone(LLAMA_8B_H100)
    alone, run = computed_and_run([chain(steps=2, first=20_000, grow=9000, output=7000)], spec)
    assert alone == pytest.approx(run, rel=1e-9)


def test_a_prompt_that_is_cached_whole_computes_one_token_still():
    """And with it, its last block."""
    spec = lone(AGENT_CPU)
    alone, run = computed_and_run([chain(steps=2, first=64, grow=32, output=40)], spec)
    assert alone == pytest.approx(run, rel=1e-9)


# -- figures -----------------------------------------------------------------------------


def took(seconds, state=RunState.FINISHED):
    one = StepRun(step=0, session="s", started_s=0.0, ttft_s=0.1, duration_s=seconds, prompt_tokens=1, cached_tokens=0,
                  output_tokens=1, regenerated_tokens=0, attempts=1)  # fmt: skip
    return WorkflowRun(workflow_id="w", agent_type="t", state=state, arrived_s=0.0, ended_s=seconds, steps=(one,),
                       expected_steps=1)  # fmt: skip


def figures(*rows, slo=2.5):
    """rows: tenant, seconds taken, seconds alone, optionally the state."""
    result = ReplayResult(runs=tuple(took(t, *more) for _, t, _, *more in rows), wall_s=1.0)
    work = [chain(id=str(i), tenant=tenant) for i, (tenant, *_) in enumerate(rows)]
    return slowdowns(result, work, [alone for _, _, alone, *_ in rows], slo)


def test_slowdowns_by_hand():
    got = figures(("a", 4.0, 2.0), ("a", 10.0, 4.0), ("b", 9.0, 3.0), (None, 7.0, 7.0))
    assert (got.mean, got.max) == (pytest.approx(8.5 / 4), 3.0)
    assert got.geomean == pytest.approx((2 * 2.5 * 3 * 1) ** 0.25)
    assert got.slo_share == 0.75
    assert got.slo_least == 0.0
    assert [(t.tenant, t.workflows, t.slowdown_mean, t.slo_share) for t in got.tenants] == [
        ("a", 2, 2.25, 1.0), ("b", 1, 3.0, 0.0), ("default", 1, 1.0, 1.0),
    ]  # fmt: skip
    assert got.jain_tenants == pytest.approx(6.25**2 / (3 * (2.25**2 + 9 + 1)))
    assert got.jain_workflows == pytest.approx(8.5**2 / (4 * (4 + 6.25 + 9 + 1)))


def test_what_did_not_finish_missed_its_objective_and_has_no_slowdown():
    got = figures(("a", 2.0, 2.0), ("b", 1.0, 2.0, RunState.FAILED))
    assert (got.slo_share, got.slo_least, got.max) == (0.5, 0.0, 1.0)
    assert got.tenants[1].slowdown_mean is None
    none = figures(("a", 2.0, 2.0, RunState.CANCELLED))
    assert (none.mean, none.max, none.jain_tenants, none.slo_share) == (None, None, None, 0.0)


def test_the_objective_is_what_was_asked_for():
    rows = (("a", 4.0, 2.0), ("a", 6.0, 2.0))
    assert [figures(*rows, slo=slo).slo_share for slo in (1.9, 2.0, 3.0)] == [0.0, 0.5, 1.0]
    for wrong in (0.5, float("inf"), float("nan")):
        with pytest.raises(UserError, match="1 or more"):
            figures(*rows, slo=wrong)


def test_jain_runs_from_one_share_to_equal_shares():
    assert jain([3.0, 3.0, 3.0]) == pytest.approx(1.0)
    assert jain([1.0, 0.0, 0.0, 0.0]) == 0.25
    assert jain([]) is None


def test_a_run_measures_its_own_workflows():
    spec = ClusterSpec(preset=AGENT_CPU, workers=2, per_node=2)
    work = fitted(synthesise("demo", 6, 0), spec)
    arrivals = Arrivals(per_s=2.0)
    got, result = simulate("sticky", work, spec, arrivals, seed=1, slo=1.5)
    alone = isolated_s(spec.preset, spec.link, arrivals.pace(spec, work, 1), work)
    each = slowdown_of(result, alone)
    assert got.slowdowns.max == max(each)
    assert got.slowdowns.slo_share == sum(value <= 1.5 for value in each) / 6
    assert got.slowdowns.max > 1.05, "six at once on two small workers were not slowed down"
