"""A session that goes to another worker takes its KV along: when it is worth it, in two phases, and with an end in any case."""

from __future__ import annotations

from functools import partial

import pytest
from core_rig import Rig, config, dispatched, facts, ignored, one, only, said, worker

from saga_core import wire
from saga_core.actions import Dispatch
from saga_core.costs import CostTable
from saga_core.decisions import Verdict
from saga_core.events import DrainAsked, Outcome, SessionMoved, StepLost
from saga_core.node import Node
from saga_core.node_moves import KEEP_S
from saga_core.node_words import (
    HeadSaid,
    Ignored,
    KvMoved,
    MoveKv,
    RemoveKv,
    SendHead,
    WorkerUp,
)
from saga_core.node_words import Tick as NodeTick
from saga_core.policy.migration import FAILED_TIMES, HALF_LIFE_S, LEARNT, Migration, Offer, Way, price
from saga_core.reasons import why
from saga_core.states import WorkerState
from saga_core.wire import Half

OLD, NEW = "n1/0", "n2/0"
ROOM = {"capacity_tokens": 100_000, "kv_token_bytes": 512, "values": True}
LONG = 8000
"""Tokens: 0.36 s to compute again by the cost table, 0.056 s to move."""


def two(profile="saga", **more) -> Rig:
    rig = Rig(config(profile, node_timeout_s=1000))
    rig.up(OLD, **(ROOM | more))
    rig.up(NEW, node="n2", **(ROOM | more))
    return rig


def settled(rig: Rig, tokens: int = LONG, **more) -> int:
    """A workflow with one step behind it, at home on the old worker, which drains from now on."""
    flow = rig.submit()
    assert dispatched(rig.step(flow, **more)) == OLD
    rig.finish(rig.steps, prompt_tokens=tokens - 10, output_tokens=10)
    rig(DrainAsked(node="n1"))
    return flow


def moving(rig: Rig, tokens: int = LONG) -> tuple[int, wire.MoveHalf]:
    """The same, with its next step: the workflow, and what the old home is asked."""
    flow = settled(rig, tokens)
    actions = rig.step(flow)
    assert not only(actions, Dispatch), "it waits"
    return flow, halves(actions, "n1", Half.EXPORT)[0]


def wants(actions, node, kind):
    return [message for message in said(actions, node) if isinstance(message, kind)]


def halves(actions, node, half):
    return [want for want in wants(actions, node, wire.MoveHalf) if want.half is half]


def answered(rig: Rig, want, tokens=LONG, *, half: Half, **more):
    """The node of that half says how it went."""
    told = {
        "node": "n1" if half is Half.EXPORT else "n2",
        "incarnation": 1,
        "head": want.head,
        "move": want.move,
        "half": half,
        "tokens": tokens,
        "copied_bytes": 512 * tokens,
    }
    return rig(wire.HalfMoved(**(told | more)))


exported, adopted = (partial(answered, half=half) for half in Half)


def moved(actions) -> SessionMoved:
    (fact,) = facts(actions, SessionMoved)
    return fact


# -- the whole way ---------------------------------------------------------------------------


def test_the_next_step_after_a_drain_finds_its_kv_at_the_new_home():
    rig = two()
    flow, want = moving(rig)
    assert (want.worker, want.incarnation, want.session, want.other) == (OLD, 1, f"{flow}.main", "n2")
    actions = exported(rig, want)
    (adopt,) = halves(actions, "n2", Half.ADOPT)
    assert (adopt.worker, adopt.incarnation, adopt.session, adopt.other) == (NEW, 1, f"{flow}.main", "n1")
    assert (adopt.head, adopt.move) == (want.head, want.move)
    assert not only(actions, Dispatch)
    rig.now += 0.03
    actions = adopted(rig, adopt)
    assert dispatched(actions) == NEW
    fact = moved(actions)
    assert (fact.source, fact.target, fact.tokens, fact.failed) == (OLD, NEW, LONG, "")
    assert fact.took_s == pytest.approx(0.03)
    assert fact.priced_s < fact.again_s
    end = wire.EndMove(head=want.head, move=want.move)
    assert wants(actions, "n1", wire.EndMove) == wants(actions, "n2", wire.EndMove) == [end]
    assert rig.head.fleet.workers[NEW].resident == {}, "its node will tell"
    assert rig.head.book.sessions[f"{flow}.main"].home == NEW


def test_the_old_engine_hears_that_it_is_over_there_when_the_move_has_ended_and_not_before():
    rig = two()
    flow = settled(rig)
    rig.tick()
    _, want = flow, halves(rig.step(flow), "n1", Half.EXPORT)[0]
    before = [w for w in said(rig.tick(), "n1") if isinstance(w, wire.Worths) and w.worths]
    assert not any(f"{flow}.main" in w.worths and w.worths[f"{flow}.main"][0] == 0 for w in before)
    (adopt,) = halves(exported(rig, want), "n2", Half.ADOPT)
    adopted(rig, adopt)
    (told,) = [w for w in said(rig.tick(), "n1") if isinstance(w, wire.Worths)]
    assert told.worths[f"{flow}.main"][0] == 0


def test_it_says_so_to_whoever_asks():
    rig = two()
    flow, want = moving(rig)
    (adopt,) = halves(exported(rig, want), "n2", Half.ADOPT)
    adopted(rig, adopt)
    (made,) = [d for d in rig.head.decisions.of(flow) if d.verdict is Verdict.MIGRATED]
    assert (made.worker, made.tokens) == (NEW, LONG)
    assert why(made).startswith(f"8,000 tokens of KV from {OLD}, after 0.00 s (expected 0.06, ")
    assert rig.head.decisions.totals["migrated"] == 1


def test_a_second_step_of_the_session_waits_for_the_same_move():
    rig = two()
    flow, want = moving(rig)
    assert not only(rig.step(flow), Dispatch)
    (adopt,) = halves(exported(rig, want), "n2", Half.ADOPT)
    assert [d.step for d in only(adopted(rig, adopt), Dispatch)] == [2, 3]


# -- when it is not worth it -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("rig", "tokens"),
    [
        (two, 300),
        (lambda: two(kv_token_bytes=1_000_000), LONG),
        (lambda: two(kv_token_bytes=0), LONG),
        (lambda: two("sticky"), LONG),
        (lambda: two("saga-paper"), LONG),
    ],
    ids=["too little", "too large", "cannot", "sticky", "paper"],
)
def test_otherwise_it_is_sent_at_once(rig, tokens):
    rig = rig()
    flow = rig.submit()
    home = dispatched(rig.step(flow))
    rig.finish(1, prompt_tokens=tokens - 10, output_tokens=10)
    rig(DrainAsked(node=home.partition("/")[0]))
    actions = rig.step(flow)
    assert {home, dispatched(actions)} == {OLD, NEW}
    assert not halves(actions, "n1", Half.EXPORT)


def test_what_cannot_be_read_there_is_not_sent():
    rig = Rig(config("saga", node_timeout_s=1000))
    rig.up(OLD, **ROOM)
    rig.up(NEW, node="n2", **ROOM | {"kv_token_bytes": 1024})
    assert dispatched(rig.step(settled(rig))) == NEW


def test_a_session_that_computes_is_not_moved_under_its_step():
    rig = two()
    flow = settled(rig)
    rig.head.book.sessions[f"{flow}.main"].placed += 1
    session = rig.head.book.sessions[f"{flow}.main"]
    assert rig.head.moves.begin(session, rig.head.fleet.workers[NEW]) is None
    session.placed -= 1


def test_moves_of_one_engine_wait_for_each_other_in_the_price():
    costs, policy = CostTable(), Migration()
    alone = price(Offer(LONG, 0, 512, True, 0), costs, policy)
    behind = price(Offer(LONG, 0, 512, True, 50_000_000), costs, policy)
    assert alone.is_worth
    assert not behind.is_worth
    assert behind.move_s - alone.move_s == pytest.approx(0.5)
    assert price(Offer(LONG, LONG, 512, True, 0), costs, policy).again_s == 0.0


def test_a_way_that_fails_is_not_taken_for_a_while():
    way = Way()
    assert way.times(0.0) == 1.0
    way.learn(0.01, 0.05, 100.0, failed=True)
    assert way.times(100.0) == pytest.approx(FAILED_TIMES**LEARNT)
    for _ in range(6):
        way.learn(5.0, 0.05, 100.0, failed=False)
    assert way.times(100.0) > FAILED_TIMES
    assert way.times(100.0 + 20 * HALF_LIFE_S) == pytest.approx(1.0, rel=1e-4)


def test_computing_is_priced_by_what_it_took_here():
    rig = two(kv_token_bytes=5_000)
    flow = rig.submit()
    rig.step(flow)
    rig.now += 3.0
    assert rig.head.book.steps[1].placed_at == rig.now - 3.0
    rig.finish(1, prompt_tokens=LONG - 10, output_tokens=10, ttft_s=3.0)  # the table says 0.36 s
    rig(DrainAsked(node="n1"))
    actions = rig.step(flow)
    assert halves(actions, "n1", Half.EXPORT), "0.42 s for moving is less, though not by the table"
    rig = two(kv_token_bytes=5_000)
    assert dispatched(rig.step(settled(rig))) == NEW


# -- what fails ------------------------------------------------------------------------------


def failing_export(rig, want):
    return exported(rig, want, tokens=0, reason="the disk is full")


def failing_adoption(rig, want):
    exported(rig, want)
    return adopted(rig, want, tokens=0, reason="too few free blocks")


def nothing_there(rig, want):
    return exported(rig, want, tokens=0)


def late_export(rig, want):
    rig.tick(0.2)
    return rig.tick(0.4)


def late_adoption(rig, want):
    exported(rig, want)
    return rig.tick(0.6)


def old_home_gone(rig, want):
    rig.report(worker(OLD, WorkerState.LOST, **ROOM))
    return rig.tick()


def old_home_anew(rig, want):
    rig.report(worker(OLD, incarnation=2, **ROOM))
    return rig.tick()


@pytest.mark.parametrize(
    ("fault", "said_so"),
    [
        (failing_export, "the disk is full"),
        (nothing_there, "nothing of it was exported"),
        (late_export, "not exported within 0.5 s"),
        (old_home_gone, f"its old home {OLD} is gone"),
        (old_home_anew, f"its old home {OLD} is gone"),
        (failing_adoption, "too few free blocks"),
        (late_adoption, "not adopted within 0.5 s"),
    ],
)
def test_a_move_that_fails_lets_the_step_go_and_the_file_with_it(fault, said_so):
    rig = two()
    flow, want = moving(rig)
    actions = fault(rig, want)
    assert moved(actions).failed == said_so
    assert dispatched(actions) == NEW
    assert wants(actions, "n1", wire.EndMove)
    made = rig.head.decisions.latest(flow)
    assert made is not None
    assert why(made).startswith(f"KV not brought from {OLD}: {said_so}")
    assert ignored(adopted(rig, want)) == ["stale"]
    assert ignored(exported(rig, want)) == ["stale"]
    rig.finish(2, prompt_tokens=10, output_tokens=1)
    assert rig.head.book.steps == {}


def test_a_move_goes_on_when_the_old_home_goes_after_it_has_written():
    rig = two()
    _, want = moving(rig)
    exported(rig, want)
    rig.report(worker(OLD, WorkerState.LOST, **ROOM))
    assert not only(rig.tick(), Dispatch)
    assert dispatched(adopted(rig, want)) == NEW


@pytest.mark.parametrize("halfway", [False, True])
def test_a_step_whose_new_home_is_lost_meanwhile_goes_elsewhere(halfway):
    rig = two()
    rig.up("n3/0", node="n3", **ROOM)
    _, want = moving(rig)
    target = rig.head.book.steps[2].worker
    other = {"n2/0": "n3/0", "n3/0": "n2/0"}[target]
    if halfway:
        exported(rig, want)
    rig.report(worker(target, WorkerState.LOST, **ROOM), node=target.partition("/")[0])
    actions = rig.tick()
    assert moved(actions).failed == f"its new home {target} is gone"
    assert facts(actions, StepLost)
    (again,) = only(actions, Dispatch) or [None]
    if again is None:  # it is brought there as well
        (export,) = halves(actions, "n1", Half.EXPORT)
        node = other.partition("/")[0]
        exported(rig, export)
        again = one(adopted(rig, export, node=node), Dispatch)
    assert again.worker == other


def test_a_client_that_leaves_is_not_waited_for():
    rig = two()
    flow, want = moving(rig)
    rig.finish(2, Outcome.CLIENT_GONE)
    (adopt,) = halves(exported(rig, want), "n2", Half.ADOPT)
    actions = adopted(rig, adopt)
    assert not only(actions, Dispatch)
    assert moved(actions).tokens == LONG, "its next step finds it"
    assert dispatched(rig.step(flow)) == NEW


def test_a_workflow_that_ends_ends_its_move():
    rig = two()
    flow, want = moving(rig)
    actions = rig.end(flow)
    assert moved(actions).failed == "its workflow is over"
    assert wants(actions, "n1", wire.EndMove)
    assert ignored(exported(rig, want)) == ["stale"]


def test_a_want_that_is_not_answered_is_said_again_and_an_answer_counts_once():
    rig = two(kv_token_bytes=64)
    rig.head.moves.policy = Migration(patience_s=5.0)
    _, want = moving(rig)
    assert halves(rig.tick(0.4), "n1", Half.EXPORT) == []
    assert halves(rig.tick(0.2), "n1", Half.EXPORT) == [want]
    (adopt,) = halves(exported(rig, want), "n2", Half.ADOPT)
    assert ignored(exported(rig, want)) == ["stale"]
    assert ignored(exported(rig, want, node="n2")) == ["stale"]
    assert halves(rig.tick(0.6), "n2", Half.ADOPT) == [adopt]
    assert ignored(adopted(rig, adopt, node="n1")) == ["stale"], "by whom it was not asked for"
    assert ignored(adopted(rig, adopt, head=adopt.head + 1)) == ["stale"]
    assert dispatched(adopted(rig, adopt)) == NEW


def test_a_new_head_knows_of_no_move():
    rig = two()
    _, want = moving(rig)
    again = rig.restarted()
    assert ignored(exported(again, want)) == ["stale"]


# -- handed on ------------------------------------------------------------------------------


def away(within_s=30.0) -> tuple[Rig, int]:
    """A session that is in a long tool call on a node that is cut off in `within_s`."""
    rig = two()
    flow = rig.submit()
    assert dispatched(rig.step(flow)) == OLD
    rig.finish(1, prompt_tokens=LONG - 10, output_tokens=10)
    rig(DrainAsked(node="n1", within_s=within_s))
    return rig, flow


def test_what_does_nothing_is_handed_on_before_its_node_is_cut_off():
    rig, flow = away()
    assert halves(rig.tick(5.0), "n1", Half.EXPORT) == []
    (want,) = halves(rig.tick(6.0), "n1", Half.EXPORT)
    (adopt,) = halves(exported(rig, want), "n2", Half.ADOPT)
    assert halves(rig.tick(), "n1", Half.EXPORT) == [], "it is on its way"
    assert moved(adopted(rig, adopt)).failed == ""
    name = f"{flow}.main"
    assert rig.head.book.sessions[name].home == NEW
    assert rig.replayed().sessions[name].home == NEW
    rig.report(worker(OLD, **ROOM), resident=[wire.ResidentFact(OLD, name, LONG)])
    rig.report(worker(NEW, **ROOM), node="n2", resident=[wire.ResidentFact(NEW, name, LONG)])
    assert halves(rig.tick(), "n1", Half.EXPORT) == []
    (step,) = only(rig.step(flow), Dispatch)
    assert (step.worker, step.why.startswith("resumed at home")) == (NEW, True)


def test_a_session_that_comes_back_while_it_is_handed_on_waits_for_that():
    rig, flow = away()
    (want,) = halves(rig.tick(11.0), "n1", Half.EXPORT)
    assert not only(rig.step(flow), Dispatch)
    (adopt,) = halves(exported(rig, want), "n2", Half.ADOPT)
    assert dispatched(adopted(rig, adopt)) == NEW


def test_what_could_not_be_handed_on_is_at_home_where_it_was():
    rig, flow = away()
    (want,) = halves(rig.tick(11.0), "n1", Half.EXPORT)
    assert moved(exported(rig, want, tokens=0, reason="the disk is full")).failed
    assert rig.head.book.sessions[f"{flow}.main"].home == OLD


def test_nothing_is_handed_on_where_nobody_stays_or_no_end_is_near():
    rig, _ = away(within_s=None)
    assert halves(rig.tick(500.0), "n1", Half.EXPORT) == []
    rig, _ = away()
    rig(DrainAsked(node="n2", within_s=30.0))
    assert halves(rig.tick(11.0), "n1", Half.EXPORT) == []


# -- the node --------------------------------------------------------------------------------


class Place:
    """A node with one worker that can move KV."""

    def __init__(self, **more) -> None:
        self.now = 100.0
        self.node = Node("n1", {OLD: "m"}, config().node, incarnation=1, host="h", version="1", now=self.now)
        self(NodeTick())
        self(
            WorkerUp(
                OLD, 2, "h", 1, "k", "m", 1000, 1000, 8, **({"values": True, "kv_token_bytes": 9} | more)
            )
        )
        self.welcome(5)

    def __call__(self, event, after=0.0):
        self.now += after
        actions = self.node.handle(event, now=self.now)
        self.node.check()
        return [a for a in actions if not isinstance(a, SendHead) or not isinstance(a.message, wire.Report)]

    def welcome(self, head):
        said_ = wire.Welcome(protocol=1, cluster="c", incarnation=1, head=head, report_every_s=1000.0)
        return self(HeadSaid(said_))

    def ask(self, half, move=1, head=5, incarnation=2):
        return self(HeadSaid(half_of(half, move=move, head=head, incarnation=incarnation)))

    def end(self, move=1):
        return self(HeadSaid(wire.EndMove(head=5, move=move)))


def half_of(half, move=1, head=5, incarnation=2):
    return wire.MoveHalf(
        head=head, move=move, half=half, worker=OLD, incarnation=incarnation, session="1.main", other="n2"
    )


def done(half, **more):
    """How it went, in the shell's words and in the node's."""
    return KvMoved(5, 1, half, **more), SendHead(
        wire.HalfMoved(node="n1", incarnation=1, head=5, move=1, half=half, **more)
    )


def test_a_node_exports_once_and_answers_as_often_as_it_is_asked():
    place = Place()
    assert place.ask(Half.EXPORT) == [MoveKv(half_of(Half.EXPORT))]
    assert place.ask(Half.EXPORT) == [], "it is at it"
    event, answer = done(Half.EXPORT, tokens=64, copied_bytes=7)
    assert place(event) == [answer]
    assert place.ask(Half.EXPORT) == [answer]
    assert place.end() == [RemoveKv(5, 1)]
    assert place.end() == []
    assert place(event) == [Ignored("stale", "export of move 1")]


def test_a_node_adopts_once_and_owns_no_file():
    place = Place()
    assert place.ask(Half.ADOPT) == [MoveKv(half_of(Half.ADOPT))]
    event, answer = done(Half.ADOPT, reason="No such file")
    assert place(event) == [answer]
    assert place.ask(Half.ADOPT) == [answer]
    assert place.end() == []
    assert place(event) == [Ignored("stale", "adopt of move 1")]


def test_both_halves_of_a_move_may_be_of_one_node():
    place = Place()
    place.ask(Half.EXPORT)
    place(done(Half.EXPORT, tokens=64)[0])
    assert place.ask(Half.ADOPT) == [MoveKv(half_of(Half.ADOPT))]
    assert place.end() == [RemoveKv(5, 1)], "the other engine has opened it, or will find none"
    assert place(done(Half.ADOPT, tokens=64)[0]) == []
    assert place.node.moves.asked == {}


def test_a_file_whose_move_ended_while_it_was_written_is_removed_then():
    place = Place()
    place.ask(Half.EXPORT)
    assert place.end() == []
    assert place(done(Half.EXPORT, tokens=64)[0]) == [RemoveKv(5, 1)]


@pytest.mark.parametrize("half", Half)
def test_a_node_says_at_once_what_it_cannot_do(half):
    place = Place()
    (sent,) = place.ask(half, incarnation=1)
    assert sent.message.reason == f"{OLD} incarnation 1 is not there"
    assert place.ask(half, head=4) == [Ignored("stale", "move 1 of head 4")]
    (sent,) = Place(kv_token_bytes=0).ask(half)
    assert sent.message.reason == f"{OLD} cannot move KV"


@pytest.mark.parametrize("forgotten", [lambda p: p.welcome(6), lambda p: p(NodeTick(), after=KEEP_S + 1)])
def test_a_file_that_nobody_asks_for_any_more_is_removed(forgotten):
    place = Place()
    place.ask(Half.EXPORT)
    place(done(Half.EXPORT, tokens=64)[0])
    assert RemoveKv(5, 1) in forgotten(place)
    assert place.node.moves.asked == {}
