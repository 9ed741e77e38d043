"""The control API below `/saga/v1`, and what else is not the hot path: models, health, metrics.

Every answer is one JSON value of `saga_core.views`, or `{"error": {message, type, code}}`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import msgspec
from aiohttp import web

from saga_core import slots, told
from saga_core.decisions import RING
from saga_core.errors import ClusterError, SagaError, UserError, choose
from saga_core.events import CancelAsked, FinishAsked, ProfileChanged
from saga_core.ids import StepId, WorkflowId
from saga_core.policy.profiles import PROFILES
from saga_core.states import ENDED, NodeState, WorkerState, WorkflowState
from saga_core.views import (
    Accepted,
    ClusterView,
    FinishRequest,
    ShutdownRequest,
    SubmitRequest,
    WorkflowView,
)
from saga_head import explanation, openapi, show
from saga_head.control_api import ApiControl
from saga_head.control_nodes import NodeControl
from saga_head.control_tenants import TenantControl
from saga_head.gateway.server import close_after_reply
from saga_head.keys import same
from saga_head.replies import bearer, body, error, json, json_list
from saga_head.shell import Shell

MAX_REQUEST_BYTES = 1024 * 1024
"""A submission with a large environment; anything longer is a mistake."""
MOST_DIGITS = 18
"""Of a number in a path: beyond, it is none of ours, and long ones take long to read."""
KINDS = ("program", "replay", "outside")
T = TypeVar("T")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class _Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    profile: str


@dataclass(slots=True)
class Control:
    """Handlers over one shell."""

    shell: Shell
    admin_key: str
    version: str
    started_at: float
    stop: Callable[[ShutdownRequest], None]
    """Called when a shutdown is asked for."""

    def app(self) -> web.Application:
        """The aiohttp application to put behind the gateway."""
        app = web.Application(middlewares=[self._guard], client_max_size=MAX_REQUEST_BYTES)
        close_after_reply(app)
        app.add_routes(
            [
                *self._open_routes(),
                web.get("/saga/v1/cluster", self.cluster),
                web.get("/saga/v1/events", self.events),
                web.get("/saga/v1/workflows", self.workflows),
                web.post("/saga/v1/workflows", self.submit),
                web.get("/saga/v1/workflows/{id}", self.workflow),
                web.post("/saga/v1/workflows/{id}/cancel", self.cancel),
                web.post("/saga/v1/workflows/{id}/finish", self.finish),
                web.get("/saga/v1/workflows/{id}/explanation", self.explain_workflow),
                web.get("/saga/v1/steps/{id}/explanation", self.explain_step),
                *NodeControl(self.shell).routes(),
                *TenantControl(self.shell.tenants).routes(),
                web.put("/saga/v1/profile", self.profile),
                web.post("/saga/v1/shutdown", self.shutdown),
            ]
        )
        return app

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Keys, and errors in one shape; a bug is a 500 without its insides."""
        if request.path.startswith("/saga/") and not same(bearer(request), self.admin_key):
            return error(401, "the admin key is not valid: it stands in access.json of the cluster folder")
        try:
            return await handler(request)
        except UserError as problem:
            return error(400, str(problem))
        except ClusterError as problem:
            return error(503, str(problem), retry_after_s=5)
        except SagaError as problem:
            return error(500, str(problem))
        except web.HTTPException as problem:
            return error(problem.status, f"{request.method} {request.path}: {problem.reason}")

    # -- open to any key -----------------------------------------------------------------

    def _open_routes(self) -> list[web.RouteDef]:
        """What clients may ask beside the hot path."""
        return [
            web.get("/health", self.health),
            web.get("/metrics", self.metrics),
            web.get("/openapi.json", self.openapi),
            *ApiControl(self.shell, self.started_at).routes(),
        ]

    async def openapi(self, request: web.Request) -> web.Response:  # noqa: ARG002
        """What clients may send, as an OpenAPI document."""
        return json(openapi.document(self.version, self._open_routes()))

    async def health(self, request: web.Request) -> web.Response:  # noqa: ARG002
        """The head serves."""
        return json({"status": "ok"})

    async def metrics(self, request: web.Request) -> web.Response:  # noqa: ARG002
        """Prometheus text; figures only, so it needs no key (as vLLM's own)."""
        return web.Response(
            body=self.shell.metrics.text(),
            headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"},
        )

    # -- for the admin key ---------------------------------------------------------------

    async def cluster(self, request: web.Request) -> web.Response:
        """`?workflows=N`: at most so many of them."""
        return json(self.view(_natural(request, "workflows", show.SHOWN)))

    async def events(self, request: web.Request) -> web.Response:
        """Facts after number `?after=N`, of one `?workflow=N`; `?wait_s=N`: until there is one."""
        page = await self.shell.feed.page(
            self.shell.head.book.head,
            after=_natural(request, "after", None),
            workflow=_natural(request, "workflow", None),
            wait_s=float(_natural(request, "wait_s", 0)),
        )
        return json(page)

    def view(self, workflows: int = show.SHOWN) -> ClusterView:
        """One snapshot of everything."""
        shell = self.shell
        return show.cluster(
            shell.head,
            version=self.version,
            url=shell.url,
            started_at=self.started_at,
            stale=shell.stale,
            now=shell.clock(),
            tallies=shell.metrics.tallies,
            shown=workflows,
        )

    async def workflows(self, request: web.Request) -> web.Response:
        """Live ones; `?all=1` adds the ended."""
        head = self.shell.head
        chosen = show.recent(head, len(head.book.workflows))
        if request.query.get("all") != "1":
            chosen = [w for w in chosen if w.live]
        now = self.shell.clock()
        return await json_list(show.workflow(head, w, now, sessions=False) for w in chosen)

    async def workflow(self, request: web.Request) -> web.Response:
        return json(self._view(self._number(request)))

    async def submit(self, request: web.Request) -> web.Response:
        """201 once the workflow is on the disk."""
        wanted = await body(request, SubmitRequest)
        if wanted.kind not in KINDS:
            raise choose("kind", wanted.kind, KINDS)
        if (wanted.program is not None) != (wanted.kind == "program"):
            raise UserError(f"kind {wanted.kind!r}: a program goes with kind 'program', and only with it")
        if wanted.program is not None and not wanted.program.argv:
            raise UserError("program.argv is empty: it needs at least the program's name")
        told.check(wanted)
        self._check_room(wanted)
        number, token = await self.shell.submit(wanted)
        accepted = Accepted(
            id=number,
            base_url=self.shell.base_url(token),
            api_key=token,
            log=self.shell.head.book.workflows[number].log,
        )
        return json(accepted, status=201)

    def _check_room(self, wanted: SubmitRequest) -> None:
        """Raise `UserError` for a program that asks for more than any node has."""
        up = [node for node in self.shell.head.fleet.nodes.values() if node.state is NodeState.UP]
        if wanted.program is not None and (why := slots.too_large(wanted.program, up)):
            raise UserError(f"program: {why}")

    async def cancel(self, request: web.Request) -> web.Response:
        number = self._number(request)
        self.shell.handle(CancelAsked(workflow=number))
        return json(self._view(number))

    async def finish(self, request: web.Request) -> web.Response:
        """The end of a workflow whose steps come from a client."""
        number = self._number(request)
        wanted = await body(request, FinishRequest)
        ends = {state.value: state for state in WorkflowState if state in ENDED}
        if wanted.state not in ends:
            raise choose("state", wanted.state, list(ends))
        self.shell.handle(FinishAsked(workflow=number, state=ends[wanted.state], reason=wanted.reason))
        return json(self._view(number))

    async def explain_workflow(self, request: web.Request) -> web.Response:
        head = self.shell.head
        workflow = head.book.workflows[self._number(request)]
        return json(explanation.of_workflow(head, workflow, self.shell.clock()))

    async def explain_step(self, request: web.Request) -> web.Response:
        """Of a step by its number: what `x-request-id` says behind `saga-`."""
        text = request.match_info["id"]
        number = StepId(int(text)) if text.isdecimal() and len(text) <= MOST_DIGITS else None
        head = self.shell.head
        found = explanation.of_step(head, number, self.shell.clock()) if number is not None else None
        if found is None:
            return error(
                404,
                f"nothing is known of step {text[:MOST_DIGITS]!r}: the latest {RING:,} decisions are kept "
                "(`saga explain WORKFLOW` has the latest of a workflow)",
            )
        return json(found)

    async def profile(self, request: web.Request) -> web.Response:
        wanted = await body(request, _Profile)
        if wanted.profile not in PROFILES:
            raise choose("profile", wanted.profile, list(PROFILES))
        self._check_engines(wanted.profile)
        self.shell.handle(ProfileChanged(profile=wanted.profile))
        return json({"profile": wanted.profile})

    def _check_engines(self, profile: str) -> None:
        """Raise UserError for a profile that orders inside the engines where these do not serve by priority."""
        workers = self.shell.head.fleet.workers.values()
        deaf = sorted(w.id for w in workers if w.state is WorkerState.READY and not w.ordered)
        if PROFILES[profile].engine_order and deaf:
            shown = ", ".join(deaf[:4]) + (f" and {len(deaf) - 4} more" if len(deaf) > 4 else "")
            raise UserError(
                f"profile {profile!r} orders requests inside the engines, and {shown} serve them as they come: "
                f"start the cluster with `saga up --profile {profile}`, or set "
                "workers.extra_args = '--scheduling-policy priority'"
            )

    async def shutdown(self, request: web.Request) -> web.Response:
        self.stop(await body(request, ShutdownRequest))
        return json({"stopping": True}, status=202)

    def _number(self, request: web.Request) -> WorkflowId:
        text = request.match_info["id"]
        if text.isdecimal() and int(text) in self.shell.head.book.workflows:
            return WorkflowId(int(text))
        raise web.HTTPNotFound(
            reason=f"no workflow {text} is known to this cluster (`saga ps --all` lists them)"
        )

    def _view(self, number: WorkflowId) -> WorkflowView:
        head = self.shell.head
        return show.workflow(head, head.book.workflows[number], self.shell.clock())


N = TypeVar("N", int, None)


def _natural(request: web.Request, name: str, default: N) -> int | N:
    """A number of the query. Raises UserError for what is none."""
    text = request.query.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdecimal() and len(text) <= MOST_DIGITS):
        raise UserError(f"{name}={text[:MOST_DIGITS]!r} is not valid (valid: a whole number)")
    return int(text)
