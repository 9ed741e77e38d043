"""What became of each tenant's workflows, folded from the same facts as everything else.

A fact costs nothing here but for the end of a workflow. Memory is bounded by the tenants.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from saga_core.book import Book, Workflow
from saga_core.events import WorkflowEnded
from saga_core.ids import TenantId
from saga_core.observed import Life
from saga_core.states import WorkflowState
from saga_core.views import TenantView


@dataclass(slots=True)
class Tally:
    """Ended workflows of one tenant."""

    ended: int = 0
    attained_s: float = 0.0
    slowdown: float = 0.0
    """Sum over those that made a step."""
    stepped: int = 0
    promised: int = 0
    kept: int = 0

    def add(self, item: Workflow, life: Life | None, *, at: float, done: bool) -> None:
        self.ended += 1
        if item.deadline_s:
            self.promised += 1
            self.kept += done and at - item.submitted_at <= item.deadline_s
        if life is not None:
            self.attained_s += life.attained_s
            self.slowdown += life.slowdown
            self.stepped += 1


class Tallies:
    """Of one head, by tenant."""

    def __init__(self, book: Book) -> None:
        self._book = book
        self._by_tenant: dict[TenantId, Tally] = {}

    def ended(self, fact: WorkflowEnded, life: Life | None, at: float) -> None:
        """The book knows of it already. `life`: what it had, if it made a step."""
        item = self._book.workflows.get(fact.workflow)
        if item is None:
            return
        tally = self._by_tenant.setdefault(item.tenant, Tally())
        tally.add(item, life, at=at, done=fact.state is WorkflowState.DONE)

    def views(self, held: Iterable[TenantId]) -> list[TenantView]:
        """All tenants that have or had a workflow, by name. `held`: once for each workflow that waits."""
        waits = Counter(held)
        live: dict[TenantId, list[Workflow]] = {tenant: [] for tenant in self._by_tenant}
        for item in self._book.workflows.values():
            if item.live:
                live.setdefault(item.tenant, []).append(item)
        had = {tenant: self._attained_s(tenant, items) for tenant, items in live.items()}
        whole_s = sum(had.values())
        return [
            self._view(tenant, live[tenant], had[tenant], whole_s, waits[tenant]) for tenant in sorted(live)
        ]

    def _attained_s(self, tenant: TenantId, live: list[Workflow]) -> float:
        ended = self._by_tenant.get(tenant)
        accounts = (self._book.accounts.of(item.id) for item in live)
        return (ended.attained_s if ended is not None else 0.0) + sum(a.attained_s for a in accounts if a)

    def _view(
        self, tenant: TenantId, live: list[Workflow], attained_s: float, whole_s: float, held: int
    ) -> TenantView:
        tally = self._by_tenant.get(tenant, Tally())
        accounts = [a for item in live if (a := self._book.accounts.of(item.id)) is not None]
        return TenantView(
            id=tenant,
            weight=accounts[-1].weight if accounts else 1.0,
            live=len(live),
            held=held,
            attained_s=attained_s,
            share=attained_s / whole_s if whole_s else 0.0,
            ended=tally.ended,
            slowdown=tally.slowdown / tally.stepped if tally.stepped else None,
            promised=tally.promised,
            kept=tally.kept,
        )
