"""Wall time as a fact that schedules: who is let in where, by how long it should go on."""

from __future__ import annotations

from core_rig import Rig, config, dispatched, dump, facts, worker

from saga_core import snapshot
from saga_core.events import ProgramGiven
from saga_core.paces import ALL, MOST, Paces

LIFE_S, STEPS = 600.0, 6
SIZES = {"capacity_tokens": 100_000}


def learned(rig: Rig, agent_type: str = "long", life_s: float = LIFE_S) -> None:
    """Three workflows of that type that took so long."""
    for _ in range(3):
        flow = rig.submit(agent_type=agent_type)
        for _ in range(STEPS):
            rig.step(flow)
            rig.now += life_s / STEPS
            rig.finish(rig.steps, prompt_tokens=500, output_tokens=100)
        rig.end(flow)


def taught(**head) -> Rig:
    rig = Rig(config("saga", node_timeout_s=1e6, idle_workflow_s=1e6, **head))
    rig.up("n1/0", **SIZES)
    learned(rig)
    learned(rig, "short", life_s=12.0)
    rig.up("n2/0", node="n2", **SIZES)
    return rig


def ends(rig: Rig, node: str, in_s: float) -> None:
    rig.report(worker(f"{node}/0", **SIZES), node=node, ends_in_s=in_s)


def let_in(rig: Rig, agent_type: str) -> str:
    at = dispatched(rig.step(rig.submit(agent_type=agent_type)))
    rig.finish(rig.steps, prompt_tokens=500, output_tokens=100)
    return at


def test_a_pace_is_learned_of_what_is_done_and_kept():
    rig = taught()
    assert abs(rig.head.accounts.life_s("t", "long") - LIFE_S) < 1
    assert abs(rig.head.accounts.life_s("t", "short") - 12) < 1
    flow = rig.submit(agent_type="long")
    rig.step(flow)
    assert 0.5 * LIFE_S < rig.head.accounts.left_s(flow, rig.now) < 2 * LIFE_S
    book = snapshot.decode(snapshot.encode(rig.head.book), "test")
    assert book.accounts.paces.by_kind == rig.head.accounts.paces.by_kind
    assert dump(rig.replayed()) == dump(rig.head.book)
    assert rig.head.accounts.left_s(99, rig.now) == 0.0


def test_its_own_pace_counts_once_it_has_one():
    rig = taught()
    flow = rig.submit(agent_type="long")
    rig.step(flow)
    expected = rig.head.accounts.left_s(flow, rig.now)
    rig.now += 10 * LIFE_S / STEPS
    rig.finish(rig.steps, prompt_tokens=500, output_tokens=100)
    assert rig.head.accounts.left_s(flow, rig.now) > 3 * expected, "it is ten times slower than its kind"


def test_no_workflow_is_let_in_where_it_should_outlive_the_node():
    rig = taught()
    ends(rig, "n1", 0.4 * LIFE_S)
    assert [let_in(rig, "long") for _ in range(3)] == ["n2/0"] * 3
    assert let_in(rig, "short") == "n1/0", "the emptiest, and long enough"


def test_the_end_does_not_count_while_it_is_far():
    rig = taught()
    ends(rig, "n1", 100 * LIFE_S)
    assert {let_in(rig, "long") for _ in range(2)} == {"n1/0", "n2/0"}


def test_where_no_other_has_room_it_goes_to_the_one_that_ends():
    rig = taught()
    ends(rig, "n1", 0.4 * LIFE_S)
    rig.step(rig.submit(agent_type="long"), body_bytes=4 * 95_000)
    assert rig.head.book.steps[rig.steps].worker == "n2/0"
    assert let_in(rig, "long") == "n1/0", "n2 is full: to move later costs less than to wait"


def test_where_all_end_too_soon_the_emptiest_has_it():
    rig = taught()
    for node in ("n1", "n2"):
        ends(rig, node, 0.4 * LIFE_S)
    assert {let_in(rig, "long") for _ in range(2)} == {"n1/0", "n2/0"}


def test_of_whom_nothing_is_known_no_end_matters():
    rig = Rig(config("saga"))
    rig.up("n1/0", **SIZES)
    rig.up("n2/0", node="n2", **SIZES)
    ends(rig, "n1", 200)
    assert let_in(rig, "new") == "n1/0"


def test_programs_start_on_nodes_that_are_there_for_as_long_as_they_take():
    rig = taught()
    ends(rig, "n1", 0.4 * LIFE_S)
    given = []
    for agent_type in ("long", "long", "short", "unheard of"):
        rig.submit(program=True, agent_type=agent_type)
        given += [fact.node for fact in facts(rig.last, ProgramGiven)]
    assert given == ["n2", "n2", "n1", "n2"], "what nobody knows takes as long as all do on average"


def test_kinds_are_bounded_and_strangers_have_everybodys_pace():
    paces = Paces()
    for number in range(2 * MOST):
        paces.learn(f"t\x1f{number}", 10.0, 2.0)
    assert len(paces.by_kind) == MOST
    assert ALL in paces.by_kind
    assert paces.of("stranger").stretch == 5.0
    for life_s, work_s in ((0.0, 1.0), (1.0, 0.0), (float("nan"), 1.0)):
        paces.learn("odd", life_s, work_s)
    assert "odd" not in paces.by_kind
