"""KV events on the wire: frames, batches, replay, session ids."""

import asyncio
import contextlib

import aiohttp
import msgspec
import pytest
import zmq
import zmq.asyncio

from saga_fake.config import FakeConfig
from saga_fake.engine import EngineShape
from saga_fake.publisher import END_SEQ
from saga_fake.server import FakeServer

LIMIT_S = 5.0


@contextlib.asynccontextmanager
async def listening(tmp_path, **shape):
    """A server, a subscriber that surely hears it, and a replay client."""
    endpoints = {"kv_events_endpoint": f"ipc://{tmp_path}/ev", "kv_replay_endpoint": f"ipc://{tmp_path}/rp"}
    limits = EngineShape(**{"blocks": 257, "max_model_len_tokens": 2048, "block_tokens": 16} | shape)
    context = zmq.asyncio.Context()
    config = FakeConfig(speed=float("inf"), shape=limits, kv_topic="kv@w1", **endpoints)
    async with FakeServer(config) as server, aiohttp.ClientSession(server.url) as http:
        subscriber, dealer = context.socket(zmq.SUB), context.socket(zmq.DEALER)
        subscriber.subscribe(b"")
        subscriber.connect(endpoints["kv_events_endpoint"])
        dealer.connect(endpoints["kv_replay_endpoint"])
        try:
            await joined(server, subscriber)
            yield server, http, subscriber, dealer
        finally:
            context.destroy(linger=0)


async def joined(server, subscriber):
    """A subscription takes effect some time after the connect: clear the cache until one is heard."""
    for _ in range(500):
        server.engine.reset_prefix_cache()
        server.driver._send_events()
        if await subscriber.poll(20):
            break
    while await subscriber.poll(50):
        await subscriber.recv_multipart()


async def complete(http, prompt, headers=None, **more):
    async with http.post(
        "/v1/completions", json={"prompt": prompt, "max_tokens": 2, **more}, headers=headers
    ) as answer:
        assert answer.status == 200, await answer.text()
        return await answer.json()


async def receive(socket):
    return await asyncio.wait_for(socket.recv_multipart(), LIMIT_S)


async def test_frames_and_fields_are_vllms(tmp_path):
    async with listening(tmp_path) as (_server, http, subscriber, _):
        await complete(http, list(range(100, 140)), {"X-Session-ID": "s7"})
        topic, seq, payload = await receive(subscriber)
    assert topic == b"kv@w1"
    assert len(seq) == 8
    ts, events, rank = msgspec.msgpack.decode(payload)
    assert (rank, type(ts)) == (0, float)
    (stored,) = events
    hashes = stored.pop("block_hashes")
    assert len(hashes) == 2
    assert all(type(h) is int and 0 <= h < 2**64 for h in hashes)
    assert stored == {
        "type": "BlockStored",
        "parent_block_hash": None,
        "token_ids": list(range(100, 132)),
        "block_size": 16,
        "lora_id": None,
        "medium": "GPU",
        "lora_name": None,
        "extra_keys": [None, None],
        "group_idx": 0,
        "session_id": "s7",
    }


@pytest.mark.parametrize(
    ("headers", "body", "session"),
    [
        ({"X-Session-ID": "head"}, {}, "head"),
        ({"X-Session-ID": "head"}, {"session_id": "body"}, "body"),
        ({}, {"vllm_xargs": {"session_id": "xargs"}}, "xargs"),
        ({}, {}, None),
    ],
)
async def test_where_the_session_comes_from(tmp_path, headers, body, session):
    async with listening(tmp_path) as (_, http, subscriber, _dealer):
        await complete(http, [9] * 16, headers, **body)
        (event,) = msgspec.msgpack.decode((await receive(subscriber))[2])[1]
    assert event.get("session_id") == session


async def test_numbers_are_consecutive_and_a_gap_can_be_replayed(tmp_path):
    async with listening(tmp_path) as (_server, http, subscriber, dealer):
        for i in range(5):
            await complete(http, [50 + i] * 33)
        heard = [await receive(subscriber) for _ in range(5)]
        numbers = [int.from_bytes(seq, "big") for _, seq, _ in heard]
        assert numbers == list(range(numbers[0], numbers[0] + 5))
        await dealer.send_multipart([b"", numbers[2].to_bytes(8, "big")])
        replayed = []
        while (frames := await receive(dealer))[2] != END_SEQ:
            replayed.append(frames)
    assert [frame[1:] for frame in replayed] == heard[2:]
    assert frames == [b"", b"", END_SEQ, b""]


async def test_a_malformed_replay_request_harms_nobody(tmp_path):
    async with listening(tmp_path) as (_, _http, _subscriber, dealer):
        for frames in ([b"x"], [b"", b"", b""], [b"", b""], [b"", b"far too long to be a number"]):
            await dealer.send_multipart(frames)
        await dealer.send_multipart([b"", (2**64 - 2).to_bytes(8, "big")])
        ends = 0
        while ends < 3:  # the two odd numbers of two frames are answered as well
            ends += (await receive(dealer))[2] == END_SEQ


async def test_eviction_and_reset_are_told(tmp_path):
    async with listening(tmp_path, blocks=9, max_model_len_tokens=128) as (_, http, subscriber, _dealer):
        await complete(http, list(range(100, 164)))
        await complete(http, list(range(500, 620)))
        async with http.post("/reset_prefix_cache") as answer:
            assert answer.status == 200
        await complete(http, [7])
        kinds = []
        while "AllBlocksCleared" not in kinds:
            kinds += [event["type"] for event in msgspec.msgpack.decode((await receive(subscriber))[2])[1]]
    assert kinds[0] == "BlockStored"
    assert kinds.count("BlockRemoved") > 0


async def test_events_are_out_before_the_reply_is(tmp_path):
    async with listening(tmp_path) as (_, http, subscriber, _dealer):
        await complete(http, [8] * 32)
        assert await subscriber.poll(1000)


@pytest.mark.vllm
async def test_vllms_own_structs_read_our_batches(tmp_path):
    kv_events = pytest.importorskip("vllm.distributed.kv_events")
    decoder = msgspec.msgpack.Decoder(kv_events.KVEventBatch)
    async with listening(tmp_path, blocks=9, max_model_len_tokens=128) as (_, http, subscriber, _dealer):
        await complete(http, list(range(100, 164)), {"X-Session-ID": "s"}, cache_salt="pepper")
        await complete(http, list(range(500, 620)))
        first, second = [decoder.decode((await receive(subscriber))[2]) for _ in range(2)]
    (stored,) = first.events
    assert isinstance(stored, kv_events.BlockStored)
    assert stored.extra_keys == [["pepper"], None, None, None] or stored.extra_keys == [
        ("pepper",),
        None,
        None,
        None,
    ]
    assert (stored.session_id, stored.medium, first.data_parallel_rank) == ("s", kv_events.MEDIUM_GPU, 0)
    assert any(isinstance(event, kv_events.BlockRemoved) for event in second.events)
