"""Of one exchange: what is kept of its stream, and how it goes on elsewhere."""

from typing import TYPE_CHECKING

from saga_head.gateway.counting import count_tokens
from saga_head.gateway.port import Call, Target
from saga_head.gateway.relay import Client, ReplyHead
from saga_head.gateway.reply import read_usage
from saga_head.gateway.resuming import Continuation, Unable
from saga_head.gateway.sequel import Sequel
from saga_head.gateway.spoken import APIS, Spoken
from saga_head.gateway.upstream import WorkerLink

if TYPE_CHECKING:
    from saga_head.gateway.server import Gateway


class Resumption:
    """From the first byte of a stream to its end, whoever sends it."""

    __slots__ = ("_call", "_client", "_gateway", "sequel", "spoken")

    def __init__(self, call: Call, client: Client, gateway: "Gateway") -> None:
        self._call, self._client, self._gateway = call, client, gateway
        limit_bytes = gateway.limits.resume_bytes
        self.spoken = Spoken(call.body, gateway.spoken, limit_bytes) if call.api in APIS else None
        self.sequel: Sequel | None = None
        """The reply of another worker, once one was lost."""

    def lost(self, tail: bytes) -> str:
        """Its worker is gone; `tail`: the last that it sent. Empty: another can be asked to go on; else why not."""
        spoken = self.spoken
        if spoken is None:
            return f"streams of {self._call.api} are not gone on with elsewhere"
        spoken.fold()
        try:
            asked = Continuation(self._call.api, spoken)
        except Unable as why:
            return f"it is not gone on with elsewhere: {why}"
        self.sequel = Sequel(asked, spoken, self._client.transport.write, read_usage(tail))
        self._client.awaits()
        return ""

    @property
    def whole(self) -> bool:
        """Whether what was passed on is known to end with an event, once its worker is lost."""
        return self.sequel is not None or (self.spoken is not None and self.spoken.whole)

    async def open(self, target: Target) -> WorkerLink:
        """A connection to the next worker, and the request for it; OSError where it does not answer."""
        assert self.sequel is not None
        model, text = self._call.fields.model, self.sequel.text
        link, counted = await count_tokens(self._gateway.pool, target, model, text)
        self._call.body = self.sequel.body(counted)
        return link

    def on_head(self, head: ReplyHead) -> None:
        """The next worker answers."""
        assert self.sequel is not None
        if head.status != 200 or b"text/event-stream" not in head.lower:
            what = f"answered {head.status}" if head.status != 200 else "answered with no stream"
            self.sequel.refused = f"it was asked to go on with a stream of a lost worker and {what}"

    def release(self) -> None:
        """It is over."""
        if self.spoken is not None:
            self.spoken.release()
