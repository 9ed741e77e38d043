"""A prompt as a chain of hashes, one link per message: what continues a conversation begins with the same links.

Rules of this file
  1. Text is hashed and forgotten. Python's own keyed hash (SipHash, a new key per process): it cannot be aimed at,
     and 237 KB take 65 µs. It is never written down: another process has another key.
  2. Two messages are the same if their bytes are, but for `cache_control`, which clients move from turn to turn.
  3. A quote inside a JSON string is escaped, so `"assistant"` is never part of a text.
"""

from __future__ import annotations

import re

import msgspec

NO_JSON = msgspec.Raw()
MARK_BYTES = 48
"""Shorter messages ("ok", "yes") say nothing about whose they are."""
_CACHE_CONTROL = re.compile(rb",?\s*\"cache_control\"\s*:\s*\{[^{}]*\}")
_BILLING = re.compile(rb"x-anthropic-billing-header[^\"\\]*")
"""A text block with a hash of its own per request, which Claude Code puts first into `system`."""
HEAD_BYTES = 64
"""Most clients say whose a message is in its first bytes: then the rest of it is not searched."""
NOTHING = len(b"null")


class Chain(msgspec.Struct, frozen=True, gc=False):
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
            system, tools = asked.instructions, asked.tools
        else:
            chat = _chat.decode(body)
            items, system, tools = chat.messages, chat.system, chat.tools
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if not items:
        return None
    marked = body.find(b'"cache_control"') >= 0
    link = hash((api, _of_system(system, marked=marked))) if system else hash(api)
    links: list[int] = []
    marks: list[int] = []
    answers: list[bool] = []
    for item in items:
        raw = _CACHE_CONTROL.sub(b"", item) if marked else bytes(item)
        own = hash(raw)
        link = hash((link, own))
        head = raw[:HEAD_BYTES]
        answer = b'"assistant"' in head if b'"role"' in head else _is_answer(raw)
        links.append(link)
        answers.append(answer)
        marks.append(own if len(raw) >= MARK_BYTES and (answer or b'"system"' not in head) else 0)
    offers = bool(tools) and len(memoryview(tools)) > NOTHING
    return Chain(tuple(links), tuple(marks), tuple(answers), offers)


def _is_answer(raw: bytes) -> bool:
    return b'"assistant"' in raw or b'"function_call"' in raw or b'"reasoning"' in raw


def _of_system(system: msgspec.Raw, *, marked: bool) -> bytes:
    raw = _CACHE_CONTROL.sub(b"", system) if marked else bytes(system)
    return _BILLING.sub(b"", raw) if b"x-anthropic-billing" in raw else raw


def _quoted(text: str) -> msgspec.Raw:
    """A string input as the message that the API says it stands for."""
    return msgspec.Raw(b'{"role":"user","content":' + msgspec.json.encode(text) + b"}")
