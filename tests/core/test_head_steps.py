"""The way of a step: placed, waiting, refused, lost, over."""

from __future__ import annotations

import pytest
from core_rig import Rig, config, dispatched, facts, ignored, one, only, refused, worker

from saga_core.actions import Abort, Dispatch, Refuse
from saga_core.book import SESSIONS
from saga_core.events import Outcome, StepArrived, StepFinished, StepLost, StepPlaced, WorkflowSubmitted
from saga_core.states import SessionState, WorkerState
from saga_core.wire import ResidentFact


def test_a_step_is_recorded_placed_and_sent():
    rig = Rig()
    rig.up("n1/0")
    flow = rig.submit()
    actions = rig.step(flow)
    assert [type(f) for f in facts(actions)] == [StepArrived, StepPlaced]
    sent = one(actions, Dispatch)
    assert (sent.step, sent.worker, sent.session) == (1, "n1/0", "1.main")
    assert sent.why
    assert actions.index(sent) == len(actions) - 1, "the facts come before the deed"
    assert rig.head.fleet.workers["n1/0"].placed == 1


def test_a_finished_step_is_counted_and_its_session_is_in_a_tool():
    rig = Rig()
    rig.up("n1/0")
    flow = rig.submit()
    rig.step(flow)
    rig.finish(1, prompt_tokens=90, cached_tokens=40, output_tokens=10)
    workflow = rig.head.book.workflows[flow]
    session = workflow.sessions["main"]
    assert (workflow.steps, workflow.prompt_tokens, workflow.cached_tokens, workflow.output_tokens) == (
        1, 90, 40, 10,
    )  # fmt: skip
    assert (session.state, session.context_tokens, session.home) == (SessionState.TOOL, 100, "n1/0")
    assert rig.head.fleet.workers["n1/0"].resident == {"1.main": 100}
    assert rig.head.fleet.workers["n1/0"].placed == 0


def test_a_failed_step_leaves_no_residency_and_no_step():
    rig = Rig()
    rig.up("n1/0")
    flow = rig.submit()
    rig.step(flow)
    rig.finish(1, Outcome.CLIENT_GONE)
    assert rig.head.fleet.workers["n1/0"].resident == {}
    assert rig.head.book.workflows[flow].steps == 0
    assert rig.head.book.counts.steps_done == 0


def test_what_the_node_said_of_residency_is_better_than_our_guess():
    rig = Rig()
    rig.up("n1/0")
    flow = rig.submit()
    rig.step(flow)
    rig.report(worker(), resident=[ResidentFact("n1/0", "1.main", 96)])
    rig.finish(1, prompt_tokens=90, output_tokens=10)
    assert rig.head.fleet.workers["n1/0"].resident == {"1.main": 96}


def test_a_session_with_two_steps_reasons_while_one_is_on_a_worker():
    rig = Rig()
    rig.up("n1/0")
    flow = rig.submit()
    rig.step(flow)
    rig.step(flow)
    session = rig.head.book.workflows[flow].sessions["main"]
    rig.lose(1)  # its worker is suspect now: step 1 waits, step 2 is still there
    assert (session.state, session.running, session.placed) == (SessionState.REASONING, 2, 1)
    rig.finish(2)
    assert session.state is SessionState.QUEUED
    rig.finish(1, Outcome.CLIENT_GONE)
    assert session.state is SessionState.TOOL


def test_steps_wait_while_no_worker_is_ready_and_go_in_the_order_of_arrival():
    rig = Rig()
    rig.hello()
    rig.report(worker(state=WorkerState.STARTING))
    flow = rig.submit()
    for _ in range(3):
        assert not only(rig.step(flow), Dispatch)
    assert list(rig.head.waiting) == [1, 2, 3]
    assert rig.head.book.workflows[flow].sessions["main"].state is SessionState.QUEUED
    actions = rig.report(worker())
    assert [a.step for a in only(actions, Dispatch)] == [1, 2, 3]
    assert not rig.head.waiting


def test_a_ready_worker_serves_its_own_model_only():
    rig = Rig()
    rig.step(model="a")
    rig.step(model="b")  # the fleet is empty: nobody knows yet which models exist
    actions = rig.up("n1/0", model="b")
    assert [a.step for a in only(actions, Dispatch)] == [2]
    assert list(rig.head.waiting) == [1]


def test_a_step_that_waited_too_long_is_refused_with_503():
    rig = Rig(config(queue_timeout_s=10))
    rig.step()
    rig.now += 6
    rig.step()
    assert not rig.tick(3.9)
    actions = rig.tick(0.2)
    answer = refused(actions)
    assert (answer.step, answer.status, answer.code, answer.retry_after_s) == (1, 503, "no_worker", 10)
    assert "'m'" in answer.message
    assert "10 s" in answer.message
    assert facts(actions, StepFinished)[0].outcome is Outcome.REJECTED
    assert list(rig.head.waiting) == [2]


def test_waiting_counts_from_the_moment_it_began_not_from_arrival():
    rig = Rig(config(queue_timeout_s=10))
    rig.up("n1/0")
    rig.step()
    rig.now += 60
    rig.lose(1)
    assert not only(rig.tick(9.0), Refuse)
    rig.head.fleet.nodes["n1"].seen_at = rig.now  # it is alive, its worker suspect
    assert refused(rig.tick(1.1)).step == 1


def test_the_queue_is_bounded():
    rig = Rig(config(max_waiting=2))
    rig.step()
    rig.step()
    answer = refused(rig.step())
    assert (answer.status, answer.code, answer.retry_after_s) == (503, "queue_full", 5)
    assert rig.head.book.steps.keys() == {1, 2}


def test_an_unknown_model_is_404_with_the_valid_names_and_opens_nothing():
    rig = Rig()
    rig.up("n1/0", model="b")
    rig.up("n2/0", node="n2", model="a")
    answer = refused(rig.step(model="x", key="mine"))
    assert (answer.status, answer.type, answer.code) == (404, "invalid_request_error", "model_not_found")
    assert answer.message == "the model 'x' does not exist (have: a, b)"
    assert rig.head.book.workflows == {}


def test_a_model_nobody_serves_any_more_is_unknown_again():
    rig = Rig()
    rig.up("n1/0", model="old")
    rig.report(worker(incarnation=2, model="new"))
    assert "have: new" in refused(rig.step(model="old")).message
    assert dispatched(rig.step(model="new")) == "n1/0"


def test_after_a_restart_a_model_whose_node_is_late_is_waited_for():
    rig = Rig(config(node_timeout_s=5.0))
    rig.up("n1/0", model="a")
    rig.up("n2/0", node="n2", model="b")
    again = rig.restarted()
    again.up("n1/0", model="a")
    assert not only(again.step(model="b"), Refuse)
    again.step(model="x")
    assert dispatched(again.up("n2/0", node="n2", model="b")) == "n2/0"
    assert not only(again.tick(4.0), Refuse)
    again.report(worker(model="a"))
    answer = refused(again.tick(1.5))
    assert (answer.status, answer.message) == (404, "the model 'x' does not exist (have: a, b)")
    assert "does not exist" in refused(again.step(model="x")).message


def test_a_lost_step_goes_elsewhere():
    rig = Rig()
    rig.up("n1/0", "n1/1")
    first = dispatched(rig.step())
    actions = rig.lose(1, first)
    assert dispatched(actions) != first
    assert isinstance(facts(actions)[0], StepLost)
    assert rig.head.fleet.workers[first].placed == 0


def test_after_n_losses_a_step_is_refused_with_502():
    rig = Rig(config(max_step_losses=2))
    rig.up(*(f"n1/{i}" for i in range(5)))
    at = dispatched(rig.step())
    for _ in range(2):
        at = dispatched(rig.lose(1, at))
    answer = refused(rig.lose(1, at))
    assert (answer.status, answer.code) == (502, "worker_lost")
    assert "3 times" in answer.message
    assert rig.head.book.steps == {}


def test_a_suspect_worker_comes_back_with_a_later_report():
    rig = Rig()
    rig.up("n1/0")
    rig.step()
    assert not only(rig.lose(1), Dispatch)
    rig.now += 0.5
    assert not only(rig.report(worker()), Dispatch), "the report may be older than the failure"
    rig.now += 0.6
    assert dispatched(rig.report(worker())) == "n1/0"


def test_a_late_loss_says_nothing_about_a_restarted_worker():
    rig = Rig()
    rig.up("n1/0")
    rig.step()
    rig.report(worker(incarnation=2))
    assert dispatched(rig.lose(1)) == "n1/0", "it was lost by incarnation 1; 2 is fine"


def test_a_new_incarnation_is_not_suspect_any_more():
    rig = Rig()
    rig.up("n1/0")
    rig.step()
    rig.lose(1)
    assert dispatched(rig.report(worker(incarnation=2))) == "n1/0"


def test_a_late_end_leaves_no_residency_in_a_restarted_worker():
    rig = Rig()
    rig.up("n1/0")
    rig.step(rig.submit())
    rig.report(worker(incarnation=2))
    rig.finish(1, prompt_tokens=90)
    assert rig.head.fleet.workers["n1/0"].resident == {}


@pytest.mark.parametrize(
    "event",
    [
        StepFinished(step=77, outcome=Outcome.DONE),
        StepLost(step=77, worker="n1/0"),
        StepLost(step=1, worker="n1/9"),
        StepArrived(step=1, tenant="t", model="m"),
    ],
)
def test_stale_words_about_steps_are_ignored_and_change_nothing(event):
    rig = Rig()
    rig.up("n1/0")
    rig.step()
    actions = rig(event)
    assert len(actions) == 1
    assert ignored(actions) in (["stale"], ["unknown step"])


def test_a_step_of_an_unknown_workflow_is_404():
    rig = Rig()
    rig.up("n1/0")
    assert refused(rig.step(9)).code == "workflow_not_found"


def test_a_step_of_another_tenants_workflow_looks_like_an_unknown_one():
    rig = Rig()
    rig.up("n1/0")
    flow = rig.submit()
    mine = refused(rig.step(flow, tenant="somebody else"))
    unknown = refused(rig.step(flow + 1, tenant="somebody else"))
    assert mine.message == unknown.message.replace(str(flow + 1), str(flow))
    assert mine.status == unknown.status == 404


def test_a_step_of_a_workflow_that_is_over_is_409():
    rig = Rig()
    rig.up("n1/0")
    flow = rig.submit()
    rig.end(flow)
    answer = refused(rig.step(flow))
    assert (answer.status, answer.code) == (409, "workflow_over")
    assert "done" in answer.message


def test_a_workflow_has_a_bounded_number_of_sessions():
    rig = Rig()
    rig.up("n1/0")
    flow = rig.submit()
    workflow = rig.head.book.workflows[flow]
    rig.step(flow, session="main")
    rig.finish(1)
    main = workflow.sessions["main"]
    workflow.sessions.update({f"s{i}": main for i in range(SESSIONS - 1)})
    event = StepArrived(step=9, tenant="t", model="m", workflow=flow, session="new")
    assert refused(rig.head.handle(event, now=rig.now)).code == "too_many_sessions"
    known = StepArrived(step=10, tenant="t", model="m", workflow=flow, session="main")
    assert dispatched(rig.head.handle(known, now=rig.now))


def test_a_key_from_outside_opens_one_workflow_per_tenant():
    rig = Rig()
    rig.up("n1/0")
    first = facts(rig.step(key="K", tenant="a", agent_type="coder"), WorkflowSubmitted)[0]
    assert (first.kind, first.name, first.key, first.agent_type) == ("outside", "K", "K", "coder")
    assert not facts(rig.step(key="K", tenant="a"), WorkflowSubmitted)
    other = facts(rig.step(key="K", tenant="b"), WorkflowSubmitted)[0]
    assert other.workflow != first.workflow
    assert rig.head.book.workflows[first.workflow].running.keys() == {1, 2}


def test_a_key_is_free_again_after_the_end():
    rig = Rig()
    rig.up("n1/0")
    rig.step(key="K")
    actions = rig.end(1)
    assert one(actions, Abort).step == 1
    rig.step(key="K")
    assert rig.head.book.find("t", "K").id == 2


def test_a_step_without_any_name_belongs_to_nobody():
    rig = Rig(config("saga-paper"))
    rig.up("n1/0")
    assert one(rig.step(), Dispatch).session is None
    rig.finish(1, prompt_tokens=5)
    assert rig.head.book.workflows == {}
    assert rig.head.fleet.workers["n1/0"].resident == {}
    assert rig.head.book.counts.prompt_tokens == 5


def test_a_session_whose_only_step_was_lost_is_queued_until_it_is_placed_again():
    rig = Rig()
    rig.up("n1/0")
    flow = rig.submit()
    rig.step(flow)
    session = rig.head.book.workflows[flow].sessions["main"]
    rig.lose(1)
    assert session.state is SessionState.QUEUED
    rig.report(worker(incarnation=2))
    assert session.state is SessionState.REASONING


def test_a_step_of_no_workflow_leaves_nothing_at_the_gate_when_it_is_given_up():
    rig = Rig(config("saga", max_step_losses=0))
    rig.up(capacity_tokens=4000)
    rig.step(body_bytes=8000)
    refused(rig.lose(1))
    assert not rig.head.gates["m"].claims


def test_at_the_gate_of_another_model_a_workflow_has_come_with_its_first_step_there():
    rig = Rig(config("saga"))
    rig.up("n1/0", model="m", capacity_tokens=10**6)
    rig.up("n2/0", node="n2", model="b", capacity_tokens=1000)
    for _ in range(10):
        flow = rig.submit()
        rig.step(flow)
        rig.finish(rig.steps, prompt_tokens=100_000, output_tokens=10)
        rig.end(flow)
    assert rig.head.accounts.virtual_s("m") > 60.0
    rig.step(rig.submit(), model="b", body_bytes=8000)  # its memory is full
    large, small = rig.submit(work_s=50.0), rig.submit(work_s=1.0)
    rig.step(large, model="m")
    rig.finish(rig.steps, prompt_tokens=100, output_tokens=10)
    rig.step(large, model="b", body_bytes=8000)
    rig.step(small, model="b", body_bytes=8000)
    gate = rig.head.gates["b"]
    waiting = {claim.account.workflow: claim for claim in gate.waiters.sessions().values()}
    assert (gate.before(waiting[small]), gate.before(waiting[large])) == (0, 1)
    assert waiting[large].account.attained_s == rig.head.accounts.of(large).attained_s > 0.0
    rig.end(large)
    assert not rig.head._steps.gates._guests
