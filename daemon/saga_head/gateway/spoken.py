"""What a client has of a stream, kept so that another worker can go on where its worker was lost.

Rules of this file
  1. While nothing happens it costs the append of one list per read: events are looked into where a worker is lost, or
     where there is no more room for them as they are.
  2. Bounded per stream and for all of them (`Limits.resume_bytes`, `.resumes_bytes`); what does not fit is forgotten,
     and such a stream ends with an error event.
  3. Only whole events are kept, because only whole ones are passed on (`Relay.align`).
  4. What the events say is read by a `Said`, one for each API (`continuation.SPEECHES`).
"""

from typing import Generic, Protocol, TypeVar

from saga_head.gateway.body import Body
from saga_head.gateway.intake import BodyLedger

STEP_BYTES = 64 * 1024
"""Room for events as they are is taken by so much: some 250 tokens of 250 bytes."""
RAW_BYTES = 1 << 20
"""Of what is beyond that, only the words are kept; reading them costs 2 µs an event, some 0.6 ms a step."""
CHARACTER_BYTES = 4  # the most that Python takes for one
UNKNOWN_EVENT = "it has events of a kind that is not known here"


class Said(Protocol):
    """What the events of one stream say, in the words of its API."""

    @property
    def held_bytes(self) -> int:
        """Memory that it takes; grows with what is said."""

    def note(self, event: bytes) -> str:
        """Read one event, without the empty line at its end; why the stream cannot be gone on with, if so."""

    def drop(self) -> None:
        """Forget the words."""


SaidT = TypeVar("SaidT", bound=Said)


class Spoken(Generic[SaidT]):
    """One stream so far. `lost` says why it cannot be gone on with; empty: it can, as far as one sees here."""

    __slots__ = (
        "_bytes", "_held_bytes", "_ledger", "_limit", "_raw", "_room", "_said_bytes", "body", "lost", "said",
    )  # fmt: skip

    def __init__(self, said: SaidT, body: Body, ledger: BodyLedger, limit_bytes: int) -> None:
        """`body`: the request, which has to be sent again."""
        self._raw: list[bytes] = []
        self._bytes = 0
        self._room = STEP_BYTES
        self._ledger, self._limit, self._held_bytes = ledger, limit_bytes, 0
        self._said_bytes = 0
        self.body = body
        self.said = said
        self.lost = ""
        self._hold(len(body) + STEP_BYTES)

    def feed(self, data: bytes) -> None:
        """Take whole chunks of whole events, as they are passed on."""
        self._raw.append(data)
        self._bytes += len(data)
        if self._bytes > self._room:
            self._grow()

    def _grow(self) -> None:
        """More room for events as they are, or their words in their place."""
        if self._bytes <= RAW_BYTES and self._fits(STEP_BYTES):
            self._hold(STEP_BYTES)
            self._room += STEP_BYTES
            return
        if self._room > STEP_BYTES:
            self._hold(-STEP_BYTES)
            self._room -= STEP_BYTES
        count = taken = 0
        while taken < STEP_BYTES:
            taken += len(self._raw[count])
            count += 1
        self._read(count)

    def fold(self) -> None:
        """Read all that has come."""
        self._read(len(self._raw))

    def _read(self, count: int) -> None:
        """Read the first `count` of what is kept as it came."""
        raw = b"".join(self._raw[:count])
        del self._raw[:count]
        self._bytes -= len(raw)
        data = unchunked(raw)
        if data is None:
            self.forget("its events and the chunks that they came in do not end together")
            return
        for event in data.split(b"\n\n"):
            self.note(event)

    @property
    def whole(self) -> bool:
        """Whether all that was passed on has been read, up to its end."""
        return not self.lost and not self._raw

    def note(self, event: bytes) -> None:
        """Read one event."""
        if self.lost or not event or event.startswith(b":"):
            return
        why = self.said.note(event)
        if why:
            self.forget(why)
            return
        said_bytes = self.said.held_bytes
        if said_bytes != self._said_bytes:
            more_bytes, self._said_bytes = said_bytes - self._said_bytes, said_bytes
            self._hold(more_bytes)

    def _fits(self, more_bytes: int) -> bool:
        ledger = self._ledger
        return (
            self._held_bytes + more_bytes <= self._limit
            and ledger.held_bytes + more_bytes <= ledger.limit_bytes
        )

    def _hold(self, more_bytes: int) -> None:
        """Take room, or forget all."""
        if not self._fits(more_bytes):
            self.forget("it is longer than what is kept of streams")
            return
        self._ledger.held_bytes += more_bytes
        self._held_bytes += more_bytes

    def forget(self, why: str) -> None:
        """Keep nothing of it any more."""
        self.lost = self.lost or why
        self.release()

    def release(self) -> None:
        """Give its room back."""
        self._ledger.held_bytes -= self._held_bytes
        self._held_bytes = 0
        self.body = b""
        self._raw, self._bytes = [], 0
        self.said.drop()


def unchunked(raw: bytes) -> bytes | None:
    """The payload of whole chunks; None where `raw` is not just that."""
    parts: list[bytes] = []
    at = 0
    while at < len(raw):
        end = raw.find(b"\r\n", at)
        try:
            size = int(raw[at:end].partition(b";")[0], 16) if end >= 0 else 0
        except ValueError:
            return None
        at = end + 2 + size + 2
        if size <= 0 or raw[at - 2 : at] != b"\r\n":
            return None
        parts.append(raw[end + 2 : at - 2])
    return b"".join(parts)
