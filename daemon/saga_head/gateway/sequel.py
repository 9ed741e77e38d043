"""A stream that another worker goes on with, told so that its client reads one stream."""

import asyncio
from collections.abc import Callable

from saga_head.gateway.continuation import Continuation
from saga_head.gateway.held import LAST_CHUNK, chunk
from saga_head.gateway.port import Usage
from saga_head.gateway.resuming import Unable
from saga_head.gateway.spoken import UNKNOWN_EVENT


class Sequel:
    """Takes the next worker's events and passes on what its `continuation` makes of them."""

    def __init__(
        self,
        continuation: Continuation,
        write: Callable[[bytes], None],
        hear: Callable[[bytes], None] | None,
        on_refused: Callable[[], None],
    ) -> None:
        """`hear` takes what the client is told beside it, without the chunks. `on_refused` is called a moment later."""
        self.continuation = continuation
        self._write, self._hear, self._on_refused = write, hear, on_refused
        self._rest = b""
        self.refused = ""
        """Why this worker does not go on."""

    @property
    def usage(self) -> Usage | None:
        """Of all workers together."""
        return self.continuation.usage

    @property
    def over(self) -> bool:
        """Whether nothing is missing but the end."""
        return self.continuation.over

    @property
    def end(self) -> bytes:
        """The end of the reply, where nothing else is missing."""
        return chunk(self.continuation.end) + LAST_CHUNK

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the reply's body."""
        if self.refused:
            return
        *events, self._rest = (self._rest + data).split(b"\n\n")
        told = b""
        try:
            for event in filter(None, events):
                told += self.continuation.tell(event)
        except Unable as why:
            self.refused = f"it is not gone on with elsewhere: {why}"
        except (AttributeError, IndexError, KeyError, TypeError):
            self.refused = f"its next worker's stream is none of this API: {UNKNOWN_EVENT}"
        if self.refused:
            asyncio.get_running_loop().call_soon(self._on_refused)  # who feeds this is in the midst of it
        if told:
            self._write(chunk(told))
            if self._hear is not None:
                self._hear(told)

    def close(self) -> None:
        """The reply is whole."""
        if not self.refused:
            self._write(LAST_CHUNK)
