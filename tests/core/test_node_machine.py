"""The node machine: workers kept running, programs started once, the head told everything."""

from __future__ import annotations

import pytest

from saga_core import node_programs, node_workers, wire
from saga_core import node_words as words
from saga_core.config import NodeConfig
from saga_core.node import Node
from saga_core.states import WorkerState

CONFIG = NodeConfig(backoff_s=1, backoff_max_s=8, silent_probes=3, start_timeout_s=60, program_slots=2)
W = "n1/0"


class Rig:
    """A node and its time; `check` after every event."""

    def __init__(self, *workers: str, **more) -> None:
        self.now = 100.0
        names = dict.fromkeys(workers or (W,), "m")
        self.node = Node("n1", names, CONFIG, incarnation=1000, host="h", version="1", now=self.now, **more)

    def __call__(self, event, *, after=0.0):
        self.now += after
        actions = self.node.handle(event, now=self.now)
        self.node.check()
        return actions

    def tick(self, after=0.1):
        return self(words.Tick(), after=after)

    def hear(self, message):
        return self(words.HeadSaid(message))

    def welcome(self, head=1, incarnation=1000):
        return self.hear(
            wire.Welcome(protocol=1, cluster="c", incarnation=incarnation, head=head, report_every_s=1.0)
        )

    def ack(self, seq, head=1, incarnation=1000):
        return self.hear(wire.Ack(incarnation=incarnation, head=head, seq=seq))

    def up(self, worker=W, incarnation=1001, model="m"):
        return self(words.WorkerUp(worker, incarnation, "h", 9, "key", model, 5000, 4000, 8))

    def exit(self, incarnation, worker=W, after=0.0):
        return self(words.WorkerExited(worker, incarnation, "signal 9"), after=after)

    def run(self, workflow=1, attempt=1, incarnation=1000):
        return self.hear(
            wire.RunProgram(
                workflow=workflow,
                attempt=attempt,
                incarnation=incarnation,
                argv=["a"],
                cwd="/",
                env={},
                log="l",
            )
        )

    def stop(self, workflow=1, attempt=1):
        return self.hear(wire.StopProgram(workflow=workflow, attempt=attempt, grace_s=5))

    def forget(self, workflow=1, attempt=1):
        return self.hear(wire.ForgetProgram(workflow=workflow, attempt=attempt))

    def gone(self, workflow=1, attempt=1, code=0):
        return self(words.ProgramExited(workflow, attempt, code))

    def hold(self, tokens, incarnation=1001, **more):
        return self(words.Residency(W, incarnation, tokens, **more))


def said(actions, kind=wire.Report):
    return [a.message for a in actions if isinstance(a, words.SendHead) and isinstance(a.message, kind)]


def report(actions) -> wire.Report:
    (found,) = said(actions)
    return found


def ignored(actions):
    return [a.reason for a in actions if isinstance(a, words.Ignored)]


def spawned(actions):
    return [a.incarnation for a in actions if isinstance(a, words.SpawnWorker)]


def registered() -> Rig:
    rig = Rig()
    rig.tick()
    rig.welcome()
    return rig


# -- workers --------------------------------------------------------------------------------


def test_the_first_tick_spawns_workers_and_says_hello():
    actions = Rig(W, "n1/1").tick()
    assert [a.worker for a in actions if isinstance(a, words.SpawnWorker)] == [W, "n1/1"]
    assert spawned(actions) == [1001, 1001]
    (hello,) = said(actions, wire.Hello)
    assert (hello.node, hello.incarnation, hello.protocol, hello.program_slots) == ("n1", 1000, 1, 2)


def test_a_ready_worker_is_told_at_once_with_its_address():
    rig = registered()
    (fact,) = report(rig.up()).workers
    assert (fact.state, fact.host, fact.port, fact.key, fact.max_seqs) == (
        WorkerState.READY,
        "h",
        9,
        "key",
        8,
    )
    rig(words.WorkerLoad(W, 1001, 3, 1, 0.25))
    (fact,) = report(rig.tick(1.1)).workers
    assert (fact.running, fact.waiting, fact.kv_usage) == (3, 1, 0.25)


def test_failed_starts_wait_longer_and_longer_up_to_the_limit():
    rig = registered()
    for count, pause in enumerate([1, 2, 4, 8, 8, 8]):
        rig.exit(1001 + count)
        assert not spawned(rig.tick(pause - 0.05))
        assert spawned(rig.tick(0.1)) == [1002 + count]


def test_pauses_do_not_overflow_after_thousands_of_failures():
    rig = Rig()
    rig.tick()
    rig.node.workers[W].failures = 5000
    rig.exit(1001)
    assert spawned(rig.tick(8.1)) == [1002]


def test_a_worker_that_was_ready_starts_again_at_once_but_not_over_and_over():
    rig = Rig()
    rig.tick()
    rig.up()
    rig.exit(1001)
    assert spawned(rig.tick(0)) == [1002], "the first crash"
    rig.up(incarnation=1002)
    rig.exit(1002)
    assert not spawned(rig.tick(1.9))
    assert spawned(rig.tick(0.2)) == [1003]


def test_a_long_life_makes_up_for_earlier_failures():
    rig = Rig()
    rig.tick()
    rig.exit(1001)
    rig.tick(1.1)
    rig.up(incarnation=1002)
    rig.exit(1002, after=8)
    assert spawned(rig.tick(0)) == [1003]


def test_a_worker_that_does_not_start_in_time_is_killed_once():
    rig = registered()
    assert not [a for a in rig.tick(59.9) if isinstance(a, words.KillWorker)]
    actions = rig.tick(0.2)
    kill = next(a for a in actions if isinstance(a, words.KillWorker))
    assert (kill.incarnation, kill.reason) == (1001, "not ready after 60 s")
    assert not [a for a in rig.tick() if isinstance(a, words.KillWorker)]
    assert not rig.up(), "too late"
    rig.exit(1001)
    assert rig.node.workers[W].reason == "not ready after 60 s"
    assert not spawned(rig.tick(0.9))
    assert spawned(rig.tick(0.2)) == [1002]


def test_silent_probes_in_a_row_kill_a_ready_worker():
    rig = registered()
    silent = words.WorkerSilent(W, 1001, "timeout")
    assert not rig(silent), "not ready yet: it is the start timeout's business"
    rig.up()
    rig(silent)
    rig(silent)
    rig(words.WorkerLoad(W, 1001, 0, 0, 0))
    assert not [*rig(silent), *rig(silent)]
    actions = rig(silent)
    assert isinstance(actions[0], words.KillWorker)
    assert "no answer to 3 probes: timeout" in actions[0].reason
    assert report(actions).workers[0].state is WorkerState.LOST


@pytest.mark.parametrize(
    "event",
    [
        words.WorkerUp(W, 1000, "h", 9, "k", "m", 1, 1, 1),
        words.WorkerExited(W, 1002, "x"),
        words.WorkerExited("n1/9", 1001, "x"),
        words.WorkerLoad(W, 1000, 1, 1, 0),
        words.WorkerSilent(W, 1000, "x"),
        words.Residency(W, 1000, {"1.a": 5}),
        words.ProgramExited(5, 1, 0),
    ],
)
def test_words_about_another_incarnation_are_stale(event):
    rig = registered()
    rig.up()
    assert ignored(rig(event)) == ["stale"]
    assert rig.node.workers[W].resident == {}


# -- programs -------------------------------------------------------------------------------


def test_a_program_is_started_once_however_often_it_is_wanted():
    rig = registered()
    actions = rig.run()
    assert isinstance(actions[0], words.StartProgram)
    assert report(actions).programs == [wire.ProgramFact(workflow=1, attempt=1)]
    assert ignored(rig.run()) == ["stale"]
    rig.gone()
    assert ignored(rig.run()) == ["stale"]


def test_a_want_for_an_earlier_daemon_is_stale():
    assert ignored(registered().run(incarnation=999)) == ["stale"]


def test_an_exit_is_told_until_it_is_forgotten():
    rig = registered()
    rig.run()
    fact = wire.ProgramFact(workflow=1, attempt=1, exited=True, exit_code=3)
    assert report(rig.gone(code=3)).programs == [fact]
    assert ignored(rig.gone(code=0)) == ["stale"]
    assert report(rig.tick(1.1)).programs == [fact]
    rig.forget()
    assert report(rig.tick(1.1)).programs == []


def test_a_forgotten_program_answers_a_late_want_with_how_it_ended():
    rig = registered()
    rig.run()
    rig.gone(code=3)
    rig.forget()
    actions = rig.run()
    assert not [a for a in actions if isinstance(a, words.StartProgram)]
    assert report(actions).programs[0].exit_code == 3


def test_a_running_program_is_not_forgotten():
    rig = registered()
    rig.run()
    assert not rig.forget()
    assert report(rig.tick(1.1)).programs


def test_a_stop_ends_a_running_program_once():
    rig = registered()
    rig.run()
    assert rig.stop() == [words.EndProgram(1, 1, 5)]
    assert rig.stop() == []
    assert report(rig.gone(code=-15)).programs[0].exit_code == -15
    assert rig.stop() == []


def test_a_stop_before_the_start_keeps_it_from_ever_starting():
    rig = registered()
    (fact,) = report(rig.stop()).programs
    assert (fact.exited, fact.reason) == (True, "it was not running")
    assert ignored(rig.run()) == ["stale"]
    rig.forget()
    assert not [a for a in rig.run() if isinstance(a, words.StartProgram)]


def test_programs_are_limited_by_slots():
    rig = registered()
    rig.run(1)
    rig.run(2)
    assert ignored(rig.run(3)) == ["no slot"]
    rig.gone(1)
    assert isinstance(rig.run(3)[0], words.StartProgram)


def test_ended_programs_are_remembered_within_a_bound(monkeypatch):
    monkeypatch.setattr(node_programs, "TOMBSTONES", 3)
    rig = registered()
    for number in range(1, 9):
        rig.run(number)
        rig.gone(number)
        rig.forget(number)
    assert [name[0] for name in rig.node.programs.tombs] == [6, 7, 8]


# -- reports --------------------------------------------------------------------------------


def test_reports_come_regularly_and_count_up():
    rig = Rig()
    rig.tick()
    first = report(rig.welcome())
    assert (first.node, first.incarnation, first.seq, first.since) == ("n1", 1000, 1, 0)
    assert not said(rig.tick(0.5))
    assert report(rig.tick(0.6)).seq == 2


def test_residency_is_repeated_until_it_is_acknowledged():
    rig = registered()
    rig.up()
    rig.hold({"1.a": 32, "1.b": 16})
    both = [wire.ResidentFact(W, "1.a", 32), wire.ResidentFact(W, "1.b", 16)]
    lost = report(rig.tick(1.1))
    assert lost.resident == both
    again = report(rig.tick(1.1))
    assert again.resident == both
    rig.ack(again.seq)
    rig.hold({"1.b": 48})
    changed = report(rig.tick(1.1))
    assert (changed.resident, changed.since) == ([wire.ResidentFact(W, "1.b", 48)], again.seq)


def test_a_change_after_the_report_is_not_taken_as_acknowledged():
    rig = registered()
    rig.up()
    rig.hold({"1.a": 32})
    sent = report(rig.tick(1.1))
    rig.hold({"1.a": 64})
    rig.ack(sent.seq)
    assert report(rig.tick(1.1)).resident == [wire.ResidentFact(W, "1.a", 64)]


def test_what_is_acknowledged_is_walked_no_more():
    rig = registered()
    rig.up()
    rig.hold({"1.a": 32, "1.b": 16})
    assert rig.node.has_news
    sent = report(rig.tick(1.1))
    assert not rig.node.has_news, "said, though perhaps not heard"
    rig.ack(sent.seq)
    rig.hold({"1.b": 48})
    assert rig.node.has_news
    there = rig.node.workers[W]
    assert (there.resident, list(there.news)) == ({"1.a": 32, "1.b": 48}, ["1.b"])


def test_zeros_are_told_and_then_forgotten():
    rig = registered()
    rig.up()
    rig.hold({"1.a": 32})
    rig.hold({"1.a": 0})
    sent = report(rig.tick(1.1))
    assert sent.resident == [wire.ResidentFact(W, "1.a", 0)]
    rig.ack(sent.seq)
    assert rig.node.workers[W].resident == {}


@pytest.mark.parametrize("how", ["exit", "reset"])
def test_what_a_dead_worker_held_is_told_as_zeros(how):
    rig = registered()
    rig.up()
    rig.hold({"1.a": 32})
    rig.ack(report(rig.tick(1.1)).seq)
    actions = rig.exit(1001) if how == "exit" else [*rig.hold({}, reset=True), *rig.tick(1.1)]
    assert report(actions).resident == [wire.ResidentFact(W, "1.a", 0)]


def test_a_report_carries_a_bounded_number_of_changes(monkeypatch):
    monkeypatch.setattr(node_workers, "RESIDENT_PER_REPORT", 2)
    rig = registered()
    rig.up()
    rig.hold({f"1.{i}": 16 for i in range(5)})
    told = []
    for _ in range(3):
        sent = report(rig.tick(1.1))
        told += [fact.session for fact in sent.resident]
        rig.ack(sent.seq)
    assert told == [f"1.{i}" for i in range(5)]


def test_a_new_head_is_told_everything_again_zeros_too():
    rig = registered()
    rig.up()
    rig.hold({"1.a": 32, "1.b": 16})
    rig.ack(report(rig.tick(1.1)).seq)
    rig.hold({"1.b": 0})
    (hello,) = said(rig.hear(wire.WhoAreYou()), wire.Hello)
    assert hello.incarnation == 1000
    first = report(rig.welcome(head=2))
    assert first.since == 0
    assert first.resident == [wire.ResidentFact(W, "1.a", 32), wire.ResidentFact(W, "1.b", 0)]


def test_acknowledgements_of_an_earlier_registration_mean_nothing():
    rig = registered()
    rig.up()
    rig.hold({"1.a": 32})
    old = report(rig.tick(1.1)).seq
    rig.welcome()
    assert ignored(rig.ack(old)) == ["stale"]
    assert report(rig.tick(1.1)).resident == [wire.ResidentFact(W, "1.a", 32)]


@pytest.mark.parametrize(("seq", "incarnation"), [(99, 1000), (1, 999), (0, 1000)])
def test_absurd_acknowledgements_are_stale(seq, incarnation):
    rig = registered()
    assert ignored(rig.ack(seq, incarnation=incarnation)) == ["stale"]


def test_an_acknowledgement_of_another_head_asks_for_a_new_registration():
    rig = registered()
    assert said(rig.ack(1, head=2), wire.Hello)
    assert not rig.node.registered


def test_a_welcome_for_an_earlier_daemon_is_stale():
    rig = Rig()
    rig.tick()
    assert ignored(rig.welcome(incarnation=999)) == ["stale"]
    assert not rig.node.registered


# -- the head's silence ---------------------------------------------------------------------


def quits(actions):
    return [(a.exit_code, a.reason) for a in actions if isinstance(a, words.Quit)]


def test_hello_is_repeated_until_somebody_answers():
    rig = Rig()
    assert said(rig.tick(), wire.Hello)
    assert not said(rig.tick(0.5), wire.Hello)
    assert said(rig.tick(0.6), wire.Hello)


def test_a_silent_head_is_looked_up_again():
    rig = registered()
    actions = rig.tick(5.1)
    assert [a for a in actions if isinstance(a, words.FindHead)]
    assert said(actions, wire.Hello)
    assert not [a for a in rig.tick(2) if isinstance(a, words.FindHead)]
    assert [a for a in rig.tick(3.1) if isinstance(a, words.FindHead)]


def test_a_node_that_nobody_takes_in_gives_up():
    rig = Rig()
    assert not quits(rig.tick(29))
    assert quits(rig.tick(2)) == [(1, "no head took this node in within 31 s")]


def test_an_orphan_ends_later_than_a_newcomer():
    rig = registered()
    assert not quits(rig.tick(599))
    assert quits(rig.tick(2)) == [(1, "no head for 601 s")]


def test_a_refusal_ends_the_daemon_with_its_reason():
    actions = Rig().hear(wire.Refused(reason="install the same version"))
    assert quits(actions) == [(1, "the head refused this node: install the same version")]


@pytest.mark.parametrize("event", [words.StopAsked("signal"), words.HeadSaid(wire.Shutdown(reason="signal"))])
def test_the_end_is_said_once_and_then_nothing_more(event):
    rig = registered()
    actions = rig(event)
    assert said(actions, wire.Goodbye) == [wire.Goodbye(node="n1", incarnation=1000, reason="signal")]
    assert quits(actions) == [(0, "signal")]
    assert not rig(words.StopAsked("again"))
    assert not rig.run()
    assert not rig.tick(100)
    assert not rig.exit(1001), "the shell is stopping everything; nothing starts again"


# -- worths ---------------------------------------------------------------------------------


def valued(**more) -> Rig:
    """A node whose only worker takes worths."""
    rig = registered()
    rig(words.WorkerUp(W, 1001, "h", 9, "key", "m", 5000, 4000, 8, values=True))
    return rig


def worths(rig, version, since=0, head=1, incarnation=1001, worker=W, **given):
    told = {name.replace("_", "."): worth for name, worth in given.items()}
    return rig.hear(
        wire.Worths(
            head=head, worker=worker, incarnation=incarnation, since=since, version=version, worths=told
        )
    )


def told(actions):
    return [dict(a.worths) for a in actions if isinstance(a, words.SetWorths)]


def answered(actions):
    return [answer.version for answer in said(actions, wire.Valued)]


def test_who_returns_soon_is_said_to_the_engine_once():
    rig = valued()
    want = wire.Worths(head=1, worker=W, incarnation=1001, since=0, version=1, worths={}, soon=["s.a"])
    (action,) = [a for a in rig.hear(want) if isinstance(a, words.SetWorths)]
    assert (action.worths, action.soon) == ({}, ("s.a",))
    assert told(rig.hear(want)) == [], "it was repeated on the way"


def test_worths_go_to_the_engine_and_their_version_to_the_head():
    rig = valued()
    actions = worths(rig, 3, s_a=(3, 0.5), s_b=(0, 0.0))
    assert told(actions) == [{"s.a": (3, 0.5), "s.b": (0, 0.0)}]
    (answer,) = said(actions, wire.Valued)
    assert (answer.node, answer.incarnation, answer.head, answer.worker, answer.version) == (
        "n1",
        1000,
        1,
        W,
        3,
    )
    assert told(worths(rig, 4, since=3, s_a=None)) == [{"s.a": None}]


def test_late_and_repeated_worths_change_nothing_and_are_answered():
    rig = valued()
    worths(rig, 3, s_a=(3, 0.5))
    worths(rig, 7, since=3, s_a=(3, 0.7))
    for version, since in ((7, 3), (5, 3), (3, 0)):
        actions = worths(rig, version, since, s_a=(3, 0.1))
        assert (told(actions), answered(actions)) == ([], [7])


def test_worths_that_build_upon_what_is_not_here_are_not_taken():
    rig = valued()
    actions = worths(rig, 9, since=8, s_a=(3, 0.5))
    assert (told(actions), answered(actions)) == ([], [0])


def test_worths_that_build_upon_nothing_void_what_was_said_before():
    rig = valued()
    worths(rig, 1, s_a=(3, 0.5), s_b=(3, 0.5), s_c=(3, 0.5))
    worths(rig, 2, since=1, s_c=(0, 0.0))
    assert told(worths(rig, 3, s_b=(3, 0.9))) == [{"s.a": None, "s.b": (3, 0.9)}]


def test_another_head_voids_what_the_one_before_said_and_this_is_not_heard_any_more():
    rig = valued()
    worths(rig, 5, s_a=(3, 0.5))
    assert told(rig.welcome(head=2)) == [{"s.a": None}]
    assert ignored(worths(rig, 6, since=5, s_a=(3, 0.5))) == ["stale"]
    assert answered(worths(rig, 1, head=2, s_a=(3, 0.5))) == [1]
    assert told(rig.welcome(head=2)) == [], "the same head again voids nothing"


def test_worths_for_another_life_of_a_worker_are_dropped():
    rig = valued()
    worths(rig, 5, s_a=(3, 0.5))
    rig.exit(1001)
    assert ignored(worths(rig, 6, since=5)) == ["stale"]
    rig.tick(after=2)
    rig(words.WorkerUp(W, 1002, "h", 9, "key", "m", 5000, 4000, 8, values=True))
    assert ignored(worths(rig, 7, since=5)) == ["stale"]
    assert answered(worths(rig, 7, since=5, incarnation=1002)) == [0]
    assert answered(worths(rig, 8, incarnation=1002)) == [8]
    assert ignored(worths(rig, 9, worker="n1/7")) == ["stale"]


def test_an_engine_that_takes_no_worths_is_told_none_and_the_head_knows():
    rig = registered()
    assert report(rig.up()).workers[0].values is False
    actions = worths(rig, 1, s_a=(3, 0.5))
    assert (told(actions), answered(actions), ignored(actions)) == ([], [], ["takes no worths"])


def test_a_worth_that_is_no_number_is_dropped():
    rig = valued()
    assert told(worths(rig, 1, s_a=(3, float("nan")), s_b=(3, 1.0))) == [{"s.b": (3, 1.0)}]
