"""What agents say of themselves, end to end: simulated agents, the live head, and its learner."""

from random import Random

from saga_sim.costs import AGENT_CPU
from saga_sim.experiment import fitted, quiet_config
from saga_sim.hindsight import work_s
from saga_sim.pacing import Pace
from saga_sim.tools import tools_of
from saga_sim.trace.synth import synthesise
from saga_sim.world import ClusterSpec, World

SPEC = ClusterSpec(preset=AGENT_CPU, workers=2, per_node=2)
WORKFLOWS = fitted(synthesise("demo", 60, 0), SPEC)


def run(declared=None) -> World:
    world = World(SPEC, quiet_config("saga", AGENT_CPU.costs), declared=declared)
    world.run(WORKFLOWS, Pace(arrivals_per_s=2.0), max_live=16)
    return world


def trusts(world: World) -> dict[str, object]:
    return world.head.book.accounts.learner.memory.trusts


def test_the_head_sees_the_tools_that_a_gateway_would_see():
    program = run().head.book.accounts.learner.memory.programs
    seen = {tool for known in program.by_name.values() for tool in known.tools} - {"", "^"}
    assert seen == {tool for workflow in WORKFLOWS for tool in tools_of(workflow)} - {""}


def test_hints_that_lie_lose_to_the_history():
    """Anything between a hundredth and a hundredfold: what such workflows took before says more."""
    draw = Random(3)
    world = run(lambda _: 10.0 ** draw.uniform(-2.0, 2.0))
    assert trusts(world)
    assert all(trust.beaten for trust in trusts(world).values())


def test_hints_that_are_right_or_wrong_alike_are_believed():
    """A constant factor is a bias, which is taken out."""

    world = run(lambda workflow: 50.0 * sum(work_s(AGENT_CPU, workflow, step) for step in workflow.steps))
    assert trusts(world)
    assert not any(trust.beaten for trust in trusts(world).values())
