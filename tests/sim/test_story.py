"""A workflow's story: its parts add up to its completion time, and every step is where the head put it."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from trace_makers import chain, step, workflow

from saga_sim.costs import AGENT_CPU
from saga_sim.experiment import Arrivals, fitted, simulate
from saga_sim.faults import Faults, parse
from saga_sim.isolation import isolated_s
from saga_sim.pacing import Pace
from saga_sim.story import Listener, slowest_first
from saga_sim.trace.synth import synthesise
from saga_sim.world import ClusterSpec

SPEC = ClusterSpec(preset=AGENT_CPU, workers=3, per_node=2)
CROWD = Arrivals(per_s=3)


def told(workflows, *, profile="sticky", spec=SPEC, arrivals=CROWD, faults=None):
    listener = Listener()
    _, result = simulate(profile, workflows, spec, arrivals, faults=faults, on_fact=listener.fact)
    return result, [listener.story(i, result, workflows[i], spec) for i in range(len(workflows))]


def demo(count=12):
    return fitted(synthesise("demo", count, 0), SPEC)


def death():
    return Faults(plan=[parse("death:n0001@6+8", 2, lambda _: 2)], lose=0.05)


@pytest.mark.parametrize("profile", ["sticky", "round-robin", "saga-paper", "saga"])
@pytest.mark.parametrize("faults", [None, death()], ids=["healthy", "a node dies"])
def test_the_parts_of_the_longest_way_are_the_completion_time(profile, faults):
    result, stories = told(demo(), profile=profile, faults=faults)
    for run, story in zip(result.runs, stories, strict=True):
        assert story.way.total_s == pytest.approx(story.completion_s, abs=1e-6)
        assert [one.step for one in story.steps if one.on_way]
        assert {one.step: (one.ttft_s, one.duration_s) for one in story.steps} == {
            one.step: (one.ttft_s, one.duration_s) for one in run.steps
        }
        for one in story.steps:
            assert min(one.parts.gate_s, one.parts.work_s, one.parts.again_s, one.parts.lost_s) >= 0
            assert one.parts.shared_s >= -1e-9, "no step is faster than alone"
            assert one.parts.tools_s >= -1e-9
    assert sum(one.again_tokens for story in stories for one in story.steps) > 0
    if faults is not None:
        assert any(len(one.placements) > 1 for story in stories for one in story.steps)
        assert any(one.parts.lost_s > 0 for story in stories for one in story.steps)
        assert all(turn.lost for story in stories for one in story.steps for turn in one.placements[:-1])
        assert not any(one.placements[-1].lost for story in stories for one in story.steps)


def test_alone_nothing_is_waited_for():
    alone = [chain("w/1", steps=4, first=3000, grow=500, gap_s=2.0)]
    _, (story,) = told(alone, spec=ClusterSpec(preset=AGENT_CPU, workers=1, per_node=1))
    assert story.completion_s == pytest.approx(isolated_s(AGENT_CPU, SPEC.link, Pace(), alone)[0], abs=1e-3)
    assert story.way.tools_s == pytest.approx(6.0)
    assert (story.way.gate_s, story.way.lost_s) == (0, 0)
    assert all(one.again_tokens < AGENT_CPU.shape.block_tokens for one in story.steps), "the part of a block"
    assert story.way.again_s < 0.01
    assert story.way.shared_s == pytest.approx(0, abs=1e-6)
    assert [one.gap_s for one in story.steps] == [pytest.approx(2.0)] * 3 + [None]
    assert [one.moved_from for one in story.steps] == [None] * 4
    assert story.way == story.all_steps


def test_a_step_that_lost_its_worker_waits_for_the_next_one():
    spec = ClusterSpec(preset=AGENT_CPU, workers=2, per_node=2)
    faults = Faults(plan=[parse("death:n0001@3+8", 1, lambda _: 2)])
    _, stories = told(demo(), spec=spec, faults=faults, profile="saga-paper")
    moved = [
        one
        for story in stories
        for one in story.steps
        if any("lost: " in turn.lost for turn in one.placements)
    ]
    assert moved
    for one in moved:
        assert one.placements[-1].at_s - one.placements[0].at_s == pytest.approx(
            one.wait_s + one.parts.lost_s, abs=2
        )
        assert one.wait_s > 1


def test_what_runs_beside_the_longest_way_costs_no_time():
    forked = workflow(
        step(0, 200),
        step(1, 8000, 7800, 50, ctx=0),
        step(2, 300, 100, 5, ctx=0, agent="sub"),
        step(3, 8200, 200, 5, ctx=1, parents=(1, 2)),
    )
    slow, fast = forked.steps[1], forked.steps[2]
    swapped = workflow(
        forked.steps[0], replace(fast, id=1), replace(slow, id=2), replace(forked.steps[3], ctx_parent=2)
    )
    _, (other,) = told([swapped])
    assert [one.step for one in other.steps if one.on_way] == [0, 2, 3]
    _, (story,) = told([forked])
    assert [one.step for one in story.steps if one.on_way] == [0, 1, 3]
    assert story.all_steps.total_s > story.way.total_s == pytest.approx(story.completion_s)
    assert {one.session for one in story.steps} == {"main.0", "sub.2"}


def test_a_move_names_where_the_session_came_from():
    _, stories = told(demo(), profile="round-robin")
    assert all(story.moves for story in stories)
    for story in stories:
        last = {}
        for one in story.steps:
            assert one.moved_from == (
                last[one.session] if last.get(one.session, one.worker) != one.worker else None
            )
            last[one.session] = one.worker
    _, calm = told(demo(), profile="sticky")
    assert not any(story.moves for story in calm)


def test_waiting_at_the_gate_is_told_apart_and_pauses_have_a_reason():
    tight = ClusterSpec(preset=AGENT_CPU, workers=1, per_node=1)
    _, stories = told(
        fitted(synthesise("demo", 16, 0), tight), profile="saga", spec=tight, arrivals=Arrivals(per_s=5)
    )
    assert sum(story.way.gate_s for story in stories) > 1
    for story in stories:
        assert sum(one.wait_s for one in story.steps) == pytest.approx(story.all_steps.gate_s)
        for pause in story.pauses:
            assert pause.why
            assert pause.session in {one.session for one in story.steps}
    assert any(story.pauses for story in stories)


def test_a_failed_workflow_is_told_as_far_as_it_came():
    never = Faults(plan=[parse("death:n0001@3+100000", 1, lambda _: 2)])
    spec = ClusterSpec(preset=AGENT_CPU, workers=2, per_node=2)
    result, stories = told(demo(4), spec=spec, faults=never)
    assert {run.state for run in result.runs} == {"failed"}
    for run, story in zip(result.runs, stories, strict=True):
        assert (story.state, story.why) == ("failed", run.why)
        assert len(story.steps) == len(run.steps)
        assert story.rank - 1 == slowest_first(result.runs).index(result.runs.index(run))
