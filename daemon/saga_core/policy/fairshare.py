"""Agent Fair Share of the SAGA paper (arXiv 2605.00528, section 6, Eqs. 8 and 9).

Rules of this file
  1. A workflow is as urgent as its remaining work is large and its slack small; a tenant is as urgent as its live
     workflows together, those in a tool too (Eq. 8). A tenant's share of the cluster is its part of all urgency (Eq. 9).
  2. Shares are recomputed once per epoch, at most `PER_EPOCH` workflows of it: with more of them alive, in turn.
  3. What the paper leaves open is chosen here and said in docs/adr/0005. Our own profile does not use any of this:
     a tenant that is late takes everything (policy study, section 8).
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice

from saga_core.ids import TenantId, WorkflowId

EPOCH_S = 0.1
"""SAGA paper, section 6: how often shares are recomputed."""
SLO = 1.5
"""SAGA paper, section 8: a deadline is this multiple of the expected task completion time."""
ALONE = 2.5
"""The same of the time it would take alone, where no completion time is known: 1.5 times the slowdown of 1.67 of a
healthy busy cluster (policy study, section 8)."""
LEAST_SLACK_S = 1.0
"""The paper does not say what is so at and after the deadline: then a workflow is as urgent as if due in a second."""
PER_EPOCH = 1000
"""Workflows whose urgency is recomputed in one epoch: some 1 ms."""
TIMES = 30
"""Completion times remembered per agent type (as many as the paper's cold start takes)."""
TYPES = 1024
"""Agent types remembered."""
MOST = 1e9
"""No workflow is more urgent than that."""
GRAIN = 1_000_000
"""Urgency is summed in whole millionths: they add up exactly, whatever comes and goes."""
STEPS = 1000
"""Grades of priority between a share of 0 and of 1. Engines want a whole number, and equals go first come, first served."""


def urgency(remaining_s: float, slack_s: float) -> float:
    """One workflow's term of Eq. 8: engine seconds still to come over seconds left."""
    return max(0.0, remaining_s) / max(LEAST_SLACK_S, slack_s)


def tenant_urgency(workflows: Iterable[tuple[float, float]]) -> float:
    """AFS_i (Eq. 8), from (remaining engine seconds, slack in seconds) of each of the tenant's live workflows."""
    return sum(urgency(remaining_s, slack_s) for remaining_s, slack_s in workflows)


def fair_shares(urgencies: Mapping[TenantId, float]) -> dict[TenantId, float]:
    """a_i / C (Eq. 9): each tenant's part of all urgency; equal parts where nobody is urgent."""
    total = sum(urgencies.values())
    if total <= 0.0:
        return dict.fromkeys(urgencies, 1.0 / len(urgencies)) if urgencies else {}
    return {tenant: value / total for tenant, value in urgencies.items()}


def priority(share: float) -> int:
    """For engines that serve the smallest first: 0 for a share of everything, `STEPS` for one of nothing."""
    return STEPS - round(STEPS * min(1.0, max(0.0, share)))


def deadline(
    submitted_at: float, *, expected_tct_s: float, work_s: float, declared: float | None = None
) -> float:
    """When a workflow should be done (seconds): as declared, else 1.5 times what such workflows take.

    expected_tct_s: 0 where none has finished; then 2.5 times its expected engine seconds `work_s` must do.
    """
    if declared is not None:
        return declared
    return submitted_at + (SLO * expected_tct_s if expected_tct_s > 0.0 else ALONE * work_s)


class CompletionTimes:
    """What workflows of each agent type took lately, from submission to end, in seconds."""

    def __init__(self) -> None:
        self._by_type: OrderedDict[str, deque[float]] = OrderedDict()

    def add(self, agent_type: str, tct_s: float) -> None:
        times = self._by_type.setdefault(agent_type, deque(maxlen=TIMES))
        times.append(tct_s)
        self._by_type.move_to_end(agent_type)
        if len(self._by_type) > TYPES:
            self._by_type.popitem(last=False)

    def expected_s(self, agent_type: str) -> float:
        """Their mean; 0 where none is known."""
        times = self._by_type.get(agent_type)
        return sum(times) / len(times) if times else 0.0


@dataclass(slots=True, eq=False)
class Stake:
    """One live workflow's part in its tenant's urgency."""

    tenant: TenantId
    deadline: float
    grains: int = 0
    """Its urgency as last counted."""


class FairShare:
    """The urgency of every tenant, kept up to date; soft state."""

    def __init__(self) -> None:
        self._stakes: OrderedDict[WorkflowId, Stake] = OrderedDict()
        """The longest not recomputed first."""
        self._members: dict[TenantId, int] = {}
        self._grains: dict[TenantId, int] = {}
        """Urgency of each tenant."""
        self._total = 0
        """Of all tenants; a share is read off it, so that who comes or goes costs the same with a thousand tenants."""

    def __contains__(self, workflow: WorkflowId) -> bool:
        return workflow in self._stakes

    def enter(
        self, workflow: WorkflowId, tenant: TenantId, deadline: float, remaining_s: float, now: float
    ) -> None:
        """`workflow` counts from now on; twice does nothing."""
        if workflow in self._stakes:
            return
        stake = self._stakes[workflow] = Stake(tenant, deadline)
        self._members[tenant] = self._members.get(tenant, 0) + 1
        self._grains.setdefault(tenant, 0)
        self._count(stake, urgency(remaining_s, deadline - now))

    def leave(self, workflow: WorkflowId) -> None:
        """`workflow` is over; a stranger does nothing."""
        stake = self._stakes.pop(workflow, None)
        if stake is None:
            return
        self._count(stake, 0.0)
        self._members[stake.tenant] -= 1
        if not self._members[stake.tenant]:
            del self._members[stake.tenant], self._grains[stake.tenant]

    def refresh(self, remaining_s: Callable[[WorkflowId], float], now: float) -> None:
        """An epoch is over: time has passed and work was done. With one tenant there is nothing to share."""
        if len(self._members) < 2:
            return
        for workflow in list(islice(self._stakes, PER_EPOCH)):
            stake = self._stakes[workflow]
            self._count(stake, urgency(remaining_s(workflow), stake.deadline - now))
            self._stakes.move_to_end(workflow)

    def _count(self, stake: Stake, value: float) -> None:
        grains = int(GRAIN * min(value, MOST))
        self._grains[stake.tenant] += grains - stake.grains
        self._total += grains - stake.grains
        stake.grains = grains

    def share(self, tenant: TenantId) -> float:
        """Part of the cluster that is due to `tenant`; one without workflows counts as one more among equals."""
        found = self._grains.get(tenant)
        if found is None:
            return 1.0 / (1 + len(self._members))
        return found / self._total if self._total else 1.0 / len(self._members)

    def check(self) -> None:
        """Raise AssertionError where sums and parts disagree."""
        sums: dict[TenantId, int] = {}
        for stake in self._stakes.values():
            sums[stake.tenant] = sums.get(stake.tenant, 0) + stake.grains
        assert sums == self._grains, "urgency miscounted"
        assert sums.keys() == self._members.keys(), "tenants miscounted"
        assert sum(sums.values()) == self._total, "all urgency miscounted"
