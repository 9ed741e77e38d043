"""The node's own address for its programs, between raw clients and heads of straw: what is held, repeated, broken off."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Self

import pytest

from saga_node import endpoint
from saga_node.endpoint import Address, Endpoint

STEP = b"POST /s/t/v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}"
SUBMIT = STEP.replace(b"/s/t/v1/completions", b"/saga/v1/workflows")
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def reply(words: bytes, extra: bytes = b"") -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n%b\r\n%b" % (len(words), extra, words)


class Head:
    """Answers each request with its name; `serve` does otherwise."""

    def __init__(self, name: bytes, serve: Serve | None = None) -> None:
        self.name, self.asked = name, 0
        self._serve = serve or self._answer
        self._open: set[asyncio.StreamWriter] = set()

    async def start(self) -> Address:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        host, port = self._server.sockets[0].getsockname()
        return host, port

    async def end(self) -> None:
        self._server.close()
        for writer in self._open:
            writer.close()
        await asyncio.sleep(0)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                await read_request(reader)
                self.asked += 1
                await self._serve(reader, writer)
        writer.close()

    async def _answer(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(reply(self.name))


async def read_request(reader: asyncio.StreamReader) -> int:
    """Its body's length."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
    return len(await reader.readexactly(length))


async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()
    raise ConnectionError


class Rig:
    def __init__(self) -> None:
        self.at: Address | None = None
        self.heads: list[Head] = []
        self.endpoint = Endpoint(lambda: self.at, hold_s=20.0)

    async def head(self, name: bytes, serve: Serve | None = None, *, known: bool = True) -> Head:
        head = Head(name, serve)
        address = await head.start()
        self.heads.append(head)
        if known:
            self.at = address
        return head

    async def client(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host, port = self.endpoint.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        self.writers.append(writer)
        return reader, writer

    async def __aenter__(self) -> Self:
        self.writers: list[asyncio.StreamWriter] = []
        await self.endpoint.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        for writer in self.writers:
            writer.close()
        for head in self.heads:
            await head.end()
        await self.endpoint.close()
        assert self.endpoint.held_bytes == 0


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with Rig() as rig:
        yield rig


async def read_reply(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(10):
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        return head.split(b"\r\n", 1)[0].split()[1] + b" " + await reader.readexactly(length)


async def call(client: tuple[asyncio.StreamReader, asyncio.StreamWriter], request: bytes = STEP) -> bytes:
    client[1].write(request)
    return await read_reply(client[0])


async def test_one_connection_lives_on_from_head_to_head(rig: Rig) -> None:
    first = await rig.head(b"first")
    client = await rig.client()
    assert [await call(client), await call(client)] == [b"200 first", b"200 first"]
    await first.end()
    await asyncio.sleep(0.05)  # its end arrives between two calls
    second = await rig.head(b"second")
    assert await call(client) == b"200 second"
    assert (first.asked, second.asked) == (2, 1)


async def test_calls_are_held_while_there_is_no_head(rig: Rig) -> None:
    clients = [await rig.client() for _ in range(20)]
    calls = [asyncio.create_task(call(client)) for client in clients]
    await asyncio.sleep(0.3)
    assert not any(each.done() for each in calls)
    head = await rig.head(b"new")
    assert await asyncio.gather(*calls) == [b"200 new"] * 20
    assert head.asked == 20


@pytest.mark.parametrize(("request_", "answer"), [(STEP, b"200 second"), (SUBMIT, None)])
async def test_a_step_without_a_byte_is_asked_of_the_next_head_anything_else_is_not(
    rig: Rig, request_: bytes, answer: bytes | None
) -> None:
    first = await rig.head(b"first", hang_up)
    client = await rig.client()
    waits = asyncio.create_task(call(client, request_))
    while not first.asked:
        await asyncio.sleep(0.01)
    await rig.head(b"second")
    if answer is None:
        with pytest.raises(asyncio.IncompleteReadError):
            await waits
    else:
        assert await waits == answer


async def test_a_call_that_ends_every_head_is_given_up(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "LOOK_S", 0.01)
    head = await rig.head(b"", hang_up)
    with pytest.raises(asyncio.IncompleteReadError):
        await call(await rig.client())
    assert head.asked == 1 + endpoint.MOST_REPEATS


async def test_an_answer_that_has_begun_is_not_asked_for_again(rig: Rig) -> None:
    async def begin(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(reply(b"whole")[:-2])
        await writer.drain()
        await hang_up(_, writer)

    head = await rig.head(b"", begin)
    client = await rig.client()
    with pytest.raises(asyncio.IncompleteReadError, match="3 bytes read"):
        await call(client)
    assert head.asked == 1


async def test_what_comes_before_an_answer_is_none(rig: Rig) -> None:
    async def go_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        await writer.drain()
        await hang_up(reader, writer)

    await rig.head(b"first", go_on)
    client = await rig.client()
    client[1].write(STEP)
    assert await client[0].readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    await rig.heads[0].end()
    await rig.head(b"second")
    assert await read_reply(client[0]) == b"200 second"


async def test_an_answer_that_says_close_closes(rig: Rig) -> None:
    async def last(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(reply(b"bye", b"connection: close\r\n"))

    await rig.head(b"", last)
    client = await rig.client()
    assert await call(client) == b"200 bye"
    assert await client[0].read() == b""


async def test_without_a_head_for_too_long_it_says_so(rig: Rig) -> None:
    rig.endpoint.hold_s = 0.1
    assert (await call(await rig.client())).startswith(b"503 {")


async def test_a_body_beyond_the_bound_arrives_whole(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "HELD_BYTES", 100_000)
    client = await rig.client()
    size = 5_000_000
    client[1].write(STEP.replace(b"length: 2", b"length: %d" % size)[:-2] + b"x" * size)
    await asyncio.sleep(0.1)
    assert rig.endpoint.held_bytes < 1_000_000  # the rest waits at the program
    head = await rig.head(b"got it")
    assert await read_reply(client[0]) == b"200 got it"
    assert head.asked == 1
    assert await call(client) == b"200 got it"


async def test_more_connections_than_agreed_are_refused(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "MOST_LINKS", 1)
    await rig.head(b"it")
    first = await rig.client()
    assert await call(first) == b"200 it"
    assert (await read_reply((await rig.client())[0])).startswith(b"503 {")
    assert await call(first) == b"200 it"


async def test_a_program_is_told_this_address_in_the_place_of_the_heads(rig: Rig) -> None:
    theirs, ours = "http://10.0.0.1:80", rig.endpoint.url
    given = {
        "SAGA_URL": theirs,
        "OPENAI_BASE_URL": f"{theirs}/s/t/v1",
        "ANTHROPIC_BASE_URL": "http://10.0.0.1:8080/own",
        "NOTE": f"see {theirs}/",
    }
    assert rig.endpoint.here(given) == given | {"SAGA_URL": ours, "OPENAI_BASE_URL": f"{ours}/s/t/v1"}
    assert rig.endpoint.here({"A": "b"}) == {"A": "b"}
