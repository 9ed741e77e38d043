"""Tenants that try to break the fairness bound (docs/fairness.md), in small clusters under the live scheduler."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from unittest.mock import patch

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from trace_makers import chain, step, workflow

from saga_core.events import WorkflowSubmitted
from saga_core.policy import ordering
from saga_core.policy.profiles import PROFILES
from saga_sim import experiment, world
from saga_sim.costs import AGENT_CPU
from saga_sim.experiment import Arrivals, fitted, quiet_config, simulate
from saga_sim.runs import RunState
from saga_sim.work import work_s
from saga_sim.world import ClusterSpec

TOKENS = 12_000
POOL = replace(
    AGENT_CPU,
    shape=replace(
        AGENT_CPU.shape, blocks=TOKENS // AGENT_CPU.shape.block_tokens, max_model_len_tokens=TOKENS
    ),
)
"""A pool of 12,000 tokens: three or four agents fill it."""
COSTS = AGENT_CPU.costs
NEVER_ENDING_S = 500.0


def honest(name, steps=6, first=1500):
    return chain(name, steps, first=first, grow=400, output=40, gap_s=1.0)


def fan_out(name, width, prompt=1200):
    """A root, and `width` sessions beside each other."""
    root = step(0, prompt, output=10)
    kids = [
        step(i + 1, prompt, output=30, ctx=None, parents=(0,), agent=f"sub{i}", gap_s=0.1)
        for i in range(width)
    ]
    return workflow(root, *kids, id=name)


def tiny(name, steps=40):
    return chain(name, steps, first=600, grow=2, output=1, gap_s=0.05)


def holder(name, prompt=7000):
    """Fills the pool, and sits in tools that do not end."""
    return chain(name, 3, first=prompt, grow=50, output=10, gap_s=NEVER_ENDING_S)


def short(name):
    return chain(name, 2, first=800, grow=100, output=10, gap_s=0.5)


KINDS = {
    "honest": honest,
    "fan-out": lambda name: fan_out(name, 12),
    "tiny": tiny,
    "holder": holder,
    "short": short,
    "large": lambda name: honest(name, 4, 9000),
}


def run(flows, workers=1, *, rate=1.0, lies=0.0, seed=0, profile="saga", urgent=0):
    """`lies`: how wrong, in logarithms, what workflows declare is; 0: the truth. `urgent`: how far priorities go."""

    def declared(flow):
        error = Random(f"{seed}/{flow.workflow_id}").choice([-lies, 0.0, lies])
        return max(1e-3, work_s(COSTS, flow) * 10.0**error)

    def submitted(**fields):
        drawn = Random(f"{seed}/{fields['workflow']}").randint(-urgent, urgent)
        return WorkflowSubmitted(**fields, priority=drawn)

    spec = ClusterSpec(preset=POOL, workers=workers, per_node=workers)
    flows = fitted(flows, spec)
    arrivals = Arrivals(per_s=rate)
    submitting = patch.object(world, "WorkflowSubmitted", submitted)
    with patch.object(experiment, "quiet_config", without_grace), submitting:
        return simulate(profile, flows, spec, arrivals, seed=seed, declared=declared, fair=True)


IN_ORDER_OF_ARRIVAL = patch.dict(
    PROFILES, {"saga-blind": replace(PROFILES["saga-blind"], key=ordering.arrival)}
)
"""What comes of a gate that is asked in the order of arrival, as `saga-blind` was once."""


def without_grace(profile, costs=None, mode="balanced"):
    """Workflows of these take seconds of work, so that 10 virtual seconds of grace would be the whole run."""
    config = quiet_config(profile, costs, mode)
    return replace(config, admission=replace(config.admission, grace_s=0.001))


def sound(figures, result):
    assert all(run.state is RunState.FINISHED for run in result.runs)
    fairness = figures.fairness
    assert fairness.workflows == len(result.runs)
    assert fairness.drift < 1e-6, "virtual time of the accounts is not that of the facts"
    assert fairness.violations == 0, fairness
    assert fairness.unfollowed == 0


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    kinds=st.lists(st.sampled_from(sorted(KINDS)), min_size=2, max_size=24),
    workers=st.integers(1, 2),
    rate=st.sampled_from([0.1, 1.0, 20.0]),
    lies=st.sampled_from([0.0, 1.0, 2.0]),
    seed=st.integers(0, 3),
    urgent=st.sampled_from([0, 1, 10]),
)
@example(kinds=["holder"] * 6 + ["short"] * 3, workers=1, rate=20.0, lies=0.0, seed=0, urgent=10)
@example(kinds=["fan-out"] * 6 + ["honest"] * 3, workers=2, rate=20.0, lies=2.0, seed=1, urgent=0)
@example(kinds=["tiny"] * 10 + ["large"] * 6, workers=1, rate=1.0, lies=1.0, seed=2, urgent=1)
def test_nobody_breaks_the_bound(kinds, workers, rate, lies, seed, urgent):
    flows = [KINDS[kind](f"{kind}/{i}") for i, kind in enumerate(kinds)]
    sound(*run(flows, workers, rate=rate, lies=lies, seed=seed, urgent=urgent))


def test_who_is_short_does_not_wait_for_a_pool_of_long_ones():
    """The policy study's counter-example: a workflow of seconds behind a gate full of long ones."""
    flows = [honest(f"long/{i}", 40, 2000) for i in range(8)] + [short("short")]
    figures, result = run(flows, rate=20.0)
    sound(figures, result)
    runs = {run.workflow_id: run.completion_s for run in result.runs}
    with IN_ORDER_OF_ARRIVAL:
        blind, early = run(flows, rate=20.0, profile="saga-blind")
    before = {run.workflow_id: run.completion_s for run in early.runs}
    assert before["short"] > 10 * runs["short"]
    assert figures.fairness.inverted_max_s < blind.fairness.inverted_max_s


def test_the_order_of_arrival_breaks_the_bound():
    """So the checker sees what there is to see."""
    broken = 0
    for seed in range(4):
        flows = [honest(f"long/{i}", 30, 2000) for i in range(6)] + [short(f"short/{i}") for i in range(6)]
        with IN_ORDER_OF_ARRIVAL:
            figures, _ = run(flows, rate=20.0, seed=seed, profile="saga-blind")
        broken += figures.fairness.violations
    assert broken > 0
