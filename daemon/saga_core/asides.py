"""What a call says beside whose it is: of its workflow, and of the answer that it expects.

Rules of this file
  1. What our own headers say can be, or is refused with what is valid. What other systems' words say (`hinted`) is a
     courtesy: it is cut to what can be, and never an error.
  2. Of each thing the first that says it counts: our header, Dynamo's words, vLLM's.
  3. A priority above 0 takes turns from others: there is as much of it as the call's tenant was granted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol

import msgspec
from msgspec.structs import replace

from saga_core import told
from saga_core.hinted import PRIORITY_HEADER as DYNAMO_PRIORITY
from saga_core.hinted import STRICT_HEADER, Hinted, hints_in_xargs, hints_of_dynamo
from saga_core.ids import cut_name
from saga_core.told import Told

WORK_HEADER: Final = b"x-saga-work-s"
STEPS_HEADER: Final = b"x-saga-steps"
INSTANCE_HEADER: Final = b"x-saga-instance"
DEADLINE_HEADER: Final = b"x-saga-deadline-s"
PRIORITY_HEADER: Final = b"x-saga-priority"
TOKENS_HEADER: Final = b"x-saga-output-tokens"
_HEADERS: Final = frozenset(
    (
        WORK_HEADER,
        STEPS_HEADER,
        INSTANCE_HEADER,
        DEADLINE_HEADER,
        PRIORITY_HEADER,
        TOKENS_HEADER,
        DYNAMO_PRIORITY,
        STRICT_HEADER,
    )
)
_SILENT: Final = Told()


class Body(Protocol):
    """Where a request's body may say it; raw JSON, empty where it is absent."""

    @property
    def vllm_xargs(self) -> msgspec.Raw: ...
    @property
    def nvext(self) -> msgspec.Raw: ...


class Aside(msgspec.Struct, frozen=True):
    """What was said."""

    told: Told | None = None
    """Of the whole workflow; None: nothing."""
    expected_tokens: int = 0
    """That this answer will have; 0: it does not say."""


NOTHING: Final = Aside()


def aside(headers: Mapping[bytes, bytes], body: Body, *, granted: int = 0) -> Aside:
    """What a call says. `headers` are lower-case; `granted`: the highest priority that its tenant may ask for.

    Raises `UserError` for what one of our headers cannot say.
    """
    if headers.keys().isdisjoint(_HEADERS) and not body.nvext and not body.vllm_xargs:
        return NOTHING
    theirs = _theirs(headers, body)
    said = Told(
        work_s=told.seconds(_text(headers, WORK_HEADER), WORK_HEADER.decode()),
        steps=told.steps(_text(headers, STEPS_HEADER), STEPS_HEADER.decode()) or theirs.steps,
        instance=cut_name(_text(headers, INSTANCE_HEADER)),
        deadline_s=told.seconds(_text(headers, DEADLINE_HEADER), DEADLINE_HEADER.decode())
        or theirs.deadline_s,
        priority=_priority(headers, theirs, granted),
    )
    tokens = told.tokens(_text(headers, TOKENS_HEADER), TOKENS_HEADER.decode()) or theirs.expected_tokens
    return Aside(None if said == _SILENT else said, tokens)


def _theirs(headers: Mapping[bytes, bytes], body: Body) -> Hinted:
    """Of others' words, Dynamo's first."""
    first = hints_of_dynamo(headers, body.nvext)
    if not body.vllm_xargs:
        return first
    second = hints_in_xargs(body.vllm_xargs)
    tokens = first.expected_tokens or second.expected_tokens
    return replace(first, expected_tokens=tokens, deadline_s=second.deadline_s)


def _priority(headers: Mapping[bytes, bytes], theirs: Hinted, granted: int) -> int:
    """Our header's, which is within what was granted; else theirs, cut to that."""
    if text := _text(headers, PRIORITY_HEADER):
        return told.priority(text, PRIORITY_HEADER.decode(), granted)
    return min(theirs.priority, granted)


def _text(headers: Mapping[bytes, bytes], header: bytes) -> str:
    return headers.get(header, b"").decode("latin-1")
