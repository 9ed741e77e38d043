"""Who is calling: one pure function, an exact-match table, and the name of the rule that fired.

Rules of this file
  1. First match wins; schemas are never mixed. The order is that of `RULES`, after the path token.
  2. Ids are the client's own names, scoped by its key elsewhere; `user`, `x-request-id` and
     `traceparent` are never session keys (the first is a tenant, the others are new per call).
  3. What only earlier calls can tell (whose child a session is, which response came before, what a prompt
     continues) is not decided here: names come back as said, and the head follows them up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Protocol

import msgspec

from saga_core.harnesses import Named, of_agentic_context, of_baggage, of_metadata, of_nvext, text_in
from saga_core.ids import MAX_NAME, cut_name

__all__ = ["MAX_NAME", "NO_BODY", "RULES", "Body", "Identity", "PlainBody", "identify"]

AGENT_TYPE_HEADER: Final = b"x-saga-agent-type"
FINAL_HEADERS: Final = (b"x-saga-session-final", b"x-dynamo-session-final")
_NOT: Final = (b"", b"0", b"false")
TOOL_HEADER: Final = b"x-saga-tool"
_PARENT_HEADERS: Final = (b"x-saga-parent-session-id", b"x-parent-session-id")
_BESIDE: Final = frozenset((AGENT_TYPE_HEADER, *FINAL_HEADERS, TOOL_HEADER, *_PARENT_HEADERS))
"""What is said beside a name."""
MAIN: Final = "main"
"""The session of a workflow whose calls name none."""


class Body(Protocol):
    """What a request's body may say of its session; compound fields are raw JSON, empty where they are absent."""

    @property
    def program_id(self) -> str | None: ...
    @property
    def session_id(self) -> str | None: ...
    @property
    def prompt_cache_key(self) -> str | None: ...
    @property
    def previous_response_id(self) -> str | None: ...
    @property
    def metadata(self) -> msgspec.Raw: ...
    @property
    def conversation(self) -> msgspec.Raw: ...
    @property
    def session_params(self) -> msgspec.Raw: ...
    @property
    def vllm_xargs(self) -> msgspec.Raw: ...
    @property
    def nvext(self) -> msgspec.Raw: ...


class PlainBody(msgspec.Struct, frozen=True):
    """A body of which nothing else is read."""

    program_id: str | None = None
    session_id: str | None = None
    prompt_cache_key: str | None = None
    previous_response_id: str | None = None
    metadata: msgspec.Raw = msgspec.Raw()
    conversation: msgspec.Raw = msgspec.Raw()
    session_params: msgspec.Raw = msgspec.Raw()
    vllm_xargs: msgspec.Raw = msgspec.Raw()
    nvext: msgspec.Raw = msgspec.Raw()


NO_BODY: Final[Body] = PlainBody()
"""A body that says nothing."""


class Identity(msgspec.Struct, frozen=True):
    """Whose call it is. An empty `workflow` says: nobody told (or the path token already has)."""

    workflow: str
    session: str
    rule: str
    agent_type: str = ""
    parent: str = ""
    """The session that opened this one."""
    tool: str = ""
    """The tool whose result the call brings."""
    linked: bool = False
    """`workflow` is only the nearest ancestor that the call names: its root may be another."""
    final: bool = False
    """The call says that it is its session's last."""
    confidence: float = 1.0
    """Below 1 where the session was inferred from the prompt."""


Headers = Mapping[bytes, bytes]
_Reader = Callable[[Headers], Named | None]
_Rules = tuple[tuple[str, _Reader], ...]


def identify(headers: Headers, body: Body, *, by_token: bool) -> Identity:
    """Name the workflow and the session of a call.

    `headers` are lower-case; `by_token` says that the path token (or the key) already names the workflow:
    what the table finds then names the session within it.
    """
    found, rule = _first(headers, body)
    if by_token:
        workflow, session = "", found.session or ("" if rule == "saga" else found.workflow)
        rule = f"token+{rule}" if session else "token"
    else:
        workflow, session = found.workflow, found.session
    if headers.keys().isdisjoint(_BESIDE):
        if found is _NOBODY:
            return _TOKEN if by_token else _NONE
        agent_type, parent, tool, final = found.agent_type, found.parent, "", found.final
    else:
        agent_type = _named(headers, AGENT_TYPE_HEADER) or found.agent_type
        parent = found.parent or _named(headers, _PARENT_HEADERS[0]) or _named(headers, _PARENT_HEADERS[1])
        tool = _named(headers, TOOL_HEADER)
        final = found.final or any(headers.get(name, b"").lower() not in _NOT for name in FINAL_HEADERS)
    linked = found.linked and not by_token
    return Identity(workflow, session or MAIN, rule, agent_type, parent, tool, linked, final)


_NOBODY: Final = Named("")
_NONE: Final = Identity("", MAIN, "none")
_TOKEN: Final = Identity("", MAIN, "token")


def _first(headers: Headers, body: Body) -> tuple[Named, str]:
    """What the first rule that fires says, and its name."""
    own, native = _rules(headers)
    for rule, read in own:
        if found := read(headers):
            return found, rule
    if body.vllm_xargs and (found := of_agentic_context(body.vllm_xargs)):
        return found, "agentic-context"
    if body.nvext and (found := of_nvext(body.nvext)):
        return found, "nvext"
    for rule, read in native:
        if found := read(headers):
            return found, rule
    return _in_body(headers, body)


def _rules(headers: Headers) -> tuple[_Rules, _Rules]:
    """Of the table's two parts, the rules whose headers are there: most calls have one of them, or none."""
    found = [at for name in headers if (at := _RULE_OF.get(name)) is not None]
    if not found:
        return (), ()
    at = found[0]
    if len(found) == 1:
        return ((_HEADED[at],), ()) if at < len(_OWN) else ((), (_HEADED[at],))
    order = sorted(set(found))
    return (
        tuple(_HEADED[at] for at in order if at < len(_OWN)),
        tuple(_HEADED[at] for at in order if at >= len(_OWN)),
    )


def _in_body(headers: Headers, body: Body) -> tuple[Named, str]:
    if not (
        body.program_id or body.session_id or body.session_params or body.conversation
        or body.previous_response_id or body.prompt_cache_key or body.metadata or b"baggage" in headers
    ):  # fmt: skip
        return _NOBODY, "none"
    for rule, name in (
        ("body.program_id", body.program_id),
        ("body.session_id", body.session_id),
        ("body.session_params", body.session_params and text_in(body.session_params, "session_id")),
        ("body.conversation", body.conversation and text_in(body.conversation, "id")),
        ("body.previous_response_id", body.previous_response_id),
        ("body.prompt_cache_key", body.prompt_cache_key),
        ("body.metadata", body.metadata and of_metadata(body.metadata)),
    ):
        if name and (cut := cut_name(name)):
            return Named(cut), rule
    if b"baggage" in headers and (name := of_baggage(headers[b"baggage"])):
        return Named(name), "baggage"
    return _NOBODY, "none"


# -- headers -------------------------------------------------------------------------------


def _family(headers: Headers, own: bytes, parent: bytes) -> Named | None:
    """A session that names its parent and not its root."""
    session, above = _named(headers, own), _named(headers, parent)
    if not session:
        return None
    return Named(above, session, above, linked=True) if above and above != session else Named(session)


def _saga(headers: Headers) -> Named | None:
    workflow, session = _named(headers, b"x-saga-workflow-id"), _named(headers, b"x-saga-session-id")
    if workflow:
        return Named(workflow, session)
    return _own_family(headers, session) if session else None


def _own_family(headers: Headers, session: str) -> Named:
    found = _family(headers, b"x-saga-session-id", b"x-saga-parent-session-id")
    return found if found is not None and found.linked else Named(session, session)


def _dynamo(headers: Headers) -> Named | None:
    return _family(headers, b"x-dynamo-session-id", b"x-dynamo-parent-session-id")


def _claude_code(headers: Headers) -> Named | None:
    """Its agents are sessions of the one program that a person started."""
    root = _named(headers, b"x-claude-code-session-id")
    if not root:
        return None
    return Named(
        root, _named(headers, b"x-claude-code-agent-id"), _named(headers, b"x-claude-code-parent-agent-id")
    )


def _codex(headers: Headers) -> Named | None:
    """One conversation; a thread that it opened is a session of it."""
    thread = _named(headers, b"thread-id")
    root = _named(headers, b"session-id") or _named(headers, b"session_id") or thread
    return Named(root, thread if thread != root else "") if root else None


def _affinity(headers: Headers) -> Named | None:
    return _family(headers, b"x-session-affinity", b"x-parent-session-id")


def _x_session(headers: Headers) -> Named | None:
    return _family(headers, b"x-session-id", b"x-parent-session-id")


def _opencode(headers: Headers) -> Named | None:
    return _family(headers, b"x-opencode-session", b"x-parent-session-id")


def _litellm(headers: Headers) -> Named | None:
    name = _named(headers, b"x-litellm-session-id")
    return Named(name) if name else None


def _smg(headers: Headers) -> Named | None:
    name = _named(headers, b"x-smg-routing-key")
    return Named(name) if name else None


def _llm_d(headers: Headers) -> Named | None:
    """The flow that llm-d is fair to: the program, where it is told one."""
    name = _named(headers, b"x-llm-d-inference-fairness-id") or _named(
        headers, b"x-gateway-inference-fairness-id"
    )
    return Named(name) if name else None


_OWN: Final[_Rules] = (("saga", _saga), ("dynamo", _dynamo))
_NATIVE: Final[_Rules] = (
    ("claude-code", _claude_code),
    ("codex", _codex),
    ("session-affinity", _affinity),
    ("x-session-id", _x_session),
    ("opencode", _opencode),
    ("litellm", _litellm),
    ("smg", _smg),
    ("llm-d", _llm_d),
)
_HEADED: Final = (*_OWN, *_NATIVE)
_NAMES: Final = (
    (b"x-saga-workflow-id", b"x-saga-session-id"),
    (b"x-dynamo-session-id",),
    (b"x-claude-code-session-id",),
    (b"thread-id", b"session-id", b"session_id"),
    (b"x-session-affinity",),
    (b"x-session-id",),
    (b"x-opencode-session",),
    (b"x-litellm-session-id",),
    (b"x-smg-routing-key",),
    (b"x-llm-d-inference-fairness-id", b"x-gateway-inference-fairness-id"),
)
"""Of each rule of `_HEADED`, the headers of which it needs one."""
_RULE_OF: Final = {name: at for at, names in enumerate(_NAMES) for name in names}
RULES: Final = (
    *(rule for rule, _ in _OWN),
    "agentic-context",
    "nvext",
    *(rule for rule, _ in _NATIVE),
    "body.program_id",
    "body.session_id",
    "body.session_params",
    "body.conversation",
    "body.previous_response_id",
    "body.prompt_cache_key",
    "body.metadata",
    "baggage",
    "content",
    "none",
)
"""The table, in order. `content` is what the head infers where no rule before it fires (docs/identity.md)."""


def _named(headers: Headers, header: bytes) -> str:
    """The name in `header`; empty where it is absent or says nothing."""
    value = headers.get(header)
    return cut_name(value.decode("latin-1")) if value else ""
