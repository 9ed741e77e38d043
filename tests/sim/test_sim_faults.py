"""Faults in virtual time: the live machines keep their promises, after every event, whatever breaks."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trace_makers import step, workflow

from saga_core.config import Config
from saga_core.errors import UserError
from saga_core.events import NodeJoined, NodeLost, StepLost, WorkerLost, WorkerReady
from saga_core.policy.profiles import PROFILES
from saga_sim.costs import AGENT_CPU
from saga_sim.experiment import fitted
from saga_sim.faults import Fault, FaultKind, Faults, parse
from saga_sim.pacing import Pace
from saga_sim.runs import RunState
from saga_sim.trace.synth import synthesise
from saga_sim.world import ClusterSpec, World

SPEC = ClusterSpec(preset=AGENT_CPU, workers=3, per_node=2)
ALONE = ClusterSpec(preset=AGENT_CPU, workers=1, per_node=1)
LONG = workflow(step(0, 2000, output=400), step(1, 3000, 1000, output=100, gap_s=1.0))


def run(faults, *, spec=SPEC, work=None, profile="saga-paper", every=None):
    facts = []
    world = World(
        spec,
        Config(profile=profile, name="faulty"),
        faults=faults,
        on_fact=lambda at, fact: facts.append((at, fact)),
        on_event=every,
    )
    if every is None:
        world._on_event = world.check
    result = world.run(fitted(work or synthesise("demo", 5, 0), spec), Pace(arrivals_per_s=1.0))
    return result, facts, world


def times(facts, kind):
    return [at for at, fact in facts if isinstance(fact, kind)]


def test_a_crashed_worker_is_started_again_and_its_step_is_done():
    fault = Fault(kind=FaultKind.CRASH, target="n0001/0", at_s=1.0)
    result, facts, _ = run(Faults(plan=[fault]), spec=ALONE, work=[LONG])
    assert result.runs[0].state is RunState.FINISHED
    assert result.runs[0].retries == 1  # its stream had begun: it is broken, and the client asks again
    assert len(times(facts, WorkerLost)) == 1
    assert len(times(facts, WorkerReady)) == 2
    assert result.runs[0].steps[0].cached_tokens == 0


def test_a_step_without_a_byte_goes_elsewhere_unseen_by_its_client():
    slow = workflow(step(0, 12_000, output=5))
    spec = ClusterSpec(preset=AGENT_CPU, workers=2, per_node=1)
    faults = Faults(plan=[Fault(kind=FaultKind.CRASH, target="n0001/0", at_s=0.5)])
    result, facts, _ = run(faults, spec=spec, work=[slow], profile="round-robin")
    assert result.runs[0].state is RunState.FINISHED
    assert result.runs[0].retries == 0
    assert len(times(facts, StepLost)) == 1


def test_a_hung_worker_is_killed_by_its_node_after_as_many_probes_as_it_has_patience():
    fault = Fault(kind=FaultKind.HANG, target="n0001/0", at_s=1.0)
    result, facts, world = run(Faults(plan=[fault]), spec=ALONE, work=[LONG])
    assert result.runs[0].state is RunState.FINISHED
    lost = times(facts, WorkerLost)[0] - times(facts, WorkerReady)[0]
    patience = world.config.node.silent_probes * world.config.node.probe_every_s
    assert 1.0 + patience - 1.0 < lost < 1.0 + patience + 2.0


def test_a_dead_node_is_noticed_by_its_silence_and_welcomed_back():
    fault = Fault(kind=FaultKind.DEATH, target="n0001", at_s=2.0, for_s=20.0)
    result, facts, world = run(Faults(plan=[fault]))
    assert {r.state for r in result.runs} == {RunState.FINISHED}
    gone = times(facts, NodeLost)[0] - 2.0
    assert world.config.head.node_timeout_s - 1.1 < gone < world.config.head.node_timeout_s + 2.1
    assert len(times(facts, NodeJoined)) == 3


def test_a_node_that_is_cut_off_comes_back_with_its_memory_known():
    fault = Fault(kind=FaultKind.CUT, target="n0001", at_s=2.0, for_s=15.0)
    result, facts, _ = run(Faults(plan=[fault]))
    assert {r.state for r in result.runs} == {RunState.FINISHED}
    assert len(times(facts, NodeLost)) == 1


@pytest.mark.parametrize("profile", PROFILES)
def test_lost_repeated_and_late_messages_change_no_outcome(profile):
    faults = Faults(lose=0.2, repeat=0.2, late_s=0.5, seed=3)
    result, _, world = run(faults, profile=profile)
    assert {r.state for r in result.runs} == {RunState.FINISHED}
    assert world.ignored > 0


def random_faults(seed):
    random = Random(seed)
    plan = []
    for _ in range(random.randint(1, 6)):
        kind = random.choice(
            [kind for kind in FaultKind if kind is not FaultKind.END]
        )  # nothing would be left
        workers = ["n0001/0", "n0001/1", "n0002/0"]
        target = random.choice(workers if kind in (FaultKind.CRASH, FaultKind.HANG) else ["n0001", "n0002"])
        plan.append(
            Fault(kind=kind, target=target, at_s=random.uniform(0, 40), for_s=random.choice([0.5, 8.0, 25.0]))
        )
    shares = [random.choice([0.0, 0.1, 0.3]) for _ in range(2)]
    return Faults(plan=plan, lose=shares[0], repeat=shares[1], late_s=random.choice([0.0, 1.0]), seed=seed)


@given(st.integers(0, 1 << 32), st.sampled_from(list(PROFILES)))
@settings(max_examples=25, deadline=None)
def test_every_workflow_ends_whatever_breaks(seed, profile):
    result, _, world = run(random_faults(seed), profile=profile, work=synthesise("demo", 3, seed % 5))
    assert all(r.state is RunState.FINISHED or r.why for r in result.runs)
    assert not world.head.book.live
    assert not world.head.book.steps
    assert not world.gateway.calls


def test_same_faults_same_facts():
    _, first, _ = run(random_faults(5))
    _, again, _ = run(random_faults(5))
    assert first == again


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("crash", "is not a fault"),
        ("explode:n0001@3", "have: crash"),
        ("crash:n0001@3", "n0001/0"),
        ("death:n0009@3", "n0001"),
        ("crash:n0001/5@3", "n0001/0"),
    ],
)
def test_a_fault_that_cannot_be_is_refused(text, why):
    with pytest.raises(UserError, match=why):
        parse(text, 2, lambda _: 2)


def test_faults_are_read_as_written():
    assert parse("cut:n0002@60.5+3", 2, lambda _: 2) == Fault(
        kind=FaultKind.CUT, target="n0002", at_s=60.5, for_s=3.0
    )
    assert parse("hang:n0001/1@9", 2, lambda _: 2).target == "n0001/1"
    with pytest.raises(UserError, match="not valid"):
        Faults(lose=1.0)
