"""What each workflow has had of the engines, what it is expected to take, and the virtual time they share.

Rules of this file
  1. Work is useful work in engine seconds: what is computed again because memory was short is nobody's.
  2. Virtual time of a model advances by (work delivered) / (weight of its unfinished workflows): the time in which
     fair shares are served. It counts those in a tool too, or it would run ahead while memory is what is short
     (policy study, section 8, pitfalls).
  3. Soft state: after a restart of the head, accounts begin anew when steps come.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from saga_core.costs import CostTable
from saga_core.ids import WorkflowId

UNKNOWN_S = 60.0
"""Expected work where nothing at all is known. The same for all, so that they go in the order of arrival."""
MEMORY = 0.05
"""Weight of the latest workflow in the mean of its kind: some 20 workflows count."""


@dataclass(slots=True, eq=False)
class Account:
    """One workflow's."""

    workflow: WorkflowId
    kind: str
    arrived_at: float
    born_v: float
    expected_s: float
    weight: float = 1.0
    attained_s: float = 0.0
    declared: bool = False
    """Its expected work was told, not learned."""


@dataclass(slots=True, eq=False)
class Service:
    """What one model's workers deliver."""

    virtual_s: float = 0.0
    weight: float = 0.0
    """Of unfinished workflows."""
    accounts: dict[WorkflowId, Account] = field(default_factory=dict)


class Accounts:
    """Accounts of unfinished workflows, per model."""

    def __init__(self, costs: CostTable) -> None:
        self.costs = costs
        self._services: dict[str, Service] = {}
        self._models: dict[WorkflowId, str] = {}
        self._means: dict[str, float] = {}
        """Work of a workflow by kind, the recent ones weighing more."""

    def of(self, workflow: WorkflowId) -> Account | None:
        model = self._models.get(workflow)
        return None if model is None else self._services[model].accounts[workflow]

    def open(
        self,
        workflow: WorkflowId,
        model: str,
        *,
        kind: str,
        at: float,
        work_s: float = 0.0,
        weight: float = 1.0,
    ) -> Account:
        """The account of `workflow`, opened at its first step. `work_s`: what it says it will take; 0: nothing."""
        found = self.of(workflow)
        if found is not None:
            return found
        service = self._services.setdefault(model, Service())
        account = Account(
            workflow,
            kind,
            at,
            service.virtual_s,
            expected_s=work_s or self._means.get(kind, UNKNOWN_S),
            weight=weight,
            declared=work_s > 0.0,
        )
        service.accounts[workflow] = account
        service.weight += weight
        self._models[workflow] = model
        return account

    def served(self, workflow: WorkflowId, work_s: float) -> None:
        """A step of `workflow` took `work_s` of useful work."""
        account = self.of(workflow)
        if account is None:
            return
        service = self._services[self._models[workflow]]
        account.attained_s += work_s
        service.virtual_s += work_s / service.weight

    def close(self, workflow: WorkflowId, *, complete: bool) -> None:
        """It is over; only a `complete` one says how much work its kind takes."""
        account = self.of(workflow)
        if account is None:
            return
        service = self._services[self._models.pop(workflow)]
        del service.accounts[workflow]
        service.weight = service.weight - account.weight if service.accounts else 0.0
        if complete and account.attained_s > 0.0:
            mean = self._means.get(account.kind)
            new = account.attained_s
            self._means[account.kind] = new if mean is None else mean + MEMORY * (new - mean)

    def virtual_s(self, model: str) -> float:
        service = self._services.get(model)
        return service.virtual_s if service is not None else 0.0

    def check(self) -> None:
        """Raise AssertionError where sums and parts disagree."""
        for service in self._services.values():
            total = sum(account.weight for account in service.accounts.values())
            assert abs(total - service.weight) < 1e-6 * (1.0 + total), "weights miscounted"
        for workflow, model in self._models.items():
            assert workflow in self._services[model].accounts, workflow
