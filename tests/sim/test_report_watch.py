"""What is seen while a simulation runs: busy workers and memory by kind."""

from __future__ import annotations

from itertools import pairwise

import pytest
from trace_makers import chain

from saga_core.events import Outcome, StepFinished, StepLost, StepPlaced, WorkflowSubmitted
from saga_sim.cache import Cache
from saga_sim.costs import AGENT_CPU
from saga_sim.experiment import TraceHash, quiet_config
from saga_sim.pacing import Pace
from saga_sim.report.watch import MOST_SAMPLES, Watch, memory_sample
from saga_sim.world import ClusterSpec, World

SPEC = ClusterSpec(preset=AGENT_CPU, workers=2, per_node=2)


def submitted():
    return WorkflowSubmitted(workflow=1, tenant="a", token="", kind="replay", name="w", agent_type="t")


def placed(step, worker):
    return StepPlaced(step=step, worker=worker, why="")


def watched(workflows):
    watch, digest = Watch(), TraceHash()
    world = World(SPEC, quiet_config("sticky"), on_fact=watch.beside(digest.add))
    watch.look_at(world)
    result = world.run(workflows, Pace(arrivals_per_s=1.0))
    return world, result, watch, digest


def test_a_worker_is_busy_from_its_first_step_to_the_end_of_its_last():
    watch = Watch()
    for at, fact in (
        (5.0, placed(9, "n1.0")),  # before the first workflow: not of this run
        (10.0, submitted()),
        (11.0, placed(1, "n1.0")),
        (12.0, placed(2, "n1.0")),
        (13.0, placed(3, "n1.1")),
        (14.0, StepFinished(step=1, outcome=Outcome.DONE)),
        (15.0, StepFinished(step=2, outcome=Outcome.DONE)),
        (16.0, StepLost(step=3, worker="n1.1")),
        (17.0, placed(3, "n1.0")),
    ):
        watch.fact(at, fact)
    assert sorted(watch.busy_spans()) == [(1.0, 5.0), (3.0, 6.0), (7.0, float("inf"))]
    assert watch.memory == []


def test_a_step_that_moves_leaves_its_first_worker():
    watch = Watch()
    for at, fact in ((0.0, submitted()), (1.0, placed(1, "n1.0")), (2.0, placed(1, "n1.1"))):
        watch.fact(at, fact)
    assert list(watch.busy_spans()) == [(1.0, 2.0), (2.0, float("inf"))]


def test_watching_changes_no_fact_and_busy_spans_cover_the_steps():
    workflows = [chain(f"w/{i}", 3, first=900, grow=200, gap_s=1.0) for i in range(4)]
    _, result, watch, digest = watched(workflows)
    plain = TraceHash()
    World(SPEC, quiet_config("sticky"), on_fact=plain.add).run(workflows, Pace(arrivals_per_s=1.0))
    assert digest.text == plain.text
    spans = list(watch.busy_spans())
    for run in result.runs:
        for step in run.steps:
            middle = step.started_s + step.duration_s / 2
            assert any(start <= middle <= end for start, end in spans)


def test_memory_is_of_steps_in_service_kept_left_over_or_free():
    workflows = [chain(f"w/{i}", 3, first=900, grow=500, output=300, gap_s=1.0) for i in range(4)]
    world, _, watch, _ = watched(workflows)
    assert len(watch.memory) > 3
    for sample in watch.memory:
        assert min(sample.running, sample.kept, sample.leftover) >= 0
        assert sample.running + sample.kept + sample.leftover <= 1 + 1e-9
    assert max(sample.running for sample in watch.memory) > 0
    assert max(sample.kept for sample in watch.memory) > 0
    end = memory_sample(0.0, watch._caches())
    assert end.running == 0
    assert end.leftover > end.kept, "all workflows are over; only a shared prompt is nobody's"
    blocks = sum(cache.blocks - cache.empty for cache in watch._caches())
    assert (end.kept + end.leftover) * SPEC.workers * AGENT_CPU.shape.blocks == pytest.approx(blocks)
    world.check()


def test_a_long_run_is_sampled_more_and_more_rarely():
    watch = Watch()
    watch._caches = lambda: (Cache(10),)
    watch.fact(0.0, submitted())
    for second in range(20_000):
        watch.fact(float(second), StepFinished(step=1, outcome=Outcome.DONE))
    assert MOST_SAMPLES / 2 <= len(watch.memory) < MOST_SAMPLES
    assert watch.memory[-1].at_s > 19_000
    gaps = {after.at_s - before.at_s for before, after in pairwise(watch.memory)}
    assert max(gaps) <= 2 * min(gaps)
