"""Programs: given once, shown by reports, stopped, lost with their node, started again."""

from __future__ import annotations

from core_rig import Rig, config, facts, program, said, worker

from saga_core.actions import Send
from saga_core.events import (
    CancelAsked,
    ProgramGiven,
    ProgramStarted,
    WorkflowEnded,
    WorkflowRequeued,
)
from saga_core.states import WorkflowState
from saga_core.wire import ForgetProgram, Goodbye, RunProgram, StopProgram


def runs(actions, node="n1"):
    return [m for m in said(actions, node) if isinstance(m, RunProgram)]


def stops(actions, node="n1"):
    return [(m.workflow, m.attempt) for m in said(actions, node) if isinstance(m, StopProgram)]


def forgets(actions, node="n1"):
    return [(m.workflow, m.attempt) for m in said(actions, node) if isinstance(m, ForgetProgram)]


def running() -> tuple[Rig, int]:
    """A rig with a program that its node has shown."""
    rig = Rig()
    rig.up("n1/0")
    flow = rig.submit(program=True)
    rig.report(worker(), programs=[program(flow)])
    return rig, flow


def test_a_program_waits_for_a_node():
    rig = Rig()
    flow = rig.submit(program=True)
    assert not runs(rig.last)
    rig.up("n1/0")
    assert [m.workflow for m in runs(rig.tick())] == [flow]


def test_a_shown_program_runs_and_its_exit_is_its_workflows_end():
    rig, flow = running()
    workflow = rig.head.book.workflows[flow]
    assert (workflow.state, workflow.node, workflow.started_attempt) == (WorkflowState.RUNNING, "n1", 1)
    assert not facts(rig.report(worker(), programs=[program(flow)])), "shown again, nothing new"
    actions = rig.report(worker(), programs=[program(flow, exited=True, exit_code=0)])
    end = facts(actions, WorkflowEnded)[0]
    assert (end.state, end.exit_code) == (WorkflowState.DONE, 0)
    assert forgets(actions) == [(flow, 1)]
    assert forgets(rig.report(worker(), programs=[program(flow, exited=True, exit_code=0)])) == [(flow, 1)]


def test_a_bad_exit_code_fails_the_workflow_with_a_reason():
    rig, flow = running()
    end = facts(rig.report(programs=[program(flow, exited=True, exit_code=3)]), WorkflowEnded)[0]
    assert (end.state, end.reason, end.exit_code) == (WorkflowState.FAILED, "exit code 3", 3)
    rig, flow = running()
    end = facts(rig.report(programs=[program(flow, exited=True, reason="no such file")]), WorkflowEnded)[0]
    assert (end.state, end.reason) == (WorkflowState.FAILED, "no such file")


def test_programs_spread_and_respect_slots():
    rig = Rig()
    rig.hello("n1", program_slots=2)
    rig.hello("n2", program_slots=2)
    rig.report(node="n1")
    rig.report(node="n2")
    places = []
    for _ in range(5):
        rig.submit(program=True)
        places += [a.node for a in rig.last if isinstance(a, Send)]
    assert places == ["n1", "n2", "n1", "n2"]
    assert list(rig.head.programs.queued) == [5]
    rig.report(node="n2", programs=[program(2, exited=True, exit_code=0), program(4)])
    rig.report(node="n2", programs=[program(4)])
    assert [m.workflow for m in runs(rig.tick(), "n2")] == [5]


def test_programs_that_nobody_wants_count_against_the_slots():
    rig = Rig()
    rig.hello("n1", program_slots=1)
    actions = rig.report(programs=[program(77)])
    assert stops(actions) == [(77, 1)]
    rig.submit(program=True)
    assert not runs(rig.last)


def test_a_want_is_repeated_until_the_node_shows_the_program():
    rig = Rig()
    rig.up("n1/0")
    flow = rig.submit(program=True)
    assert not runs(rig.tick(1.9))
    assert [m.workflow for m in runs(rig.tick(0.2))] == [flow]
    assert not runs(rig.tick(0.1))
    rig.report(worker(), programs=[program(flow)])
    assert not runs(rig.tick(4.9))


def test_a_program_that_its_node_does_not_show_is_asked_for_again():
    rig, flow = running()
    rig.report(worker())
    assert [m.workflow for m in runs(rig.tick())] == [flow]


def test_a_program_at_the_wrong_node_or_of_an_old_attempt_is_stopped():
    rig, flow = running()
    rig.hello("n2")
    assert stops(rig.report(node="n2", programs=[program(flow)]), "n2") == [(flow, 1)]
    assert stops(rig.report(worker(), programs=[program(flow), program(flow, 7)])) == [(flow, 7)]
    assert rig.head.book.workflows[flow].node == "n1"


def test_cancel_of_a_running_program_stops_it_and_waits_for_its_end():
    rig, flow = running()
    rig.step(flow)
    actions = rig.cancel(flow)
    assert stops(actions) == [(flow, 1)]
    assert rig.head.book.workflows[flow].state is WorkflowState.CANCELLING
    assert facts(rig.step(flow)) == [], "no more steps"
    assert stops(rig.cancel(flow)) == [(flow, 1)], "asked twice"
    assert stops(rig.report(worker(), programs=[program(flow)])) == [(flow, 1)], "said again"
    end = facts(rig.report(programs=[program(flow, exited=True, exit_code=-15)]), WorkflowEnded)[0]
    assert (end.state, end.reason) == (WorkflowState.CANCELLED, "cancelled")


def test_cancel_of_a_queued_program_is_immediate():
    rig = Rig()
    flow = rig.submit(program=True)
    assert [type(f) for f in facts(rig.cancel(flow))] == [CancelAsked, WorkflowEnded]


def test_cancel_before_the_node_answered_repeats_the_stop():
    rig = Rig()
    rig.up("n1/0")
    flow = rig.submit(program=True)
    rig.cancel(flow)
    actions = rig.tick(2.1)
    assert stops(actions) == [(flow, 1)]
    assert not runs(actions)


def test_a_lost_nodes_program_starts_again_elsewhere_once():
    rig, flow = running()
    rig.step(flow)
    rig.hello("n2")
    rig.now += 4
    rig.report(node="n2")
    actions = rig.tick(1.5)
    again = facts(actions, WorkflowRequeued)[0]
    assert (again.attempt, again.workflow) == (2, flow)
    assert "node n1: no report for 5.5 s" in again.reason
    assert [(m.workflow, m.attempt) for m in runs(actions, "n2")] == [(flow, 2)]
    assert rig.head.book.steps == {}, "steps of the lost attempt are broken off"
    rig.report(node="n2", programs=[program(flow, 2)])
    assert rig.head.book.workflows[flow].started_attempt == 2
    actions = rig(Goodbye(node="n2", incarnation=1))
    end = facts(actions, WorkflowEnded)[0]
    assert (end.state, end.reason) == (WorkflowState.FAILED, "node n2: it left; attempt 2 of 2")


def test_a_cancelled_program_whose_node_is_lost_is_cancelled():
    rig, flow = running()
    rig.cancel(flow)
    end = facts(rig.tick(6), WorkflowEnded)[0]
    assert end.state is WorkflowState.CANCELLED


def test_a_node_that_comes_back_is_told_to_stop_the_old_attempt():
    rig, flow = running()
    rig.tick(6)
    rig.hello("n1")
    actions = rig.report(worker(), programs=[program(flow, 1)])
    assert stops(actions) == [(flow, 1)]
    actions = rig.report(worker(), programs=[program(flow, 1, exited=True), program(flow, 2)])
    assert forgets(actions) == [(flow, 1)]
    assert rig.head.book.workflows[flow].live


def test_a_program_that_was_only_asked_for_moves_as_the_next_attempt():
    rig = Rig()
    rig.up("n1/0")
    flow = rig.submit(program=True)
    assert facts(rig.tick(6), WorkflowRequeued)[0].attempt == 2, "the node may have started it"
    assert rig.head.book.workflows[flow].state is WorkflowState.ACCEPTED


# -- restarts of the head -------------------------------------------------------------------


def test_after_a_restart_the_node_shows_its_programs_and_nothing_starts_twice():
    old, flow = running()
    rig = old.restarted()
    rig.hello("n2")
    rig.report(node="n2")
    assert not runs(rig.tick(1), "n2")
    rig.hello("n1")
    actions = rig.report(worker(), programs=[program(flow)])
    assert not facts(actions, ProgramGiven, ProgramStarted)
    assert not rig.head.programs.awaited


def test_after_a_restart_a_node_that_never_heard_the_want_hears_it_again():
    rig = Rig()
    rig.up("n1/0")
    flow = rig.submit(program=True)
    rig = rig.restarted()
    rig.up("n1/0")
    assert [(m.workflow, m.attempt) for m in runs(rig.tick())] == [(flow, 1)]


def test_after_a_restart_a_node_that_stays_away_has_lost_its_programs():
    old, flow = running()
    rig = old.restarted()
    assert not facts(rig.tick(17))
    again = facts(rig.tick(1.1), WorkflowRequeued)[0]
    assert (again.attempt, again.reason) == (2, "node n1 did not come back")
    assert rig.head.book.workflows[flow].state is WorkflowState.ACCEPTED


def test_after_a_restart_a_node_that_was_restarted_too_has_lost_its_programs():
    old, _ = running()
    rig = old.restarted()
    again = facts(rig.hello("n1", incarnation=2), WorkflowRequeued)[0]
    assert again.reason == "node n1 was restarted"


def test_after_a_restart_retries_that_are_used_up_fail_the_workflow():
    old = Rig(config(program_retries=0))
    old.up("n1/0")
    flow = old.submit(program=True)
    rig = old.restarted()
    end = facts(rig.hello("n1", incarnation=2), WorkflowEnded)[0]
    assert (end.state, end.reason) == (WorkflowState.FAILED, "node n1 was restarted; attempt 1 of 1")
    assert not rig.head.book.workflows[flow].live


def test_a_queued_program_of_a_killed_head_waits_for_nodes_that_may_run_it():
    """The last facts of a killed head may be lost: then a node runs what the book calls queued."""
    old = Rig()
    flow = old.submit(program=True)
    rig = old.restarted()
    rig.up("n2/0", node="n2")
    assert not runs(rig.tick(4.9), "n2")
    rig.hello("n1")
    actions = rig.report(worker(), programs=[program(flow)])
    assert [type(f) for f in facts(actions, ProgramGiven, ProgramStarted)] == [ProgramGiven, ProgramStarted]
    assert rig.head.book.workflows[flow].node == "n1"


def test_a_queued_program_of_a_killed_head_goes_on_when_nobody_runs_it():
    old = Rig()
    flow = old.submit(program=True)
    rig = old.restarted()
    rig.up("n2/0", node="n2")
    rig.now += 4
    rig.report(worker("n2/0"), node="n2")
    assert [m.workflow for m in runs(rig.tick(1.1), "n2")] == [flow]


def test_cancel_right_after_a_restart_of_the_head():
    old = Rig()
    flow = old.submit(program=True)
    rig = old.restarted()
    assert facts(rig.cancel(flow), WorkflowEnded)
    rig.hello("n1")
    assert stops(rig.report(programs=[program(flow)])) == [(flow, 1)]


def test_losing_a_node_looks_at_its_own_programs_only():
    """100,000 workflows elsewhere cost nothing: their state is not read at all."""
    rig, flow = running()

    class Silent(dict):
        def values(self):
            raise AssertionError("somebody looks at every workflow")

        items = __iter__ = values

    book = rig.head.book
    book.workflows = Silent(book.workflows)
    for now in (rig.now + 2.5, rig.now + 20):
        actions = rig.head.handle(_tick(), now=now)
    assert facts(actions, WorkflowRequeued)[0].workflow == flow


def _tick():
    from saga_core.events import Tick

    return Tick()
