"""Engines that hang behind a server that answers: the node sees requests that nothing is done for, the head steps."""

from __future__ import annotations

import pytest
from core_rig import Rig as HeadRig
from core_rig import config, ignored, said, worker

from saga_core import node_words as words
from saga_core import wire
from saga_core.config import Config, NodeConfig
from saga_core.node import Node
from saga_core.states import WorkerState

W = "n1/0"


class NodeRig:
    """A node with one ready worker."""

    def __init__(self) -> None:
        self.now = 100.0
        self.node = Node(
            "n1", {W: "m"}, NodeConfig(stall_s=30), incarnation=1000, host="h", version="1", now=self.now
        )
        self(words.Tick())
        self(words.WorkerUp(W, 1001, "h", 9, "key", "m", 5000, 4000, 8))
        welcome = wire.Welcome(protocol=1, cluster="c", incarnation=1000, head=1, report_every_s=1.0)
        self(words.HeadSaid(welcome))

    def __call__(self, event, *, after=0.0):
        self.now += after
        actions = self.node.handle(event, now=self.now)
        self.node.check()
        return [action for action in actions if isinstance(action, words.KillWorker | words.Ignored)]

    def load(self, running=1, waiting=0, usage=0.5, tokens: int | None = 7, after=10.0):
        return self(words.WorkerLoad(W, 1001, running, waiting, usage, tokens), after=after)


def test_an_engine_that_has_requests_and_does_nothing_is_killed():
    rig = NodeRig()
    for _ in range(4):
        assert rig.load() == []
    reason = "it hangs: 1 requests, nothing done for 30 s"
    assert rig.load() == [words.KillWorker(W, 1001, reason)]
    assert rig.node.workers[W].state is WorkerState.LOST
    assert rig.load() == [], "killed once"


@pytest.mark.parametrize("change", [{"tokens": 8}, {"usage": 0.6}, {"running": 2}, {"waiting": 1}])
def test_any_change_is_progress(change):
    rig = NodeRig()
    for _ in range(4):
        rig.load()
    assert rig.load(**change) == []
    for _ in range(3):
        assert rig.load(**change) == []
    assert rig.load(**change) != []


def test_an_idle_engine_and_one_that_counts_nothing_are_left_alone():
    rig = NodeRig()
    for _ in range(9):
        assert rig.load(running=0) == []
    rig = NodeRig()
    for _ in range(9):
        assert rig.load(tokens=None) == []
    assert rig.node.workers[W].stirs == 0, "the head is told that nobody knows"


def test_a_worker_is_restarted_when_the_head_says_so():
    rig = NodeRig()
    want = wire.RestartWorker(worker=W, incarnation=1000, reason="it hangs")
    assert rig(words.HeadSaid(want)) == [words.Ignored("stale", f"request to restart {W}")]
    want = wire.RestartWorker(worker=W, incarnation=1001, reason="it hangs")
    assert rig(words.HeadSaid(want)) == [words.KillWorker(W, 1001, "it hangs")]
    assert rig(words.HeadSaid(want)) == [words.Ignored("stale", f"request to restart {W}")], "said again"


# -- the head --------------------------------------------------------------------------------


def head(stall_s: float = 30) -> HeadRig:
    made = config("least-loaded", node_timeout_s=1000)
    rig = HeadRig(Config(profile=made.profile, name="test", head=made.head, node=NodeConfig(stall_s=stall_s)))
    rig.up("n1/0", stirs=1)
    return rig


def restarts(actions) -> list[wire.RestartWorker]:
    return [message for message in said(actions) if isinstance(message, wire.RestartWorker)]


def test_steps_on_an_engine_whose_figures_stand_still_have_it_restarted():
    """It stopped before it counted them: its gauges say that it is idle."""
    rig = head()
    rig.now += 100
    rig.step()
    assert restarts(rig.report(worker(stirs=1))) == [], "placed just now"
    rig.now += 29
    assert restarts(rig.report(worker(stirs=1))) == []
    rig.now += 2
    reason = "it hangs: 1 steps sent, nothing done for 31 s"
    want = wire.RestartWorker(worker=W, incarnation=1, reason=reason)
    assert restarts(rig.report(worker(stirs=1))) == [want]
    assert restarts(rig.report(worker(stirs=1))) == [want], "repeated until it is done"
    assert restarts(rig.report(worker(stirs=1, state=WorkerState.LOST, reason="it hangs"))) == []


def test_an_engine_that_does_something_or_has_nothing_to_do_is_left_alone():
    rig = head()
    rig.step()
    for stirs in range(2, 9):
        rig.now += 20
        assert restarts(rig.report(worker(stirs=stirs))) == []
    rig.finish(1)
    rig.now += 100
    assert restarts(rig.report(worker(stirs=8))) == []
    rig.now += 100
    assert restarts(rig.report(worker(stirs=8))) == []


def test_of_an_engine_that_does_not_count_nothing_is_concluded():
    rig = head()
    rig.report(worker(stirs=0))
    rig.step()
    rig.now += 500
    assert restarts(rig.report(worker(stirs=0))) == []
    assert ignored(rig.report(worker(stirs=0))) == []
