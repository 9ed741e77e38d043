"""KV events over ZeroMQ, framed as vLLM's `ZmqEventPublisher`: PUB [topic, seq, payload], ROUTER for replay."""

import asyncio
import contextlib
import time
from collections import deque

import msgspec
import zmq
import zmq.asyncio

from saga_fake.kv_events import KVEvent, KVEventBatch

BUFFER_STEPS = 10_000
"""Batches kept for replay, and
HIGH_WATER, messages kept for a slow subscriber: vLLM's defaults."""
HIGH_WATER = 100_000
END_SEQ = (-1).to_bytes(8, "big", signed=True)


class Publisher:
    """Publishes batches with consecutive numbers from 0. Use on a running event loop; `close` when done."""

    def __init__(self, endpoint: str, replay_endpoint: str | None = None, topic: str = "") -> None:
        self.endpoint, self.replay_endpoint, self.topic = endpoint, replay_endpoint, topic
        self._buffer: deque[tuple[bytes, bytes]] = deque(maxlen=BUFFER_STEPS)
        self._next_seq = 0
        self._encoder = msgspec.msgpack.Encoder()
        self._context = zmq.asyncio.Context()
        self._replay_task: asyncio.Task[None] | None = None
        try:
            self._bind()
        except BaseException:
            self._context.destroy(linger=0)
            raise

    def _bind(self) -> None:
        # A plain socket: a PUB send never waits, it drops.
        self._pub = zmq.Context(self._context).socket(zmq.PUB)
        self._pub.set_hwm(HIGH_WATER)
        self._pub.bind(self.endpoint)
        if self.replay_endpoint is not None:
            router = self._context.socket(zmq.ROUTER)
            router.bind(self.replay_endpoint)
            self._replay_task = asyncio.create_task(self._serve_replay(router), name="kv-replay")

    def publish(self, events: list[KVEvent]) -> None:
        """Send one batch, if there is anything in it."""
        if not events:
            return
        seq = self._next_seq.to_bytes(8, "big")
        payload = self._encoder.encode(KVEventBatch(ts=time.time(), events=events, data_parallel_rank=0))
        self._next_seq += 1
        self._pub.send_multipart((self.topic.encode(), seq, payload))
        self._buffer.append((seq, payload))

    async def close(self) -> None:
        """Stop serving and drop the sockets (and their files)."""
        if self._replay_task is not None:
            self._replay_task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._replay_task
        self._pub.close(linger=0)
        self._context.destroy(linger=0)

    async def _serve_replay(self, router: zmq.asyncio.Socket) -> None:
        while True:
            frames = await router.recv_multipart()
            if len(frames) != 3:
                continue  # vLLM logs it and goes on
            client, _, start = frames
            for seq, payload in list(self._buffer):
                if seq >= start.rjust(8, b"\0"):
                    await router.send_multipart((client, b"", self.topic.encode(), seq, payload))
            await router.send_multipart((client, b"", b"", END_SEQ, b""))
