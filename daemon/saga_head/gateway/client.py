"""The client's side of the wire: one connection, its requests one after the other.

    HEAD -> BODY -> BUSY -> HEAD ...   the hot path, POST [/s/<token>]/v1/*
    HEAD -> HANDED                     any other request: the fallback server has it for good
    any  -> LINGER                     an early error: answered, what is still coming is dropped

A client that closes its sending half while a reply is owed counts as gone: its worker is freed at once.
Pipelined requests are queued up to `Limits.pipelined_bytes`.
"""

import asyncio
import logging
import math
from enum import Enum, auto
from typing import TYPE_CHECKING, cast

from saga_head.gateway.admission import admit, find_head, make_step, without_empty_lines
from saga_head.gateway.body import Body
from saga_head.gateway.exchange import WorkerExchange
from saga_head.gateway.head import HOT, HeadReader, RequestHead
from saga_head.gateway.held import first_s
from saga_head.gateway.intake import Intake, Received
from saga_head.gateway.port import Caller, Refusal
from saga_head.gateway.refusals import INTERNAL, too_busy, too_slow
from saga_head.gateway.reply import CONTINUE, error_answer

if TYPE_CHECKING:
    from saga_head.gateway.server import Gateway

POLITE = 256  # connections beyond the limit that still get a 503; more are closed without a word

log = logging.getLogger(__name__)


class Stage(Enum):  # what the next byte of the client belongs to
    HEAD = auto()
    BODY = auto()
    BUSY = auto()
    LINGER = auto()
    HANDED = auto()


_HEAD, _BODY, _BUSY, _LINGER, _HANDED = Stage  # an enum member costs 80 ns to reach in Python 3.11


class ClientLink(asyncio.BufferedProtocol):
    """One client connection.

    Bytes are read into a buffer that all connections share, a body's rest straight into its own.
    """

    __slots__ = (
        "_advancing", "_exchange", "_flushing", "_gateway", "_head", "_heads", "_inner", "_intake", "_pending",
        "_surplus", "_timed", "_who", "deadline_s", "keep", "paused", "stage", "transport",
    )  # fmt: skip

    transport: asyncio.Transport
    _who: Caller

    def __init__(self, gateway: "Gateway") -> None:
        self._gateway = gateway
        self.stage = _HEAD
        self.keep = True
        self.paused = False
        self.deadline_s = math.inf
        self._pending = b""
        self._advancing = False
        self._exchange: WorkerExchange | None = None
        self._inner: asyncio.Protocol | None = None
        self._head = RequestHead()  # of the present request
        self._heads = HeadReader()
        self._intake = Intake(gateway.ledger, gateway.limits, gateway.scratch)
        self._timed = False  # since the first byte of this head
        self._surplus = False
        self._flushing = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's are none by class
        links, limits = self._gateway.links, self._gateway.limits
        links.add(self)
        self._surplus = len(links) > limits.connections
        self._due(limits.header_timeout_s)
        if len(links) > limits.connections + POLITE:
            self.transport.abort()

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - the name is asyncio's
        return self._intake.room

    def buffer_updated(self, nbytes: int) -> None:
        room = self._intake.room
        if room is self._gateway.scratch:
            data = room[:nbytes].tobytes()
            if self.stage is _HEAD:
                self._pending = self._pending + data if self._pending else data
                self._advance()
            else:
                self._take(data)
        else:
            self._due(self._gateway.limits.body_idle_s)
            self._receive(self._intake.filled(nbytes))
            self._advance()

    def eof_received(self) -> bool | None:
        if self._inner is not None:
            return self._inner.eof_received()
        self._leave()
        return None  # close, after what is still to be written

    def connection_lost(self, exc: Exception | None) -> None:
        self._gateway.links.discard(self)
        self._leave()
        self._intake.release()
        if self._inner is not None:
            self._inner.connection_lost(exc)

    def pause_writing(self) -> None:
        self.paused = True
        if self._inner is not None:
            self._inner.pause_writing()
            return
        self._due(self._gateway.limits.stalled_reader_s)
        if self._exchange is not None:
            self._exchange.pause()

    def resume_writing(self) -> None:
        self.paused = False
        if self._inner is not None:
            self._inner.resume_writing()
            return
        if self._exchange is not None:
            self._due(self._gateway.limits.held_beat_s)
            self._exchange.resume()
        elif self.stage is _HEAD and not self._timed:
            self._due(self._gateway.limits.keep_alive_idle_s)

    def _take(self, data: bytes) -> None:
        """Take bytes that do not begin a request."""
        stage = self.stage
        if stage is _BUSY:
            self._queue(data)
        elif stage is _HANDED:
            assert self._inner is not None
            self._inner.data_received(data)
        elif stage is _BODY:
            self._due(self._gateway.limits.body_idle_s)
            self._receive(self._intake.feed(data))
            self._advance()

    def _queue(self, data: bytes) -> None:
        """Keep requests sent ahead; too many of them end the connection after this reply."""
        if not self.keep or len(self._pending) + len(data) > self._gateway.limits.pipelined_bytes:
            self.keep = False
            self._pending = b""
        else:
            self._pending += data

    def _advance(self) -> None:
        """Begin as many requests as are there; a loop, because a refused one is over at once."""
        if self._advancing:
            return
        self._advancing = True
        try:
            while self.stage is _HEAD and self._pending and self._begin():
                pass
        finally:
            self._advancing = False
        if self.stage is _HEAD and self._pending and not self._timed:
            self._timed = True
            self._due(self._gateway.limits.header_timeout_s)

    def _begin(self) -> bool:
        """Begin the next request; False where its head is not complete."""
        limits = self._gateway.limits
        data = self._pending
        if data.startswith(b"\r"):
            data = self._pending = without_empty_lines(data)
        end = find_head(data, limits)
        if not isinstance(end, int):
            return False if end is None else self.fail(end)
        if self._surplus:
            return self.fail(too_busy("open connections", limits.connections))
        if not (data.startswith(b"POST /v1/") or HOT.match(data)):
            return self._hand_over(data)
        head = self._heads.read(data[:end], limits)
        return self.fail(head) if isinstance(head, Refusal) else self._admit(head, data[end:])

    def _hand_over(self, data: bytes) -> bool:
        """Give the connection to the fallback server, from this request on."""
        self._pending = b""
        self.stage = _HANDED
        self.deadline_s = math.inf
        self._inner = inner = self._gateway.fallback()
        inner.connection_made(self.transport)
        inner.data_received(data)
        return False

    def _admit(self, head: RequestHead, data: bytes) -> bool:
        """Ask who it is before a stranger may send a body; `data` came after the head."""
        gateway = self._gateway
        self.keep = head.keep_alive and not gateway.draining
        self._head = head
        caller = admit(gateway, head)
        if isinstance(caller, Refusal):
            return self.fail(caller)
        self._who = caller
        self._pending = b""
        received = self._intake.begin(head, data)
        if received is None:
            self.stage = _BODY
            self._due(self._gateway.limits.body_idle_s)
            if head.expects_continue:
                self.transport.write(CONTINUE)
        else:
            self._receive(received)
        return True

    def _receive(self, received: Received) -> None:
        if isinstance(received, tuple):
            body, self._pending = received
            self._arrive(body)
        elif received is not None:
            self.fail(received)

    def awaits(self) -> None:
        """A reply has stopped and will go on: its reader hears comments meanwhile."""
        if not self.paused:
            self._due(self._gateway.limits.held_beat_s)

    def release_body(self) -> None:
        """Count the body out of what all connections hold."""
        self._intake.release()

    def _arrive(self, body: Body) -> None:
        """A whole request: decode what decides, and ask the scheduler."""
        gateway = self._gateway
        self.stage = _BUSY
        exchange = make_step(gateway, self, self._head, self._who, body)
        if isinstance(exchange, Refusal):
            self.fail(exchange)
            return
        call = exchange.call
        if not self.paused:
            self._due(first_s(gateway.limits, stream=bool(call.fields.stream)))
        self._exchange = exchange
        gateway.exchanges += 1
        try:
            gateway.scheduler.arrive(call, exchange)
        except Exception:
            log.exception("the scheduler failed on step %d", call.step)
            exchange.stop(INTERNAL, "the scheduler failed")

    def let_go(self) -> None:
        """The head leaves: break off what its client can ask of the next one as if nothing had been."""
        exchange = self._exchange
        if self.stage is _HEAD:
            self.transport.close()
        elif self.stage is _BODY:
            self.transport.abort()
        elif exchange is not None and not exchange.placed and not exchange.heard_of:
            self._leave()

    @property
    def promised(self) -> bool:
        """Its call has no worker yet, and its client a head of the reply."""
        exchange = self._exchange
        return exchange is not None and not exchange.placed and exchange.heard_of

    def replied(self) -> None:
        """The reply (or an error in its place) is written: the next request, or the end."""
        self._end_exchange()
        if self.stage is not _BUSY:
            return
        gateway = self._gateway
        if not self.keep or gateway.draining:
            self.hang_up()
            return
        self.stage = _HEAD
        limits = gateway.limits
        self.deadline_s = gateway.clock() + (
            limits.stalled_reader_s if self.paused else limits.keep_alive_idle_s
        )
        self._timed = False
        if self._pending:
            self._advance()

    def cut(self) -> None:
        """Close so that the client sees a broken reply, not an end."""
        self._end_exchange()
        self.transport.abort()

    def _end_exchange(self) -> None:
        if self._exchange is not None:
            self._exchange = None
            self._gateway.exchanges -= 1

    def _leave(self) -> None:
        """The client is gone."""
        exchange = self._exchange
        if exchange is not None:
            self._end_exchange()
            exchange.client_gone()
            self.transport.abort()

    def fail(self, refusal: Refusal) -> bool:
        """Answer a request that never became a step. A whole one leaves the connection usable."""
        whole = self.stage is _BUSY
        self.keep = self.keep and whole
        error_id = self._gateway.error_id()
        self.transport.write(error_answer(refusal, error_id, keep_alive=self.keep, api=self._head.api))
        self._intake.release()
        if whole:
            self.replied()
        else:
            self.hang_up()
        return False

    def hang_up(self) -> None:
        """Close after what is written; first drop what the client is still sending."""
        if self.stage is _LINGER:
            return
        self.stage = _LINGER
        self._pending = b""
        self._due(self._gateway.limits.linger_s)
        if self.transport.can_write_eof():
            self.transport.write_eof()

    def _due(self, seconds: float) -> None:
        self.deadline_s = self._gateway.clock() + seconds

    def overdue(self) -> None:
        """The deadline passed (called by the sweep)."""
        self.deadline_s = math.inf
        if self.stage is _HEAD and not self.paused and self._pending:
            self.fail(too_slow("head", self._gateway.limits.header_timeout_s))
        elif self.stage is _BUSY and not self.paused and self._exchange is not None:
            if self._exchange.keep_waiting():
                self._due(self._gateway.limits.held_beat_s)
        elif self.stage is _BODY:
            self.fail(too_slow("body", self._gateway.limits.body_idle_s))
        elif self.stage is _HEAD and not self.paused:
            self.transport.close()
        elif self.stage is _LINGER and self.transport.get_write_buffer_size() and not self._flushing:
            self._flushing = True  # a slow reader, but it reads
            self._due(self._gateway.limits.stalled_reader_s)
        else:
            self.transport.abort()
