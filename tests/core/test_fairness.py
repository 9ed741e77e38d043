"""The checker of the fairness bound, against lives made by hand."""

from __future__ import annotations

import pytest

from saga_core.accounts import Accounts
from saga_core.aeg import Kind
from saga_core.bound import Spread
from saga_core.costs import CostTable
from saga_core.events import (
    Outcome,
    StepArrived,
    StepFinished,
    StepLost,
    StepPlaced,
    WorkflowEnded,
)
from saga_core.fairness import FOLLOWED, Fairness
from saga_core.observed import Peaks
from saga_core.states import WorkflowState


class Lives:
    """Workflows whose work, keys and steps are said outright. `served` may be told to be wrong."""

    def __init__(self):
        self.accounts = Accounts(CostTable())
        self.checker = Fairness(self.accounts)
        self.steps = 0
        self.wrong = 1.0

    def arrive(self, at, workflow, expected=10.0, weight=1.0):
        """A step; the workflow's first opens its account."""
        if self.accounts.of(workflow) is None:
            self.accounts.open(workflow, "m", Kind("t", ""), at=at, weight=weight).expected_s = expected
        self.steps += 1
        self.checker.saw(at, StepArrived(step=self.steps, tenant="t", model="m", workflow=workflow))
        return self.steps

    def place(self, at, step, worker="n/0"):
        self.checker.saw(at, StepPlaced(step=step, worker=worker, why=""))

    def lose(self, at, step):
        self.checker.saw(at, StepLost(step=step, worker="n/0"))

    def finish(self, at, step, workflow, work):
        account, service = self.accounts.of(workflow), self.accounts.services["m"]
        account.attained_s += work
        service.virtual_s += self.wrong * work / service.weight
        self.checker.saw(at, StepFinished(step=step, outcome=Outcome.DONE))

    def serve(self, at, workflow, work, worker="n/0"):
        step = self.arrive(at, workflow)
        self.place(at, step, worker)
        self.finish(at, step, workflow, work)

    def end(self, at, workflow):
        self.accounts.close(workflow, at=at, complete=True)
        self.checker.saw(at, WorkflowEnded(workflow=workflow, state=WorkflowState.DONE))
        return self.checker.figures()


def two():
    """1 has a key of 10 and 2 one of 100; nothing is served yet."""
    lives = Lives()
    lives.place(0.0, lives.arrive(0.0, 1, 10.0))
    lives.place(0.0, lives.arrive(0.0, 2, 100.0))
    return lives


def test_lateness_is_counted_from_when_virtual_time_reached_the_key():
    lives = two()
    lives.finish(10.0, 1, 1, 4.0)
    lives.finish(20.0, 2, 2, 15.9)  # virtual time 9.95
    lives.serve(30.0, 1, 0.2)  # 10.05
    figures = lives.end(50.0, 1)
    assert figures.overdue == 1
    assert figures.lateness_max == pytest.approx((50 - 30) / 50)


def test_waits_do_not_count_into_its_own_time():
    lives = two()
    lives.finish(10.0, 1, 1, 4.0)
    held = lives.arrive(10.0, 1)
    lives.finish(20.0, 2, 2, 20.0)
    lives.place(40.0, held)
    figures = lives.end(50.0, 1)
    assert figures.lateness_max == pytest.approx((50 - 20) / (50 - 30))


def test_who_ends_in_time_is_not_late():
    lives = two()
    lives.finish(10.0, 1, 1, 10.0)
    figures = lives.end(10.0, 1)
    assert (figures.workflows, figures.overdue, figures.lateness_max) == (1, 0, 0.0)


def overdue(lives):
    """1 has been at n/0, is overdue, and waits from second 30."""
    lives.finish(10.0, 1, 1, 4.0)
    lives.finish(20.0, 2, 2, 20.0)
    return lives.arrive(30.0, 1)


def test_larger_keys_on_its_worker_are_inversions_beyond_what_was_under_way():
    lives = two()
    held = overdue(lives)
    lives.serve(40.0, 2, 20.0)  # one may have been between two steps
    lives.place(41.0, held)
    assert lives.end(42.0, 1).violations == 0
    lives = two()
    held = overdue(lives)
    lives.serve(40.0, 2, 20.0)
    lives.serve(50.0, 2, 20.0)
    lives.place(60.0, held)
    figures = lives.end(61.0, 1)
    assert figures.violations == 1
    assert figures.inverted_max_s == pytest.approx(30.0)


def test_other_workers_serve_whom_they_like():
    lives = two()
    held = overdue(lives)
    for at in (40.0, 50.0, 60.0):
        lives.serve(at, 2, 20.0, worker="n/1")
    lives.place(60.0, held)
    figures = lives.end(61.0, 1)
    assert figures.violations == 0
    assert figures.unserved_max_s == pytest.approx(30.0), "nobody was served where it waited"


def test_a_lost_step_waits_again():
    lives = two()
    lives.lose(5.0, 1)
    lives.finish(20.0, 2, 2, 50.0)
    lives.place(45.0, 1)
    lives.finish(50.0, 1, 1, 1.0)
    assert lives.end(50.0, 1).lateness_max == pytest.approx((50 - 20) / (50 - 40))


def test_who_takes_more_than_expected_is_on_time_again():
    lives = two()
    lives.finish(10.0, 1, 1, 4.0)
    lives.finish(20.0, 2, 2, 20.0)  # virtual time 12: 1 is overdue
    lives.serve(30.0, 1, 20.0)  # it has had 24 of virtual 22
    figures = lives.end(90.0, 1)
    assert figures.overdue == 0


def test_weights_count():
    lives = Lives()
    lives.place(0.0, lives.arrive(0.0, 1, 10.0, weight=4.0))  # key 2.5
    lives.place(0.0, lives.arrive(0.0, 2, 100.0))
    lives.finish(10.0, 2, 2, 12.4)  # virtual time 2.48 of weight 5
    lives.serve(20.0, 2, 0.2)
    assert lives.end(30.0, 1).lateness_max == pytest.approx((30 - 20) / 30)


def test_a_virtual_time_that_goes_wrong_is_seen():
    lives = two()
    lives.finish(10.0, 1, 1, 4.0)
    assert lives.checker.figures().drift < 1e-9
    lives.wrong = 1.5
    lives.serve(20.0, 2, 4.0)
    assert lives.checker.figures().drift == pytest.approx(1 / 4)


def test_a_checker_that_comes_later_begins_with_what_it_finds():
    lives = two()
    lives.checker = Fairness(lives.accounts)
    lives.serve(10.0, 1, 4.0)
    lives.serve(20.0, 2, 4.0)
    figures = lives.end(30.0, 1)
    assert figures.drift < 1e-9
    assert (figures.workflows, figures.violations) == (1, 0)


def test_memory_is_that_of_the_unfinished():
    lives = Lives()
    for number in range(1, 2001):
        lives.serve(float(number), number, 1.0)
        lives.end(number + 0.5, number)
    course = lives.checker._courses["m"]
    assert not lives.checker._cases
    assert not lives.checker._steps
    assert not course.late
    assert len(course.due) <= 64 + 4
    assert len(course.peaks.turns) <= 4
    assert len(lives.checker._verdicts.lateness.bins) <= 2
    assert lives.checker.figures().workflows == 2000


def test_of_very_many_overdue_it_says_that_it_does_not_follow_them():
    lives = Lives()
    lives.place(0.0, lives.arrive(0.0, 1, 1e9))
    for number in range(2, FOLLOWED + 12):
        lives.arrive(1.0, number, 1e-6)
    lives.finish(2.0, 1, 1, 10.0)
    assert lives.checker.figures().unfollowed == 10


def test_steps_of_no_workflow_are_nobodys():
    lives = Lives()
    lives.checker.saw(0.0, StepArrived(step=1, tenant="t", model="m"))
    lives.place(0.0, 1)
    lives.checker.saw(1.0, StepFinished(step=1, outcome=Outcome.DONE))
    assert lives.checker.figures().workflows == 0


def test_peaks_know_the_largest_since_any_turn():
    peaks, weights = Peaks(), [3.0, 1.0, 4.0, 1.0, 5.0, 2.0, 2.0, 1.0]
    for turn, weight in enumerate(weights):
        peaks.add(turn, weight)
        for since in range(turn + 1):
            assert peaks.since(since) == max(weights[since : turn + 1])


def test_quantiles_are_right_to_a_bin():
    spread = Spread()
    for value in range(1, 1001):
        spread.add(float(value))
    assert spread.quantile(0.99) == pytest.approx(990, rel=0.06)
    assert spread.quantile(1.0) == 1000.0
    assert Spread().quantile(0.5) == 0.0
