"""Who pays: what a tenant may do and how much its workflows count. Plain values; the head keeps them in a file."""

from __future__ import annotations

import re
from typing import Final

import msgspec

from saga_core.errors import UserError
from saga_core.told import MOST_PRIORITY

DEFAULT: Final = "default"
"""The tenant of the cluster's own key; it is always there."""
MOST_WEIGHT: Final = 1000.0
LEAST_WEIGHT: Final = 0.001
MOST: Final = 10_000_000
"""Of any limit: more is a mistake."""
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


class TenantKey(msgspec.Struct, frozen=True, kw_only=True):
    """One API key. Only its digest is kept: keys have 256 random bits, so there is nothing to guess from it."""

    id: str
    """Its first characters, by which people tell keys apart."""
    digest: str
    """SHA-256, hexadecimal."""
    made_at: float


class Tenant(msgspec.Struct, frozen=True, kw_only=True):
    """One tenant's settings."""

    name: str
    weight: float = 1.0
    """Share of each of its workflows, against others'; counts for workflows that begin from then on."""
    max_workflows: int = 0
    """At one time; 0: any number."""
    steps_per_min: int = 0
    """0: any number."""
    priority: int = 0
    """The highest that its requests may ask for: above 0 they take turns from other tenants."""
    keys: tuple[TenantKey, ...] = ()


class TenantRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is to be set; None leaves it as it is."""

    weight: float | None = None
    max_workflows: int | None = None
    steps_per_min: int | None = None
    priority: int | None = None


class TenantKeyView(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    made_at: float


class TenantSettings(msgspec.Struct, frozen=True, kw_only=True):
    """One tenant, as `saga tenant list` shows it: no digests."""

    name: str
    weight: float
    max_workflows: int
    steps_per_min: int
    live: int
    """Workflows of it that have not ended."""
    priority: int = 0
    keys: list[TenantKeyView] = []


class NewKey(msgspec.Struct, frozen=True, kw_only=True):
    """Told once: nobody can read it again."""

    tenant: str
    id: str
    key: str


def check_name(name: str) -> str:
    """Raise UserError for what cannot be a tenant's name."""
    if not _NAME.fullmatch(name):
        raise UserError(
            f"{name[:80]!r} is no name for a tenant (valid: up to 63 of a-z, 0-9, '.', '_', '-', a letter or digit first)"
        )
    return name


def changed(tenant: Tenant, wanted: TenantRequest) -> Tenant:
    """The tenant with what is wanted. Raises UserError for a value out of range."""
    weight = tenant.weight if wanted.weight is None else wanted.weight
    if not LEAST_WEIGHT <= weight <= MOST_WEIGHT:
        raise UserError(f"weight = {weight:g} is out of range (valid: {LEAST_WEIGHT:g} to {MOST_WEIGHT:g})")
    priority = tenant.priority if wanted.priority is None else wanted.priority
    if not 0 <= priority <= MOST_PRIORITY:
        raise UserError(f"priority = {priority} is out of range (valid: 0 to {MOST_PRIORITY})")
    limits = {}
    for name in ("max_workflows", "steps_per_min"):
        value = getattr(tenant, name) if getattr(wanted, name) is None else getattr(wanted, name)
        if not 0 <= value <= MOST:
            raise UserError(f"{name} = {value} is out of range (valid: 0 for no limit, to {MOST:,})")
        limits[name] = value
    return Tenant(name=tenant.name, keys=tenant.keys, weight=weight, priority=priority, **limits)
