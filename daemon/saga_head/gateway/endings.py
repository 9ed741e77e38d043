"""The last bytes of a reply that is an error: what they are, where it can still be said; None: the connection is cut."""

from saga_head.gateway.errors import error_event, late_event, shaped
from saga_head.gateway.port import Call, Refusal
from saga_head.gateway.reply import error_answer, last_chunk, worker_error

Headers = tuple[tuple[bytes, bytes], ...]


def _late(event: bytes, call: Call) -> bytes | None:
    """After an early head: an event in a stream, else no end at all."""
    return last_chunk(event) if call.fields.stream else None


def failure(call: Call, refusal: Refusal, *, early: bool, keep: bool) -> bytes | None:
    """Our own error, in place of a reply; `early`: the head has gone."""
    if early:
        return _late(error_event(refusal, call.api), call)
    return error_answer(refusal, b"saga-%d" % call.step, keep_alive=keep, api=call.api)


def told(call: Call, body: bytes, status: int, headers: Headers, *, early: bool, keep: bool) -> bytes | None:
    """The worker's error, with its status where that can still be said."""
    body = shaped(body, status, call.api)
    if early:
        return _late(late_event(body, call.api), call)
    return worker_error(status, body, b"saga-%d" % call.step, headers, keep_alive=keep)


def broken_off(call: Call, refusal: Refusal, *, whole: bool, chunked: bool, unsaid: bool) -> bytes | None:
    """Our error within a reply: after `whole` events, or in place of a worker's that it has not been told (`unsaid`)."""
    event = error_event(refusal, call.api)
    if whole:
        return last_chunk(event) if chunked else event
    return _late(event, call) if unsaid else None
