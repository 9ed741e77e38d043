"""The statement of the fairness bound (docs/fairness.md), held against workflows that have ended, and what came out."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import exp, floor, log

import msgspec

from saga_core.observed import LEAST_LIFE_S, Case, Course

BIN = log(1.05)
"""Width of a histogram's bins: quantiles are right to 5 %."""
ROUNDING = 1e-6
"""Relative: sums of a million floats."""
LEAST = 1e-3
"""What is smaller than this is in the lowest bin."""


class FairnessFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen so far. Lateness: (end - when a fair share would have finished it) / (its life without waiting).

    violations: ended workflows that waited for more work of others than the bound grants, before they were overdue or,
    by larger keys on the worker they wait for, after. drift: largest relative
    difference between the virtual time of the accounts and that of the checker. overdue: ended workflows that were
    late at all. inverted_max_s: longest that an overdue workflow waited for larger keys on its worker. unserved_max_s:
    longest wait of an overdue one in which no step ended there, where the bound says nothing. unfollowed: overdue workflows beyond what is followed, out of the bound.
    """

    workflows: int = 0
    violations: int = 0
    drift: float = 0.0
    overdue: int = 0
    lateness_p99: float = 0.0
    lateness_max: float = 0.0
    inverted_max_s: float = 0.0
    unserved_max_s: float = 0.0
    unfollowed: int = 0


@dataclass(slots=True)
class Spread:
    """Numbers at least 0, in bins."""

    bins: dict[int, int] = field(default_factory=dict)
    count: int = 0
    most: float = 0.0

    def add(self, value: float) -> None:
        at = floor(log(max(value, LEAST)) / BIN)
        self.bins[at] = self.bins.get(at, 0) + 1
        self.count += 1
        self.most = max(self.most, value)

    def quantile(self, share: float) -> float:
        """The upper edge of its bin; 0 where there is nothing."""
        left = share * self.count
        for at in sorted(self.bins):
            left -= self.bins[at]
            if left <= 0:
                value = exp((at + 1) * BIN)
                return min(value, self.most)
        return 0.0


def before_most_s(course: Course, case: Case) -> float:
    """Work of others, in engine seconds, that it may wait for before it is overdue (Lemma 1)."""
    return course.peaks.since(case.born_turn) * (case.top - case.born_v) + course.lump_s


def after_most_s(course: Course, case: Case) -> float:
    """Work of larger keys on its worker that it may wait for once it is overdue (Lemma 4)."""
    return case.granted * course.lump_s


def holds(course: Course, case: Case) -> bool:
    """Did it wait for no more? Of those who were not followed only the first half is known."""
    more = 1.0 + ROUNDING
    if case.before_s > before_most_s(course, case) * more:
        return False
    return not case.followed or case.larger_s <= after_most_s(course, case) * more


@dataclass(slots=True)
class Verdicts:
    """On all that ended so far."""

    ended: int = 0
    violations: int = 0
    overdue: int = 0
    inverted_s: float = 0.0
    unserved_s: float = 0.0
    lateness: Spread = field(default_factory=Spread)

    def judge(self, at: float, course: Course, case: Case) -> None:
        """`case` has ended."""
        self.ended += 1
        own_s = max(at - case.arrived_at - case.waited_s, LEAST_LIFE_S)
        self.lateness.add((at - case.overdue_at) / own_s if case.overdue_at is not None else 0.0)
        self.overdue += case.overdue_at is not None
        self.violations += not holds(course, case)
        if case.followed:
            self._share_out(case)

    def _share_out(self, case: Case) -> None:
        """Whom it waited for while it was overdue, in seconds."""
        served_s = case.smaller_s + case.larger_s
        if served_s > 0.0:
            self.inverted_s = max(self.inverted_s, case.late_s * case.larger_s / served_s)
        else:
            self.unserved_s = max(self.unserved_s, case.late_s)

    def figures(self, drift: float, unfollowed: int) -> FairnessFigures:
        """With what the checker saw of virtual time, and how many it did not follow."""
        return FairnessFigures(
            workflows=self.ended,
            violations=self.violations,
            drift=drift,
            overdue=self.overdue,
            lateness_p99=self.lateness.quantile(0.99),
            lateness_max=self.lateness.most,
            inverted_max_s=self.inverted_s,
            unserved_max_s=self.unserved_s,
            unfollowed=unfollowed,
        )
