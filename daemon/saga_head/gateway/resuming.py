"""Which requests can be gone on with in mid-answer: what the APIs have in common.

A model's next token depends on the tokens before it alone, so an answer can be computed in two places if nothing else
is carried along in the engine: what is refused is what would be (docs/apis.md has the list with reasons).
"""

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from saga_head.gateway.body import Body
from saga_head.gateway.enquiry import Found
from saga_head.gateway.port import Usage
from saga_head.gateway.reply import read_usage

Json = dict[str, Any]
RawFields = dict[str, msgspec.Raw]
THOUGHT = ("<think>", "</think>")
"""What templates take out of earlier messages, or put elsewhere."""


class Unable(Exception):  # noqa: N818 - an answer
    """It cannot be gone on with; says why."""


WishesT = TypeVar("WishesT", bound=msgspec.Struct)


def read_request(
    body: Body, kind: type[WishesT], forbids: dict[str, Callable[[WishesT], object]]
) -> tuple[RawFields, WishesT]:
    """A request's fields, and what of them decides; `Unable` where one of `forbids` says so, by name."""
    try:
        fields = msgspec.json.decode(body, type=RawFields)
        wishes = msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Unable(f"its request has a field that is odd: {error}") from error
    for name, forbidden in forbids.items():
        if forbidden(wishes):
            raise Unable(f"its request asks for `{name}`")
    return fields, wishes


def refuse_thoughts(text: str) -> None:
    """`Unable` where the answer thinks aloud."""
    if any(mark in text for mark in THOUGHT):
        raise Unable("its answer has thoughts in it, which templates treat apart")


def refuse_harmony(found: Found) -> None:
    """`Unable` where vLLM would close the message that was begun, whatever it is asked."""
    if found.harmony:
        raise Unable("its model speaks Harmony, in which vLLM leaves no message open")


def joined(items: msgspec.Raw, item: bytes) -> msgspec.Raw:
    """A JSON list with one item more."""
    inner = bytes(items).strip()[1:-1].strip()
    return msgspec.Raw(b"[%b,%b]" % (inner, item) if inner else b"[%b]" % item)


def number(value: int) -> msgspec.Raw:
    """An integer as a field."""
    return msgspec.Raw(b"%d" % value)


def whole_usage(counts: Any, said: int, *, more: bool) -> Usage | None:
    """The usage of all workers together from the last one's, whose prompt had `said` tokens of the answer in it.

    `more`: what it said itself counts. None: it said none.
    """
    found = read_usage(b'"usage":' + msgspec.json.encode(counts)) if isinstance(counts, dict) else None
    if found is None:
        return None
    prompt = max(0, found.prompt_tokens - said)
    return Usage(prompt, min(found.cached_tokens, prompt), said + (found.output_tokens if more else 0))


def payload(event: bytes) -> bytes:
    """The data of a server-sent event; empty where it has none, or one that is no JSON object."""
    at = event.find(b"data: {")
    return event[at + 6 :] if at >= 0 and (at == 0 or event[at - 1 : at] == b"\n") else b""


def told(said: Json) -> bytes:
    """An event that is named by its type, without the empty line at its end."""
    return b"event: %b\ndata: %b" % (str(said["type"]).encode(), msgspec.json.encode(said))


def read_event(event: bytes) -> Json | None:
    """An event of such a kind; None for anything else."""
    try:
        said = msgspec.json.decode(payload(event))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return said if isinstance(said, dict) and isinstance(said.get("type"), str) else None
