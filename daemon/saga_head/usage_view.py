"""`saga usage` and the backlog as views: read only, built when somebody asks."""

from __future__ import annotations

from saga_core.book import Workflow
from saga_core.head import Head
from saga_core.spending import TenantUsage, UsageView, WorkflowUsage
from saga_core.usage import HOUR_S
from saga_core.views import BacklogView


def usage(head: Head, since: float, now: float) -> UsageView:
    """What tenants and workflows have had since `since` (seconds since the epoch), or rather since that hour began."""
    begin = since // HOUR_S * HOUR_S
    tenants = [
        TenantUsage(
            tenant=tenant,
            gpu_s=spent.gpu_s,
            steps=spent.steps,
            prompt_tokens=spent.prompt_tokens,
            cached_tokens=spent.cached_tokens,
            output_tokens=spent.output_tokens,
        )
        for tenant, spent in head.book.usage.since(begin).items()
    ]
    found = [w for w in head.book.workflows.values() if w.active_at >= begin]
    return UsageView(
        since=begin,
        until=now,
        tenants=sorted(tenants, key=lambda t: (-t.gpu_s, t.tenant)),
        workflows=[_workflow(w) for w in sorted(found, key=lambda w: (-w.gpu_s, w.id))],
    )


def _workflow(item: Workflow) -> WorkflowUsage:
    return WorkflowUsage(
        id=item.id,
        name=item.name,
        tenant=item.tenant,
        agent_type=item.agent_type,
        state=item.state,
        submitted_at=item.submitted_at,
        ended_at=item.ended_at,
        gpu_s=item.gpu_s,
        steps=item.steps,
        prompt_tokens=item.prompt_tokens,
        cached_tokens=item.cached_tokens,
        output_tokens=item.output_tokens,
    )


def backlog(head: Head) -> list[BacklogView]:
    """Per model."""
    return [
        BacklogView(
            model=item.model,
            ready=item.ready,
            wanted=item.wanted,
            waiting_steps=item.waiting_steps,
            waiting_tokens=item.waiting_tokens,
        )
        for item in head.backlog()
    ]
