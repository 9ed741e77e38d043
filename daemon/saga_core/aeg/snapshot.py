"""A learner as bytes and back: part of what replaces a long journal."""

from __future__ import annotations

import msgspec

from saga_core.aeg.learner import Learner
from saga_core.aeg.memory import Memory
from saga_core.aeg.rings import Ring
from saga_core.aeg.row import Row
from saga_core.errors import ClusterError

VERSION = 2


class _Saved(msgspec.Struct, kw_only=True):
    version: int
    memory: Memory


def _plain(value: object) -> object:
    if isinstance(value, Ring):
        return value.limit, value.values()
    if isinstance(value, Row):
        return None
    raise NotImplementedError(type(value))


def _whole(kind: type, value: object) -> object:
    if kind is Row:
        return Row()
    if kind is not Ring:
        raise NotImplementedError(kind)
    limit, values = msgspec.convert(value, tuple[int, list[float]])
    return Ring(limit, values)


_encoder = msgspec.msgpack.Encoder(enc_hook=_plain)
_decoder = msgspec.msgpack.Decoder(_Saved, dec_hook=_whole)


def encode(learner: Learner) -> bytes:
    """All it remembers. What is decoded from it answers every question alike, now and after the same events."""
    return _encoder.encode(_Saved(version=VERSION, memory=learner.memory))


def decode(data: bytes, where: str) -> Learner:
    """The inverse. Raises `ClusterError` naming `where` for damaged or foreign data."""
    try:
        saved = _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ClusterError(f"{where}: not what saga has learned ({error})") from None
    if saved.version != VERSION:
        raise ClusterError(f"{where}: version {saved.version}, this saga reads {VERSION}")
    return Learner(saved.memory)
