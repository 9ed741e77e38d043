"""Follows the fairness bound (docs/fairness.md): what each workflow waits for, held against what it may wait for.

Fed with the head's facts, in order, each after the accounts have taken it in. Memory is bounded by the unfinished
workflows; a fact costs O(log n), and an end of a step one comparison more for each overdue workflow that waits.

Rules of this file
  1. Virtual time is computed here again from attained work and weights, and held against that of the accounts.
  2. A workflow waits while a step of it is held back and none is on a worker. All else of its life is its own.
  3. Who is overdue again becomes on time when its key grows beyond virtual time: its estimate was too small.
"""

from __future__ import annotations

import heapq

from saga_core.accounts import Account, Accounts
from saga_core.bound import FairnessFigures, Verdicts
from saga_core.events import Fact, StepArrived, StepFinished, StepLost, StepPlaced, WorkflowEnded
from saga_core.ids import StepId, WorkerId, WorkflowId
from saga_core.observed import Case, Course, Life

__all__ = ["FOLLOWED", "Fairness", "FairnessFigures"]

FOLLOWED = 256
"""Overdue workflows that wait of which it is told whom they wait for; of more only how many there were."""


class Fairness:
    """The checker of one head."""

    def __init__(self, accounts: Accounts, grace_s: float = 0.0) -> None:
        """`grace_s`: the gate's (`Admission`)."""
        self._accounts, self._grace_s = accounts, grace_s
        self._courses: dict[str, Course] = {}
        self._cases: dict[WorkflowId, Case] = {}
        self._steps: dict[StepId, tuple[WorkflowId, WorkerId | None, float]] = {}
        """Whose it is, the worker that it is on, and the key with which it went there."""
        self._verdicts = Verdicts()
        self._unfollowed = 0
        self._drift = 0.0

    def saw(self, at: float, fact: Fact) -> None:
        """`fact` happened at that time, and the accounts know."""
        match fact:
            case StepArrived() if fact.workflow is not None:
                self._arrived(at, fact.step, fact.workflow, fact.model)
            case StepPlaced():
                self._moved(at, fact.step, fact.worker)
            case StepLost():
                self._moved(at, fact.step, None)
            case StepFinished():
                self._finished(at, fact.step)
            case WorkflowEnded():
                self._end(at, fact.workflow)
            case _:
                pass

    def life(self, workflow: WorkflowId, at: float) -> Life | None:
        """What an unfinished workflow has had by `at`; None: it has made no step."""
        case = self._cases.get(workflow)
        if case is None:
            return None
        waited_s = case.waited_s + (at - case.since if case.since is not None else 0.0)
        return Life(at - case.arrived_at, waited_s, case.account.attained_s)

    def figures(self) -> FairnessFigures:
        """Of all that ended so far."""
        return self._verdicts.figures(self._drift, self._unfollowed)

    # -- steps ---------------------------------------------------------------------------

    def _arrived(self, at: float, step: StepId, workflow: WorkflowId, model: str) -> None:
        case = self._cases.get(workflow) or self._open(at, workflow, model)
        if case is None:
            return
        self._steps[step] = (workflow, None, case.key)
        case.held += 1
        self._look(at, case)

    def _open(self, at: float, workflow: WorkflowId, model: str) -> Case | None:
        """A life begins with its first step; with the first of a model, those of all who are under way already."""
        service = self._accounts.services.get(model)
        if service is None or workflow not in service.accounts:
            return None
        course = self._courses.get(model)
        if course is None:
            course = self._courses[model] = Course(service.virtual_s)
            for account in service.accounts.values():
                self._begin(at, account, model, course)
        else:
            self._begin(at, service.accounts[workflow], model, course)
        return self._cases[workflow]

    def _begin(self, at: float, account: Account, model: str, course: Course) -> None:
        course.weigh(account.weight)
        case = Case(account, model, at, course.virtual_s, course.turn, self._grace_s, 0.0, account.attained_s)
        case.top = case.key
        self._cases[account.workflow] = case
        heapq.heappush(course.due, (case.key, account.workflow))

    def _moved(self, at: float, step: StepId, worker: WorkerId | None) -> None:
        """Onto a worker, or off one that was lost."""
        case = self._case_of(step)
        if case is None:
            return
        self._take(case, step)
        self._steps[step] = (case.account.workflow, worker, case.key)
        if worker is None:
            case.held += 1
        else:
            case.placed += 1
            self._courses[case.model].fly(worker, 1)
        self._look(at, case)
        case.home = worker or case.home

    def _case_of(self, step: StepId) -> Case | None:
        found = self._steps.get(step)
        return self._cases.get(found[0]) if found is not None else None

    def _take(self, case: Case, step: StepId) -> tuple[WorkerId | None, float]:
        """The step is no longer where it was; which worker that is, and the key with which it went there."""
        _, worker, key = self._steps.pop(step)
        if worker is None:
            case.held -= 1
        else:
            case.placed -= 1
            self._courses[case.model].fly(worker, -1)
        return worker, key

    def _finished(self, at: float, step: StepId) -> None:
        case = self._case_of(step)
        if case is None:
            self._steps.pop(step, None)
            return
        self._deliver(at, case, *self._take(case, step))
        self._look(at, case)

    def _look(self, at: float, case: Case) -> None:
        """Whether it waits may have changed."""
        waits = case.held > 0 and not case.placed
        if waits and case.since is None:
            case.since, case.mark_s = at, self._courses[case.model].delivered_s
            if case.overdue_at is not None:
                self._follow(at, case)
        elif not waits and case.since is not None:
            self._stop(at, case)

    def _follow(self, at: float, case: Case) -> None:
        """It waits, and is overdue."""
        course = self._courses[case.model]
        if len(course.late) >= FOLLOWED:
            self._unfollowed += case.followed
            case.followed = False
            return
        course.late[case.account.workflow] = case
        case.late_since = at
        case.granted += course.on(case.home) + 1  # and one that was between two steps

    def _stop(self, at: float, case: Case) -> None:
        """It waits no more."""
        assert case.since is not None
        course = self._courses[case.model]
        case.waited_s += at - case.since
        if case.overdue_at is None:
            case.before_s += course.delivered_s - case.mark_s
        if case.late_since is not None:
            case.late_s += at - case.late_since
        course.late.pop(case.account.workflow, None)
        case.since = case.late_since = None

    # -- work ----------------------------------------------------------------------------

    def _deliver(self, at: float, case: Case, worker: WorkerId | None, key: float) -> None:
        """What the accounts have credited to `case` since the last look is work delivered, and moves virtual time."""
        course, account = self._courses[case.model], case.account
        work_s = account.attained_s - case.seen_s
        case.seen_s = account.attained_s
        course.delivered_s += work_s
        course.lump_s = max(course.lump_s, work_s)
        if work_s > 0.0:
            course.virtual_s += work_s / course.weight
            self._charge(course, key, worker, work_s)
        self._renew(course, case)
        self._declare(at, course)
        told_s = self._accounts.virtual_s(case.model)
        self._drift = max(self._drift, abs(told_s - course.virtual_s) / max(1.0, course.virtual_s))

    def _charge(self, course: Course, key: float, worker: WorkerId | None, work_s: float) -> None:
        """The overdue who wait see who was served instead where they wait."""
        for case in course.late.values():
            if case.home not in (None, worker):
                continue
            if key <= case.key:
                case.smaller_s += work_s
            else:
                case.larger_s += work_s

    def _renew(self, course: Course, case: Case) -> None:
        """Its key may be another one."""
        key = case.key
        case.top = max(case.top, key)
        if case.overdue_at is not None and key > course.virtual_s:
            self._forgive(course, case)
        if case.overdue_at is None:
            heapq.heappush(course.due, (key, case.account.workflow))
        if len(course.due) > 4 * len(self._cases) + 64:
            course.due = [
                (c.key, w) for w, c in self._cases.items() if c.model == case.model and c.overdue_at is None
            ]
            heapq.heapify(course.due)

    def _forgive(self, course: Course, case: Case) -> None:
        """It takes more than was expected: what it waited for counts from its arrival again."""
        case.overdue_at = case.late_since = None
        case.before_s += case.smaller_s + case.larger_s
        case.smaller_s = case.larger_s = case.late_s = 0.0
        case.granted = 0
        if course.late.pop(case.account.workflow, None) is not None:
            case.mark_s = course.delivered_s

    def _declare(self, at: float, course: Course) -> None:
        """Those whose keys virtual time has reached are overdue."""
        while course.due and course.due[0][0] <= course.virtual_s:
            key, workflow = heapq.heappop(course.due)
            case = self._cases.get(workflow)
            if case is None or case.overdue_at is not None:
                continue
            if case.key > course.virtual_s:
                if case.key != key:
                    heapq.heappush(course.due, (case.key, workflow))
                continue
            case.overdue_at = at
            if case.since is not None:
                case.before_s += course.delivered_s - case.mark_s
                self._follow(at, case)

    # -- ends ----------------------------------------------------------------------------

    def _end(self, at: float, workflow: WorkflowId) -> None:
        case = self._cases.pop(workflow, None)
        if case is None:
            return
        course = self._courses[case.model]
        if case.since is not None:
            self._stop(at, case)
        self._verdicts.judge(at, course, case)
        course.weigh(-case.account.weight)
