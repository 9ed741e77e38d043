"""The relay of one worker's reply: verbatim bytes, and as little Python per chunk as there can be."""

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

import httptools

from saga_head.gateway.asked import Asked
from saga_head.gateway.reply import TAIL_BYTES
from saga_head.gateway.spoken import Spoken


class Asker(Protocol):
    """Who asked a worker for a reply (the exchange)."""

    def on_head(self, head: "ReplyHead") -> bytes:
        """Take the final head; return what the client is sent in its place."""

    def on_first_byte(self) -> None: ...
    def on_complete(self) -> None: ...
    def on_broken(self, detail: str) -> None: ...


class Client(Protocol):
    """The connection the request came on."""

    transport: asyncio.Transport
    keep: bool  # whether the connection goes on after this reply
    paused: bool  # whether it takes no bytes now

    def release_body(self) -> None: ...
    def awaits(self) -> None: ...
    def replied(self) -> None: ...
    def cut(self) -> None: ...


BODYLESS = (204, 304)
EVENT_END = b"\n\n\r\n"  # no event has an empty line in it; the chunk ends with the event
EVENT_BYTES = 1 << 20  # a longer event is passed on as it comes


class ReplyHead:
    """A worker's final (not 1xx) head and how its body ends."""

    __slots__ = ("chunked", "lower", "raw", "status", "until_eof")

    def __init__(self, raw: bytes, status: int) -> None:
        self.raw = raw
        self.lower = lower = raw.lower()
        self.status = status
        self.chunked = False
        self.until_eof = False
        if b"\r\ncontent-length:" not in lower or b"\r\ntransfer-encoding:" in lower:
            self.chunked = b"\r\ntransfer-encoding:" in lower
            self.until_eof = not self.chunked and status not in BODYLESS


def _ignore(_: bytes) -> None:
    """Stand in for the raw write where the client is sent the decoded body."""


def _both(write: Callable[[bytes], None], hear: Callable[[bytes], None] | None) -> Callable[[bytes], None]:
    if hear is None:
        return write

    def both(data: bytes) -> None:
        hear(data)
        write(data)

    return both


class Relay:
    """One reply on its way: bytes go to `write` as they came; the parser only finds the end.

    1xx replies are swallowed: we never ask for them, and they are not the answer.
    """

    __slots__ = (
        "_asked", "_asker", "_begun", "_head", "_head_limit", "_hear", "_held", "_mark", "_parser", "_raw", "_spoken",
        "_whole", "_write", "complete", "head", "on_body", "reusable", "silent", "tail",
    )  # fmt: skip

    on_body: Callable[[bytes], None]  # only while decoding: httptools looks whether it is there

    def __init__(
        self,
        asker: Asker,
        write: Callable[[bytes], None],
        head_limit: int,
        *,
        decode: bool = False,
        asked: Asked | None = None,
        hear: Callable[[bytes], None] | None = None,
    ) -> None:
        """`decode`: send the decoded body, for a client that cannot read chunks. `asked`: looks for a tool's name.

        `hear`: takes the decoded body beside the client.
        """
        self._asker: Asker | None = asker
        self._write = write
        self._raw = write
        if decode:
            self._raw = _ignore
            self.on_body = _both(write, hear)
        elif hear is not None:
            self.on_body = hear
        self._hear = hear
        self._parser: httptools.HttpResponseParser | None = None
        self._asked = asked
        self._mark = asked.mark if asked is not None else b""
        self._head = b""
        self._head_limit = head_limit
        self._begun = 0
        self._whole = False
        self._held = b""  # of an event that has not come to its end
        self._spoken: Spoken[Any] | None = None
        self.head: ReplyHead | None = None
        self.silent = True  # not one byte has come
        self.complete = False
        self.reusable = False
        self.tail = bytearray()  # the last bytes of the body, framing included

    def feed(self, data: bytes) -> None:
        """Take what the worker sent; called once per read."""
        if self.head is None:
            self._feed_head(data)
        else:
            self._pass_on(data)

    def eof(self, detail: str) -> None:
        """The worker closed (or died): the end of a reply without length, else a loss."""
        if self._asker is None:
            return
        if self.head is not None and self.head.until_eof and not detail:
            self.complete = True
            self._asker.on_complete()
        else:
            self._asker.on_broken(detail or "the worker closed the connection")

    def decode_to(self, write: Callable[[bytes], None]) -> None:
        """From `on_head` on: pass the decoded body to `write` instead of the bytes as they come."""
        assert self.head is not None
        self._raw, self.on_body = _ignore, _both(write, self._hear)
        self._begun, self.complete = 0, False
        self._parser = httptools.HttpResponseParser(self)  # which looks for on_body when it is made
        self._parser.feed_data(self.head.raw)

    def align(self, spoken: Spoken[Any] | None) -> None:
        """From `on_head` on: pass on whole events only, so that the reply may end after any read; `spoken` keeps them."""
        self._whole, self._spoken = True, spoken

    def drop(self) -> None:
        """Forget everyone: whatever still comes is of no interest; breaks the reference cycles."""
        self._asker = self._parser = self._spoken = None
        self._write = self._raw = _ignore
        self._hear = None
        if hasattr(self, "on_body"):
            del self.on_body

    # httptools callbacks

    def on_message_begin(self) -> None:
        self._begun += 1

    def on_message_complete(self) -> None:
        self.complete = True
        if self._parser is not None:
            self.reusable = self._parser.should_keep_alive()

    # the head

    def _feed_head(self, data: bytes) -> None:
        self.silent = False
        data = self._head + data if self._head else data
        while self._asker is not None:
            end = data.find(b"\r\n\r\n") + 4
            if end < 4:
                self._wait_for_head(data)
                return
            head, data = data[:end], data[end:]
            status = self._parse_head(head)
            if status >= 200:
                self._begin(ReplyHead(head, status), data)
                return
            if status < 0:
                return

    def _wait_for_head(self, data: bytes) -> None:
        self._head = data
        if len(data) > self._head_limit and self._asker is not None:
            self._asker.on_broken(f"the head of the reply is longer than {self._head_limit} bytes")

    def _parse_head(self, head: bytes) -> int:
        """Return the status, or -1 after having said that it is broken."""
        self._begun, self.complete = 0, False
        self._parser = parser = httptools.HttpResponseParser(self)
        try:
            parser.feed_data(head)
        except httptools.HttpParserError as error:
            if self._asker is not None:
                self._asker.on_broken(f"the reply is not valid HTTP: {error}")
            return -1
        return int(parser.get_status_code())

    def _begin(self, head: ReplyHead, rest: bytes) -> None:
        asker = self._asker
        if asker is None:
            return
        self.head = head
        self._head = b""
        ours = asker.on_head(head)
        if self.complete:
            self._write(ours)
            self.reusable = self.reusable and not rest
            asker.on_complete()
        elif rest:
            self._pass_on(rest, ours)
        else:
            self._write(ours)

    # the body

    def _pass_on(self, data: bytes, ours: bytes = b"") -> None:
        """Send what came of the body, after `ours` where the head has not gone yet."""
        parser, asker = self._parser, self._asker
        if parser is None or asker is None:
            return
        if ours and self._raw is not self._write:  # the parser writes the decoded body
            self._write(ours)
            ours = b""
        try:
            parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._break(f"the reply is not valid HTTP: {error}", ours)
            return
        if self._begun > 1:
            self._break("the worker sent more than one reply", ours)
            return
        if self._whole and (self._held or data[-4:] != EVENT_END):
            data = self._whole_events(data)
            if not data:
                self._raw(ours)
                return
        tail = self.tail
        if not tail:
            asker.on_first_byte()
        self._raw(ours + data if ours else data)
        if self._spoken is not None:
            self._spoken.feed(data)
        if self._mark and data.find(self._mark) >= 0:
            self._look(data)
        if len(data) >= TAIL_BYTES:
            tail[:] = data[-TAIL_BYTES:]
        else:
            tail += data
            if len(tail) > 2 * TAIL_BYTES:
                del tail[:-TAIL_BYTES]
        if self.complete:
            asker = self._asker
            if asker is not None:
                asker.on_complete()

    def _whole_events(self, data: bytes) -> bytes:
        """What can be passed on now: up to the end of an event and of its chunk."""
        data = self._held + data
        end = data.rfind(EVENT_END)
        at = len(data) if self.complete else end + len(EVENT_END) if end >= 0 else 0
        if len(data) - at > EVENT_BYTES:
            at, self._whole = len(data), False
            if self._spoken is not None:
                self._spoken.forget(f"it has an event of more than {EVENT_BYTES} bytes")
        self._held = data[at:]
        return data[:at]

    def _look(self, data: bytes) -> None:
        """These bytes may name a tool; once one does, nobody looks on."""
        if self._asked is not None and self._asked.read(data):
            self._mark = b""

    def _break(self, detail: str, ours: bytes) -> None:
        if ours:
            self._write(ours)
        if self._asker is not None:
            self._asker.on_broken(detail)
