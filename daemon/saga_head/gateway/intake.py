"""Receiving request bodies: one at a time on a connection, all connections out of one budget."""

from saga_head.gateway.body import Body, ChunkedBody, SizedBody
from saga_head.gateway.head import RequestHead
from saga_head.gateway.limits import Limits
from saga_head.gateway.port import Refusal
from saga_head.gateway.refusals import too_busy, too_large


class BodyLedger:
    """The bytes of all request bodies held at one time."""

    __slots__ = ("held_bytes", "limit_bytes")

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.held_bytes = 0


Received = tuple[Body, bytes] | Refusal | None  # a whole body and the bytes after it; None: more is to come


class Intake:
    """The body of one connection's present request."""

    __slots__ = ("_chunks", "_held", "_ledger", "_limit", "_scratch", "_sized", "room")

    def __init__(self, ledger: BodyLedger, limits: Limits, scratch: memoryview) -> None:
        self.room = scratch  # where the next bytes go: the shared buffer, or a sized body's own; never empty
        self._scratch = scratch
        self._ledger = ledger
        self._limit = limits.body_bytes
        self._held = 0
        self._sized: SizedBody | None = None
        self._chunks: ChunkedBody | None = None

    def begin(self, head: RequestHead, data: bytes) -> Received:
        """Start with what came after the head."""
        if head.chunked:
            self._chunks = ChunkedBody(self._limit)
            return self.feed(data)
        length = head.length
        if length > self._limit:
            return too_large(self._limit)
        if not self._hold(length):
            return self._full()
        if len(data) >= length:
            return data[:length], data[length:]
        self._sized = SizedBody(length, data)
        self.room = self._sized.room()
        return None

    def feed(self, data: bytes) -> Received:
        """Take more of a chunked body."""
        chunks = self._chunks
        assert chunks is not None
        rest = chunks.feed(data)
        if isinstance(rest, Refusal):
            return rest
        if not self._hold(len(chunks.body) - self._held):
            return self._full()
        if rest is None:
            return None
        self._chunks = None
        return chunks.body, rest

    def filled(self, nbytes: int) -> Received:
        """Note bytes put into room()."""
        assert self._sized is not None
        body = self._sized.filled(nbytes)
        if body is None:
            self.room = self._sized.room()
            return None
        self._sized = None
        self.room = self._scratch
        return body, b""

    def release(self) -> None:
        """Give the body's room back; what was received of it is dropped."""
        self._sized = self._chunks = None
        self.room = self._scratch
        self._ledger.held_bytes -= self._held
        self._held = 0

    def _hold(self, more_bytes: int) -> bool:
        """Take room for more, if there is that much."""
        ledger = self._ledger
        if ledger.held_bytes + more_bytes > ledger.limit_bytes:
            return False
        ledger.held_bytes += more_bytes
        self._held += more_bytes
        return True

    def _full(self) -> Refusal:
        return too_busy("bytes of request bodies", self._ledger.limit_bytes)
