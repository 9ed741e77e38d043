"""What the APIs of agents have beside the hot path: models, and responses that were stored."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from aiohttp import web

from saga_core.errors import UserError
from saga_core.events import FinishAsked
from saga_core.identity import PlainBody, identify
from saga_core.ids import TenantId
from saga_core.states import WorkflowState
from saga_head.gateway.port import Caller, Refusal
from saga_head.replies import bearer, body, error, json
from saga_head.shell import Shell

ENDINGS: Final = ("/finish_session", "/programs/release")
"""As vLLM's router and ThunderAgent call it."""


@dataclass(slots=True)
class ApiControl:
    """Handlers for whoever has a key of a tenant, or a workflow's path."""

    shell: Shell
    started_at: float

    def routes(self) -> list[web.RouteDef]:
        """The same below a workflow's path and without one."""
        return [
            route
            for base in ("/v1", "/s/{token}/v1")
            for route in (
                web.get(f"{base}/models", self.models),
                web.get(f"{base}/models/{{model:.+}}", self.model),
                web.get(f"{base}/responses/{{id}}", self.response),
                web.delete(f"{base}/responses/{{id}}", self.forget_response),
            )
        ] + [web.post(f"{base}{path}", self.finish) for base in ("", "/s/{token}") for path in ENDINGS]

    async def finish(self, request: web.Request) -> web.Response:
        """End a workflow: nothing that it has in memory is kept any more. Named as its steps name it."""
        caller = self._caller(request)
        if isinstance(caller, Refusal):
            return _refused(caller)
        said = await body(request, PlainBody)
        headers = {
            name.lower().encode(): text.encode("latin-1", "replace") for name, text in request.headers.items()
        }
        name = identify(headers, said, by_token=False).workflow
        if not name and caller.workflow is None:
            raise UserError(
                f"{request.path}: nothing names a session; valid are session_id and program_id in the body, "
                "or the headers that its steps had"
            )
        return json(self._finished(caller, name))

    def _finished(self, caller: Caller, name: str) -> dict[str, Any]:
        """Whether that ended a workflow, and if not why."""
        shell, tenant = self.shell, TenantId(caller.tenant)
        root = shell.reception.recognition.root_of(tenant, name)
        if caller.workflow is not None:
            return {"ended": False, "reason": "the workflow of a submitted program ends with it"}
        if root != name:
            return {"ended": False, "reason": f"{name!r} is part of {root!r} and ends with it"}
        workflow = shell.head.book.find(tenant, name)
        if workflow is None:
            return {"ended": False, "reason": f"no workflow is known as {name!r}; one that ended is not"}
        reason = "its client said so"
        shell.handle(FinishAsked(workflow=workflow.id, state=WorkflowState.DONE, reason=reason))
        return {"ended": True, "workflow": workflow.id}

    async def models(self, request: web.Request) -> web.Response:
        """The list of models, for readers of OpenAI's shape and of Anthropic's."""
        caller = self._caller(request)
        if isinstance(caller, Refusal):
            return _refused(caller)
        listed = [self._card(name) for name in self.shell.head.fleet.names()]
        ends = {"first_id": listed[0]["id"], "last_id": listed[-1]["id"]} if listed else {}
        return json({"object": "list", "data": listed, "has_more": False} | ends)

    async def model(self, request: web.Request) -> web.Response:
        """One of them."""
        caller = self._caller(request)
        if isinstance(caller, Refusal):
            return _refused(caller)
        name, have = request.match_info["model"], self.shell.head.fleet.names()
        if name not in have:
            return error(
                404, f"the model {name!r} does not exist (have: {', '.join(have)})", code="model_not_found"
            )
        return json(self._card(name))

    async def response(self, request: web.Request) -> web.Response:
        """A stored response, as its client got it."""
        caller = self._caller(request)
        if isinstance(caller, Refusal):
            return _refused(caller)
        found = self.shell.responses.find(caller.tenant, request.match_info["id"])
        if found is None:
            return _no_response(request)
        return web.Response(body=found.reply, content_type="application/json")

    async def forget_response(self, request: web.Request) -> web.Response:
        """Forget it; what continues it can then be continued no more."""
        caller = self._caller(request)
        if isinstance(caller, Refusal):
            return _refused(caller)
        name = request.match_info["id"]
        if not self.shell.responses.forget(caller.tenant, name):
            return _no_response(request)
        return json({"id": name, "object": "response", "deleted": True})

    def _caller(self, request: web.Request) -> Caller | Refusal:
        given = bearer(request) or request.headers.get("x-api-key", "")
        return self.shell.authenticate(request.match_info.get("token"), given)

    def _card(self, name: str) -> dict[str, Any]:
        fleet = self.shell.head.fleet
        parent = fleet.adapters.models.get(name)
        workers = fleet.pools[parent or name].workers.values()
        lengths = [worker.max_model_len for worker in workers if worker.max_model_len]
        card: dict[str, Any] = {
            "id": name,
            "object": "model",
            "created": int(self.started_at),
            "owned_by": "saga",
            "type": "model",
            "display_name": name,
            "created_at": datetime.fromtimestamp(self.started_at, UTC).isoformat(timespec="seconds"),
        }
        if parent is not None:  # as vLLM says it of an adapter
            card["parent"] = parent
        # The length that vLLM reports too, which clients use to size their prompts.
        return card | ({"max_model_len": min(lengths)} if lengths else {})


def _refused(refusal: Refusal) -> web.Response:
    return error(refusal.status, refusal.message, kind=refusal.type, code=refusal.code)


def _no_response(request: web.Request) -> web.Response:
    name = request.match_info["id"][:80]
    return error(404, f"response {name!r} is not known here", code="response_not_found")
