"""What `saga usage` shows: who has had how much of the GPUs (`saga_core.usage`).

Frozen and free of secrets, as `saga_core.views`.
"""

from __future__ import annotations

import msgspec


class SpentView(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody has had."""

    gpu_s: float
    """GPU-seconds by the clock: a worker's time is shared equally among the steps on it."""
    steps: int
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int


class TenantUsage(SpentView, frozen=True, kw_only=True):
    tenant: str


class WorkflowUsage(SpentView, frozen=True, kw_only=True):
    id: int
    name: str
    tenant: str
    agent_type: str
    state: str
    submitted_at: float
    ended_at: float | None


class UsageView(msgspec.Struct, frozen=True, kw_only=True):
    """`saga usage`."""

    since: float
    """Seconds since the epoch (UTC), at the beginning of an hour."""
    until: float
    tenants: list[TenantUsage]
    """By GPU-seconds, the most first; a step counts into the hour in which it ended."""
    workflows: list[WorkflowUsage]
    """Those that were active since and are still known (the latest 1,000 that ended), with all that they have had."""
