"""Nodes that are emptied: asked for, because their wall time ends, or to be removed."""

from __future__ import annotations

import pytest
from core_rig import (
    Rig,
    config,
    disconnected,
    dispatched,
    dump,
    facts,
    ignored,
    only,
    program,
    refused,
    said,
    worker,
)

from saga_core import snapshot
from saga_core.actions import Dispatch, Refuse
from saga_core.events import (
    DrainAsked,
    DrainCause,
    NodeDrained,
    NodeDraining,
    NodeUndrained,
    ProgramGiven,
    UndrainAsked,
    WorkflowEnded,
    WorkflowRequeued,
)
from saga_core.states import DutyState
from saga_core.wire import ForgetProgram, Goodbye, RunProgram, Shutdown, StopProgram

GATED = "saga"


def two(profile: str = GATED, **head) -> Rig:
    rig = Rig(config(profile, **{"node_timeout_s": 1000, **head}))
    rig.up("n1/0", capacity_tokens=100_000)
    rig.up("n2/0", node="n2", capacity_tokens=100_000)
    return rig


def drain(rig: Rig, node: str = "n1", **more):
    return rig(DrainAsked(node=node, **more))


def turn(rig: Rig, flow: int) -> str:
    """One step of a workflow from arrival to end; where it was."""
    at = dispatched(rig.step(flow))
    rig.finish(rig.steps, prompt_tokens=100, output_tokens=10)
    return at


def duty(rig: Rig, node: str = "n1") -> DutyState:
    return rig.head.book.duty(node)


# -- sessions --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "profile", ["saga", "thunder", "saga-paper", "sticky", "round-robin", "prefix-aware"]
)
def test_no_step_goes_to_a_node_that_drains(profile):
    rig = two(profile)
    for _ in range(6):
        turn(rig, rig.submit())
    drain(rig)
    assert {turn(rig, flow) for flow in range(1, 7)} == {"n2/0"}
    assert {turn(rig, rig.submit()) for _ in range(4)} == {"n2/0"}


def test_sessions_move_with_their_next_step_and_say_why():
    rig = two()
    flow = rig.submit()
    assert turn(rig, flow) == "n1/0"
    drain(rig, reason="the fan is loud")
    (step,) = only(rig.step(flow), Dispatch)
    assert step.worker == "n2/0"
    assert step.why.startswith("resumed elsewhere: its node drains: the fan is loud")


def test_steps_in_flight_finish_where_they_are():
    rig = two()
    flow = rig.submit()
    assert dispatched(rig.step(flow)) == "n1/0"
    assert not disconnected(drain(rig))
    assert facts(rig.tick(30), NodeDrained) == [], "a step is there"
    rig.finish(1, prompt_tokens=5, output_tokens=5)
    assert facts(rig.tick(), NodeDrained) == [NodeDrained(node="n1")]
    assert duty(rig) is DutyState.DRAINED


def test_what_has_not_finished_in_time_is_broken_off():
    rig = two()
    rig.step(rig.submit())
    drain(rig, within_s=4)
    assert not disconnected(rig.tick(3.9))
    assert disconnected(rig.tick(0.2)) == ["n1/0"]
    assert not disconnected(rig.tick(0.1)), "said once"
    assert dispatched(rig.lose(1)) == "n2/0", "no byte had come: it goes elsewhere"
    assert facts(rig.tick(), NodeDrained)


def test_a_drain_is_taken_back():
    rig = two()
    drain(rig)
    drain(rig, "n2")
    assert not only(rig.step(rig.submit()), Dispatch), "both drain"
    actions = rig(UndrainAsked(node="n2"))
    assert facts(actions, NodeUndrained) == [NodeUndrained(node="n2", reason="somebody took it back")]
    assert dispatched(actions) == "n2/0"
    assert ignored(rig(UndrainAsked(node="n2"))) == ["not draining"]
    assert ignored(drain(rig, "n9")) == ["unknown node"]


# -- the last resort -------------------------------------------------------------------------


def test_the_only_node_of_a_model_goes_on_for_those_who_live_there_alone():
    rig = Rig(config(GATED))
    rig.up("n1/0", capacity_tokens=100_000)
    flow = rig.submit()
    assert turn(rig, flow) == "n1/0"
    drain(rig)
    assert turn(rig, flow) == "n1/0"
    other = rig.submit()
    assert not only(rig.step(other), Dispatch)
    rig.tick()
    assert duty(rig) is DutyState.DRAINING, "somebody lives there"
    rig.up("n2/0", node="n2", capacity_tokens=100_000)
    assert rig.head.book.steps[rig.steps].worker == "n2/0", "the one that waited"
    assert turn(rig, flow) == "n2/0"
    rig.tick()
    assert duty(rig) is DutyState.DRAINED


def test_who_waits_for_another_node_is_refused_in_time_whatever_nodes_report_meanwhile():
    rig = Rig(config(GATED, queue_timeout_s=10, node_timeout_s=100))
    rig.up("n1/0")
    drain(rig)
    rig.step(rig.submit())
    for _ in range(9):
        rig.report(worker("n1/0"))
        assert not only(rig.tick(1.0), Refuse)
    assert refused(rig.tick(1.5)).status == 503


def test_a_node_at_its_end_serves_everybody_where_there_is_no_other():
    rig = Rig(config(GATED, drain_before_end_s=100))
    rig.hello(ends_in_s=50)
    rig.report(worker("n1/0"), ends_in_s=50)
    rig.tick()
    assert duty(rig) is DutyState.DRAINING
    assert turn(rig, rig.submit()) == "n1/0"
    rig.tick()
    assert duty(rig) is DutyState.DRAINING, "it takes what comes"


def test_a_node_past_its_time_is_no_last_resort():
    rig = Rig(config(GATED, drain_before_end_s=100, node_timeout_s=100))
    rig.hello(ends_in_s=50)
    rig.report(worker("n1/0"), ends_in_s=50)
    rig.tick()
    rig.tick(41)
    assert not only(rig.step(rig.submit()), Dispatch)


# -- wall time -------------------------------------------------------------------------------


def test_a_node_drains_before_its_end_and_is_broken_off_before_it():
    rig = two(drain_before_end_s=60, node_timeout_s=1000)
    rig.report(worker("n1/0", capacity_tokens=100_000), ends_in_s=100)
    assert not rig.tick(39)
    (fact,) = facts(rig.tick(1.5), NodeDraining)
    assert (fact.node, fact.cause, fact.reason) == ("n1", DrainCause.ENDS, "its wall time ends in 60 s")
    assert fact.until == pytest.approx(1000 + 90)
    assert turn(rig, rig.submit()) == "n2/0"


def test_late_words_of_one_end_are_one_end():
    rig = two(drain_before_end_s=1)
    for after, left_s in ((0.0, 100), (1.0, 99.0), (1.0, 98.3), (1.0, 97.1)):
        rig.now += after
        rig.report(worker("n1/0"), ends_in_s=left_s)
    assert rig.head.fleet.nodes["n1"].ends_at == 1100
    assert rig.head.fleet.workers["n1/0"].ends_at == 1100
    rig.report(worker("n1/0"), ends_in_s=997)
    assert rig.head.fleet.nodes["n1"].ends_at == 2000, "put off"
    rig.report(worker("n1/0"), ends_in_s=float("nan"))
    assert rig.head.fleet.nodes["n1"].ends_at is None, "no number is no end"


def test_an_end_that_is_put_off_ends_the_drain():
    rig = two(drain_before_end_s=60)
    rig.report(worker("n1/0"), ends_in_s=50)
    assert facts(rig.tick(), NodeDraining)
    rig.report(worker("n1/0"), ends_in_s=5000)
    assert facts(rig.tick(), NodeUndrained) == [NodeUndrained(node="n1", reason="its end was put off")]


def test_an_end_that_comes_sooner_than_was_said_is_the_one_that_counts():
    rig = two(drain_before_end_s=60)
    rig.report(worker("n1/0"), ends_in_s=50)
    assert facts(rig.tick(), NodeDraining)[0].until == pytest.approx(1040)
    rig.report(worker("n1/0"), ends_in_s=20)
    (fact,) = facts(rig.tick(), NodeDraining)
    assert (fact.cause, fact.until) == (DrainCause.ENDS, pytest.approx(1010, abs=0.2))
    assert not facts(rig.tick(), NodeDraining)


def test_an_end_that_comes_near_shortens_the_time_of_a_drain_that_was_asked_for():
    rig = two(drain_before_end_s=60)
    drain(rig, reason="mine")
    rig.report(worker("n1/0"), ends_in_s=30)
    (fact,) = facts(rig.tick(), NodeDraining)
    assert (fact.cause, fact.reason, fact.until) == (DrainCause.ASKED, "mine", pytest.approx(1020))
    assert not facts(rig.tick(), NodeDraining)


# -- programs --------------------------------------------------------------------------------


def given(rig: Rig) -> int:
    """A workflow whose program runs on n1, the only node."""
    flow = rig.submit(program=True)
    rig.report(worker("n1/0"), programs=[program(flow)])
    return flow


def test_a_program_finishes_on_a_node_that_drains_without_a_time():
    rig = Rig()
    rig.up()
    flow = given(rig)
    drain(rig)
    rig.tick(1)
    assert duty(rig) is DutyState.DRAINING
    rig.report(worker("n1/0"), programs=[program(flow, exited=True, exit_code=0)])
    rig.report(worker("n1/0"))
    rig.tick()
    assert duty(rig) is DutyState.DRAINED
    assert rig.head.book.workflows[flow].state == "done"


def test_no_program_starts_on_a_node_that_drains():
    rig = Rig()
    rig.up()
    drain(rig)
    rig.submit(program=True)
    assert not said(rig.last)
    assert [type(m) for m in said(rig(UndrainAsked(node="n1")) + rig.tick())] == [RunProgram]


def test_at_its_time_a_program_is_stopped_and_starts_again_elsewhere_at_no_cost():
    rig = Rig(config(stop_grace_s=5, program_retries=0, node_timeout_s=1000))
    rig.up()
    flow = given(rig)
    rig.up(node="n2")
    drain(rig, within_s=20)
    assert not said(rig.tick(14.8)), "it may finish yet"
    rig.report(worker("n1/0"), programs=[program(flow)])
    assert said(rig.tick(0.3)) == [StopProgram(workflow=flow, attempt=1, grace_s=5)]
    assert not said(rig.tick(0.1)), "said again after two seconds, not at once"
    assert said(rig.tick(2.0)) == [StopProgram(workflow=flow, attempt=1, grace_s=5)]
    actions = rig.report(worker("n1/0"), programs=[program(flow, exited=True, exit_code=-15)])
    (fact,) = facts(actions, WorkflowRequeued)
    assert (fact.attempt, fact.moved, fact.reason) == (2, True, "node n1 drains")
    assert ForgetProgram(workflow=flow, attempt=1) in said(actions)
    assert [f.node for f in facts(rig.tick(), ProgramGiven)] == ["n2"]
    assert dump(rig.replayed()) == dump(rig.head.book)


def test_a_program_that_is_done_when_it_is_stopped_is_done():
    rig = Rig()
    rig.up()
    flow = given(rig)
    drain(rig, within_s=0)
    rig.tick()
    rig.report(worker("n1/0"), programs=[program(flow, exited=True, exit_code=0)])
    assert rig.head.book.workflows[flow].state == "done"


def test_a_program_whose_node_is_lost_while_it_is_stopped_has_moved():
    rig = Rig(config(program_retries=0))
    rig.up()
    flow = given(rig)
    drain(rig, within_s=0)
    rig.tick()
    assert facts(rig.tick(6), WorkflowRequeued)[0].moved
    rig.up("n2/0", node="n2")
    rig.tick()
    rig.report(worker("n2/0"), node="n2", programs=[program(flow, 2)])
    assert facts(rig.tick(6), WorkflowEnded), "a loss is another thing"


# -- removal ---------------------------------------------------------------------------------


def test_a_removed_node_ends_when_it_is_empty_and_is_told_again():
    rig = two(node_timeout_s=100)
    rig.step(rig.submit())
    drain(rig, remove=True)
    assert not said(rig.tick())
    rig.finish(1)
    assert said(rig.tick()) == [Shutdown(reason="the node is removed")]
    assert not said(rig.tick())
    assert said(rig.tick(2)) == [Shutdown(reason="the node is removed")]
    actions = rig(Goodbye(node="n1", incarnation=1))
    assert facts(actions, NodeUndrained), "a new daemon of that name is a new node"
    rig.hello(incarnation=2)
    rig.report(worker("n1/0", incarnation=2), incarnation=2)
    drain(rig, "n2")
    assert turn(rig, rig.submit()) == "n1/0"


def test_removing_a_node_that_is_gone_forgets_it():
    rig = two()
    rig(Goodbye(node="n1", incarnation=1))
    drain(rig, remove=True)
    assert rig.head.fleet.nodes.keys() == {"n2"}
    assert rig.head.fleet.workers.keys() == {"n2/0"}


def test_a_lost_node_with_steps_is_not_forgotten_before_they_are_over():
    rig = two(node_timeout_s=4.5)
    rig.step(rig.submit())
    rig.now += 4
    rig.report(worker("n2/0"), node="n2")
    rig.tick(1)
    drain(rig, remove=True)
    assert "n1" in rig.head.fleet.nodes


# -- restarts --------------------------------------------------------------------------------


def test_a_drain_outlives_the_daemon_and_the_head():
    rig = two()
    drain(rig, reason="disk", within_s=500)
    rig.hello(incarnation=2)
    rig.report(worker("n1/0", incarnation=2), incarnation=2)
    assert turn(rig, rig.submit()) == "n2/0"
    assert dump(rig.replayed()) == dump(rig.head.book)
    again = rig.restarted()
    again.up("n1/0")
    again.up("n2/0", node="n2")
    assert turn(again, again.submit()) == "n2/0"
    kept = snapshot.decode(snapshot.encode(again.head.book), "test").drains["n1"]
    assert (kept.reason, kept.until, kept.duty) == ("disk", 1500, DutyState.DRAINING)


def test_a_drain_for_the_end_is_over_with_the_daemon():
    rig = two(drain_before_end_s=60)
    rig.report(worker("n1/0"), ends_in_s=30)
    rig.tick()
    assert facts(rig.hello(incarnation=2), NodeUndrained)
    rig.report(worker("n1/0", incarnation=2), incarnation=2, ends_in_s=10)
    assert facts(rig.tick(), NodeDraining), "and begins again where the end is the same"
    assert facts(rig(Goodbye(node="n1", incarnation=2)), NodeUndrained)
