"""The control API's part about tenants: who there is, their limits, their keys."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
from aiohttp import web

from saga_core.errors import UserError
from saga_core.tenants import TenantRequest
from saga_head.replies import body, json
from saga_head.tenants import Tenants


class _New(TenantRequest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str


@dataclass(slots=True)
class TenantControl:
    """Handlers for the admin key."""

    tenants: Tenants

    def routes(self) -> list[web.RouteDef]:
        base = "/saga/v1/tenants"
        return [
            web.get(base, self.list),
            web.post(base, self.add),
            web.patch(f"{base}/{{name}}", self.limit),
            web.post(f"{base}/{{name}}/keys", self.add_key),
            web.delete(f"{base}/{{name}}/keys/{{key}}", self.revoke),
        ]

    async def list(self, request: web.Request) -> web.Response:  # noqa: ARG002
        return json(self.tenants.list())

    async def add(self, request: web.Request) -> web.Response:
        """Its first key is in the answer, and nowhere else."""
        wanted = await body(request, _New)
        return json(self.tenants.add(wanted.name, wanted), status=201)

    async def limit(self, request: web.Request) -> web.Response:
        wanted = await body(request, TenantRequest)
        if wanted == TenantRequest():
            raise UserError(f"nothing to change is said (valid: {', '.join(_fields())})")
        return json(self.tenants.limit(request.match_info["name"], wanted))

    async def add_key(self, request: web.Request) -> web.Response:
        return json(self.tenants.add_key(request.match_info["name"]), status=201)

    async def revoke(self, request: web.Request) -> web.Response:
        return json(self.tenants.revoke(request.match_info["name"], request.match_info["key"]))


def _fields() -> list[str]:
    return [field.name for field in msgspec.structs.fields(TenantRequest)]
