"""What agent programs and other routers put into a request to say whose it is: JSON fields and W3C baggage.

Whatever does not read as its schema says names nobody: these are courtesies of strangers, never errors.
"""

from __future__ import annotations

import re
from typing import Final, TypeVar
from urllib.parse import unquote

import msgspec

from saga_core.ids import cut_name

T = TypeVar("T")


class Named(msgspec.Struct, frozen=True):
    """What one rule says."""

    workflow: str
    session: str = ""
    parent: str = ""
    agent_type: str = ""
    linked: bool = False
    """`workflow` is a parent, whose root may be another."""
    final: bool = False


def decoded(raw: msgspec.Raw | bytes | str, kind: type[T]) -> T | None:
    """`raw` as a `kind`; None where it is none."""
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _first(*names: str | None) -> str:
    """The first that is a name."""
    return next((cut for name in names if name and (cut := cut_name(name))), "")


# -- vLLM's agentic context ----------------------------------------------------------------


class _Agentic(msgspec.Struct):
    """`vllm_xargs.agentic_context`, as vLLM's agentic extension names it."""

    program_id: str | None = None
    task_id: str | None = None
    session_id: str | None = None
    agent_id: str | None = None
    parent_program_id: str | None = None
    root_program_id: str | None = None


class _Xargs(msgspec.Struct):
    agentic_context: msgspec.Raw = msgspec.Raw()
    session_id: msgspec.Raw = msgspec.Raw()


def of_agentic_context(xargs: msgspec.Raw) -> Named | None:
    """An object, or one as a string (vLLM's own schema of `vllm_xargs` takes strings and numbers)."""
    found = decoded(xargs, _Xargs)
    if found is None:
        return None
    context = _agentic(found.agentic_context) if found.agentic_context else None
    if context is None:
        name = cut_name(decoded(found.session_id, str) or "") if found.session_id else ""
        return Named(name) if name else None
    own = _first(context.program_id, context.task_id, context.session_id)
    parent, root = _first(context.parent_program_id), _first(context.root_program_id)
    top = root or (parent if parent != own else "") or own
    if not top:
        return None
    return Named(
        top,
        _first(context.agent_id) or (own if own != top else ""),
        parent,
        linked=not root and top == parent,
    )


def _agentic(raw: msgspec.Raw) -> _Agentic | None:
    text = decoded(raw, str)
    return decoded(raw if text is None else text, _Agentic)


# -- NVIDIA's extension --------------------------------------------------------------------


class _AgentContext(msgspec.Struct):
    """`nvext.agent_context`; Dynamo has renamed its fields once, and both are seen."""

    workflow_id: str | None = None
    session_id: str | None = None
    program_id: str | None = None
    trajectory_id: str | None = None
    parent_program_id: str | None = None
    parent_trajectory_id: str | None = None
    workflow_type_id: str | None = None
    session_type_id: str | None = None
    trajectory_final: bool | None = None


class _SessionControl(msgspec.Struct):
    action: str | None = None
    session_id: str | None = None


class _Prefixed(msgspec.Struct):
    """Of `nvext.agent_hints`, the name that NeMo Agent Toolkit adds."""

    prefix_id: str | None = None


class _Nvext(msgspec.Struct):
    agent_context: _AgentContext | None = None
    session_control: _SessionControl | None = None
    agent_hints: msgspec.Raw = msgspec.Raw()


_AT_DEPTH: Final = re.compile(r"(.+)-d[0-9]{1,4}", re.DOTALL)
"""NeMo Agent Toolkit's `prefix_id` of a run: one per depth of its calls."""


def of_nvext(raw: msgspec.Raw) -> Named | None:
    """`agent_context`, else the older `session_control`, else the `prefix_id` among the hints."""
    found = decoded(raw, _Nvext)
    if found is None:
        return None
    if (context := found.agent_context) is not None:
        named = _of_context(context)
        if named is not None:
            return named
    if (control := found.session_control) is not None and (name := _first(control.session_id)):
        return Named(name, final=control.action == "close")
    hints = decoded(found.agent_hints, _Prefixed) if found.agent_hints else None
    name = _first(hints.prefix_id) if hints is not None else ""
    run = _AT_DEPTH.fullmatch(name)
    return Named(run[1], name) if run else Named(name) if name else None


def _of_context(context: _AgentContext) -> Named | None:
    run = _first(context.workflow_id, context.session_id)
    own = _first(context.trajectory_id, context.program_id)
    parent = _first(context.parent_trajectory_id, context.parent_program_id)
    top = run or (parent if parent != own else "") or own
    if not top:
        return None
    return Named(
        top,
        own if own != top else "",
        parent,
        _first(context.workflow_type_id, context.session_type_id),
        linked=not run and top == parent,
        final=bool(context.trajectory_final) and own in ("", top),
    )


# -- body fields ---------------------------------------------------------------------------


class _Id(msgspec.Struct):
    id: str | None = None
    session_id: str | None = None


def text_in(raw: msgspec.Raw, name: str) -> str:
    """A field that is a string itself or an object whose `name` (`id` or `session_id`) is one."""
    plain = decoded(raw, str)
    if plain is not None:
        return plain
    found = decoded(raw, _Id)
    return (getattr(found, name) or "") if found is not None else ""


class _Metadata(msgspec.Struct):
    session_id: str | None = None
    user_id: str | None = None


_USER_SESSION = re.compile(r"_session_([0-9A-Za-z-]{8,64})\Z")
"""Claude Code's `user_<hash>_account_<uuid>_session_<uuid>`."""


def of_metadata(raw: msgspec.Raw) -> str:
    """`metadata.session_id`, or the session within the `user_id` that Claude Code makes up."""
    found = decoded(raw, _Metadata)
    if found is None:
        return ""
    if found.session_id:
        return found.session_id
    if not found.user_id:
        return ""
    if found.user_id.startswith("{"):  # newer ones write JSON into it
        inner = decoded(found.user_id, _Metadata)
        return (inner.session_id or "") if inner is not None else ""
    match = _USER_SESSION.search(found.user_id)
    return match[1] if match else ""


# -- W3C baggage ---------------------------------------------------------------------------

BAGGAGE_KEYS: Final = ("gen_ai.conversation.id", "session.id")


def of_baggage(value: bytes) -> str:
    """The session named by a `baggage` header (W3C Baggage, section 3.2): list members, percent-encoded values."""
    members: dict[str, str] = {}
    for member in value.decode("latin-1").split(","):
        key, equals, rest = member.partition(";")[0].partition("=")
        if equals:
            members.setdefault(key.strip(), rest.strip())
    return next((cut for key in BAGGAGE_KEYS if (cut := cut_name(unquote(members.get(key, ""))))), "")
