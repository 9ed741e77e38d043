"""A head and its nodes over links that drop, repeat, delay and reorder; daemons die in between."""

from __future__ import annotations

import os
from collections import Counter

import pytest
from hostile import Box

from saga_core.events import SessionMoved
from saga_core.node_moves import KEEP_S
from saga_core.states import NodeState, WorkerState, WorkflowState

SEEDS = int(os.environ.get("PAIR_SEEDS", "150"))
BATCH = 10


def settled(seed: int, **more) -> Box:
    """Twenty seconds of trouble, then quiet until nothing changes any more."""
    box = Box(seed, **more)
    box.run(20)
    box.faults.calm()
    box.run(40)
    return box


@pytest.mark.parametrize("first", range(0, SEEDS, BATCH))
def test_after_the_storm_head_and_nodes_agree(first):
    for seed in range(first, first + BATCH):
        box = settled(seed)
        nothing_is_lost(box)
        nothing_ran_twice(box)
        the_mirror_is_true(box)


def nothing_is_lost(box: Box) -> None:
    """Every accepted workflow is known; every program has ended, since its world is quiet."""
    assert box.head.book.workflows.keys() == set(box.accepted)
    for workflow in box.head.book.workflows.values():
        if workflow.program is not None:
            pytest.fail(f"workflow {workflow.id} is still {workflow.state} ({workflow.story})")
        assert workflow.state is not WorkflowState.CANCELLING
    assert not box.head.waiting
    assert not box.head.book.steps


def nothing_ran_twice(box: Box) -> None:
    attempts = Counter((workflow, attempt) for _, workflow, attempt in box.starts)
    assert set(attempts.values()) <= {1}, attempts.most_common(3)


def the_mirror_is_true(box: Box) -> None:
    fleet = box.head.fleet
    for name, daemon in box.daemons.items():
        assert fleet.nodes[name].state is NodeState.UP
        assert fleet.nodes[name].incarnation == daemon.node.incarnation
        assert daemon.node.programs.facts == {}, "everything ended is forgotten"
        assert fleet.nodes[name].programs == 0
        for worker, incarnation in daemon.workers.items():
            mirrored = fleet.workers[worker]
            assert (mirrored.state, mirrored.incarnation) == (WorkerState.READY, incarnation)
            living = box.head.book.sessions
            true = {s: n for (w, s), n in daemon.kv.items() if w == worker and s in living}
            assert mirrored.resident == true, (worker, mirrored.resident, true)
    homes = Counter(s.home for s in box.head.book.sessions.values() if s.home is not None)
    assert dict(homes) == fleet.homes()


@pytest.mark.parametrize("first", range(0, SEEDS // 3, BATCH))
def test_after_the_storm_engines_know_what_the_head_means(first):
    """Under a profile that values KV: what each engine was told is what the head would say now."""
    known = 0
    for seed in range(first, first + BATCH):
        box = settled(seed, profile="saga")
        nothing_is_lost(box)
        the_mirror_is_true(box)
        known += the_worths_are_true(box)
    assert known > BATCH


@pytest.mark.parametrize("first", range(0, SEEDS // 5, BATCH))
def test_after_the_storm_nothing_is_lost_though_nodes_were_drained_in_it(first):
    drained = 0
    for seed in range(first, first + BATCH):
        box = Box(seed, profile="saga", drains=True)
        box.run(20)
        box.faults.calm()
        box.run(10)
        drained += len(box.head.book.drains)
        box.take_back_all()
        box.run(40)
        nothing_is_lost(box)
        nothing_ran_twice(box)
        the_mirror_is_true(box)
    assert drained


@pytest.mark.parametrize("first", range(0, SEEDS // 15, BATCH))
def test_after_the_storm_no_move_and_no_file_is_left(first):
    """Sessions of nodes that drain take their KV along, over links that lose and reorder every word of it."""
    ended: Counter[bool] = Counter()
    for seed in range(first, first + BATCH):
        box = Box(seed, profile="saga", drains=True, moves=True)
        box.run(30)
        box.faults.calm()
        box.run(10)
        box.take_back_all()
        box.run(KEEP_S)
        nothing_is_lost(box)
        nothing_ran_twice(box)
        the_mirror_is_true(box)
        assert not [daemon.files for daemon in box.daemons.values() if daemon.files]
        assert not box.head.moves.all
        ended.update(not fact.failed for _, fact in box.kept if isinstance(fact, SessionMoved))
    assert ended[True]
    assert ended[False]


def the_worths_are_true(box: Box) -> int:
    """How many worths engines hold. Sessions at home are valued as the head does, and nobody else is."""
    homes = {session.id: session.home for session in box.head.book.sessions.values()}
    meant = {name: channel for name, channel in box.head.worths.channels.items() if not channel.pending}
    assert meant.keys() == box.head.worths.channels.keys(), "all is said and has arrived"
    known = 0
    for daemon in box.daemons.values():
        for worker in daemon.workers:
            told = meant[worker].told if worker in meant else {}
            assert daemon.worths[worker] == told, worker
            assert all(homes.get(session) == worker for session in told)
            known += len(told)
    return known


def test_the_storm_is_one():
    """The seeds do cover what they claim to: restarts of both kinds, second attempts, moved steps."""
    boxes = [Box(seed) for seed in range(20)]
    for box in boxes:
        box.run(20)
    kinds = Counter(type(fact).__name__ for box in boxes for _, fact in box.kept)
    for kind in ("HeadStarted", "NodeLost", "WorkerLost", "StepPlaced", "WorkflowRequeued", "CancelAsked"):
        assert kinds[kind] >= 15, kinds
    assert kinds["HeadStarted"] > len(boxes)
    assert kinds["ProgramStarted"] > 20
    assert kinds["StepLost"] > 0


def test_a_quiet_cluster_says_only_what_it_must():
    """Without faults: nobody asks who anybody is, and nothing is asked for twice."""
    box = Box(0)
    box.faults.calm()
    box.run(5)
    said = []
    post = box.post
    box.post = lambda to, message: (said.append(type(message).__name__), post(to, message))
    for _ in range(10):
        box.work()
        box.run(1)
    assert set(said) <= {"Report", "Ack", "RunProgram", "ForgetProgram", "StopProgram", "Worths", "Valued"}
    assert said.count("Worths") == said.count("Valued")
    assert len([s for s in said if s == "RunProgram"]) == len(box.starts)


def test_the_same_seed_is_the_same_history():
    assert settled(3).kept == settled(3).kept
