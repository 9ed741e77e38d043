"""Workflows: submission, end, cancellation, idleness, profile, pruning, homes."""

from __future__ import annotations

import pytest
from core_rig import PROGRAM, Rig, config, dispatched, facts, ignored, one, only, said

from saga_core import book as book_module
from saga_core.actions import Abort, Dispatch, Send
from saga_core.events import (
    CancelAsked,
    FinishAsked,
    HeadStarted,
    Outcome,
    ProfileChanged,
    StepFinished,
    WorkflowEnded,
    WorkflowSubmitted,
)
from saga_core.states import SessionState, WorkflowState
from saga_core.wire import ResidentFact, RunProgram


def test_a_submission_is_recorded_before_anything_else():
    rig = Rig()
    flow = rig.submit(name="fix", agent_type="coder")
    assert [type(f) for f in facts(rig.last)] == [WorkflowSubmitted]
    workflow = rig.head.book.workflows[flow]
    assert (workflow.state, workflow.name, workflow.submitted_at) == (WorkflowState.ACCEPTED, "fix", rig.now)


@pytest.mark.parametrize("number", [0, 1, 3, 99])
def test_numbers_count_up_by_one(number):
    rig = Rig()
    rig.submit()
    actions = rig(WorkflowSubmitted(workflow=number, tenant="t", token="", kind="replay"))
    assert ignored(actions) == ["stale"]


def test_a_submission_with_a_living_key_is_ignored():
    rig = Rig()
    rig.step(key="K")
    actions = rig(WorkflowSubmitted(workflow=2, tenant="t", token="", kind="replay", key="K"))
    assert ignored(actions) == ["stale"]


def test_the_end_aborts_steps_and_closes_sessions_and_frees_homes():
    rig = Rig()
    rig.up("n1/0")
    flow = rig.submit()
    rig.step(flow, session="a")
    rig.finish(1, prompt_tokens=10)
    rig.step(flow, session="b")
    home = rig.head.fleet.workers["n1/0"]
    assert (home.homes, home.resident) == (2, {f"{flow}.a": 10})
    actions = rig.end(flow)
    assert one(actions, Abort).step == 2
    assert facts(actions, StepFinished)[0].outcome is Outcome.ABORTED
    workflow = rig.head.book.workflows[flow]
    assert (workflow.state, workflow.reason, workflow.ended_at) == (WorkflowState.DONE, "said so", rig.now)
    assert {s.state for s in workflow.sessions.values()} == {SessionState.CLOSED}
    assert (home.homes, home.placed, home.resident) == (0, 0, {})
    assert rig.head.book.counts.ended == {"done": 1}


def test_residency_of_a_session_that_is_over_is_not_mirrored():
    rig = Rig()
    rig.up("n1/0", "n1/1")
    flow = rig.submit()
    rig.step(flow)
    rig.report(*_both(), resident=[ResidentFact(f"n1/{i}", "1.main", 9) for i in (0, 1)])
    assert [w.resident for w in rig.head.fleet.workers.values()] == [{"1.main": 9}] * 2
    rig.end(flow)
    assert [w.resident for w in rig.head.fleet.workers.values()] == [{}, {}]
    rig.report(*_both(), resident=[ResidentFact("n1/0", "1.main", 5), ResidentFact("n1/0", "x", 5)])
    assert rig.head.fleet.workers["n1/0"].resident == {}


def _both():
    from core_rig import worker

    return worker("n1/0"), worker("n1/1")


def test_a_home_that_moves_leaves_its_residency_where_it_is():
    rig = Rig(config("round-robin"))
    rig.up("n1/0", "n1/1")
    flow = rig.submit()
    for step in (1, 2):
        rig.step(flow)
        rig.finish(step, prompt_tokens=7)
    workers = rig.head.fleet.workers
    assert [w.homes for w in workers.values()] == [0, 1]
    assert [w.resident for w in workers.values()] == [{"1.main": 7}, {"1.main": 7}]


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (FinishAsked(workflow=1, state=WorkflowState.RUNNING), "not an end"),
        (FinishAsked(workflow=2, state=WorkflowState.DONE), "not yours"),
        (FinishAsked(workflow=9, state=WorkflowState.DONE), "over"),
        (CancelAsked(workflow=9), "over"),
        (CancelAsked(workflow=3), "over"),
        (FinishAsked(workflow=3, state=WorkflowState.DONE), "over"),
        (ProfileChanged(profile="no such"), "unknown profile"),
        (HeadStarted(incarnation=99, version="1"), "stale"),
    ],
)
def test_what_makes_no_sense_is_ignored(event, reason):
    rig = Rig()
    rig.submit()
    rig.submit(program=True)
    rig.end(rig.submit())
    assert ignored(rig(event)) == [reason]


def test_cancelling_a_workflow_without_a_program_ends_it_at_once():
    rig = Rig()
    rig.up("n1/0")
    flow = rig.submit()
    rig.step(flow)
    actions = rig.cancel(flow)
    assert [type(f) for f in facts(actions)] == [CancelAsked, StepFinished, WorkflowEnded]
    assert one(actions, Abort).step == 1
    assert rig.head.book.workflows[flow].state is WorkflowState.CANCELLED


def test_cancelling_with_waiting_steps_empties_the_queue():
    rig = Rig()
    flow = rig.submit()
    rig.step(flow)
    rig.step()
    rig.cancel(flow)
    assert list(rig.head.waiting) == [2]


def test_a_silent_workflow_from_outside_is_over():
    rig = Rig(config(idle_workflow_s=100, node_timeout_s=10000))
    rig.up("n1/0")
    rig.step(key="K")
    rig.tick(150)
    assert rig.head.book.live == 1, "a running step is not silence"
    rig.finish(1)
    rig.tick(99)
    assert rig.head.book.live == 1
    ended = facts(rig.tick(51), WorkflowEnded)[0]
    assert (ended.state, ended.reason) == (WorkflowState.DONE, "no step for 100 s")


def test_an_ended_workflow_is_no_longer_watched():
    rig = Rig(config(idle_workflow_s=100))
    rig.end(rig.submit())
    assert not rig.tick(101)
    assert not rig.head._workflows._idle


def test_the_profile_changes_where_the_next_step_goes():
    rig = Rig(config("sticky"))
    rig.up("n1/0", "n1/1")
    flow = rig.submit()
    homes = set()
    for _ in range(4):
        homes.add(dispatched(rig.step(flow)))
    assert len(homes) == 1
    assert facts(rig(ProfileChanged(profile="round-robin")))
    assert {dispatched(rig.step(flow)), dispatched(rig.step(flow))} == {"n1/0", "n1/1"}


def test_old_ended_workflows_leave_the_book_but_not_the_counts(monkeypatch):
    monkeypatch.setattr(book_module, "KEEP_ENDED", 3)
    rig = Rig()
    rig.up("n1/0")
    for step in range(1, 9):
        flow = rig.submit()
        rig.step(flow)
        rig.end(flow)
        assert ignored(rig.finish(step)) == ["unknown step"]
    assert list(rig.head.book.workflows) == [6, 7, 8]
    assert rig.head.book.counts.ended == {"done": 8}
    assert ignored(rig.cancel(1)) == ["over"]
    assert rig.head.book.sessions == {}
    assert rig.head.fleet.homes() == {}


def test_memory_does_not_grow_with_ended_workflows(monkeypatch):
    monkeypatch.setattr(book_module, "KEEP_ENDED", 5)
    rig = Rig(config(idle_workflow_s=1, node_timeout_s=1e6))
    rig.up("n1/0")
    for step in range(1, 60):
        rig.step(key=f"k{step}")
        rig.report(_both()[0], resident=[ResidentFact("n1/0", f"{step}.main", 9)])
        rig.finish(step, prompt_tokens=3)
        rig.tick(2)
    head = rig.head
    sizes = [head.book.workflows, head.book.ended, head.book.sessions, head.book.keys, head.book.steps]
    sizes += [
        head._workflows._idle,
        head.fleet._holders,
        head.fleet._homes,
        head.waiting,
        head._steps.lobby._for,
    ]
    assert all(len(size) <= 6 for size in sizes), [len(s) for s in sizes]


def test_time_that_runs_backwards_stands_still():
    rig = Rig()
    rig.up("n1/0")
    flow = rig.submit()
    rig.now -= 50
    rig.step(flow)
    assert rig.head.now == 1000.0
    assert rig.head.book.workflows[flow].started_at == 1000.0


def test_same_events_same_actions():
    def run():
        rig = Rig(config("saga-paper"))
        out = [*rig.up("n1/1", "n1/0"), *rig.up("n2/0", node="n2")]
        for i in range(20):
            rig.submit(program=i % 3 == 0)
            out += rig.last
            out += rig.step(i // 2 + 1, session=f"s{i % 3}")
            out += rig.finish(i + 1, prompt_tokens=i)
        return out + rig.tick(20)

    assert run() == run()


def test_a_program_goes_to_a_node_and_is_recorded_before_the_node_hears_of_it():
    rig = Rig()
    rig.up("n1/0")
    rig.submit(program=True)
    kinds = [type(a.fact).__name__ if hasattr(a, "fact") else type(a.message) for a in rig.last]
    assert kinds == ["WorkflowSubmitted", "ProgramGiven", RunProgram]
    want = said(rig.last)[0]
    assert (want.workflow, want.attempt, want.incarnation, want.log) == (1, 1, 1, "/l")
    assert (want.argv, want.cwd, want.env) == (PROGRAM.argv, PROGRAM.cwd, PROGRAM.env)
    assert only(rig.last, Send)
    assert not only(rig.last, Dispatch)
