"""Nodes that are not alike, and nodes that end: in virtual time, on the live machines."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from saga_core.config import Config
from saga_core.events import NodeDraining, StepPlaced
from saga_core.mirror import node_of
from saga_sim.costs import AGENT_CPU, Preset
from saga_sim.experiment import fitted, quiet_config
from saga_sim.faults import Fault, FaultKind, Faults, parse
from saga_sim.pacing import Pace
from saga_sim.runs import ReplayResult, RunState
from saga_sim.trace.synth import synthesise
from saga_sim.world import ClusterSpec, World

SMALL = AGENT_CPU
LARGE = replace(SMALL, name="large", shape=replace(SMALL.shape, blocks=3 * SMALL.shape.blocks))


def faster(preset: Preset, times: float) -> Preset:
    """The same, with every step in a fraction of the time."""
    costs = preset.costs
    scaled = {
        name: getattr(costs, name) / times
        for name in ("step_s", "prefill_token_s", "attention_token2_s", "decode_s", "context_token_s")
    }
    return replace(preset, name="fast", costs=replace(costs, **scaled))


def run(
    *mix: Preset, profile: str = "saga", workflows: int = 60, live: int = 40, seed: int = 0
) -> tuple[ReplayResult, Counter[str]]:
    """Steps by node, of a cluster with one worker on each node."""
    spec = ClusterSpec(preset=SMALL, workers=len(mix), per_node=1, mix=mix)
    placed: Counter[str] = Counter()

    def kept(_: float, fact: object) -> None:
        if isinstance(fact, StepPlaced):
            placed[node_of(fact.worker)] += 1

    world = World(spec, quiet_config(profile, SMALL.costs), on_fact=kept)
    work = fitted(synthesise("swe-bench-like", workflows, seed), spec)
    return world.run(work, Pace(seed=seed), max_live=live), placed


def mean_s(result: ReplayResult) -> float:
    assert {run.state for run in result.runs} == {RunState.FINISHED}
    return sum(run.completion_s for run in result.runs) / len(result.runs)


def test_a_node_with_more_memory_holds_more():
    result, placed = run(SMALL, LARGE)
    assert 1.5 < placed["n0002"] / placed["n0001"] < 4.5, placed
    assert mean_s(result) < mean_s(run(SMALL, SMALL)[0])


def test_a_faster_node_does_more_though_its_memory_is_the_same():
    """Sessions end sooner there, so it is emptier, and the next ones come to it."""
    result, placed = run(SMALL, faster(SMALL, 3.0))
    assert placed["n0002"] > 1.3 * placed["n0001"], placed
    assert mean_s(result) < mean_s(run(SMALL, faster(SMALL, 3.0), profile="sticky")[0])


@pytest.mark.parametrize("profile", ["saga", "thunder", "saga-paper", "sticky"])
def test_a_node_that_ends_costs_no_call(profile: str):
    """It hears of its end a minute before, as by Slurm's --signal; after that, nothing of anybody's is there."""
    facts: list[tuple[float, object]] = []
    spec = ClusterSpec(preset=SMALL, workers=3, per_node=1)
    plan = [Fault(kind=FaultKind.END, target="n0002", at_s=20.0, for_s=60.0)]
    world = World(
        spec,
        Config(profile=profile, name="ends"),
        faults=Faults(plan=plan),
        on_fact=lambda at, fact: facts.append((at, fact)),
    )
    world._on_event = world.check
    result = world.run(fitted(synthesise("demo", 40, 0), spec), Pace(arrivals_per_s=0.5))
    assert {run.state for run in result.runs} == {RunState.FINISHED}
    assert sum(run.retries for run in result.runs) == 0
    drained_at = next(at for at, fact in facts if isinstance(fact, NodeDraining))
    late = [f for at, f in facts if at > drained_at and isinstance(f, StepPlaced) and f.worker == "n0002/0"]
    assert not late
    before = [f for at, f in facts if at < drained_at and isinstance(f, StepPlaced) and f.worker == "n0002/0"]
    assert before, "it was in use"


def test_an_end_is_written_as_other_faults_are():
    found = parse("end:n0002@20+60", 3, lambda _: 1)
    assert (found.kind, found.target, found.at_s, found.for_s) == (FaultKind.END, "n0002", 20.0, 60.0)
