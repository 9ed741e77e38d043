"""Request bodies: chunked decoding with an exact end, and the partial decode of the JSON."""

import re
from enum import Enum, auto

import msgspec

from saga_head.gateway.port import Fields, Refusal
from saga_head.gateway.refusals import bad, too_large

SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,8})(?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?")
Body = bytes | bytearray
LINE_BYTES = 1024  # a size line with its extensions
TRAILER_BYTES = 8192


FIRST_BODY_BYTES = (
    1 << 20
)  # a sized body's buffer starts at this and doubles: a length alone claims no memory


class SizedBody:
    """A body with a content-length, received straight into its own buffer."""

    __slots__ = ("_body", "_got", "_length", "_view")

    def __init__(self, length: int, first: bytes) -> None:
        self._length = length
        self._got = len(first)
        self._grow(min(length, max(FIRST_BODY_BYTES, 2 * self._got)), first)

    def _grow(self, size: int, content: Body) -> None:
        """Move to a new buffer: the transport may still hold a view of the old one."""
        self._body = bytearray(size)
        self._body[: self._got] = content
        self._view = memoryview(self._body)

    def room(self) -> memoryview:
        """Where the next bytes go; never empty."""
        return self._view[self._got :]

    def filled(self, nbytes: int) -> bytearray | None:
        """Note bytes put into room(); return the body when it is whole."""
        self._got += nbytes
        if self._got == self._length:
            return self._body
        if self._got == len(self._body):
            self._grow(min(2 * self._got, self._length), self._body)
        return None


class _Stage(Enum):
    SIZE = auto()
    DATA = auto()
    CHUNK_END = auto()
    TRAILER = auto()


class ChunkedBody:
    """Decodes a chunked body strictly (RFC 9112, section 7.1) and knows its last byte.

    httptools would decode it too, but does not say where in the input the message ended, and the rest may
    be the next request. Extensions and trailers are dropped.
    """

    __slots__ = ("_at", "_buffer", "_left", "_stage", "_trailers", "body", "limit")

    def __init__(self, limit: int) -> None:
        self.body = bytearray()
        self.limit = limit
        self._buffer = bytearray()
        self._at = 0  # consumed bytes of the buffer
        self._left = 0  # bytes of the running chunk still to come
        self._trailers = 0
        self._stage = _Stage.SIZE

    def feed(self, data: bytes) -> bytes | Refusal | None:
        """Take bytes; return those after the body's end, None where more is needed, or why it is refused."""
        self._buffer += data
        verdict: Refusal | bool | None = True
        while verdict is True:
            verdict = self._step()
        rest = bytes(self._buffer[self._at :]) if verdict is False else None
        del self._buffer[: self._at]
        self._at = 0
        return verdict if isinstance(verdict, Refusal) else rest

    def _step(self) -> Refusal | bool | None:
        """One stage further: True to go on, False at the end, None for want of bytes."""
        match self._stage:
            case _Stage.SIZE:
                return self._size()
            case _Stage.DATA:
                return self._data()
            case _Stage.CHUNK_END:
                return self._chunk_end()
            case _Stage.TRAILER:
                return self._trailer()

    def _line(self, limit: int) -> bytes | Refusal | None:
        end = self._buffer.find(b"\n", self._at, self._at + limit)
        if end < 0:
            return (
                bad("a line of the chunked body is too long")
                if len(self._buffer) - self._at >= limit
                else None
            )
        line = bytes(self._buffer[self._at : end])
        self._at = end + 1
        if not line or line.find(b"\r") != len(line) - 1:  # of an empty one, both would be -1
            return bad("a line of the chunked body does not end with CRLF, or a CR stands alone in it")
        return line[:-1]

    def _size(self) -> Refusal | bool | None:
        line = self._line(LINE_BYTES)
        if not isinstance(line, bytes):
            return line
        size = SIZE_LINE.fullmatch(line)
        if size is None:
            return bad("a chunk does not begin with its size in hexadecimal digits")
        self._left = int(size[1], 16)
        if len(self.body) + self._left > self.limit:
            return too_large(self.limit)
        self._stage = _Stage.DATA if self._left else _Stage.TRAILER
        return True

    def _data(self) -> bool | None:
        part = self._buffer[self._at : self._at + self._left]
        self.body += part
        self._at += len(part)
        self._left -= len(part)
        if self._left:
            return None
        self._stage = _Stage.CHUNK_END
        return True

    def _chunk_end(self) -> Refusal | bool | None:
        end = self._buffer[self._at : self._at + 2]
        if not b"\r\n".startswith(end):
            return bad("a chunk is longer than its size says")
        if len(end) < 2:
            return None
        self._at += 2
        self._stage = _Stage.SIZE
        return True

    def _trailer(self) -> Refusal | bool | None:
        line = self._line(TRAILER_BYTES)
        if not isinstance(line, bytes):
            return line
        self._trailers += len(line) + 2
        if self._trailers > TRAILER_BYTES:
            return bad("the trailers of the chunked body are too long")
        return bool(line)


_fields = msgspec.json.Decoder(Fields)


def decode_fields(body: Body) -> Fields | Refusal:
    """Decode the deciding fields of a body; a `Refusal` that names the odd one."""
    try:
        return _fields.decode(body)
    except msgspec.ValidationError as error:
        return _odd_field(str(error))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        what = f"the body is not valid JSON: {error}" if body else "the body is empty"
        return bad(f'{what}; send one JSON object, e.g. {{"model": "..."}}')


PLACE = re.compile(r" - at `\$\.(\w+)|field `(\w+)`|^`(\w+)`")


def _odd_field(message: str) -> Refusal:
    place = PLACE.search(message)
    name = next((group for group in place.groups() if group), None) if place else None
    if name is None:
        return bad(f"the body must be one JSON object: {message}")
    valid = "a non-empty string" if name == "model" else "as in the OpenAI API"
    return Refusal(
        400,
        "invalid_request_error",
        "invalid_value",
        f"body field `{name}`: {message}; valid is {valid}",
        param=name,
    )
