"""What the checker of the fairness bound observes: of each unfinished workflow, and of each model's workers."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field

from saga_core.accounts import Account
from saga_core.ids import WorkerId, WorkflowId
from saga_core.policy.ordering import virtual_finish

LEAST_LIFE_S = 1e-3
"""A life without waiting that is shorter than this counts as this long: it divides."""


@dataclass(frozen=True, slots=True)
class Life:
    """Of one workflow, in seconds."""

    life_s: float
    waited_s: float
    """Held back while no step of it was on a worker."""
    attained_s: float
    """Useful work in engine seconds."""

    @property
    def slowdown(self) -> float:
        """Its life over its life without waiting."""
        return self.life_s / max(LEAST_LIFE_S, self.life_s - self.waited_s)


@dataclass(slots=True, eq=False)
class Case:
    """One unfinished workflow."""

    account: Account
    model: str
    arrived_at: float
    born_v: float
    born_turn: int
    grace_s: float
    top: float
    """The largest key it ever had."""
    seen_s: float = 0.0
    """Of its attained work, what has been counted."""
    held: int = 0
    placed: int = 0
    since: float | None = None
    """When it began to wait."""
    mark_s: float = 0.0
    """Work delivered until then, or until it became overdue."""
    waited_s: float = 0.0
    before_s: float = 0.0
    """Work that others had while it waited and was not overdue."""
    smaller_s: float = 0.0
    larger_s: float = 0.0
    """The same while it was, on its worker, by those with smaller and larger keys."""
    overdue_at: float | None = None
    late_since: float | None = None
    """Since when it waits and is overdue."""
    late_s: float = 0.0
    """How long it did."""
    granted: int = 0
    """Steps of larger keys that it may wait for: what was on its worker when it began to."""
    home: WorkerId | None = None
    """Where its latest step was; None: it has not been on a worker."""
    followed: bool = True

    @property
    def key(self) -> float:
        """When it is overdue, in virtual time."""
        return virtual_finish(self.account, 0) + self.grace_s


@dataclass(slots=True)
class Peaks:
    """The largest weight since any moment in the past that somebody unfinished has seen."""

    turns: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)

    def add(self, turn: int, weight: float) -> None:
        while self.weights and self.weights[-1] <= weight:
            self.weights.pop()
            self.turns.pop()
        self.turns.append(turn)
        self.weights.append(weight)

    def since(self, turn: int) -> float:
        """At least one weight must have been added since."""
        return self.weights[bisect_left(self.turns, turn)]


@dataclass(slots=True)
class Course:
    """What one model's workers deliver."""

    virtual_s: float
    weight: float = 0.0
    delivered_s: float = 0.0
    lump_s: float = 0.0
    """The most that one step brought: virtual time goes in such jumps."""
    turn: int = 0
    peaks: Peaks = field(default_factory=Peaks)
    due: list[tuple[float, WorkflowId]] = field(default_factory=list)
    """By key, smallest first; entries of keys that are past too."""
    late: dict[WorkflowId, Case] = field(default_factory=dict)
    """Overdue, and waiting."""
    flying: dict[WorkerId, int] = field(default_factory=dict)
    """Steps on each worker."""

    def on(self, worker: WorkerId | None) -> int:
        """Steps on that worker, or on all."""
        return self.flying.get(worker, 0) if worker is not None else sum(self.flying.values())

    def fly(self, worker: WorkerId, by: int) -> None:
        self.flying[worker] = self.flying.get(worker, 0) + by
        if not self.flying[worker]:
            del self.flying[worker]

    def weigh(self, by: float) -> None:
        self.weight += by
        self.turn += 1
        self.peaks.add(self.turn, self.weight)
