"""Nodes and workers: hello, reports, fences, silence, restarts."""

from __future__ import annotations

import math

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
    said,
    worker,
)

from saga_core.actions import Dispatch
from saga_core.events import HeadStarted, NodeJoined, NodeLost, ProfileChanged, WorkerLost, WorkerReady
from saga_core.mirror import node_of
from saga_core.states import NodeState, WorkerState
from saga_core.wire import Ack, Goodbye, Refused, ResidentFact, Welcome, WhoAreYou


def test_a_hello_is_welcomed_with_what_the_node_needs():
    rig = Rig(config(report_every_s=0.5))
    actions = rig.hello(incarnation=7)
    assert said(actions) == [
        Welcome(protocol=1, cluster="test", incarnation=7, head=1, report_every_s=0.5),
    ]
    assert facts(actions) == [NodeJoined(node="n1", incarnation=7, host="n1")]
    assert not facts(rig.hello(incarnation=7)), "said twice, welcomed twice, joined once"


def test_another_protocol_is_refused_with_both_numbers():
    rig = Rig()
    (message,) = said(rig.hello(protocol=99, version="9.9"))
    assert isinstance(message, Refused)
    assert "protocol 99" in message.reason
    assert "this head speaks 1" in message.reason
    assert rig.head.fleet.nodes == {}


def test_a_report_is_acknowledged_and_mirrored():
    rig = Rig()
    rig.hello()
    actions = rig.report(worker(running=3, waiting=2, kv_usage=0.5))
    assert said(actions) == [Ack(incarnation=1, head=1, seq=1)]
    assert facts(actions) == [WorkerReady(worker="n1/0", incarnation=1, model="m")]
    mirrored = rig.head.fleet.workers["n1/0"]
    assert (mirrored.running, mirrored.waiting, mirrored.kv_usage, mirrored.load) == (3, 2, 0.5, 0.5)
    assert not facts(rig.report(worker()))


def test_figures_below_zero_are_zero():
    rig = Rig(config("saga"))
    rig.hello()
    rig.report(worker(capacity_tokens=-5, host_tokens=10, max_model_len=-1, running=-3, waiting=-2))
    seen = rig.head.fleet.workers["n1/0"]
    assert (seen.memory_tokens, seen.max_model_len, seen.running, seen.waiting) == (0, 0, 0, 0)
    assert dispatched(rig.step(rig.submit())) == "n1/0", "of unknown memory: no limit"


@pytest.mark.parametrize(("usage", "seen"), [(math.nan, 0.0), (-1.0, 0.0), (7.0, 1.0), (math.inf, 1.0)])
def test_absurd_figures_do_not_upset_placement(usage, seen):
    rig = Rig()
    rig.up("n1/0", "n1/1", kv_usage=usage, max_seqs=-3)
    assert rig.head.fleet.workers["n1/0"].kv_usage == seen
    assert dispatched(rig.step())


@pytest.mark.parametrize("seq", [0, 1, 2])
def test_an_old_report_is_stale(seq):
    rig = Rig()
    rig.hello()
    rig.report(seq=2)
    assert ignored(rig.report(worker(), seq=seq)) == ["stale"]
    assert rig.head.fleet.workers == {}


def test_reports_of_strangers_are_asked_who_they_are():
    rig = Rig()
    assert said(rig.report(node="n9"), "n9") == [WhoAreYou()]
    rig.hello(incarnation=1)
    assert said(rig.report(worker(), incarnation=2)) == [WhoAreYou()]
    assert rig.head.fleet.workers == {}


def test_words_of_an_older_incarnation_are_stale():
    rig = Rig()
    rig.hello(incarnation=5)
    assert ignored(rig.hello(incarnation=4)) == ["stale"]
    assert ignored(rig.report(worker(), incarnation=4)) == ["stale"]
    assert ignored(rig(Goodbye(node="n1", incarnation=4))) == ["stale"]
    assert ignored(rig(Goodbye(node="n9", incarnation=4))) == ["stale"]
    assert rig.head.fleet.nodes["n1"].state is NodeState.UP


def test_a_report_that_builds_on_what_we_do_not_have_is_asked_to_begin_anew():
    """The welcome of a second registration was lost: the node goes on with changes alone."""
    rig = Rig()
    rig.up("n1/0")
    rig.tick(6)
    rig.hello()
    assert said(rig.report(worker(), since=1)) == [WhoAreYou()]
    assert isinstance(said(rig.report(worker(), since=0))[0], Ack)


def test_a_late_report_from_before_a_second_registration_is_stale():
    rig = Rig()
    rig.up("n1/0")
    rig.report(worker(), seq=5)
    rig.tick(6)
    rig.hello()
    assert ignored(rig.report(worker(), seq=4)) == ["stale"]


def test_a_silent_node_is_lost_with_its_workers():
    rig = Rig()
    rig.up("n1/0", "n1/1")
    rig.up("n2/0", node="n2")
    rig.report(worker("n1/0"), worker("n1/1", WorkerState.STARTING))
    rig.now += 4
    rig.report(worker("n2/0"), node="n2")
    assert not rig.tick(0.5)
    actions = rig.tick(0.1)
    assert facts(actions, NodeLost) == [NodeLost(node="n1", reason="no report for 4.6 s")], "within 5 s"
    assert disconnected(actions) == ["n1/0"], "the other one had no connections any more"
    assert [f.worker for f in facts(actions, WorkerLost)] == ["n1/0"]
    assert dispatched(rig.step()) == "n2/0"


def test_a_worker_whose_node_was_only_silent_is_taken_again_though_it_says_the_same():
    rig = Rig()
    rig.up("n1/0")
    rig.tick(5.1)
    assert rig.head.fleet.workers["n1/0"].state is WorkerState.LOST
    rig.hello()
    assert facts(rig.report(worker("n1/0"))) == [WorkerReady(worker="n1/0", incarnation=1, model="m")]
    assert dispatched(rig.step()) == "n1/0"


def test_steps_on_a_lost_worker_go_elsewhere_when_their_connection_is_closed():
    rig = Rig()
    rig.up("n1/0")
    rig.step()
    actions = rig.tick(6)
    assert disconnected(actions) == ["n1/0"]
    assert not only(rig.lose(1), Dispatch)
    assert dispatched(rig.up("n2/0", node="n2")) == "n2/0"


def test_a_worker_that_is_killed_is_disconnected_and_its_memory_is_gone():
    rig = Rig()
    rig.up("n1/0")
    rig.step(rig.submit())
    rig.report(worker(), resident=[ResidentFact("n1/0", "1.main", 64)])
    actions = rig.report(worker(state=WorkerState.LOST, reason="no answer to 10 probes"))
    assert facts(actions) == [WorkerLost(worker="n1/0", incarnation=1, reason="no answer to 10 probes")]
    assert disconnected(actions) == ["n1/0"]
    assert rig.head.fleet.workers["n1/0"].resident == {}
    rig.report(worker(state=WorkerState.LOST), resident=[ResidentFact("n1/0", "1.main", 64)])
    assert rig.head.fleet.workers["n1/0"].resident == {}


def test_a_worker_that_starts_again_says_so_only_when_it_was_ready():
    rig = Rig()
    rig.up("n1/0")
    lost = facts(rig.report(worker(state=WorkerState.STARTING, incarnation=2)))[0]
    assert (type(lost), lost.reason, lost.incarnation) == (WorkerLost, "it is starting", 1)
    assert not facts(rig.report(worker(state=WorkerState.LOST, incarnation=2)))


def test_a_worker_restarted_between_two_reports_has_lost_its_memory():
    rig = Rig()
    rig.up("n1/0")
    rig.step(rig.submit())
    rig.report(worker(), resident=[ResidentFact("n1/0", "1.main", 64)])
    actions = rig.report(worker(incarnation=2))
    assert [type(f) for f in facts(actions)] == [WorkerLost, WorkerReady]
    assert facts(actions)[0].reason == "it was restarted as 2"
    assert not disconnected(actions)
    assert rig.head.fleet.workers["n1/0"].resident == {}
    assert ignored(rig.report(worker(incarnation=1))) == ["stale"]


def test_a_worker_cannot_be_claimed_by_another_node():
    rig = Rig()
    rig.hello("n1")
    rig.hello("n2")
    assert ignored(rig.report(worker("n1/0"), node="n2")) == ["not its worker"]
    rig.report(worker("n1/0"), node="n1")
    actions = rig.report(node="n2", resident=[ResidentFact("n1/0", "1.main", 5)])
    assert ignored(actions) == ["not its worker"]
    assert rig.head.fleet.workers["n1/0"].node == "n1"
    assert node_of("rack/7/n1/0") == "rack/7/n1"


def test_a_worker_that_its_node_no_longer_has_is_forgotten():
    rig = Rig()
    rig.up("n1/0", "n1/1", model="m")
    rig.step(rig.submit())
    at = rig.head.book.steps[1].worker
    other = "n1/1" if at == "n1/0" else "n1/0"
    actions = rig.report(worker(other))
    assert disconnected(actions) == [at]
    assert at in rig.head.fleet.workers, "a step is still counted there"
    rig.lose(1, at)
    rig.report(worker(other))
    assert set(rig.head.fleet.workers) == {other}


def test_homes_survive_the_loss_and_return_of_a_worker():
    rig = Rig(config("saga-paper"))
    rig.up("n1/0")
    rig.step(rig.submit())
    rig.finish(1)
    rig.report()
    assert rig.head.fleet.workers == {}
    assert rig.head.fleet.homes() == {"n1/0": 1}
    rig.report(worker(incarnation=2))
    assert rig.head.fleet.workers["n1/0"].homes == 1
    rig.end(1)
    assert rig.head.fleet.workers["n1/0"].homes == 0


def test_a_restarted_daemon_is_a_loss_and_a_return():
    rig = Rig()
    rig.up("n1/0")
    actions = rig.hello(incarnation=2)
    assert [type(f) for f in facts(actions)] == [NodeLost, WorkerLost, NodeJoined]
    assert facts(actions)[0].reason == "its daemon was restarted"
    rig.report(worker(incarnation=2), incarnation=2)
    assert dispatched(rig.step()) == "n1/0"


def test_a_goodbye_is_final_for_its_incarnation():
    rig = Rig()
    rig.up("n1/0")
    actions = rig(Goodbye(node="n1", incarnation=1, reason="walltime"))
    assert facts(actions)[0] == NodeLost(node="n1", reason="walltime")
    assert rig.head.fleet.nodes["n1"].state is NodeState.LEFT
    assert ignored(rig(Goodbye(node="n1", incarnation=1))) == ["stale"]
    assert ignored(rig.hello(incarnation=1)) == ["stale"], "a late copy of its first word"
    assert said(rig.report(worker())) == [WhoAreYou()]
    assert facts(rig.hello(incarnation=2), NodeJoined)


def test_a_lost_node_can_still_say_goodbye_and_come_back():
    rig = Rig()
    rig.up("n1/0")
    rig.tick(6)
    assert rig.head.fleet.nodes["n1"].state is NodeState.LOST
    assert said(rig.report(worker())) == [WhoAreYou()]
    rig.hello()
    assert rig.head.fleet.nodes["n1"].state is NodeState.UP
    rig.tick(6)
    assert facts(rig(Goodbye(node="n1", incarnation=1)))[0].reason == "it left"


def test_residency_goes_away_with_a_zero():
    rig = Rig()
    rig.up("n1/0")
    rig.step(rig.submit())
    rig.report(worker(), resident=[ResidentFact("n1/0", "1.main", 64)])
    assert rig.head.fleet.workers["n1/0"].resident == {"1.main": 64}
    rig.report(worker(), resident=[ResidentFact("n1/0", "1.main", 0)])
    assert rig.head.fleet.workers["n1/0"].resident == {}


# -- restarts of the head -------------------------------------------------------------------


def test_a_restarted_head_has_the_same_book_but_for_steps_in_flight():
    rig = Rig()
    rig.up("n1/0")
    flow = rig.submit(program=True)
    rig.report(worker(), programs=[program(flow)])
    rig.step(flow)
    rig.step(key="K", session="a")
    rig.finish(1, prompt_tokens=5, output_tokens=2)
    assert dump(rig.replayed()) == dump(rig.head.book)
    again = rig.restarted()
    assert again.head.book.steps == {}
    assert again.head.book.workflows[2].sessions["a"].running == 0
    assert again.head.fleet.homes() == {"n1/0": 2}
    again.up("n1/0")
    assert again.head.fleet.workers["n1/0"].homes == 2
    assert dump(again.replayed()) == dump(again.head.book)


def test_a_head_with_an_old_incarnation_does_not_take_over():
    rig = Rig()
    actions = rig(HeadStarted(incarnation=1, version="1"))
    assert ignored(actions) == ["stale"]


def test_a_profile_that_is_unknown_after_an_upgrade_gives_way_to_the_configured_one():
    rig = Rig(config("sticky"))
    rig.kept.append((rig.now, ProfileChanged(profile="from-the-future")))
    rig = rig.restarted()
    assert ignored(rig.last) == ["unknown profile"]
    assert facts(rig.last, ProfileChanged) == [ProfileChanged(profile="sticky")]
    rig.up("n1/0")
    assert dispatched(rig.step())


def test_a_recovered_outside_workflow_is_watched_again():
    rig = Rig(config(idle_workflow_s=50))
    rig.step(key="K")
    rig = rig.restarted()
    rig.tick(51)
    assert rig.head.book.live == 0
