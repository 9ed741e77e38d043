"""What other systems' words say beside whose a call is: how important, how long, by when; cut to what can be.

Of NVIDIA Dynamo `nvext.agent_hints` and the headers that take its place, with what NeMo Agent Toolkit adds; of vLLM its
agentic context. A field that is no number says nothing, and takes nothing with it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import ceil
from typing import Final

import msgspec

from saga_core.aeg.hints import MOST_STEPS
from saga_core.harnesses import decoded
from saga_core.told import MOST_PRIORITY, MOST_TOKENS

MOST_S: Final = 366 * 86400.0
"""A deadline beyond a year is no deadline."""
PRIORITY_HEADER: Final = b"x-dynamo-request-priority"
STRICT_HEADER: Final = b"x-dynamo-request-strict-priority"
"""Dynamo's, which take the place of the fields of those names."""
_I32: Final = re.compile(rb"[+-]?[0-9]{1,10}")


class Hinted(msgspec.Struct, frozen=True, kw_only=True):
    """What is said beside whose it is, cut to what can be."""

    priority: int = 0
    """Larger is more important."""
    steps: int = 0
    """Of the whole workflow; 0: not said, as below."""
    expected_tokens: int = 0
    """Of this answer."""
    deadline_s: float = 0.0


SILENT: Final = Hinted()


# -- vLLM's agentic context ----------------------------------------------------------------


class _AgenticHints(msgspec.Struct):
    """What is no name. Of its `priority` nothing says which way it counts: it is left alone."""

    expected_output_length: msgspec.Raw = msgspec.Raw()
    deadline_seconds: msgspec.Raw = msgspec.Raw()


class _Context(msgspec.Struct):
    agentic_context: msgspec.Raw = msgspec.Raw()


def hints_in_xargs(xargs: msgspec.Raw) -> Hinted:
    """What an agentic context says beside names."""
    found = decoded(xargs, _Context)
    raw = found.agentic_context if found is not None else None
    text = decoded(raw, str) if raw else None
    hints = decoded(raw if text is None else text, _AgenticHints) if raw else None
    if hints is None:
        return SILENT
    return Hinted(
        expected_tokens=_count(_number(hints.expected_output_length), MOST_TOKENS),
        deadline_s=_positive(_number(hints.deadline_seconds)),
    )


def _positive(seconds: float | None) -> float:
    return seconds if seconds is not None and 0.0 < seconds < MOST_S else 0.0


# -- Dynamo's hints ------------------------------------------------------------------------


class _AgentHints(msgspec.Struct, frozen=True):
    """`nvext.agent_hints`: Dynamo's, its older `latency_sensitivity`, and what NeMo Agent Toolkit adds."""

    priority: msgspec.Raw = msgspec.Raw()
    strict_priority: msgspec.Raw = msgspec.Raw()
    latency_sensitivity: msgspec.Raw = msgspec.Raw()
    osl: msgspec.Raw = msgspec.Raw()
    total_requests: msgspec.Raw = msgspec.Raw()


class _Hinting(msgspec.Struct):
    agent_hints: _AgentHints = _AgentHints()


def hints_of_dynamo(headers: Mapping[bytes, bytes], nvext: msgspec.Raw) -> Hinted:
    """What Dynamo's headers and `nvext.agent_hints` say."""
    found = decoded(nvext, _Hinting) if nvext else None
    hints = found.agent_hints if found is not None else _AgentHints()
    strict = _in_header(headers, STRICT_HEADER, hints.strict_priority)
    soft = _in_header(headers, PRIORITY_HEADER, hints.priority)
    if soft is None:
        soft = _number(hints.latency_sensitivity)
    return Hinted(
        priority=_priority(strict or soft),
        steps=_count(_number(hints.total_requests), MOST_STEPS),
        expected_tokens=_count(_number(hints.osl), MOST_TOKENS),
    )


def _in_header(headers: Mapping[bytes, bytes], header: bytes, otherwise: msgspec.Raw) -> float | None:
    value = headers.get(header, b"")
    return float(value) if _I32.fullmatch(value) else _number(otherwise)


def _number(raw: msgspec.Raw) -> float | None:
    """What is no number says nothing, and takes nothing with it."""
    return decoded(raw, float) if raw else None


def _priority(said: float | None) -> int:
    """Of any number, as Dynamo takes it, what our few steps can say."""
    return round(min(max(said or 0.0, -MOST_PRIORITY), MOST_PRIORITY))


def _count(said: float | None, most: int) -> int:
    return ceil(said) if said is not None and 0.0 < said <= most else 0
