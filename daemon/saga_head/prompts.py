"""A prompt as a chain of hashes, one link per message: what continues a conversation begins with the same links.

Rules of this file
  1. Text is hashed and forgotten. Python's own keyed hash (SipHash, a new key per process): it cannot be aimed at,
     and 237 KB take 65 µs. It is never written down: another process has another key.
  2. Two messages are the same if their bytes are, but for `cache_control`, which clients move from turn to turn.
  3. A quote inside a JSON string is escaped, so `"assistant"` is never part of a text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import msgspec

NO_JSON = msgspec.Raw()
MARK_BYTES = 48
"""Shorter messages ("ok", "yes") say nothing about whose they are."""
_CACHE_CONTROL = re.compile(rb",?\s*\"cache_control\"\s*:\s*\{[^{}]*\}")
_BILLING = re.compile(rb"x-anthropic-billing-header[^\"\\]*")
"""A text block with a hash of its own per request, which Claude Code puts first into `system`."""
_ANSWERS = (b'"assistant"', b'"function_call"', b'"reasoning"')


@dataclass(frozen=True, slots=True)
class Chain:
    """One prompt."""

    links: tuple[int, ...]
    """Of the first message, of the first two, …, of all."""
    marks: tuple[int, ...]
    """Of each message by itself; 0 where it is short or the system's."""
    answers: tuple[bool, ...]
    """Whether the message is one of the model's."""
    tools: bool
    """Whether the request offers tools."""


class _Chat(msgspec.Struct):
    messages: list[msgspec.Raw] = []
    system: msgspec.Raw = NO_JSON
    tools: msgspec.Raw = NO_JSON


class _Responses(msgspec.Struct):
    input: list[msgspec.Raw] | str = []
    instructions: msgspec.Raw = NO_JSON
    tools: msgspec.Raw = NO_JSON


_chat = msgspec.json.Decoder(_Chat)
_responses = msgspec.json.Decoder(_Responses)
APIS = frozenset({"/v1/chat/completions", "/v1/messages", "/v1/responses"})
"""Whose prompts are messages. The texts of /v1/completions have no seams at which one could end and grow."""


def chain_of(api: str, body: bytes | bytearray) -> Chain | None:
    """The chain of a request's prompt; None where there is none to read. Pure, and safe in a thread."""
    try:
        if api == "/v1/responses":
            asked = _responses.decode(body)
            items = asked.input if isinstance(asked.input, list) else [_quoted(asked.input)]
            return _linked(api, asked.instructions, items, asked.tools)
        chat = _chat.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return _linked(api, chat.system, chat.messages, chat.tools)


def _quoted(text: str) -> msgspec.Raw:
    """A string input as the message that the API says it stands for."""
    return msgspec.Raw(b'{"role":"user","content":' + msgspec.json.encode(text) + b"}")


def _linked(api: str, system: msgspec.Raw, items: list[msgspec.Raw], tools: msgspec.Raw) -> Chain | None:
    if not items:
        return None
    link = hash((api, _BILLING.sub(b"", _plain(bytes(system)))))
    links, marks, answers = [], [], []
    for item in items:
        raw = _plain(bytes(item))
        own = hash(raw)
        link = hash((link, own))
        links.append(link)
        answer = any(word in raw for word in _ANSWERS)
        answers.append(answer)
        marks.append(own if len(raw) >= MARK_BYTES and (answer or b'"system"' not in raw[:64]) else 0)
    return Chain(tuple(links), tuple(marks), tuple(answers), tools=len(bytes(tools)) > len(b"null"))


def _plain(raw: bytes) -> bytes:
    return _CACHE_CONTROL.sub(b"", raw) if b'"cache_control"' in raw else raw
