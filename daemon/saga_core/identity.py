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


class Identity(msgspec.Struct, frozen=True):
    """Whose call it is. An empty `workflow` says: nobody told (or the path token already has)."""

    workflow: str
    session: str
    rule: str
    agent_type: str = ""


def identify(headers: Mapping[bytes, bytes], body_session: str | None, *, by_token: bool) -> Identity:
    """Name the workflow and the session of a call.

    `headers` are lower-case; `body_session` is the body's `session_id`; `by_token` says that
    the path token (or the key) already names the workflow.
    """
    agent_type = _named(headers, AGENT_TYPE_HEADER)
    named = _cut(body_session) if body_session else ""
    session = next((name for h in _SESSION_HEADERS if (name := _named(headers, h))), "")
    if by_token:
        return Identity("", session or named or "main", "token", agent_type)
    for header, rule in _WORKFLOW_HEADERS:
        if header in headers and (name := _named(headers, header)):
            return Identity(name, session or "main", rule, agent_type)
    if named:
        return Identity(named, session or "main", "body.session_id", agent_type)
    return Identity("", session or "main", "none", agent_type)


def _named(headers: Mapping[bytes, bytes], header: bytes) -> str:
    """The name in `header`; empty where it is absent or says nothing."""
    value = headers.get(header)
    return _cut(value.decode("latin-1")) if value else ""


def _cut(name: str) -> str:
    """Printable and short: names end in logs, tables and metrics."""
    if not name.isprintable():
        name = "".join(c for c in name if c.isprintable())
    return name[:MAX_NAME]
