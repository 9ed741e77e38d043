"""Who is overdue is waited for (rule 5 of the gate)."""

from __future__ import annotations

from dataclasses import replace

from test_gate import PLAIN, Hall

from saga_core.accounts import Account
from saga_core.gate import Gate
from saga_core.policy import ordering
from saga_core.policy.admission import NEVER

PATIENT = replace(PLAIN, patience_s=NEVER, grace_s=5.0)


class Virtual(Hall):
    """A hall whose keys are points in virtual time; `due`: the key of each name."""

    def __init__(self, *names, policy=PATIENT):
        super().__init__(*names, policy=policy)
        self.virtual = 0.0
        self.gate = Gate(
            self.pool,
            policy,
            ordering.virtual_finish,
            virtual_s=lambda: self.virtual,
            due=ordering.virtual_finish,
        )

    def came(self, name, tokens, due):
        self.accounts[name] = Account(1, 0.0, due, 0.0)
        return self.ask(name, tokens)


def full(hall):
    """`a`, due at 50, and `b`, due at 60, fill the room and compute."""
    steps = hall.came("a", 500, 50.0), hall.came("b", 450, 60.0)
    hall.granted()
    return steps


def test_room_is_made_for_who_is_overdue_as_larger_keys_stop_computing():
    hall = Virtual()
    _, b = full(hall)
    new = hall.came("new", 400, 10.0)
    hall.virtual = 20.0
    hall.wait(1.0)
    assert hall.granted() == [], "both compute"
    assert hall.paused() == []
    hall.land(b, 450)
    assert hall.paused() == ["b"]
    assert hall.granted() == [(new, "n/0")]


def test_nobody_is_paused_for_who_is_on_time():
    hall = Virtual()
    _, b = full(hall)
    hall.came("new", 400, 10.0)
    hall.virtual = 14.9  # due at 10, and 5 of grace
    hall.land(b, 450)
    assert hall.paused() == []
    assert hall.granted() == []


def test_smaller_keys_are_not_paused_for_larger_ones():
    hall = Virtual()
    _, b = full(hall)
    hall.came("new", 400, 70.0)
    hall.virtual = 80.0
    hall.land(b, 450)
    hall.wait(1.0)
    assert hall.paused() == []
    assert hall.granted() == []


def test_a_room_drains_for_a_large_session_until_it_fits():
    hall = Virtual()
    a, b = full(hall)
    new = hall.came("new", 900, 10.0)
    hall.virtual = 20.0
    hall.land(b, 450)
    assert hall.paused() == ["b"]
    assert hall.granted() == []
    hall.ask("b", 450)
    assert hall.granted() == [], "what is free is promised"
    hall.land(a, 500)
    assert hall.granted() == [(new, "n/0")]
    assert hall.paused() == ["a"]


def test_the_paused_of_larger_keys_do_not_pass_an_overdue_one():
    hall = Virtual()
    first, large = hall.came("small key", 300, 5.0), hall.came("overdue", 200, 10.0)
    small = hall.came("later", 100, 99.0)
    hall.land(large, 650)  # 1050 of 1000: nobody of a larger key computes nothing, so it is paused itself
    assert hall.paused() == ["overdue"]
    hall.land(small, 100)
    hall.ask("overdue", 800)
    hall.virtual = 20.0
    hall.granted()
    hall.wait(1.0)
    assert hall.paused() == ["later"], "its 100 tokens are wanted too"
    hall.ask("later", 100)
    hall.wait(1.0)
    assert hall.granted() == []
    hall.land(first, 300)
    hall.gate.leave("small key", hall.now)
    assert [worker for _, worker in hall.granted()] == ["n/0"]
    assert hall.gate.claims["overdue"].live


def test_without_virtual_time_patience_decides():
    hall = Hall(policy=replace(PLAIN, patience_s=600.0, force_s=NEVER))
    hall.ask("old", 500, arrived=1)
    young = hall.ask("young", 400, arrived=9)
    late = hall.ask("late", 400, arrived=5)
    hall.land(young, 400)
    hall.granted()
    hall.wait(599.0)
    assert hall.granted() == []
    assert hall.paused() == []
    hall.wait(1.0)
    assert hall.paused() == ["young"]
    assert hall.granted() == [(late, "n/0")]
    assert hall.gate.claims["old"].live


# -- where the order of turns is another one ------------------------------------------------


class Newest(Virtual):
    """The newest goes first, but for those whom a fair share would have finished."""

    def __init__(self, *names):
        super().__init__(*names)
        self.gate = Gate(
            self.pool,
            PATIENT,
            lambda standing, tokens: -standing.arrived_at,
            virtual_s=lambda: self.virtual,
            due=ordering.virtual_finish,
        )

    def came(self, name, tokens, due, arrived=0.0):
        self.accounts[name] = Account(1, arrived, due, 0.0)
        return self.ask(name, tokens)


def test_while_nobody_is_overdue_the_key_decides():
    hall = Newest()
    first = hall.came("first", 900, 50.0, arrived=1.0)
    hall.granted()
    hall.came("old", 400, 10.0, arrived=2.0)
    young = hall.came("young", 500, 20.0, arrived=3.0)
    hall.land(first, 900)
    hall.gate.leave("first", hall.now)
    assert next(step for step, _ in hall.granted()) == young


def test_the_overdue_of_the_line_go_before_smaller_keys():
    hall = Newest()
    first = hall.came("first", 900, 50.0, arrived=1.0)
    hall.granted()
    old = hall.came("old", 400, 10.0, arrived=2.0)
    older = hall.came("older", 400, 9.0, arrived=2.5)
    hall.came("young", 500, 20.0, arrived=3.0)
    hall.virtual = 15.0
    hall.land(first, 900)
    hall.gate.leave("first", hall.now)
    assert [step for step, _ in hall.granted()] == [older, old], "by when they were due"


def test_the_overdue_of_a_room_go_before_smaller_keys():
    hall = Newest()
    flying = hall.came("large", 600, 90.0, arrived=9.0)
    for name, arrived in {"old": 1.0, "young": 5.0}.items():
        hall.land(hall.came(name, 150, 10.0 if name == "old" else 40.0, arrived), 150)
    hall.land(flying, 1000)
    assert hall.paused() == ["old", "young"]
    late, early = hall.ask("old", 150), hall.ask("young", 150)
    hall.granted()
    hall.virtual = 15.0
    hall.wait(0.1)
    assert hall.paused() == ["large"], "it computes nothing, and somebody is overdue"
    assert [step for step, _ in hall.granted()] == [late, early]


def test_the_overdue_are_paused_last():
    hall = Newest()
    flying = hall.came("large", 600, 90.0, arrived=9.0)
    for name, due, arrived in (("late", 10.0, 1.0), ("on time", 40.0, 5.0)):
        hall.land(hall.came(name, 150, due, arrived), 150)
    hall.virtual = 15.0
    hall.land(flying, 740)
    assert hall.paused() == ["on time"], "although the key of the other one is larger"


def test_nobody_of_the_line_slips_in_where_somebody_overdue_waits():
    hall = Newest()
    large = hall.came("large", 500, 90.0, arrived=8.0)
    hall.land(hall.came("late", 100, 10.0, arrived=1.0), 100)
    hall.land(hall.came("other", 350, 95.0, arrived=9.0), 500)
    assert hall.paused() == ["late"], "the oldest"
    hall.granted()
    late = hall.ask("late", 900)
    hall.virtual = 15.0
    hall.wait(0.1)
    assert hall.paused() == ["other"], "for who is overdue, and large computes"
    hall.came("slim", 10, 99.0, arrived=9.5)
    assert hall.granted() == []
    hall.land(large, 500)
    assert hall.granted()[0] == (late, "n/0")
