"""Tenants of a cluster, in `tenants.json` (0600): their keys by digest, their quotas, and what parts their caches.

Rules of this file
  1. A key is looked up by its SHA-256 in a dictionary: the time that takes says nothing about any key, and what lies
     on the disk opens nothing.
  2. A change is on the disk before it counts.
  3. A tenant's salt is an HMAC of its name under a secret of this cluster: nobody can compute another's. The default
     tenant's prompts have none; no other tenant's are without.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import secrets
from base64 import urlsafe_b64encode
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec
from msgspec.structs import replace

from saga_core.book import Book
from saga_core.errors import ClusterError, UserError, choose
from saga_core.events import Fact, WorkflowEnded, WorkflowSubmitted
from saga_core.ids import TenantId
from saga_core.tenants import (
    DEFAULT,
    NewKey,
    Tenant,
    TenantKey,
    TenantKeyView,
    TenantRequest,
    TenantSettings,
    changed,
    check_name,
)
from saga_head.gateway.port import Refusal
from saga_head.keys import Callers
from saga_shell.files import write_private

FILE: Final = "tenants.json"
TENANTS: Final = 1000
KEYS: Final = 100
"""Of one tenant."""
BURST_S: Final = 10.0
"""Steps of so many seconds may come at once."""
KEY_ID: Final = 16
WORKFLOWS_RETRY_S: Final = 10


class _File(msgspec.Struct, frozen=True, kw_only=True):
    secret: str
    tenants: list[Tenant] = []


class _Bucket:
    """Steps that may come now."""

    __slots__ = ("at", "steps")

    def __init__(self, at: float, steps: float) -> None:
        self.at, self.steps = at, steps


class Tenants:
    """All of one cluster."""

    def __init__(self, path: Path, callers: Callers, book: Book, clock: Callable[[], float]) -> None:
        """Raises `ClusterError` for a damaged file."""
        self._path, self._callers, self._book, self._clock = path, callers, book, clock
        file = _load(path)
        self._secret = file.secret
        self._by_name = {tenant.name: tenant for tenant in file.tenants}
        self._by_name.setdefault(DEFAULT, Tenant(name=DEFAULT))
        self._buckets: dict[str, _Bucket] = {}
        self._salts: dict[str, bytes] = {}
        self.live: Counter[str] = Counter(w.tenant for w in book.workflows.values() if w.live)
        for tenant in file.tenants:
            for key in tenant.keys:
                callers.let_in(bytes.fromhex(key.digest), TenantId(tenant.name))

    # -- settings ------------------------------------------------------------------------

    def list(self) -> list[TenantSettings]:
        return [self._view(tenant) for _, tenant in sorted(self._by_name.items())]

    def add(self, name: str, wanted: TenantRequest) -> NewKey:
        """A new tenant and its first key. Raises UserError where there is one of that name."""
        if check_name(name) in self._by_name:
            raise UserError(
                f"tenant {name} is there already (`saga tenant limit` and `saga tenant key` change it)"
            )
        if len(self._by_name) >= TENANTS:
            raise UserError(f"there are {TENANTS} tenants already, the most there can be")
        self._save(changed(Tenant(name=name), wanted))
        return self.add_key(name)

    def limit(self, name: str, wanted: TenantRequest) -> TenantSettings:
        self._save(changed(self._known(name), wanted))
        self._buckets.pop(name, None)
        return self._view(self._by_name[name])

    def add_key(self, name: str) -> NewKey:
        tenant = self._known(name)
        if len(tenant.keys) >= KEYS:
            raise UserError(f"tenant {name} has {KEYS} keys already; revoke one first")
        key = f"sk-saga-{secrets.token_urlsafe(32)}"
        digest = hashlib.sha256(key.encode()).digest()
        made = TenantKey(id=key[:KEY_ID], digest=digest.hex(), made_at=self._clock())
        self._save(replace(tenant, keys=(*tenant.keys, made)))
        self._callers.let_in(digest, TenantId(name))
        return NewKey(tenant=name, id=made.id, key=key)

    def revoke(self, name: str, key_id: str) -> TenantSettings:
        """The key opens nothing from here on."""
        tenant = self._known(name)
        gone = next((key for key in tenant.keys if key.id == key_id), None)
        if gone is None:
            raise choose("key", key_id, [key.id for key in tenant.keys])
        self._callers.shut_out(bytes.fromhex(gone.digest))
        self._save(replace(tenant, keys=tuple(key for key in tenant.keys if key is not gone)))
        return self._view(self._by_name[name])

    def _known(self, name: str) -> Tenant:
        if name not in self._by_name:
            raise choose("tenant", name, sorted(self._by_name))
        return self._by_name[name]

    def _save(self, tenant: Tenant) -> None:
        every = self._by_name | {tenant.name: tenant}
        try:
            write_private(
                self._path, msgspec.json.encode(_File(secret=self._secret, tenants=list(every.values())))
            )
        except OSError as error:
            raise ClusterError(f"{self._path}: {error.strerror}; nothing was changed") from error
        self._by_name = every

    def _view(self, tenant: Tenant) -> TenantSettings:
        return TenantSettings(
            name=tenant.name,
            weight=tenant.weight,
            max_workflows=tenant.max_workflows,
            steps_per_min=tenant.steps_per_min,
            priority=tenant.priority,
            live=self.live[tenant.name],
            keys=[TenantKeyView(id=key.id, made_at=key.made_at) for key in tenant.keys],
        )

    # -- what they are for ---------------------------------------------------------------

    def weight(self, name: str) -> float:
        tenant = self._by_name.get(name)
        return tenant.weight if tenant is not None else 1.0

    def priority(self, name: str) -> int:
        """The highest that a request of it may ask for."""
        tenant = self._by_name.get(name)
        return tenant.priority if tenant is not None else 0

    def refusal(self, name: str, *, opens: bool) -> Refusal | None:
        """Why a step may not come in now; `opens`: it would begin a workflow."""
        tenant = self._by_name.get(name)
        if tenant is None:
            return None
        if opens and (full := self.full(name)):
            return Refusal(429, "rate_limit_error", "tenant_workflows", full, WORKFLOWS_RETRY_S)
        if not tenant.steps_per_min:
            return None
        wait_s = self._take(tenant)
        if wait_s <= 0.0:
            return None
        message = f"tenant {name} may make {tenant.steps_per_min} steps per minute (`saga tenant limit` changes that)"
        return Refusal(429, "rate_limit_error", "tenant_steps", message, max(1, math.ceil(wait_s)))

    def full(self, name: str) -> str:
        """Why no workflow may begin; empty where one may."""
        tenant = self._by_name.get(name)
        if tenant is None or not 0 < tenant.max_workflows <= self.live[name]:
            return ""
        return f"tenant {name} has {self.live[name]} workflows, the most it may have at one time"

    def _take(self, tenant: Tenant) -> float:
        """Take one step out of its bucket; seconds until there is one, where there is none."""
        now, rate = self._clock(), tenant.steps_per_min / 60.0
        most = max(1.0, BURST_S * rate)
        bucket = self._buckets.get(tenant.name)
        if bucket is None:
            bucket = self._buckets[tenant.name] = _Bucket(now, most)
        bucket.steps = min(most, bucket.steps + max(0.0, now - bucket.at) * rate)
        bucket.at = now
        if bucket.steps < 1.0:
            return (1.0 - bucket.steps) / rate
        bucket.steps -= 1.0
        return 0.0

    def salt(self, name: str, given: str | None) -> bytes | None:
        """What parts the tenant's prompts from others' in an engine's cache; None: what the client said stands."""
        if name == DEFAULT:
            return None
        if given is not None:
            return self._hmac(f"{name}\0{given}")
        salt = self._salts.get(name)
        if salt is None:
            salt = self._salts[name] = self._hmac(name)
        return salt

    def _hmac(self, text: str) -> bytes:
        digest = hmac.digest(bytes.fromhex(self._secret), text.encode("utf-8", "surrogatepass"), "sha256")
        return urlsafe_b64encode(digest).rstrip(b"=")

    def fold(self, fact: Fact) -> None:
        """Count live workflows; the book knows of the fact already."""
        if type(fact) is WorkflowSubmitted:
            self.live[fact.tenant] += 1
        elif type(fact) is WorkflowEnded and fact.workflow in self._book.workflows:
            self.live[self._book.workflows[fact.workflow].tenant] -= 1


def _load(path: Path) -> _File:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_File)
    except FileNotFoundError:
        file = _File(secret=secrets.token_hex(32))
        write_private(path, msgspec.json.encode(file))
        return file
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ClusterError(f"{path} is damaged ({error}); without it tenants' keys open nothing") from None
