"""One request between a client and the workers it is sent to, from arrive() to finish().

States, by what is set: waiting (nothing), connecting (`_connecting`), on a worker (`_link`), settled.
`_answered` parts the two worlds: before it the request can go elsewhere, after it bytes are with the client.
"""

import asyncio
from typing import TYPE_CHECKING

from saga_core.aeg import UNKNOWN
from saga_core.events import Outcome
from saga_head.gateway.asked import Asked, asked_of
from saga_head.gateway.errors import error_event, late_event, shaped
from saga_head.gateway.head import RequestHead
from saga_head.gateway.held import LAST_CHUNK, beat, chunk, early_head
from saga_head.gateway.outgoing import outgoing
from saga_head.gateway.port import NO_JSON, Call, Refusal, Result, Target
from saga_head.gateway.refusals import CANCELLED, worker_lost
from saga_head.gateway.relay import Client, Relay, ReplyHead
from saga_head.gateway.reply import (
    at_event_boundary,
    error_answer,
    header_lines,
    last_chunk,
    read_usage,
    rewrite_head,
    worker_error,
)
from saga_head.gateway.stored import Keeper
from saga_head.gateway.upstream import WorkerLink

if TYPE_CHECKING:
    from saga_head.gateway.server import Gateway


class WorkerExchange:
    """The gateway's side of one step (`port.Exchange`)."""

    __slots__ = (
        "_answered", "_arrived_s", "_asked", "_client", "_connecting", "_early", "_gateway", "_head", "_keeper",
        "_late", "_link", "_relay", "_retried", "_status", "_stream", "_target", "_ttft_s", "_wire_chunked", "call", "settled",
    )  # fmt: skip

    def __init__(
        self,
        call: Call,
        head: RequestHead,
        client: Client,
        gateway: "Gateway",
        keeper: Keeper | None,
    ) -> None:
        self.call = call
        self.settled = False
        self._head = head
        self._client = client
        self._gateway = gateway
        self._arrived_s = gateway.clock()
        self._ttft_s: float | None = None
        self._status = 0
        self._answered = False
        self._early = False  # the client has a head already, and knows nothing of a worker's
        self._late: bytearray | None = None  # of an error whose status came too late
        self._wire_chunked = False
        self._stream = False
        self._retried = False
        self._target: Target | None = None
        self._link: WorkerLink | None = None
        self._relay: Relay | None = None
        self._asked: Asked | None = None
        self._keeper = keeper
        self._connecting: asyncio.Task[None] | None = None

    # from the scheduler

    def dispatch(self, target: Target) -> None:
        """Send the step to a worker."""
        if self.settled:
            return
        if self._target is not None:
            raise RuntimeError(f"step {self.call.step} is on worker {self._target.worker} already")
        self._target = target
        self._retried = False
        link = self._gateway.pool.take((target.host, target.port))
        if link is None:
            self._connect(target)
        else:
            self._send(link, target)

    def refuse(self, refusal: Refusal) -> None:
        """Answer with an error instead of a worker's reply."""
        if self.settled:
            return
        if self._target is not None:
            raise RuntimeError(
                f"step {self.call.step} is on worker {self._target.worker}; abort() it instead"
            )
        self._fail(refusal, Outcome.REJECTED, refusal.code)

    def abort(self) -> None:
        """Stop at once, wherever it is."""
        self.stop(CANCELLED, "aborted by the scheduler")

    def stop(self, refusal: Refusal, detail: str) -> None:
        """Leave the worker and give the client an error."""
        if self.settled:
            return
        tail = self._leave_worker()
        self._target = None
        if self._answered:
            self._break_off(refusal, detail, tail)
        else:
            self._fail(refusal, Outcome.REJECTED, detail)

    def lose(self, detail: str) -> None:
        """Treat the worker as dead."""
        if not self.settled and self._target is not None:
            self._lost(detail, self._leave_worker())

    # from the client

    def client_gone(self) -> None:
        """The client closed: free the worker at once."""
        if not self.settled:
            self._leave_worker()
            self._settle(Outcome.CLIENT_GONE, "the client closed the connection")

    def pause(self) -> None:
        """The client takes no more: stop reading from the worker."""
        if self._link is not None:
            self._link.transport.pause_reading()

    def resume(self) -> None:
        """The client takes bytes again."""
        if self._link is not None:
            self._link.transport.resume_reading()

    def keep_waiting(self) -> bool:
        """The client has heard nothing for long: let it hear something. False: the reply has begun."""
        if self._answered or self.settled or self._head.http10:
            return False
        write, stream = self._client.transport.write, bool(self.call.fields.stream)
        if not self._early:
            self._early = True
            write(early_head(self.call.step, stream=stream, keep_alive=self._client.keep))
        write(beat(stream=stream))
        return True

    # to the worker

    def _connect(self, target: Target) -> None:
        self._connecting = asyncio.get_running_loop().create_task(self._open(target))

    async def _open(self, target: Target) -> None:
        try:
            link = await self._gateway.pool.connect((target.host, target.port))
        except OSError as error:
            self._connecting = None
            why = str(error) or f"no answer within {self._gateway.limits.connect_timeout_s:g} s"
            self._lost(f"cannot connect to {target.host}:{target.port}: {why}", b"")
            return
        self._connecting = None
        self._send(link, target)

    def _send(self, link: WorkerLink, target: Target) -> None:
        client, head = self._client, self._head
        self._link = link
        self._asked = asked_of(self.call.api, offered=self.call.fields.tools is not NO_JSON)
        self._relay = relay = Relay(
            self, client.transport.write, self._gateway.limits.reply_head_bytes,
            decode=head.http10, asked=self._asked, hear=self._keeper.feed if self._keeper is not None else None,
        )  # fmt: skip
        link.send(relay, *outgoing(self.call, head, target))
        if client.paused:
            link.transport.pause_reading()

    # from the worker

    def on_head(self, head: ReplyHead) -> bytes:
        """The worker answers: from here on the request cannot go elsewhere."""
        assert self._target is not None
        client, http10 = self._client, self._head.http10
        self._answered = True
        self._status = head.status
        self._wire_chunked = head.chunked
        self._stream = (head.chunked or head.until_eof) and b"text/event-stream" in head.lower
        self._release_body()
        if self._early or head.status >= 400:
            self._join(head)
            return b""
        if head.until_eof:
            client.keep = False
        extra = b"x-request-id: saga-%d\r\n%b%b" % (
            self.call.step,
            header_lines(self._target.reply_headers),
            b"" if client.keep else b"connection: close\r\n",
        )
        return rewrite_head(head.raw, head.lower, extra, drop_coding=http10)

    def _release_body(self) -> None:
        """From here on nobody needs it: its room is given back, and nothing keeps it."""
        self.call.body = b""
        self._client.release_body()

    def _join(self, head: ReplyHead) -> None:
        """An error is read whole; what else comes is the rest of a chunked body, whose head the client has."""
        assert self._relay is not None
        write = self._client.transport.write
        if head.status >= 400:
            self._late = bytearray()
            self._relay.decode_to(self._late.extend)
        elif not head.chunked:
            self._relay.decode_to(lambda data: write(chunk(data)))

    def on_first_byte(self) -> None:
        """The first byte of the reply's body."""
        self._ttft_s = self._gateway.clock() - self._arrived_s
        self._gateway.scheduler.first_byte(self.call.step, self._ttft_s)

    def on_complete(self) -> None:
        """The reply is whole."""
        link, relay = self._link, self._relay
        assert relay is not None
        self._link = None
        if link is not None:
            self._gateway.pool.give(link, reusable=relay.reusable)
        late, early = self._late, self._early and not self._wire_chunked
        replied = self._target.reply_headers if self._target is not None else ()
        self._settle(Outcome.DONE if self._status < 400 else Outcome.REFUSED, "")
        if late is not None:
            self._tell_error(shaped(bytes(late), self._status, self.call.api), replied)
            return
        if early:
            self._client.transport.write(LAST_CHUNK)
        self._client.replied()

    def _tell_error(self, body: bytes, headers: tuple[tuple[bytes, bytes], ...]) -> None:
        """The worker's error, with its status where that can still be said."""
        client = self._client
        if self._early:
            self._tell_late(late_event(body, self.call.api))
            return
        request_id = b"saga-%d" % self.call.step
        client.transport.write(worker_error(self._status, body, request_id, headers, keep_alive=client.keep))
        client.replied()

    def _tell_late(self, event: bytes) -> None:
        """An error after the head: an event in a stream, else no end at all."""
        if self.call.fields.stream:
            self._client.transport.write(last_chunk(event))
            self._client.replied()
        else:
            self._client.cut()

    def on_broken(self, detail: str) -> None:
        """The worker, or the connection to it, is gone before the end of its reply."""
        link, relay = self._link, self._relay
        stale = link is not None and relay is not None and link.reused and relay.silent and not self._retried
        tail = self._leave_worker()
        if stale and self._target is not None:  # it had given up the idle connection: not a loss yet
            self._retried = True
            self._connect(self._target)
        else:
            self._lost(detail, tail)

    def _lost(self, detail: str, tail: bytes) -> None:
        target, self._target = self._target, None
        assert target is not None
        refusal = worker_lost(target.worker, detail)
        if self._answered:
            self._break_off(refusal, detail, tail)
        elif not self._gateway.scheduler.lost(self.call.step, target.worker, detail) and not self.settled:
            self._fail(refusal, Outcome.LOST, detail)

    # the ends

    def _fail(self, refusal: Refusal, outcome: Outcome, detail: str) -> None:
        """Answer with an error; no byte has been sent."""
        client = self._client
        self._status = refusal.status
        if self._early:
            self._settle(outcome, detail)
            self._tell_late(error_event(refusal, self.call.api))
            return
        request_id = b"saga-%d" % self.call.step
        client.transport.write(error_answer(refusal, request_id, keep_alive=client.keep, api=self.call.api))
        self._settle(outcome, detail)
        client.replied()

    def _break_off(self, refusal: Refusal, detail: str, tail: bytes) -> None:
        """End a reply that cannot be completed: an error event where one fits, else a cut connection."""
        client = self._client
        fits = self._stream and self._late is None and at_event_boundary(tail, chunked=self._wire_chunked)
        if fits:
            event = error_event(refusal, self.call.api)
            client.transport.write(
                last_chunk(event) if (self._wire_chunked or self._early) and not self._head.http10 else event
            )
        self._settle(Outcome.BROKEN, detail)
        if self._late is not None and self._early:
            self._tell_late(error_event(refusal, self.call.api))
        elif fits:
            client.replied()
        else:
            client.cut()

    def _leave_worker(self) -> bytes:
        """Close the connection to the worker, or stop opening one; return the reply's tail."""
        connecting, self._connecting = self._connecting, None
        if connecting is not None:
            connecting.cancel()
        relay, self._relay = self._relay, None
        tail = b""
        if relay is not None:
            tail = bytes(relay.tail)
            relay.drop()
        link, self._link = self._link, None
        if link is not None:
            link.relay = None
            link.transport.abort()
        return tail

    def _settle(self, outcome: Outcome, detail: str) -> None:
        """Tell the scheduler, once."""
        assert not self.settled
        self.settled = True
        relay, self._relay = self._relay, None
        usage, tool, response = None, UNKNOWN, ""
        if relay is not None:
            usage = read_usage(relay.tail)
            if self._asked is not None and outcome is Outcome.DONE:
                tool = self._asked.close(relay.tail)
            if self._keeper is not None and outcome is Outcome.DONE:
                response = self._keeper.close()
            relay.drop()
        self._target = None
        if self.call.body:
            self._release_body()
        duration_s = self._gateway.clock() - self._arrived_s
        self._gateway.scheduler.finish(
            self.call.step,
            Result(outcome, self._status, usage, self._ttft_s, duration_s, detail, tool, response),
        )
