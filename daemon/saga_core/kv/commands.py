"""What a node daemon asks of the session control inside an engine, and its answers: MessagePack over `POST /saga/kv`.

Rules of this file
  1. An order names the incarnation of the worker it is meant for; another one answers `Stale` and does nothing.
  2. Every command says what shall be, not what shall change: said twice it changes nothing more.
  3. An engine without session control has no such path (404). An order that it cannot do is answered by `Failed`.
"""

from __future__ import annotations

from typing import Final, TypeVar

import msgspec

from saga_core.errors import RemoteProtocolError

PATH: Final = "/saga/kv"
INCARNATION_VARIABLE: Final = "SAGA_WORKER_INCARNATION"
"""Environment variable in which a worker is told its own."""
MAX_ORDER_BYTES: Final = 1 << 20
"""Worths of 512 sessions (`saga_core.worths.UNSETTLED`) take some 20 KB."""
MAX_ANSWER_BYTES: Final = 64 << 20
"""A snapshot has 9 bytes per block and session."""


class Word(msgspec.Struct, frozen=True, kw_only=True, tag=True, omit_defaults=True):
    """Base of commands and answers; the tag is the class name."""


# -- commands ----------------------------------------------------------------------------


class Retain(Word, frozen=True, kw_only=True):
    """The KV of `session` is worth `worth` (`saga_core.kv.retention`), for `ttl_s` seconds; None: until told otherwise."""

    session: str
    worth: tuple[int, float]
    ttl_s: float | None = None


class Release(Word, frozen=True, kw_only=True):
    """Nobody says any more what `session` is worth."""

    session: str


class Drop(Word, frozen=True, kw_only=True):
    """Nothing of `session` is wanted: what it alone has, and does not compute with, is given back now."""

    session: str


class Value(Word, frozen=True, kw_only=True):
    """`Retain` and `Release` (None) of many sessions at once."""

    worths: dict[str, tuple[int, float] | None]


class Stats(Word, frozen=True, kw_only=True):
    """What the control holds, per session."""


class Snapshot(Word, frozen=True, kw_only=True):
    """Which blocks of which session are resident; of `sessions` only, if some are named."""

    sessions: list[str] = []


class Prefetch(Word, frozen=True, kw_only=True):
    """`session` returns soon: begin to load what host memory has of it and the pool has not, if it fits."""

    session: str


class Export(Word, frozen=True, kw_only=True):
    """Write the KV of `session`'s latest prompt, as far as it is resident, to the file `path`; it stays where it is."""

    session: str
    path: str


class Adopt(Word, frozen=True, kw_only=True):
    """Read what another engine of the same model has exported: `session` finds it here from now on."""

    session: str
    path: str


Command = Retain | Release | Drop | Value | Stats | Snapshot | Prefetch | Export | Adopt


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """One command for one incarnation of a worker."""

    incarnation: int
    command: Command


# -- answers -----------------------------------------------------------------------------


class Done(Word, frozen=True, kw_only=True):
    """It is so now."""

    blocks: int = 0
    """Given back by a `Drop`; on their way with a `Prefetch`."""


class Held(msgspec.Struct, frozen=True, array_like=True):
    """What one session has in the pool."""

    blocks: int
    """That it alone uses."""
    shared: int
    standing: int
    value: float


class Holdings(Word, frozen=True, kw_only=True):
    """The answer to `Stats`."""

    blocks: int
    """Of the pool that can be given away, in use or free."""
    block_tokens: int
    free: int
    evicted: int
    """Blocks of sessions that were given away, since the start."""
    sessions: dict[str, Held]
    requests: int = 0
    version: str = ""
    """Of the engine."""
    smallest_first: bool | None = None
    """Whether its waiting queue serves the smallest priority first, tried out; None: it does not order by priority."""


class Moved(Word, frozen=True, kw_only=True):
    """The answer to `Export` and `Adopt`: so much of the session's beginning is in the file, or here now."""

    tokens: int
    copied_bytes: int


class Chain(msgspec.Struct, frozen=True, array_like=True):
    """The resident beginning of one session's latest prompt: names of blocks as KV events have them."""

    session: str
    blocks: list[int | bytes]


class Resident(Word, frozen=True, kw_only=True):
    """The answer to `Snapshot`: all that is so after the KV events up to `at_s`, and before those after it."""

    at_s: float
    """Seconds since 1970, the engine's clock: that of its KV events."""
    block_tokens: int
    chains: list[Chain]


class Stale(Word, frozen=True, kw_only=True):
    """The order was for another incarnation; this is `incarnation`."""

    incarnation: int


class Failed(Word, frozen=True, kw_only=True):
    """It was not done, and this is why."""

    reason: str
    again: bool = False
    """Nothing is wrong: it may well be done in a moment."""


Answer = Done | Holdings | Resident | Moved | Stale | Failed

W = TypeVar("W")

_encoder = msgspec.msgpack.Encoder()
_order = msgspec.msgpack.Decoder(Order)
_answer: msgspec.msgpack.Decoder[Answer] = msgspec.msgpack.Decoder(Answer)


def encode(word: Order | Answer) -> bytes:
    """One frame."""
    return _encoder.encode(word)


def decode_order(frame: bytes) -> Order:
    """What somebody asks. RemoteProtocolError for anything that is not an order."""
    return _decode(_order, frame, MAX_ORDER_BYTES)


def decode_answer(frame: bytes) -> Answer:
    """What the engine says. RemoteProtocolError for anything that is not an answer."""
    return _decode(_answer, frame, MAX_ANSWER_BYTES)


def _decode(decoder: msgspec.msgpack.Decoder[W], frame: bytes, most_bytes: int) -> W:
    if len(frame) > most_bytes:
        raise RemoteProtocolError(f"frame of {len(frame)} bytes is over the limit of {most_bytes}")
    try:
        return decoder.decode(frame)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RemoteProtocolError(f"not a word of session control: {error}") from error
