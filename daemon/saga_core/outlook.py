"""What rules of retention may know: of a session between two steps, and of the worker that it is at home on.

Asked for lazily: no rule wants all of it, and some of it is a sum over a worker's sessions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from saga_core.aeg import Estimate, Learner
from saga_core.costs import CostTable
from saga_core.fleet import Worker
from saga_core.ids import SessionId
from saga_core.kv.retention import latency_percentile_s


@dataclass(frozen=True, slots=True)
class Prospect:
    """What was learned of a session: an `Outlook` of `saga_core.policy.keeping`."""

    learner: Learner
    workflow: int
    session: str
    """Its own name within the workflow."""

    def left(self, for_s: float) -> Estimate:
        return self.learner.return_in(self.workflow, self.session, for_s)

    def returns(self, for_s: float) -> float:
        return self.learner.return_probability(self.workflow, self.session, for_s)

    def latency_s(self, share: float) -> float:
        return latency_percentile_s(self.learner.latencies_s(self.workflow, self.session), share) or 0.0

    def reuse(self, cached_tokens: int) -> float:
        return self.learner.reuse(self.workflow, self.session, cached_tokens)

    def steps(self) -> float:
        return self.learner.steps_until(self.workflow, self.session)


@dataclass(frozen=True)
class Home:
    """A worker at one moment: a `Scene` of `saga_core.policy.keeping`."""

    costs: CostTable
    worker: Worker
    away: Mapping[SessionId, int]
    """Contexts in tokens of its sessions between two steps, the longest away first."""
    since: Mapping[SessionId, float]
    """When the latest step of a session ended."""
    now: float

    @cached_property
    def used_share(self) -> float:
        """By the mirror of what live sessions have there, or by what the engine's running steps pin."""
        held = sum(self.worker.resident.values())
        capacity = self.worker.capacity_tokens
        return min(1.0, max(self.worker.kv_usage, held / capacity if capacity > 0 else 0.0))

    @cached_property
    def idle_most_s(self) -> float:
        first = next(iter(self.away), None)
        return self.now - self.since.get(first, self.now) if first is not None else 0.0

    @cached_property
    def size_most_tokens(self) -> int:
        return max(self.away.values(), default=0)
