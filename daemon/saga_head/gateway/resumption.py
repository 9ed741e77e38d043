"""Of one exchange: what is kept of its stream, and how it goes on elsewhere."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from saga_head.gateway.continuation import SPEECHES
from saga_head.gateway.enquiry import Enquirer
from saga_head.gateway.port import Call, Target
from saga_head.gateway.relay import Client, ReplyHead
from saga_head.gateway.reply import read_usage
from saga_head.gateway.resuming import Unable
from saga_head.gateway.sequel import Sequel
from saga_head.gateway.spoken import Spoken
from saga_head.gateway.upstream import WorkerLink

if TYPE_CHECKING:
    from saga_head.gateway.server import Gateway


class Resumption:
    """From the first byte of a stream to its end, whoever sends it."""

    __slots__ = ("_call", "_client", "_gateway", "_hear", "_refused", "_speech", "sequel", "spoken")

    def __init__(
        self,
        call: Call,
        client: Client,
        gateway: "Gateway",
        hear: Callable[[bytes], None] | None,
        refused: Callable[[], None],
    ) -> None:
        """`hear` takes what the client is told, once that is not its worker's own bytes.

        `refused` is called where the next worker does not go on.
        """
        self._call, self._client, self._gateway = call, client, gateway
        self._hear, self._refused = hear, refused
        self._speech = speech = SPEECHES.get(call.api)
        self.spoken: Spoken[Any] | None = None
        if speech is not None:
            self.spoken = Spoken(speech.said(), call.body, gateway.spoken, gateway.limits.resume_bytes)
        self.sequel: Sequel | None = None
        """The reply of another worker, once one was lost."""

    def lost(self, tail: bytes) -> str:
        """Its worker is gone; `tail`: the last that it sent. Empty: another can be asked to go on; else why not."""
        spoken, speech = self.spoken, self._speech
        if spoken is None or speech is None:
            return f"streams of {self._call.api} are not gone on with elsewhere"
        spoken.fold()
        usage = read_usage(tail) if self.sequel is None else self.sequel.usage
        try:
            if spoken.lost:
                raise Unable(spoken.lost)
            continuation = speech.goes_on(spoken, usage)
        except Unable as why:
            return f"it is not gone on with elsewhere: {why}"
        self.sequel = Sequel(continuation, self._client.transport.write, self._hear, self._refused)
        self._client.awaits()
        return ""

    @property
    def whole(self) -> bool:
        """Whether what was passed on is known to end with an event, once its worker is lost."""
        return self.sequel is not None or (self.spoken is not None and self.spoken.whole)

    async def open(self, target: Target) -> WorkerLink | None:
        """A connection to the next worker, and the request for it; OSError where it does not answer.

        None: it does not go on (`sequel.refused`).
        """
        assert self.sequel is not None
        continuation = self.sequel.continuation
        enquirer = Enquirer(self._gateway.pool, target, self._call.fields.model)
        link, found = await enquirer.ask(continuation.enquiry())
        try:
            self._call.body = continuation.body(found)
        except Unable as why:
            link.transport.abort()
            self.sequel.refused = f"it is not gone on with elsewhere: {why}"
            return None
        return link

    def on_head(self, head: ReplyHead) -> None:
        """The next worker answers."""
        assert self.sequel is not None
        if head.status != 200 or b"text/event-stream" not in head.lower:
            what = f"answered {head.status}" if head.status != 200 else "answered with no stream"
            self.sequel.refused = f"it was asked to go on with a stream of a lost worker and {what}"

    def release(self) -> None:
        """It is over; no reference cycle is left."""
        self._refused = _nothing
        if self.spoken is not None:
            self.spoken.release()


def _nothing() -> None:
    """Stand in for who is not to be told any more."""
