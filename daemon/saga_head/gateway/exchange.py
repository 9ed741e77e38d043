"""One request between a client and the workers it is sent to, from arrive() to finish().

States, by what is set: waiting (nothing), connecting (`_connecting`), on a worker (`_link`), settled.
`_answered` parts the two worlds: before it the request can go elsewhere as it came, after it bytes are with the
client, and some streams can be gone on with elsewhere (`_resumption`).
"""

import asyncio
from typing import TYPE_CHECKING

from saga_core.aeg import UNKNOWN
from saga_core.events import Outcome
from saga_head.gateway.asked import Asked, asked_of
from saga_head.gateway.endings import broken_off, failure, told
from saga_head.gateway.head import RequestHead
from saga_head.gateway.held import LAST_CHUNK, beat, chunk, early_head
from saga_head.gateway.outgoing import outgoing
from saga_head.gateway.port import NO_JSON, Call, Refusal, Result, Target
from saga_head.gateway.refusals import CANCELLED, worker_lost
from saga_head.gateway.relay import Client, Relay, ReplyHead
from saga_head.gateway.reply import at_event_boundary, our_lines, read_usage, rewrite_head
from saga_head.gateway.resumption import Resumption
from saga_head.gateway.sequel import Sequel
from saga_head.gateway.stored import Keeper
from saga_head.gateway.upstream import WorkerLink

if TYPE_CHECKING:
    from saga_head.gateway.server import Gateway


class WorkerExchange:
    """The gateway's side of one step (`port.Exchange`)."""

    __slots__ = (
        "_answered", "_arrived_s", "_asked", "_client", "_connecting", "_early", "_gateway", "_head", "_hear",
        "_keeper", "_late", "_link", "_relay", "_resumption", "_retried", "_sequel", "_status", "_stream", "_target", "_ttft_s", "_wire_chunked", "call",
        "settled",
    )  # fmt: skip

    def __init__(
        self, call: Call, head: RequestHead, client: Client, gateway: "Gateway", keeper: Keeper | None
    ) -> None:
        self.call = call
        self.settled = False
        self._head = head
        self._client = client
        self._gateway = gateway
        self._arrived_s = gateway.clock()
        self._ttft_s: float | None = None
        self._status = 0
        self._answered = self._wire_chunked = self._stream = self._retried = False
        self._early = False  # the client has a head already, and knows nothing of a worker's
        self._late: bytearray | None = None  # of an error whose status came too late
        self._target: Target | None = None
        self._link: WorkerLink | None = None
        self._relay: Relay | None = None
        self._asked: Asked | None = None
        self._keeper = keeper
        self._hear = None if keeper is None else keeper.feed
        self._resumption: Resumption | None = None
        self._sequel: Sequel | None = None
        self._connecting: asyncio.Task[None] | None = None

    @property
    def placed(self) -> bool:
        """A worker has it."""
        return self._target is not None

    @property
    def heard_of(self) -> bool:
        """The client has had bytes of a reply."""
        return self._answered or self._early

    # from the scheduler

    def dispatch(self, target: Target) -> None:
        """Send the step to a worker."""
        if self.settled:
            return
        if self._target is not None:
            raise RuntimeError(f"step {self.call.step} is on worker {self._target.worker} already")
        self._target = target
        self._retried = False
        link = self._gateway.pool.take((target.host, target.port)) if self._sequel is None else None
        if link is None:
            self._connect(target)
        else:
            self._send(link, target)

    def refuse(self, refusal: Refusal) -> None:
        """Answer with an error instead of a worker's reply."""
        if self.settled:
            return
        if self._target is not None:
            raise RuntimeError(f"step {self.call.step} is on worker {self._target.worker}: abort() it")
        self._give_up(refusal, Outcome.REJECTED, refusal.code)

    def abort(self) -> None:
        """Stop at once, wherever it is."""
        self.stop(CANCELLED, "aborted by the scheduler")

    def stop(self, refusal: Refusal, detail: str) -> None:
        """Leave the worker and give the client an error."""
        if self.settled:
            return
        tail = self._leave_worker()
        self._target = None
        self._give_up(refusal, Outcome.REJECTED, detail, tail)

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
        if self._sequel is not None and (self._relay is None or self._relay.head is None):
            self._client.transport.write(beat(stream=True))
            return True
        if self._answered or self.settled or self._head.http10:
            return False
        stream, keep = bool(self.call.fields.stream), self._client.keep
        head = b"" if self._early else early_head(self.call.step, stream=stream, keep_alive=keep)
        self._early = True
        self._client.transport.write(head + beat(stream=stream))
        return True

    # to the worker

    def _connect(self, target: Target) -> None:
        self._connecting = asyncio.get_running_loop().create_task(self._open(target))

    async def _open(self, target: Target) -> None:
        connect, resumption = self._gateway.pool.connect, self._resumption
        try:
            link = await (resumption.open(target) if resumption else connect((target.host, target.port)))
        except OSError as error:
            self._connecting = None
            why = str(error) or f"no answer within {self._gateway.limits.connect_timeout_s:g} s"
            self._lost(f"cannot connect to {target.host}:{target.port}: {why}", b"")
            return
        self._connecting = None
        if link is None:
            self._refused()
        else:
            self._send(link, target)

    def _send(self, link: WorkerLink, target: Target) -> None:
        client, head = self._client, self._head
        self._link = link
        self._asked = asked_of(self.call.api, offered=self.call.fields.tools is not NO_JSON)
        sequel = self._sequel
        self._relay = relay = Relay(
            self, client.transport.write if sequel is None else sequel.feed, self._gateway.limits.reply_head_bytes,
            decode=head.http10 or sequel is not None, asked=self._asked, hear=self._hear if sequel is None else None,
        )  # fmt: skip
        link.send(relay, *outgoing(self.call, head, target))
        if client.paused:
            link.transport.pause_reading()

    # from the worker

    def on_head(self, head: ReplyHead) -> bytes:
        """The worker answers: from here on the request cannot go elsewhere."""
        assert self._target is not None
        if self._resumption is not None:
            self._resumption.on_head(head)
            self._release_body()
            return b""
        client, http10 = self._client, self._head.http10
        self._answered = True
        self._status = head.status
        self._wire_chunked = head.chunked
        self._stream = (head.chunked or head.until_eof) and b"text/event-stream" in head.lower
        if self._stream and head.chunked and head.status < 400 and not http10:
            assert self._relay is not None
            self._resumption = Resumption(self.call, client, self._gateway, self._hear, self._refused)
            self._relay.align(self._resumption.spoken)
        self._release_body()
        if self._early or head.status >= 400:
            self._join(head)
            return b""
        if head.until_eof:
            client.keep = False
        extra = our_lines(self.call.step, self._target.reply_headers, keep_alive=client.keep)
        return rewrite_head(head.raw, head.lower, extra, drop_coding=http10)

    def _release_body(self) -> None:
        """From here on nobody needs it: its room is given back, and nothing keeps it."""
        self.call.body = b""
        self._client.release_body()

    def _join(self, head: ReplyHead) -> None:
        """An error is read whole; what else comes is the rest of a chunked body, whose head the client has."""
        assert self._relay is not None
        if head.status >= 400:
            self._late = bytearray()
            self._relay.decode_to(self._late.extend)
        elif not head.chunked:
            self._relay.decode_to(lambda data: self._client.transport.write(chunk(data)))

    def on_first_byte(self) -> None:
        """The first byte of the reply's body."""
        if self._ttft_s is None:
            self._ttft_s = self._gateway.clock() - self._arrived_s
            self._gateway.scheduler.first_byte(self.call.step, self._ttft_s)

    def on_complete(self) -> None:
        """The reply is whole."""
        link, relay = self._link, self._relay
        assert relay is not None
        self._link = None
        if link is not None:
            self._gateway.pool.give(link, reusable=relay.reusable)
        if (sequel := self._sequel) is not None:
            sequel.close()
            if sequel.refused:
                self._refused()
                return
        late, early = self._late, self._early and not self._wire_chunked
        replied = self._target.reply_headers if self._target is not None else ()
        self._settle(Outcome.DONE if self._status < 400 else Outcome.REFUSED, "")
        if late is not None:
            keep = self._client.keep
            self._end_with(told(self.call, bytes(late), self._status, replied, early=self._early, keep=keep))
            return
        if early:
            self._client.transport.write(LAST_CHUNK)
        self._client.replied()

    def _refused(self) -> None:
        """The next worker does not go on."""
        why = "" if self._sequel is None else self._sequel.refused
        if why and self._target is not None and not self.settled:
            worker = self._target.worker
            self._leave_worker()
            self._break_off(worker_lost(worker, why), why, b"")

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
        step, begun = self.call.step, self._answered
        why_not = "an answer of its kind is not gone on with elsewhere" if begun else ""
        if self._resumption is not None:
            why_not, self._sequel = self._resumption.lost(tail), self._resumption.sequel
        if why_not:
            detail = f"{detail}; {why_not}"
            self._break_off(worker_lost(target.worker, detail), detail, tail)
        elif (sequel := self._sequel) is not None and sequel.over:
            self._settle(Outcome.DONE, f"all was said when its worker was lost: {detail}")
            self._end_with(sequel.end)
        elif not self._gateway.scheduler.lost(step, target.worker, detail, begun=begun) and not self.settled:
            self._give_up(worker_lost(target.worker, detail), Outcome.LOST, detail)

    # the ends

    def _give_up(self, refusal: Refusal, outcome: Outcome, detail: str, tail: bytes = b"") -> None:
        """No worker has it, or will have it: an error, where it can still be said."""
        if self._answered:
            self._break_off(refusal, detail, tail)
            return
        self._status = refusal.status
        self._settle(outcome, detail)
        self._end_with(failure(self.call, refusal, early=self._early, keep=self._client.keep))

    def _break_off(self, refusal: Refusal, detail: str, tail: bytes) -> None:
        """End a reply that cannot be completed: an error event where one fits, else a cut connection."""
        known = self._resumption is not None and self._resumption.whole
        whole = known or at_event_boundary(tail, chunked=self._wire_chunked)
        chunked = (self._wire_chunked or self._early) and not self._head.http10
        fits, unsaid = self._stream and self._late is None and whole, self._late is not None and self._early
        self._settle(Outcome.BROKEN, detail)
        self._end_with(broken_off(self.call, refusal, whole=fits, chunked=chunked, unsaid=unsaid))

    def _end_with(self, last: bytes | None) -> None:
        if last is None:
            self._client.cut()
            return
        self._client.transport.write(last)
        self._client.replied()

    def _leave_worker(self) -> bytes:
        """Close the connection to the worker, or stop opening one; return the reply's tail."""
        connecting, self._connecting = self._connecting, None
        if connecting is not None:
            connecting.cancel()
        relay, self._relay = self._relay, None
        tail = b""
        if relay is not None:
            tail = bytes(relay.tail) if self._sequel is None else b""  # what a sequel passes on is whole
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
        sequel, tool, response = self._sequel, UNKNOWN, ""
        usage = None if sequel is None else sequel.usage
        if relay is not None:
            usage = usage or read_usage(relay.tail)
            if self._asked is not None and outcome is Outcome.DONE:
                tool = self._asked.close(relay.tail)
            relay.drop()
        if self._keeper is not None and outcome is Outcome.DONE:
            response = self._keeper.close()
        self._target = None
        if self._resumption is not None:
            self._resumption.release()
        if self.call.body:
            self._release_body()
        duration_s = self._gateway.clock() - self._arrived_s
        self._gateway.scheduler.finish(
            self.call.step,
            Result(outcome, self._status, usage, self._ttft_s, duration_s, detail, tool, response),
        )
