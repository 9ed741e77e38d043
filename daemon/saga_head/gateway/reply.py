"""Bytes to the client: our own error answers, the worker's head with our lines in it, usage from the tail."""

import re
from http import HTTPStatus

import msgspec

from saga_head.gateway.errors import error_json
from saga_head.gateway.port import Refusal, Usage
from saga_head.gateway.refusals import RETRY_AFTER_S

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
TAIL_BYTES = 2048  # of the reply's body; usage stands in the last few hundred

# Statuses that ask a client to come again: it is told when.
SHED = (429, 503, 529)
# Never passed on from the worker: its connection is not the client's, and the request's id is ours.
DROPPED = (b"connection", b"keep-alive", b"proxy-connection", b"x-request-id")
_MAYBE_DROPPED = re.compile(rb"\r\n(?:connection|keep-alive|proxy-connection|x-request-id)[ \t]*:")


def error_head(status: int, length: int, request_id: bytes) -> str:
    """The beginning of an error answer's head."""
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = "Error"
    return (
        f"HTTP/1.1 {status} {phrase}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n"
        f"x-request-id: {request_id.decode('latin-1')}\r\n"
    )


def error_answer(refusal: Refusal, request_id: bytes, *, keep_alive: bool, api: str = "") -> bytes:
    """A whole error answer, in the shape of `api`."""
    body = error_json(refusal, api)
    lines = [error_head(refusal.status, len(body), request_id), f"x-saga-dropped-reason: {refusal.code}\r\n"]
    retry_after_s = refusal.retry_after_s
    if retry_after_s is None and refusal.status in SHED:
        retry_after_s = RETRY_AFTER_S
    if retry_after_s is not None:
        lines.append(f"retry-after: {retry_after_s}\r\n")
    if not keep_alive:
        lines.append("connection: close\r\n")
    return "".join(lines).encode("latin-1") + b"\r\n" + body


def worker_error(
    status: int, body: bytes, request_id: bytes, ours: tuple[tuple[bytes, bytes], ...], *, keep_alive: bool
) -> bytes:
    """A worker's error as a whole answer, with our header lines."""
    shed = f"retry-after: {RETRY_AFTER_S}\r\nx-saga-dropped-reason: worker_busy\r\n" if status in SHED else ""
    close = "" if keep_alive else "connection: close\r\n"
    head = f"{error_head(status, len(body), request_id)}{shed}{close}".encode("latin-1")
    return b"%b%b\r\n%b" % (head, header_lines(ours), body)


def last_chunk(payload: bytes) -> bytes:
    """A payload as one chunk, and the end of the message."""
    return b"%x\r\n%b\r\n0\r\n\r\n" % (len(payload), payload)


def header_lines(pairs: tuple[tuple[bytes, bytes], ...]) -> bytes:
    """Header lines; a control character in a value becomes a space, so that no value ends its line."""
    lines: list[bytes] = []
    for name, value in pairs:
        lines += (name, b": ", value.translate(_VISIBLE), b"\r\n")
    return b"".join(lines)


def our_lines(step: int, pairs: tuple[tuple[bytes, bytes], ...], *, keep_alive: bool) -> bytes:
    """What is added to a worker's head."""
    close = b"" if keep_alive else b"connection: close\r\n"
    return b"x-request-id: saga-%d\r\n%b%b" % (step, header_lines(pairs), close)


_VISIBLE = bytes(byte if byte >= 32 and byte != 127 else 32 for byte in range(256))


def rewrite_head(head: bytes, lower: bytes, extra: bytes, *, drop_coding: bool) -> bytes:
    """Put our lines at the end of a worker's head; `lower` is the head in lower case.

    `drop_coding` takes transfer-encoding out, for a client that is sent the decoded body.
    """
    if drop_coding or _MAYBE_DROPPED.search(lower):
        names = (*DROPPED, b"transfer-encoding", b"trailer") if drop_coding else DROPPED
        first, *lines = head[:-4].split(b"\r\n")
        kept = [line for line in lines if line.partition(b":")[0].strip().lower() not in names]
        head = b"\r\n".join([first, *kept]) + b"\r\n\r\n"
    return head[:-2] + extra + b"\r\n"


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    """Usage as Chat Completions and Completions, Responses, and Messages name it."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    prompt_tokens_details: _Details | None = None
    input_tokens_details: _Details | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None


_usage = msgspec.json.Decoder(_Usage)
# Usage holds numbers and, one level deep, objects of numbers.
_USAGE = re.compile(rb'"usage"\s*:\s*(\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\})')


def read_usage(tail: bytes | bytearray) -> Usage | None:
    """Find the last usage object in a reply's tail. None where it is absent, null, cut or odd.

    A quote inside a JSON string is escaped, so generated text cannot pretend to be usage.
    """
    start = tail.rfind(b'"usage"')
    match = _USAGE.match(tail, start) if start >= 0 else None
    if match is None:
        return None
    try:
        usage = _usage.decode(match[1])
    except msgspec.DecodeError:
        return None
    details = usage.prompt_tokens_details or usage.input_tokens_details
    cached = (details and details.cached_tokens) or usage.cache_read_input_tokens or 0
    prompt = usage.prompt_tokens
    if (
        prompt is None and usage.input_tokens is not None
    ):  # Messages count cached ones apart, Responses do not
        apart = (usage.cache_read_input_tokens or 0) + (usage.cache_creation_input_tokens or 0)
        prompt = usage.input_tokens + apart
    output = usage.completion_tokens if usage.completion_tokens is not None else usage.output_tokens
    return None if prompt is None else Usage(prompt, cached, output or 0)


_CHUNK = re.compile(rb"(?:^|\r\n)([0-9a-fA-F]{1,8})(?:;[^\r\n]*)?\r\n")


def at_event_boundary(tail: bytes, *, chunked: bool) -> bool:
    """Whether an event may be added here: the last chunk is whole and ends an event (or nothing was sent).

    Walks the chunk sizes found in the tail, so that nothing has to be counted while bytes flow.
    """
    if not tail:
        return True
    if not chunked:
        return tail.endswith((b"\n\n", b"\r\n\r\n"))
    return tail.endswith((b"\n\n\r\n", b"\r\n\r\n\r\n")) and any(
        _walks_to_end(tail, match.start(1)) for match in _CHUNK.finditer(tail)
    )


def _walks_to_end(tail: bytes, at: int) -> bool:
    while at < len(tail):
        end = tail.find(b"\r\n", at)
        digits = tail[at:end].partition(b";")[0] if end >= 0 else b""
        if not re.fullmatch(rb"[0-9a-fA-F]{1,8}", digits):
            return False
        at = end + 2 + int(digits, 16) + 2
        if tail[at - 2 : at] != b"\r\n":
            return False
    return at == len(tail)
