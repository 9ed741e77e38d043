"""Whose call it is, with what earlier calls have told: kin of sessions, responses, and what prompts continue.

The table itself is `saga_core.identity`; this is its memory, per tenant and bounded.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from msgspec.structs import replace

from saga_core.identity import MAIN, Identity, identify
from saga_core.ids import TenantId
from saga_head.continuations import Continuations
from saga_head.gateway.port import Call
from saga_head.prompts import APIS, Chain

KIN: Final = 16384
"""Names per tenant whose root is known: sub-agents, and responses that may be continued."""
SESSIONLESS: Final = frozenset({"/v1/embeddings", "/v1/messages/count_tokens"})
"""Calls without a context of their own: they are nobody's steps."""
_RESPONSE: Final = "token+body.previous_response_id"
NOBODY: Final = Identity("", MAIN, "none")


class _Memory:
    """Of one tenant."""

    def __init__(self) -> None:
        self.kin: OrderedDict[str, tuple[str, str]] = OrderedDict()
        """Name of a session or response -> the workflow's and the session's."""
        self.continuations = Continuations()

    def learn(self, name: str, workflow: str, session: str) -> None:
        self.kin[name] = (workflow, session)
        self.kin.move_to_end(name)
        while len(self.kin) > KIN:
            self.kin.popitem(last=False)


class Recognition:
    """Remembers per tenant."""

    def __init__(self) -> None:
        self._memories: dict[str, _Memory] = {}

    def of(self, call: Call) -> Identity:
        """What the call itself and those before it say; rule `none` or `token` where that is nothing."""
        if call.api in SESSIONLESS:
            return NOBODY
        who = identify(call.headers, call.fields, by_token=call.caller.workflow is not None)
        if who.rule in ("none", "token"):
            return who
        return self._rooted(self._memory(call.caller.tenant), who)

    def asks_content(self, call: Call, who: Identity) -> bool:
        """Whether the prompt has to be looked at."""
        return who.rule in ("none", "token") and call.api in APIS

    def by_content(self, call: Call, who: Identity, chain: Chain | None) -> Identity:
        """The identity of a call whose prompt is `chain`."""
        if chain is None:
            return who
        scope = call.caller.workflow or 0
        found = self._memory(call.caller.tenant).continuations.take(chain, scope)
        if not found.name:
            return who
        if scope:
            return replace(who, session=found.name, rule="token+content", confidence=found.confidence)
        return replace(who, workflow=found.name, rule="content", confidence=found.confidence)

    def answered(self, tenant: TenantId, response: str, workflow: str, session: str) -> None:
        """A stored response may be continued, by this session."""
        self._memory(tenant).learn(response, workflow or response, session)

    def root_of(self, tenant: str, name: str) -> str:
        """The workflow that `name` is, or is a sub-agent or a response of."""
        known = self._memory(tenant).kin.get(name)
        return name if known is None else known[0]

    def forgotten(self, tenant: str) -> list[str]:
        """Workflows of a tenant that began with `content` and can be continued no more; each is said once."""
        continuations = self._memory(tenant).continuations
        found, continuations.forgotten = continuations.forgotten, []
        return found

    def _memory(self, tenant: str) -> _Memory:
        memory = self._memories.get(tenant)
        if memory is None:
            memory = self._memories[tenant] = _Memory()
        return memory

    def _rooted(self, memory: _Memory, who: Identity) -> Identity:
        """Sub-agents count towards their root."""
        if not who.workflow:  # by token
            known = memory.kin.get(who.session) if who.rule == _RESPONSE else None
            return replace(who, session=known[1]) if known is not None else who
        known = memory.kin.get(who.workflow)
        if known is None:
            root = who.workflow
        else:
            memory.kin.move_to_end(who.workflow)
            root, session = known
            who = replace(who, workflow=root, session=session if who.session == MAIN else who.session)
        if who.linked and who.session != root:
            memory.learn(who.session, root, who.session)
        return who
