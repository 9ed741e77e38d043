"""Who is calling: one pure function, an exact-match table, and the name of the rule that fired.

Rules of this file
  1. First match wins; schemas are never mixed.
  2. Ids are the client's own names, scoped by its key elsewhere; `user`, `x-request-id` and
     `traceparent` are never session keys (the first is a tenant, the others are new per call).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from saga_core import told
from saga_core.events import Told

MAX_NAME: Final = 128
"""Longer names are cut; harnesses use UUIDs (36 characters)."""

_WORKFLOW_HEADERS: Final = (
    (b"x-saga-workflow-id", "saga"),
    (b"x-dynamo-session-id", "dynamo"),
    (b"x-claude-code-session-id", "claude-code"),
    (b"x-session-affinity", "session-affinity"),
    (b"x-litellm-session-id", "litellm"),
    (b"x-session-id", "x-session-id"),
    (b"session-id", "codex"),
    (b"session_id", "codex"),
    (b"x-smg-routing-key", "smg"),
)
_SESSION_HEADERS: Final = (b"x-saga-session-id", b"x-claude-code-agent-id")
AGENT_TYPE_HEADER: Final = b"x-saga-agent-type"
FINAL_HEADERS: Final = (b"x-saga-session-final", b"x-dynamo-session-final")


WORK_HEADER: Final = b"x-saga-work-s"
STEPS_HEADER: Final = b"x-saga-steps"
INSTANCE_HEADER: Final = b"x-saga-instance"
DEADLINE_HEADER: Final = b"x-saga-deadline-s"
TOOL_HEADER: Final = b"x-saga-tool"
_TOLD_HEADERS: Final = frozenset((WORK_HEADER, STEPS_HEADER, INSTANCE_HEADER, DEADLINE_HEADER))
_PARENT_HEADERS: Final = (b"x-saga-parent-session-id", b"x-parent-session-id")


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


def identify(headers: Mapping[bytes, bytes], body_session: str | None, *, by_token: bool) -> Identity:
    """Name the workflow and the session of a call.

    `headers` are lower-case; `body_session` is the body's `session_id`; `by_token` says that
    the path token (or the key) already names the workflow.
    """
    workflow, rule = ("", "token") if by_token else _workflow(headers, body_session)
    session = _named(headers, _SESSION_HEADERS[0]) or _named(headers, _SESSION_HEADERS[1])
    if not session and by_token and body_session:
        session = _cut(body_session)
    return Identity(
        workflow,
        session or "main",
        rule,
        _named(headers, AGENT_TYPE_HEADER),
        _named(headers, _PARENT_HEADERS[0]) or _named(headers, _PARENT_HEADERS[1]),
        _named(headers, TOOL_HEADER),
    )


def _workflow(headers: Mapping[bytes, bytes], body_session: str | None) -> tuple[str, str]:
    """The client's own name of the workflow, and the rule that found it."""
    for header, rule in _WORKFLOW_HEADERS:
        if header in headers and (name := _named(headers, header)):
            return name, rule
    named = _cut(body_session) if body_session else ""
    return (named, "body.session_id") if named else ("", "none")


def told_of(headers: Mapping[bytes, bytes]) -> Told | None:
    """What the headers say of the whole workflow; None: nothing. Raises `UserError` for what is no such thing."""
    if headers.keys().isdisjoint(_TOLD_HEADERS):
        return None
    return Told(
        work_s=told.seconds(_text(headers, WORK_HEADER), WORK_HEADER.decode()),
        steps=told.steps(_text(headers, STEPS_HEADER), STEPS_HEADER.decode()),
        instance=_named(headers, INSTANCE_HEADER),
        deadline_s=told.seconds(_text(headers, DEADLINE_HEADER), DEADLINE_HEADER.decode()),
    )


def _text(headers: Mapping[bytes, bytes], header: bytes) -> str:
    return headers.get(header, b"").decode("latin-1")


def _named(headers: Mapping[bytes, bytes], header: bytes) -> str:
    """The name in `header`; empty where it is absent or says nothing."""
    value = headers.get(header)
    return _cut(value.decode("latin-1")) if value else ""


def _cut(name: str) -> str:
    """Printable and short: names end in logs, tables and metrics."""
    if not name.isprintable():
        name = "".join(c for c in name if c.isprintable())
    return name[:MAX_NAME]
