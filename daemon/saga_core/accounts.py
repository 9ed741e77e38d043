"""What each workflow has had of the engines, what it is expected to take, and the virtual time they share.

Rules of this file
  1. Work is useful work in engine seconds: what is computed again because memory was short is nobody's.
  2. Virtual time of a model advances by (work delivered) / (weight of its unfinished workflows): the time in which
     fair shares are served. It counts those in a tool too, or it would run ahead while memory is what is short
     (policy study, section 8, pitfalls).
  3. Facts alone change accounts, through the book they are part of: a restart of the head finds them as they were.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from msgspec.structs import replace

from saga_core.aeg import Hints, Kind, Learner
from saga_core.aeg.live import MOST_TOKENS, bounded
from saga_core.costs import CostTable
from saga_core.events import StepFinished
from saga_core.ids import WorkflowId
from saga_core.paces import Paces, kind_of


@dataclass(slots=True, eq=False)
class Account:
    """One workflow's."""

    workflow: WorkflowId
    arrived_at: float
    born_v: float
    expected_s: float
    weight: float = 1.0
    attained_s: float = 0.0
    priority: int = 0
    """Larger goes sooner (`ordering.URGENCY_S`)."""
    kind: str = ""
    """Whose pace it has until it has one of its own (`saga_core.paces`)."""


@dataclass(slots=True, eq=False)
class Service:
    """What one model's workers deliver."""

    virtual_s: float = 0.0
    weight: float = 0.0
    """Of unfinished workflows."""
    accounts: dict[WorkflowId, Account] = field(default_factory=dict)


def spent(costs: CostTable, fact: StepFinished, context_tokens: int) -> tuple[float, float]:
    """Seconds of useful work in a step, and those for what had been computed before and was gone.

    `context_tokens` of its session had been computed; a prompt shorter than that was summarised: all of it is new.
    """
    prompt, cached = fact.prompt_tokens or 0, fact.cached_tokens or 0
    known = max(cached, context_tokens if context_tokens <= prompt else 0)
    return costs.work_s(known, prompt, fact.output_tokens or 0), costs.chunk_s(cached, known - cached)


def plausible(event: StepFinished) -> StepFinished:
    """Counts that no engine can mean are bounded: a sum that one of them entered would be wrong for good."""
    counts = (event.prompt_tokens, event.cached_tokens, event.output_tokens)
    if all(count is None or 0 <= count <= MOST_TOKENS for count in counts):
        return event
    prompt, cached, output = (None if count is None else bounded(count) for count in counts)
    return replace(event, prompt_tokens=prompt, cached_tokens=cached, output_tokens=output)


class Accounts:
    """Accounts of unfinished workflows, per model."""

    def __init__(
        self,
        costs: CostTable,
        services: dict[str, Service] | None = None,
        learner: Learner | None = None,
        paces: Paces | None = None,
    ) -> None:
        """`services` by model, `learner` and `paces`: what a snapshot has kept."""
        self.costs = costs
        self.services = services if services is not None else {}
        self.learner = learner if learner is not None else Learner()
        self.paces = paces if paces is not None else Paces()
        self._models = {w: model for model, service in self.services.items() for w in service.accounts}

    def of(self, workflow: WorkflowId) -> Account | None:
        model = self._models.get(workflow)
        return None if model is None else self.services[model].accounts[workflow]

    def model_of(self, workflow: WorkflowId) -> str | None:
        """The model whose virtual time its account counts in: that of its first step."""
        return self._models.get(workflow)

    def open(
        self,
        workflow: WorkflowId,
        model: str,
        kind: Kind,
        *,
        at: float,
        prompt_tokens: int = 0,
        hints: Hints | None = None,
        weight: float = 1.0,
        priority: int = 0,
    ) -> Account:
        """The account of `workflow`, opened at its first step, whose prompt has some `prompt_tokens`.

        hints: what it says of itself.
        """
        found = self.of(workflow)
        if found is not None:
            return found
        service = self.services.setdefault(model, Service())
        self.learner.began(workflow, kind, hints, prompt_tokens=prompt_tokens)
        expected_s = self._expected_s(workflow)
        born_v, pace = service.virtual_s, kind_of(kind)
        account = Account(workflow, at, born_v, expected_s, weight, priority=priority, kind=pace)
        service.accounts[workflow] = account
        service.weight += weight
        self._models[workflow] = model
        return account

    def _expected_s(self, workflow: WorkflowId) -> float:
        return self.learner.total_work(workflow).median

    def returned(self, workflow: WorkflowId, session: str, *, at: float, tool: str = "") -> None:
        """A step of `session` arrives: whatever it waited for is done, a `tool` if it says so."""
        self.learner.returned(workflow, session, at=at, tool=tool)

    def served(
        self,
        workflow: WorkflowId,
        session: str,
        work_s: float,
        *,
        at: float,
        prompt_tokens: int,
        output_tokens: int,
        tool: str = "",
    ) -> None:
        """A step of `session` took `work_s` of useful work, and asked for `tool`."""
        account = self.of(workflow)
        if account is None:
            return
        service = self.services[self._models[workflow]]
        account.attained_s += work_s
        service.virtual_s += work_s / service.weight
        self.learner.stepped(
            workflow,
            session,
            at=at,
            work_s=work_s,
            prompt_tokens=prompt_tokens,
            output_tokens=output_tokens,
            tool=tool,
        )
        account.expected_s = self._expected_s(workflow)

    def close(self, workflow: WorkflowId, *, at: float, complete: bool) -> None:
        """It is over; only a `complete` one says how much work its kind takes."""
        account = self.of(workflow)
        if account is None:
            return
        service = self.services[self._models.pop(workflow)]
        del service.accounts[workflow]
        service.weight = service.weight - account.weight if service.accounts else 0.0
        self.learner.ended(workflow, complete=complete)
        if complete:
            self.paces.learn(account.kind, at - account.arrived_at, account.attained_s)

    def left_s(self, workflow: WorkflowId, now: float) -> float:
        """Seconds of life that a workflow is expected to have left, at its own pace or its kind's; 0: nobody knows."""
        account = self.of(workflow)
        if account is None:
            return 0.0
        work_s = max(0.0, account.expected_s - account.attained_s)
        if account.attained_s > 0.0:
            return work_s * max(0.0, now - account.arrived_at) / account.attained_s
        pace = self.paces.of(account.kind)
        return work_s * pace.stretch if pace is not None else 0.0

    def life_s(self, tenant: str, agent_type: str) -> float:
        """Seconds that workflows of that kind have taken from their first step; 0: nobody knows."""
        pace = self.paces.of(kind_of(Kind(tenant, agent_type)))
        return pace.life_s if pace is not None else 0.0

    def virtual_s(self, model: str) -> float:
        service = self.services.get(model)
        return service.virtual_s if service is not None else 0.0

    def check(self) -> None:
        """Raise AssertionError where sums and parts disagree."""
        for service in self.services.values():
            total = sum(account.weight for account in service.accounts.values())
            assert abs(total - service.weight) < 1e-6 * (1.0 + total), "weights miscounted"
        for workflow, model in self._models.items():
            assert workflow in self.services[model].accounts, workflow
