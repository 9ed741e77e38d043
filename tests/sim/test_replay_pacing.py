import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from trace_makers import chain, step, workflow, workflows

from saga_core.errors import UserError
from saga_sim.pacing import Pace, WorkflowPace
from saga_sim.trace.quantiles import LatencyTable, Quantiles
from saga_sim.trace.records import Tool

TEN = LatencyTable({"tool:*": Quantiles((0.0, 1.0), (10.0, 10.0))})


def drive(made, pace, step_s=1.0):
    """Run a workflow on a made-up clock; start times by step."""
    machine = WorkflowPace(made, pace)
    waiting = [(item.start_at, item.step.id) for item in machine.arrive(0.0)]
    starts = {}
    ends = []
    while waiting or ends:
        ends += [(at + step_s, step_id) for at, step_id in waiting]
        starts |= {step_id: at for at, step_id in waiting}
        ends.sort()
        now, step_id = ends.pop(0)
        waiting = [(item.start_at, item.step.id) for item in machine.step_finished(step_id, now)]
    assert machine.done
    return starts


@given(workflows(), st.floats(0, 3))
@settings(max_examples=25, deadline=None)
def test_every_step_starts_once_after_all_its_parents(made, scale):
    starts = drive(made, Pace(time_scale=scale))
    assert set(starts) == {s.id for s in made.steps}
    for s in made.steps:
        assert all(starts[s.id] >= starts[parent] + 1.0 for parent in s.parents)


def test_the_recorded_gap_counts_from_the_latest_parent():
    made = workflow(
        step(0, 10),
        step(1, 10, ctx=None, parents=[0], gap_s=5.0),
        step(2, 10, ctx=None, parents=[0], gap_s=1.0),
        step(3, 20, 10, ctx=2, parents=[1, 2], gap_s=2.0),
    )
    assert drive(made, Pace()) == {0: 0.0, 1: 6.0, 2: 2.0, 3: 9.0}


def test_a_missing_gap_is_the_tool_latency_of_the_context_parent_and_else_drawn():
    told = Tool(kind="tool", name="bash", latency_s=3.0)
    untold = Tool(kind="tool", name="bash", latency_s=None)
    made = workflow(step(0, 10, tool=told), step(1, 20, 10, tool=untold), step(2, 30, 10))
    assert drive(made, Pace(latencies=TEN)) == {0: 0.0, 1: 4.0, 2: 15.0}


def test_a_sub_agent_without_a_gap_starts_at_once():
    made = workflow(
        step(0, 10, tool=Tool(kind="subagent", name="t", latency_s=9.0)), step(1, 5, ctx=None, parents=[0])
    )
    assert drive(made, Pace())[1] == 1.0


def test_roots_start_at_their_recorded_time():
    made = workflow(step(0, 10, ts_s=0.0), step(1, 10, ctx=None, ts_s=8.0))
    assert drive(made, Pace(time_scale=0.5)) == {0: 0.0, 1: 4.0}


def test_gaps_are_scaled_and_then_clamped():
    made = chain(steps=2, gap_s=10.0)
    assert drive(made, Pace(time_scale=0.5))[1] == 6.0
    assert drive(made, Pace(time_scale=0.5, max_gap_s=2.0))[1] == 3.0
    assert drive(made, Pace(time_scale=0.0))[1] == 1.0


def test_drawn_gaps_repeat_with_the_seed_and_differ_between_steps():
    untold = Tool(kind="tool", name="x", latency_s=None)
    made = workflow(*(step(i, 10 + i, 1, tool=untold) if i else step(0, 10, tool=untold) for i in range(5)))
    first = drive(made, Pace(seed=1))
    assert first == drive(made, Pace(seed=1))
    assert first != drive(made, Pace(seed=2))
    gaps = {first[i + 1] - first[i] for i in range(4)}
    assert len(gaps) == 4


def test_a_step_that_does_not_run_cannot_finish():
    machine = WorkflowPace(chain(steps=2), Pace())
    machine.arrive(0.0)
    with pytest.raises(ValueError, match="step 1 of w/1 is not running"):
        machine.step_finished(1, 1.0)
    machine.step_finished(0, 1.0)
    with pytest.raises(ValueError, match="step 0 of w/1 is not running"):
        machine.step_finished(0, 2.0)
    assert not machine.done


def test_arrivals_are_relative_to_the_first_and_scaled_and_unknown_ones_come_at_once():
    made = [replace(chain(), arrival_s=at) for at in (50.0, 70.0, None)]
    assert Pace(time_scale=0.1).arrivals(made) == pytest.approx([0.0, 2.0, 0.0])


def test_poisson_arrivals_are_seeded_and_at_the_given_rate():
    made = [chain()] * 400
    times = Pace(arrivals_per_s=2.0, seed=3).arrivals(made)
    assert (
        times
        == Pace(arrivals_per_s=2.0, seed=3).arrivals(made)
        != Pace(arrivals_per_s=2.0, seed=4).arrivals(made)
    )
    assert times == sorted(times)
    assert times[-1] == pytest.approx(200, rel=0.15)
    assert Pace(arrivals_per_s=2.0).arrivals([]) == []


@pytest.mark.parametrize(
    "wrong", [{"time_scale": -1}, {"time_scale": float("nan")}, {"max_gap_s": -1}, {"arrivals_per_s": 0}]
)
def test_paces_out_of_range_are_refused(wrong):
    with pytest.raises(UserError, match=r"not valid|negative"):
        Pace(**wrong)
