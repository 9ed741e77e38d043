"""The engine's KV events, in order: which blocks became resident, which are gone.

Rules:
1. Batches are delivered in the order of their sequence numbers, each once.
2. A hole is filled from the publisher's replay socket (it keeps the last 10,000 batches); what is gone there is
   delivered as `Lost`: the listener then knows nothing of blocks stored or removed in between.
3. A publisher that starts over (its numbers fall, or its history is not the one we saw) is delivered as `Restarted`:
   nothing from before is resident. Give each incarnation of a worker its own endpoint and this is rare.
4. While the engine is quiet the replay socket is asked as well, every `sync_s`: the last message of a burst may be the
   one that was dropped, and a subscriber that joins late has missed the first.

Wire: vllm/distributed/kv_events.py of 0.30 to 0.32. PUB [topic, seq u64 big-endian, msgpack [ts, events, rank]];
replay: DEALER sends ["", first seq], gets ["", topic, seq, payload] each, and seq -1 at the end.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Self

import msgspec
import zmq
import zmq.asyncio

BlockHash = int | bytes

# The publisher's own high-water mark; a smaller one here would drop what it still sends.
HIGH_WATER_MARK = 100_000

# One batch is one engine step: a step of 8k tokens makes about 100 KB.
LARGEST_BATCH_BYTES = 64 << 20

# The publisher looks at its replay socket ten times a second, more seldom while the engine computes.
REPLAY_ANSWER_S = 2.0
QUIET_SYNC_S = 5.0

_END = -1
_SEQ_BYTES = 8


class BlockStored(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Blocks became resident: `token_ids` in runs of `block_size`, following `parent_block_hash`."""

    block_hashes: tuple[BlockHash, ...]
    parent_block_hash: BlockHash | None = None
    token_ids: tuple[int, ...] = ()
    block_size: int
    medium: str | None = None
    lora_name: str | None = None
    group_idx: int | None = None
    # The session whose step stored them; others may share the blocks. From the header X-Session-ID.
    session_id: str | None = None


class BlockRemoved(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Blocks were evicted from `medium`."""

    block_hashes: tuple[BlockHash, ...]
    medium: str | None = None
    group_idx: int | None = None


class AllBlocksCleared(msgspec.Struct, frozen=True, tag=True):
    """Nothing is resident any more (a reset of the prefix cache)."""


KvEvent = BlockStored | BlockRemoved | AllBlocksCleared


@dataclass(frozen=True, slots=True)
class Batch:
    """What happened in one engine step, at `at_s` of the engine's clock (seconds since 1970)."""

    seq: int
    at_s: float
    rank: int
    events: tuple[KvEvent, ...]


@dataclass(frozen=True, slots=True)
class Lost:
    """Batches from_seq..to_seq will never come."""

    from_seq: int
    to_seq: int


@dataclass(frozen=True, slots=True)
class Restarted:
    """The engine behind the endpoint is a new one, with an empty KV memory."""


class _Wire(msgspec.Struct, frozen=True, array_like=True):
    at_s: float
    events: tuple[KvEvent, ...]
    rank: int | None = None


class _Envelope(msgspec.Struct, frozen=True, array_like=True):
    """The same, with each event still undecoded: for a batch that holds a type we do not know."""

    at_s: float
    events: tuple[msgspec.Raw, ...]
    rank: int | None = None


class _Tag(msgspec.Struct, frozen=True):
    type: str


_wire = msgspec.msgpack.Decoder(_Wire)
_envelope = msgspec.msgpack.Decoder(_Envelope)
_event: msgspec.msgpack.Decoder[KvEvent] = msgspec.msgpack.Decoder(KvEvent)
_tag = msgspec.msgpack.Decoder(_Tag)
_known = frozenset(kind.__name__ for kind in (BlockStored, BlockRemoved, AllBlocksCleared))


def decode(seq: int, payload: bytes) -> Batch:
    """The batch in `payload`. Unknown fields and types of event are skipped; msgspec.DecodeError for the rest."""
    try:
        wire = _wire.decode(payload)
    except msgspec.ValidationError:
        return _decode_known(seq, _envelope.decode(payload))
    return Batch(seq, wire.at_s, wire.rank or 0, wire.events)


def _decode_known(seq: int, envelope: _Envelope) -> Batch:
    events = tuple(_event.decode(raw) for raw in envelope.events if _tag.decode(raw).type in _known)
    return Batch(seq, envelope.at_s, envelope.rank or 0, events)


class KvEvents:
    """`async for` over Batch | Lost | Restarted of one engine. Close it: it holds a socket."""

    def __init__(
        self,
        endpoint: str,
        replay_endpoint: str | None = None,
        *,
        context: zmq.asyncio.Context | None = None,
        sync_s: float = QUIET_SYNC_S,
        replay_answer_s: float = REPLAY_ANSWER_S,
    ) -> None:
        self._own_context = context is None
        self._context = context or zmq.asyncio.Context()
        self._replay_endpoint = replay_endpoint
        self._sync_ms = int(sync_s * 1000)
        self._answer_ms = int(replay_answer_s * 1000)
        self._next = 0
        self._last_payload = b""
        self._last_at_s = float("-inf")
        self._due: deque[Batch | Lost | Restarted] = deque()
        self._synced = replay_endpoint is None
        self._live = self._context.socket(zmq.SUB)
        self._live.set(zmq.RCVHWM, HIGH_WATER_MARK)
        self._live.set(zmq.MAXMSGSIZE, LARGEST_BATCH_BYTES)
        self._live.set(zmq.SUBSCRIBE, b"")
        self._live.connect(endpoint)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Batch | Lost | Restarted:
        while not self._due:
            if not self._synced:
                self._synced = True
                await self._catch_up()
            elif await self._live.poll(self._sync_ms):
                await self._take(await self._live.recv_multipart())
            else:
                await self._catch_up()
        return self._due.popleft()

    def close(self) -> None:
        """Free the sockets; nothing is waited for."""
        self._live.close(linger=0)
        if self._own_context:
            self._context.term()

    async def _take(self, frames: list[bytes]) -> None:
        """One live message: the next one, a repetition, a hole, or a new publisher's."""
        if len(frames) != 3 or len(frames[1]) != _SEQ_BYTES:
            return
        seq, payload = int.from_bytes(frames[1], "big"), frames[2]
        if seq < self._next:
            if not self._is_newer(payload):
                return  # the replay was faster
            self._restart()
        if seq > self._next:
            await self._catch_up()
        if seq > self._next:
            self._lose(seq)
        if seq == self._next:
            self._deliver(payload)

    async def _catch_up(self) -> None:
        """Fetch what the publisher has beyond what we saw, and check that it is the publisher we know."""
        while self._replay_endpoint is not None:
            # One batch back: its bytes prove that the history there is the one we followed.
            history = await self._replay(max(self._next - 1, 0))
            if history is None:
                return
            if self._next and (
                not history or (history[0][0] == self._next - 1 and history[0][1] != self._last_payload)
            ):
                self._restart()
                continue
            before = self._next
            hole = self._deliver_run(history)
            if not hole:
                return
            if self._next == before:
                # Asked from here, the publisher begins later: what is between is gone from its buffer.
                self._lose(hole)

    def _deliver_run(self, history: list[tuple[int, bytes]]) -> int:
        """Deliver up to the first hole; return where it ends, or 0 without one."""
        for seq, payload in history:
            if seq > self._next:
                return seq
            if seq == self._next:
                self._deliver(payload)
        return 0

    async def _replay(self, start: int) -> list[tuple[int, bytes]] | None:
        """Batches from `start` on that the publisher still has; None when it does not answer."""
        # A socket for each question: a late answer to an earlier one cannot be taken for this one's.
        socket = self._context.socket(zmq.DEALER)
        try:
            socket.set(zmq.RCVHWM, 0)
            socket.set(zmq.MAXMSGSIZE, LARGEST_BATCH_BYTES)
            socket.connect(self._replay_endpoint or "")
            await socket.send_multipart([b"", start.to_bytes(_SEQ_BYTES, "big")])
            history: list[tuple[int, bytes]] = []
            while await socket.poll(self._answer_ms):
                frames = await socket.recv_multipart()
                if len(frames) != 4:
                    continue
                seq = int.from_bytes(frames[2], "big", signed=True)
                if seq == _END:
                    return history
                history.append((seq, frames[3]))
            return history or None
        finally:
            socket.close(linger=0)

    def _deliver(self, payload: bytes) -> None:
        try:
            batch = decode(self._next, payload)
        except msgspec.DecodeError:
            self._lose(self._next + 1)
        else:
            self._last_at_s = batch.at_s
            self._due.append(batch)
            self._next += 1
        self._last_payload = payload

    def _lose(self, until: int) -> None:
        """Give up what is missing before `until`."""
        self._due.append(Lost(self._next, until - 1))
        self._next = until

    def _restart(self) -> None:
        self._due.append(Restarted())
        self._next, self._last_payload, self._last_at_s = 0, b"", float("-inf")

    def _is_newer(self, payload: bytes) -> bool:
        """Whether a low number comes from a new publisher: a repetition is no younger than what was delivered."""
        try:
            return _envelope.decode(payload).at_s > self._last_at_s
        except msgspec.DecodeError:
            return False
