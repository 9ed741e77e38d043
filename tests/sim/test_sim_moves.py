"""Sessions take their KV along in virtual time: what a node that ends hands on is found at the new home, whatever breaks."""

import pytest
from trace_makers import step, workflow

from saga_core.config import Config
from saga_core.events import SessionMoved
from saga_sim.cluster import Link
from saga_sim.costs import AGENT_CPU
from saga_sim.experiment import fitted
from saga_sim.faults import Fault, FaultKind, Faults
from saga_sim.moving import kv_token_bytes
from saga_sim.pacing import Pace
from saga_sim.runs import RunState
from saga_sim.world import ClusterSpec, World

FAST = Link(kv_tokens_per_s=1e6)
TURNS = [
    step(0, 4000, output=50),
    *(step(i, 4000 + 250 * i, 250, output=50, gap_s=4.0) for i in range(1, 7)),
]


def run(faults, *, link=FAST, flows=4, workers=2, checked=True):
    facts = []
    spec = ClusterSpec(preset=AGENT_CPU, workers=workers, per_node=1, link=link)
    world = World(
        spec, Config(profile="saga", name="moving"), faults=faults,
        on_fact=lambda at, fact: facts.append((at, fact)),
    )  # fmt: skip
    if checked:
        world._on_event = world.check
    work = [workflow(*TURNS, id=f"w/{i}") for i in range(flows)]
    result = world.run(fitted(work, spec), Pace(arrivals_per_s=1.0))
    return result, facts, world


def moves(facts):
    return [fact for _, fact in facts if isinstance(fact, SessionMoved)]


def ends(*more, node="n0001", at_s=10.0, for_s=60.0):
    return Faults(plan=[Fault(kind=FaultKind.END, target=node, at_s=at_s, for_s=for_s), *more])


def cached(result):
    return sum(s.cached_tokens for r in result.runs for s in r.steps)


def test_what_a_node_that_ends_has_is_found_at_the_new_home():
    result, facts, world = run(ends())
    assert {r.state for r in result.runs} == {RunState.FINISHED}
    made = moves(facts)
    assert made
    assert {(m.source, m.target, m.failed) for m in made} == {("n0001/0", "n0002/0", "")}
    assert world.files == {}
    without, facts, _ = run(ends(), link=Link())
    assert not moves(facts)
    assert cached(result) - cached(without) >= 0.9 * sum(m.tokens for m in made)


def test_a_way_that_is_too_slow_is_not_taken():
    _, facts, _ = run(ends(), link=Link(kv_tokens_per_s=2e3), checked=False)
    assert not moves(facts)


def test_the_same_seed_is_the_same_history():
    assert run(ends(), checked=False)[1] == run(ends(), checked=False)[1]


@pytest.mark.parametrize("kind", [FaultKind.CRASH, FaultKind.DEATH, FaultKind.HANG, FaultKind.CUT])
@pytest.mark.parametrize("target", ["n0001", "n0002"])
def test_whatever_breaks_meanwhile_every_workflow_ends_and_no_file_is_left(kind, target):
    whole = f"{target}/0" if kind in {FaultKind.CRASH, FaultKind.HANG} else target
    link = Link(
        kv_tokens_per_s=3e4
    )  # the one move is on its way from 12.99 to 13.16 s, its second half from 13.08
    for at_s in (13.0, 13.1):
        fault = Fault(kind=kind, target=whole, at_s=at_s, for_s=5.0)
        result, facts, world = run(ends(fault), link=link, workers=3)
        assert {r.state for r in result.runs} == {RunState.FINISHED}
        assert not world.head.moves.all
        if at_s == 13.0 or target == "n0002":
            assert moves(facts)[0].failed


def test_the_head_prices_the_way_as_it_is():
    policy = Config().migration
    assert kv_token_bytes(policy, 0.0) == 0
    assert kv_token_bytes(policy, 1e5) == policy.shared_bytes_per_s / 1e5
