"""KV events come in order, each once; what is lost is said, and so is an engine that starts over."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
import zmq
import zmq.asyncio

from saga_vllm.kv_events import (
    AllBlocksCleared,
    Batch,
    BlockRemoved,
    BlockStored,
    KvEvents,
    Lost,
    Restarted,
    decode,
)

END = (-1).to_bytes(8, "big", signed=True)
clock = itertools.count(1000)


def stored(*hashes: int, **more: object) -> dict:
    return {
        "type": "BlockStored",
        "block_hashes": hashes,
        "parent_block_hash": None,
        "block_size": 32,
        **more,
    }


class Engine:
    """The publisher's side of the wire, with a switch for what the network does."""

    def __init__(
        self, folder: Path, context: zmq.asyncio.Context, buffer: int = 100, replays: bool = True
    ) -> None:
        self.history: list[tuple[int, bytes]] = []
        self.buffer = buffer
        self.asked: list[int] = []
        self.seq = 0
        self.pub = context.socket(zmq.XPUB)
        self.pub.bind(f"ipc://{folder}/e")
        self.router = context.socket(zmq.ROUTER)
        self.router.bind(f"ipc://{folder}/r")
        self.serving = asyncio.create_task(self.serve()) if replays else None

    def batch(self, *events: dict) -> bytes:
        return msgspec.msgpack.encode([float(next(clock)), events or [stored(self.seq)], 0])

    async def publish(self, *events: dict, heard: bool = True, payload: bytes | None = None) -> None:
        payload = payload or self.batch(*events)
        self.history = [*self.history, (self.seq, payload)][-self.buffer :]
        self.seq += 1
        if heard:
            await self.send(self.seq - 1, payload)

    async def send(self, seq: int, payload: bytes) -> None:
        await self.pub.send_multipart([b"", seq.to_bytes(8, "big"), payload])

    async def subscribed(self) -> None:
        assert await self.pub.recv() == b"\x01"

    async def serve(self) -> None:
        while True:
            client, _, start = await self.router.recv_multipart()
            self.asked.append(int.from_bytes(start, "big"))
            for seq, payload in list(self.history):
                if seq >= self.asked[-1]:
                    await self.router.send_multipart([client, b"", b"", seq.to_bytes(8, "big"), payload])
            await self.router.send_multipart([client, b"", b"", END, b""])

    async def close(self) -> None:
        if self.serving:
            self.serving.cancel()
            with suppress(asyncio.CancelledError):
                await self.serving
        self.pub.close(linger=0)
        self.router.close(linger=0)


@pytest.fixture
def context():
    context = zmq.asyncio.Context()
    yield context
    context.destroy(linger=0)


@pytest.fixture
async def engine(tmp_path: Path, context) -> AsyncIterator[Engine]:
    engine = Engine(tmp_path, context)
    yield engine
    await engine.close()


@pytest.fixture
async def events(tmp_path: Path, context, engine: Engine) -> AsyncIterator[KvEvents]:
    """A subscriber that has seen the engine's first batch."""
    events = KvEvents(
        f"ipc://{tmp_path}/e", f"ipc://{tmp_path}/r", context=context, sync_s=0.2, replay_answer_s=1.0
    )
    await engine.subscribed()
    await engine.publish()
    assert await said(events, 1) == [0]
    yield events
    events.close()


async def said(events: KvEvents, count: int) -> list[object]:
    """The next `count` deliveries: a batch as its number."""
    async with asyncio.timeout(5):
        out = [await anext(events) for _ in range(count)]
    return [item.seq if isinstance(item, Batch) else item for item in out]


async def test_batches_in_order(engine: Engine, events: KvEvents) -> None:
    for _ in range(3):
        await engine.publish()
    assert await said(events, 3) == [1, 2, 3]


async def test_a_hole_is_filled_from_the_replay(engine: Engine, events: KvEvents) -> None:
    await engine.publish(heard=False)
    await engine.publish(heard=False)
    await engine.publish()
    await engine.publish()
    assert await said(events, 4) == [1, 2, 3, 4]


async def test_the_last_message_of_a_burst_was_dropped(engine: Engine, events: KvEvents) -> None:
    """Nothing comes after it that would show the hole: the quiet-time question finds it."""
    await engine.publish(heard=False)
    assert await said(events, 1) == [1]


async def test_a_late_subscriber_gets_the_whole_history(engine: Engine, tmp_path: Path, context) -> None:
    for _ in range(5):
        await engine.publish(heard=False)
    late = KvEvents(f"ipc://{tmp_path}/e", f"ipc://{tmp_path}/r", context=context)
    assert await said(late, 5) == [0, 1, 2, 3, 4]
    late.close()


async def test_what_the_replay_no_longer_has_is_lost(engine: Engine, events: KvEvents) -> None:
    engine.buffer = 2
    for _ in range(5):
        await engine.publish(heard=False)
    await engine.publish()
    assert await said(events, 3) == [Lost(1, 4), 5, 6]


async def test_no_replay_socket(tmp_path: Path, context) -> None:
    engine = Engine(tmp_path, context, replays=False)
    events = KvEvents(f"ipc://{tmp_path}/e", context=context)
    await engine.subscribed()
    await engine.publish(heard=False)
    await engine.publish(heard=False)
    await engine.publish()
    await engine.publish()
    assert await said(events, 3) == [Lost(0, 1), 2, 3]
    events.close()
    await engine.close()


async def test_a_replay_that_does_not_answer(tmp_path: Path, context) -> None:
    engine = Engine(tmp_path, context, replays=False)
    events = KvEvents(f"ipc://{tmp_path}/e", f"ipc://{tmp_path}/r", context=context, replay_answer_s=0.05)
    await engine.subscribed()
    await engine.publish(heard=False)
    await engine.publish()
    assert await said(events, 2) == [Lost(0, 0), 1]
    events.close()
    await engine.close()


async def test_a_repetition_is_dropped(engine: Engine, events: KvEvents) -> None:
    await engine.publish()
    await engine.send(*engine.history[0])
    await engine.send(*engine.history[1])
    await engine.publish()
    assert await said(events, 2) == [1, 2]


async def test_numbers_that_fall_are_a_restart(engine: Engine, events: KvEvents) -> None:
    for _ in range(3):
        await engine.publish()
    assert await said(events, 3) == [1, 2, 3]
    engine.seq, engine.history = 0, []
    await engine.publish()
    await engine.publish()
    assert await said(events, 3) == [Restarted(), 0, 1]


async def test_a_restart_whose_first_batches_were_missed(engine: Engine, events: KvEvents) -> None:
    for _ in range(3):
        await engine.publish()
    assert await said(events, 3) == [1, 2, 3]
    engine.seq, engine.history = 0, []
    await engine.publish(heard=False)
    await engine.publish()
    assert await said(events, 3) == [Restarted(), 0, 1]


async def test_a_restart_hidden_behind_a_hole(engine: Engine, events: KvEvents) -> None:
    """The new engine's numbers are already above ours: only its history gives it away."""
    engine.seq, engine.history = 0, []
    for _ in range(3):
        await engine.publish(heard=False)
    await engine.publish()
    assert await said(events, 5) == [Restarted(), 0, 1, 2, 3]


async def test_a_restart_into_silence(engine: Engine, events: KvEvents) -> None:
    engine.seq, engine.history = 0, []
    assert await said(events, 1) == [Restarted()]
    await engine.publish()
    assert await said(events, 1) == [0]


async def test_garbage_is_lost_and_not_fatal(engine: Engine, events: KvEvents) -> None:
    await engine.pub.send_multipart([b"", b"short", b"x"])
    await engine.pub.send_multipart([b"alone"])
    await engine.publish(payload=b"\xc1 no msgpack")
    await engine.publish({"type": "BlockStored", "block_hashes": "not a list"})
    await engine.publish()
    assert await said(events, 3) == [Lost(1, 1), Lost(2, 2), 3]


async def test_a_thousand_batches_with_random_drops(engine: Engine, events: KvEvents) -> None:
    engine.buffer = 10_000
    for number in range(1000):
        await engine.publish(heard=number * 7919 % 13 < 9)
    assert await said(events, 1000) == list(range(1, 1001))


def encoded(*events: dict, extra: tuple = ()) -> bytes:
    return msgspec.msgpack.encode([1.5, list(events), 3, *extra])


def test_decoding_what_vllm_sends() -> None:
    """The fields as recorded from 0.32.0."""
    recorded = {
        "type": "BlockStored",
        "block_hashes": [8789941251934650135, 16930276337436057279],
        "parent_block_hash": 17706174986597231394,
        "token_ids": list(range(64)),
        "block_size": 32,
        "lora_id": None,
        "medium": "GPU",
        "lora_name": None,
        "extra_keys": [None, None],
        "group_idx": 0,
        "kv_cache_spec_kind": "full_attention",
        "session_id": "w1.s1",
    }
    removed = {"type": "BlockRemoved", "block_hashes": [b"\x01" * 32], "medium": "GPU", "group_idx": 0}
    batch = decode(7, encoded(recorded, removed, {"type": "AllBlocksCleared"}))
    assert batch == Batch(
        seq=7,
        at_s=1.5,
        rank=3,
        events=(
            BlockStored(
                block_hashes=(8789941251934650135, 16930276337436057279),
                parent_block_hash=17706174986597231394,
                token_ids=tuple(range(64)),
                block_size=32,
                medium="GPU",
                group_idx=0,
                session_id="w1.s1",
            ),
            BlockRemoved(block_hashes=(b"\x01" * 32,), medium="GPU", group_idx=0),
            AllBlocksCleared(),
        ),
    )


def test_a_newer_vllm() -> None:
    """Fields and types of event that we do not know, and more elements in the batch."""
    newer = encoded(
        {"type": "BlockMoved", "where": "moon"},
        {**stored(5), "colour": "blue"},
        {"type": "AllBlocksCleared", "why": "because"},
        extra=("more",),
    )
    assert decode(0, newer).events == (BlockStored(block_hashes=(5,), block_size=32), AllBlocksCleared())
