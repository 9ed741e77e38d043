"""The control API's part about machines: emptying nodes, taking that back, and who has used them."""

from __future__ import annotations

from dataclasses import dataclass

from aiohttp import web

from saga_core.errors import UserError, choose
from saga_core.events import DrainAsked, UndrainAsked
from saga_core.ids import NodeId
from saga_core.views import DrainRequest, NodeView
from saga_head import show, usage_view
from saga_head.replies import body, json
from saga_head.shell import Shell

LONGEST_S = 30 * 86400.0
"""A month: longer is a mistake."""


@dataclass(slots=True)
class NodeControl:
    """Handlers over one shell."""

    shell: Shell

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/saga/v1/nodes/{id}/drain", self.drain),
            web.post("/saga/v1/nodes/{id}/undrain", self.undrain),
            web.get("/saga/v1/usage", self.usage),
        ]

    async def usage(self, request: web.Request) -> web.Response:
        """What tenants and workflows have had; `?since=` in seconds since the epoch."""
        text, now = request.query.get("since", "0"), self.shell.clock()
        try:
            since = float(text)
        except ValueError:
            since = -1.0
        if not 0.0 <= since < float("inf"):
            raise UserError(f"since = {text[:40]!r} is no time (valid: seconds since the epoch)")
        return json(usage_view.usage(self.shell.head, since, now))

    async def drain(self, request: web.Request) -> web.Response:
        """The node as it is from then on; null where it was gone and is forgotten."""
        name = self._known(request)
        wanted = await body(request, DrainRequest)
        if wanted.within_s is not None and not 0.0 <= wanted.within_s <= LONGEST_S:
            raise UserError(f"within_s = {wanted.within_s:g} is out of range (valid: 0 to {LONGEST_S:g})")
        asked = DrainAsked(
            node=name, reason=_plain(wanted.reason), within_s=wanted.within_s, remove=wanted.remove
        )
        self.shell.handle(asked)
        return json(self._view(name))

    async def undrain(self, request: web.Request) -> web.Response:
        name = self._known(request)
        if name not in self.shell.head.book.drains:
            raise UserError(f"node {name} does not drain")
        self.shell.handle(UndrainAsked(node=name))
        return json(self._view(name))

    def _known(self, request: web.Request) -> NodeId:
        name, nodes = request.match_info["id"], self.shell.head.fleet.nodes
        if name not in nodes:
            raise choose("node", name, sorted(nodes))
        return NodeId(name)

    def _view(self, name: NodeId) -> NodeView | None:
        head = self.shell.head
        found = head.fleet.nodes.get(name)
        return None if found is None else show.node(head, found, self.shell.clock())


def _plain(text: str) -> str:
    """It ends in reply headers, logs and tables."""
    return "".join(c if c.isprintable() else "?" for c in text)[:200]
