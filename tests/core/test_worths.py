"""The head says what sessions' KV is worth: who, when, how often, and what survives which loss."""

from __future__ import annotations

from itertools import pairwise

from core_rig import Rig, config, ignored, said, worker

from saga_core import wire, worths
from saga_core.config import Config
from saga_core.events import ProfileChanged
from saga_core.kv.retention import OVER, Standing
from saga_core.policy.admission import Admission
from saga_core.states import WorkerState

W = "n1/0"
LIVE, HELD, PAUSED = Standing.LIVE, Standing.HELD, Standing.PAUSED


def rig(profile="saga", *workers, capacity=100_000, **more) -> Rig:
    made = Rig(config(profile, node_timeout_s=1000))
    made.up(*workers or (W,), values=True, capacity_tokens=capacity, **more)
    return made


def told(actions, node="n1") -> list[wire.Worths]:
    return [message for message in said(actions, node) if isinstance(message, wire.Worths)]


def one(actions) -> wire.Worths:
    (message,) = told(actions)
    return message


def settle(rig, message, version=None, **more):
    given = {"node": "n1", "incarnation": 1, "head": message.head, "worker": message.worker} | more
    return rig(wire.Valued(**given, version=message.version if version is None else version))


def wanted(turn):
    """Of a session whose step was the so-manieth to be sent to a worker."""
    return HELD, worths.WANTED - turn


def begin(rig, workflow=None, **more):
    """A step of a workflow; the number of the workflow."""
    workflow = workflow or rig.submit()
    rig.step(workflow, session="main", **more)
    return workflow


def finish(rig, **more):
    rig.finish(rig.steps, **({"prompt_tokens": 1000, "output_tokens": 10} | more))


def test_a_session_is_wanted_while_it_runs_then_worth_its_density_and_over_with_its_workflow():
    head = rig()
    workflow = begin(head)
    first = one(head.tick())
    assert (first.worker, first.incarnation, first.since) == (W, 1, 0)
    assert first.worths == {"1.main": wanted(1)}
    settle(head, first)
    finish(head)
    second = one(head.tick())
    assert second.since == first.version < second.version
    assert second.worths["1.main"][0] is LIVE
    assert second.worths["1.main"][1] > 0.0
    settle(head, second)
    head.end(workflow)
    third = one(head.tick())
    assert third.worths == {"1.main": OVER}
    settle(head, third)
    assert told(head.tick()) == []
    assert head.head.worths.channels[W].told == {}, "who is over is forgotten"


def test_who_waits_behind_others_in_the_engines_line_goes_before_them():
    head = rig()
    for _ in range(3):
        begin(head)
    assert one(head.tick()).worths == {f"{n}.main": wanted(n) for n in (1, 2, 3)}
    assert wanted(1) > wanted(2) > wanted(3) > (HELD, 2e9), "and behind a TTL, whatever the clock says"


def test_rules_of_other_peoples_papers_do_not_tell_apart_who_waits():
    for profile in ("saga-paper", "ttl", "kvflow"):
        head = rig(profile)
        for _ in range(2):
            begin(head)
        assert set(one(head.tick()).worths.values()) == {wanted(0)}


def test_a_step_that_begins_and_ends_within_an_epoch_is_told_once():
    head = rig()
    begin(head)
    finish(head)
    assert one(head.tick()).worths["1.main"][0] is LIVE


def test_a_session_that_was_never_told_of_is_over_as_well():
    head = rig()
    workflow = begin(head)
    finish(head)
    head.end(workflow)
    message = one(head.tick())
    assert message.worths == {"1.main": OVER}
    settle(head, message)
    assert head.head.worths.channels[W].told == {}


def test_the_longer_a_session_is_away_the_seldomer_it_is_valued():
    head = rig()
    begin(head)
    finish(head)
    settle(head, one(head.tick()))
    times, began = [], head.now
    for _ in range(1000):
        for message in told(head.tick(after=0.1)):
            settle(head, message)
            times.append(round(head.now - began, 1))
    assert len(times) <= 8
    assert times == sorted(times)
    assert all(later >= 1.9 * sooner for sooner, later in pairwise(times[2:])), times


def test_a_paused_session_goes_before_those_in_a_tool():
    head = Rig(Config(profile="saga", admission=Admission(reserve_tokens=0, adaptive=False)))
    head.up(W, values=True, capacity_tokens=4000)
    for _ in range(2):
        head.step(head.submit(), session="main", body_bytes=400)
    head.finish(1, prompt_tokens=2400, output_tokens=10)
    head.finish(2, prompt_tokens=2400, output_tokens=10)
    standings = sorted(worth[0] for worth in one(head.tick()).worths.values())
    assert standings == [PAUSED, LIVE]


def test_what_is_lost_is_in_the_next_message_or_repeated():
    head = rig()
    begin(head)
    first = one(head.tick())
    begin(head)
    second = one(head.tick())
    assert (second.since, second.worths.keys()) == (0, {"1.main", "2.main"})
    assert told(head.tick()) == []
    again = one(head.tick(after=worths.REPEAT_S))
    assert (again.since, again.worths) == (0, second.worths)
    settle(head, again)
    assert told(head.tick(after=10.0)) == []
    assert first.version < second.version < again.version


def test_late_repeated_and_foreign_answers_settle_nothing():
    head = rig()
    begin(head)
    message = one(head.tick())
    begin(head)
    newer = one(head.tick())
    for wrong in ({"version": newer.version + 1}, {"head": 9}, {"worker": "n9/0"}, {"version": 0}):
        assert ignored(settle(head, newer, **wrong)) == ["stale"], wrong
    assert ignored(settle(head, newer)) == []
    assert ignored(settle(head, message)) == ["stale"]
    assert ignored(settle(head, newer)) == ["stale"]


def test_an_answer_to_an_older_message_leaves_what_changed_since_to_be_repeated():
    head = rig()
    begin(head)
    finish(head)
    older = one(head.tick())
    begin(head, workflow=1)
    newer = one(head.tick())
    settle(head, older)
    again = one(head.tick(after=worths.REPEAT_S))
    assert again.since == older.version
    assert again.worths == newer.worths == {"1.main": wanted(2)}


def test_a_worker_that_takes_no_worths_and_a_profile_without_a_rule_are_told_nothing():
    deaf = Rig(config("saga"))
    deaf.up(W)
    begin(deaf)
    assert told(deaf.tick()) == []
    dumb = rig("sticky")
    begin(dumb)
    assert told(dumb.tick()) == []
    assert not dumb.head.worths.channels


def test_a_new_life_of_a_worker_is_told_from_the_beginning():
    head = rig()
    begin(head)
    finish(head)
    settle(head, one(head.tick()))
    head.report(worker(W, incarnation=2, values=True, capacity_tokens=100_000))
    begin(head)
    fresh = one(head.tick())
    assert (fresh.incarnation, fresh.since) == (2, 0)
    assert "2.main" in fresh.worths
    assert ignored(settle(head, fresh, version=fresh.version - 1)) == ["stale"], "of its last life"


def test_a_lost_worker_is_not_told_and_begins_anew():
    head = rig()
    begin(head)
    settle(head, one(head.tick()))
    head.report(worker(W, WorkerState.LOST, values=True))
    finish(head)
    assert told(head.tick()) == []
    head.report(worker(W, values=True, capacity_tokens=100_000))
    begin(head)
    assert one(head.tick()).since == 0


def test_a_restarted_head_voids_what_the_old_one_said_and_tells_what_is_there():
    head = rig()
    begin(head)
    finish(head)
    settle(head, one(head.tick()))
    new = head.restarted()
    new.hello()
    fact = wire.ResidentFact(W, "1.main", 1010)
    new.report(worker(W, values=True, capacity_tokens=100_000), resident=[fact])
    begin(new)
    message = one(new.tick())
    assert (message.head, message.since) == (2, 0)
    assert message.worths.keys() == {"1.main", "2.main"}
    assert message.worths["1.main"][0] is LIVE


def test_a_profile_without_a_rule_voids_what_was_said_until_that_has_arrived():
    head = rig()
    begin(head)
    finish(head)
    settle(head, one(head.tick()))
    head(ProfileChanged(profile="sticky"))
    void = one(head.tick())
    assert (void.since, void.worths) == (0, {})
    again = one(head.tick(after=worths.REPEAT_S))
    settle(head, again)
    head.tick()
    assert not head.head.worths.channels
    head(ProfileChanged(profile="saga"))
    begin(head)
    assert one(head.tick()).since == 0


def test_an_epoch_looks_at_so_many_and_a_message_has_so_many(monkeypatch):
    monkeypatch.setattr(worths, "LOOKS", 8)
    monkeypatch.setattr(worths, "UNSETTLED", 16)
    head = rig(capacity=10**9, max_seqs=100)
    for _ in range(40):
        begin(head)
        finish(head)
    assert [len(one(head.tick(after=0.01)).worths) for _ in range(2)] == [8, 16]
    assert told(head.tick(after=0.01)) == [], "no more before these have arrived"
    seen = set()
    for _ in range(20):
        for message in told(head.tick(after=2.0)):
            assert len(message.worths) <= 16
            seen |= message.worths.keys()
            settle(head, message)
    assert len(seen) == 40, "in the end everybody has been told of"


def test_a_session_that_moves_is_over_where_it_was():
    head = rig("saga", "n1/0", "n1/1")
    begin(head)
    finish(head)
    home = head.head.book.sessions["1.main"].home
    other = {"n1/0": "n1/1", "n1/1": "n1/0"}[home]
    settle(head, one(head.tick()))
    both = {name: worker(name, values=True, capacity_tokens=100_000) for name in (home, other)}
    head.report(worker(home, WorkerState.LOST), both[other])
    begin(head, workflow=1)
    assert head.head.book.sessions["1.main"].home == other
    assert one(head.tick()).worths == {"1.main": wanted(2)}


def test_plans_that_are_past_are_tidied():
    head = Rig(config("ttl", node_timeout_s=1e6))
    head.up(W, values=True)
    workflow = None
    for pause_s in [600.0] * 60 + [
        0.1
    ] * 200:  # its tool takes far less than it once did: no plan's time comes
        workflow = begin(head, workflow)
        finish(head, tool="bash")
        head.tick()
        head.now += pause_s
    assert len(head.head.worths._due) <= 4 + worths.SLACK


def away_for_three_seconds(head, times, **more):
    """A workflow whose tool takes three seconds, so many times; its step is over once more."""
    workflow = begin(head)
    for _ in range(times):
        finish(head, **more)
        head.tick(after=3.0)
        begin(head, workflow=workflow)
    finish(head, **more)
    return workflow


def calls(head, ticks=60):
    return [s for _ in range(ticks) for m in told(head.tick(after=0.1)) for s in m.soon]


def evicted(head, session="1.main"):
    fleet = head.head.fleet
    fleet.hold(fleet.workers[W], session, 0)


def test_who_is_expected_soon_is_called_once_where_host_memory_was_proven():
    head = rig(host_tokens=50_000)
    workflow = away_for_three_seconds(head, 8)
    evicted(head)
    assert calls(head, 5) == [], "it has just gone"
    assert calls(head) == ["1.main"]
    begin(head, workflow=workflow)
    assert calls(head) == [], "it is here"
    finish(head)
    evicted(head)
    assert calls(head) == ["1.main"], "it is away again"
    assert calls(head, 300) == []


def test_nobody_is_called_without_host_memory_without_history_or_who_is_in_the_pool():
    without = rig()
    away_for_three_seconds(without, 8)
    evicted(without)
    assert calls(without) == []
    new = rig(host_tokens=50_000)
    begin(new)
    finish(new)
    evicted(new)
    assert calls(new) == []
    there = rig(host_tokens=50_000)
    away_for_three_seconds(there, 8)
    assert calls(there) == []
