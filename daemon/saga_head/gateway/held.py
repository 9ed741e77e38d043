"""What a client hears while its step waits: enough that neither it nor a proxy gives up, nothing that it reads.

Rules of this file
  1. A stream gets its head early, and then comments, which every reader of server-sent events skips.
  2. JSON may begin with white space (RFC 8259, section 2). A status cannot be taken back, so this begins late: well
     before the SDKs' 600 s, and after most of what can be refused has been.
  3. Once a head has gone, an error is an event in a stream; elsewhere the connection is cut, which every client takes
     for a broken reply and asks again. An error with status 200 would be taken for an answer.
"""

from saga_head.gateway.limits import Limits

STREAM = b"text/event-stream; charset=utf-8\r\ncache-control: no-cache"
JSON = b"application/json"
COMMENT = b": waiting for its turn\n\n"
SPACE = b" "


def first_s(limits: Limits, *, stream: bool) -> float:
    """Seconds of silence before the head goes."""
    return limits.held_stream_s if stream else limits.held_json_s


def early_head(step: int, *, stream: bool, keep_alive: bool) -> bytes:
    """A head for a reply whose beginning nobody knows yet."""
    close = b"" if keep_alive else b"connection: close\r\n"
    kind = STREAM if stream else JSON
    return (
        b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ntransfer-encoding: chunked\r\nx-request-id: saga-%d\r\n%b\r\n"
        % (kind, step, close)
    )


def beat(*, stream: bool) -> bytes:
    """One chunk of nothing."""
    return chunk(COMMENT if stream else SPACE)


def chunk(data: bytes) -> bytes:
    """Data as one chunk of a message; an empty one would end it."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


LAST_CHUNK = b"0\r\n\r\n"
