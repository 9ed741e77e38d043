"""Streams that are cut in mid-answer, and an engine double that can go on with them."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from gateway_rig import Line, Request, Rig, gateway_rig, post, read_reply

from saga_fake.config import FakeConfig
from saga_fake.server import FakeServer
from saga_head.gateway.port import Exchange, Target

Answer = Callable[[Line, Request], Awaitable[None]]


class Two:
    """A relay to the engine double that can be cut, and the engine itself."""

    def __init__(self, rig: Rig, engine: FakeServer) -> None:
        self.rig, self.engine = rig, engine
        self.targets: list[Target] = []

    def engines_target(self, name: str = "w1") -> Target:
        return Target(worker=name, host="127.0.0.1", port=self.engine.port, key="k")

    def elsewhere(self, exchange: Exchange, worker: str) -> bool:
        exchange.dispatch(self.targets.pop(0))
        return True

    async def real_bytes(self, api: str, request: dict[str, Any]) -> bytes:
        """The reply as the engine sends it, head and framing included."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.engine.port)
        body = json.dumps(request).encode()
        writer.write(
            post(
                body,
                path=api,
                headers="authorization: Bearer k\r\ncontent-type: application/json\r\nconnection: close\r\n",
            )
        )
        try:
            return await asyncio.wait_for(reader.read(), 10)
        finally:
            writer.close()

    async def ask(self, api: str, request: dict[str, Any]) -> bytes:
        status, _, body = await self.rig.ask(
            post(json.dumps(request).encode(), path=api, headers="content-type: application/json\r\n")
        )
        assert status == 200
        return body


@contextlib.asynccontextmanager
async def two_workers(**more: Any) -> AsyncIterator[Two]:
    """One that is the test's, and the engine double with this configuration."""
    config = FakeConfig(models=("m",), api_key="k", speed=float("inf"), **more)
    async with FakeServer(config) as engine, gateway_rig() as rig:
        found = Two(rig, engine)
        rig.scheduler.on_lost = found.elsewhere
        yield found


def dies_after(said: bytes) -> Answer:
    async def answer(line: Line, request: Request) -> None:
        await line.send(said)
        line.writer.write_eof()  # all of it arrives, then the end
        await line.closed.wait()

    return answer


def head_and_rest(reply: bytes) -> tuple[bytes, bytes]:
    at = reply.index(b"\r\n\r\n") + 4
    head = reply[:at].replace(b"Connection: close\r\n", b"")
    return head, reply[at:]


async def unchunk(rest: bytes) -> bytes:
    reader = asyncio.StreamReader()
    reader.feed_data(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + rest)
    reader.feed_eof()
    return (await read_reply(reader))[2]


def as_the_engine(two: Two, change: Callable[[str, bytes, bytes], bytes | None]) -> Answer:
    """A worker that answers as the engine double does, but for `change(path, request, reply)`; None: it dies."""

    async def answer(line: Line, request: Request) -> None:
        path = request.line.split()[1].decode()
        reply = await two.real_bytes(path, json.loads(request.body))
        head, rest = head_and_rest(reply)
        changed = change(path, request.body, rest)
        length = head.lower().find(b"content-length: ")
        if length >= 0 and changed is not None:
            head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(
                changed
            )
        if changed is None:
            line.kill()
        elif length < 0 and not changed.endswith(b"0\r\n\r\n"):
            await dies_after(head + changed)(line, request)
        else:
            await line.send(head + changed)

    return answer
