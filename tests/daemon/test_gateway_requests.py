"""Well-formed requests in all their shapes, each with the same bytes at the worker."""

import asyncio
import json
import socket

import pytest
from gateway_rig import (
    BODY,
    SSE_END,
    SSE_HEAD,
    USAGE,
    Line,
    Request,
    chunk,
    event,
    gateway_rig,
    json_reply,
    post,
    read_reply,
    until,
)

from saga_core.events import Outcome
from saga_head.gateway.port import Usage


async def test_a_chunked_body_arrives_whole() -> None:
    async with gateway_rig() as rig:
        pieces = (
            b"".join(chunk(BODY[i : i + 7]) for i in range(0, len(BODY), 7)) + b"0;x=y\r\ntrailer: t\r\n\r\n"
        )
        reader, writer = await rig.connect()
        writer.write(post(pieces, length=False, headers="transfer-encoding: chunked\r\n") + post())
        for _ in range(2):
            assert (await read_reply(reader))[0] == 200
        assert [request.body for request in rig.worker.requests] == [BODY, BODY]
        assert b"transfer-encoding" not in rig.worker.requests[0].headers


@pytest.mark.parametrize("size", [5_000, 20_000, 300_000, 5_000_000])
async def test_a_large_body_arrives_verbatim(size: int) -> None:
    body = json.dumps({"model": "m", "prompt": "é\n" * (size // 8)}).encode()
    async with gateway_rig() as rig:
        reader, writer = await rig.connect()
        for _ in range(2):
            writer.write(post(body))
            assert (await asyncio.wait_for(read_reply(reader), 10))[0] == 200
        assert all(request.body == body for request in rig.worker.requests)


async def test_nothing_keeps_a_body_once_a_worker_answers() -> None:
    async def begin(line: Line, request: Request) -> None:
        await line.send(SSE_HEAD + event("a"))
        await finish.wait()
        await line.send(SSE_END)

    finish = asyncio.Event()
    async with gateway_rig() as rig:
        rig.worker.answer = begin
        reader, writer = await rig.connect()
        writer.write(post())
        await until(lambda: rig.scheduler.firsts, "the first byte")
        assert rig.gateway.ledger.held_bytes == 0
        assert rig.scheduler.calls[0].body == b""
        assert not rig.scheduler.results, "the step goes on"
        finish.set()
        assert (await read_reply(reader))[0] == 200


@pytest.mark.parametrize("framing", ["content-length", "chunked"])
async def test_expect_100_continue(framing: str) -> None:
    async with gateway_rig() as rig:
        reader, writer = await rig.connect()
        size = f"content-length: {len(BODY)}" if framing == "content-length" else "transfer-encoding: chunked"
        writer.write(post(b"", length=False, headers=f"{size}\r\nexpect: 100-continue\r\n"))
        assert await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5) == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(BODY if framing == "content-length" else chunk(BODY) + b"0\r\n\r\n")
        assert (await read_reply(reader))[0] == 200
        assert b"expect" not in rig.worker.requests[0].headers


async def stream(line: Line, request: Request) -> None:
    await line.send(SSE_HEAD + event("a") + event("b") + event("", USAGE) + SSE_END)


async def test_http_1_0_gets_no_chunks() -> None:
    async with gateway_rig() as rig:
        rig.worker.answer = stream
        reader, writer = await rig.connect()
        writer.write(post(version="1.0", headers="connection: keep-alive\r\n"))
        head, _, body = (await asyncio.wait_for(reader.read(), 5)).partition(b"\r\n\r\n")
        assert b"transfer-encoding" not in head.lower()
        assert b"connection: close" in head
        assert body.startswith(b"data: {")
        assert body.endswith(b"data: [DONE]\n\n")
        assert body.count(b"data: ") == 4
        assert rig.scheduler.results[1].usage == Usage(10, 4, 5)


async def test_other_methods_go_to_the_fallback() -> None:
    async with gateway_rig() as rig:
        for method in ("OPTIONS", "GET", "PUT"):
            line = f"{method} /v1/chat/completions HTTP/1.1\r\nhost: h\r\n\r\n"
            status, _, body = await rig.ask(line.encode())
            assert (status, json.loads(body)["method"]) == (200, method)
        reader, writer = await rig.connect()
        writer.write(b"HEAD /v1/models HTTP/1.1\r\nhost: h\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 200")
        assert rig.scheduler.calls == []


async def test_an_offered_upgrade_is_ignored() -> None:
    async with gateway_rig() as rig:
        headers = "connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMA\r\n"
        assert (await rig.ask(post(headers=headers)))[0] == 200
        assert b"upgrade" not in rig.worker.requests[0].headers


async def test_interim_replies_are_not_the_answer() -> None:
    async def interim(line: Line, request: Request) -> None:
        await line.send(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n")
        await asyncio.sleep(0.02)
        await line.send(json_reply())

    async with gateway_rig() as rig:
        rig.worker.answer = interim
        assert (await rig.ask(post()))[0] == 200
        assert rig.scheduler.outcomes == [Outcome.DONE]


async def test_a_reply_without_length_ends_with_the_connection() -> None:
    async def close(line: Line, request: Request) -> None:
        await line.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\nhello")
        line.writer.close()

    async with gateway_rig() as rig:
        rig.worker.answer = close
        status, headers, body = await rig.ask(post())
        assert (status, headers["connection"], body) == (200, "close", b"hello")
        assert rig.scheduler.outcomes == [Outcome.DONE]


async def test_hop_by_hop_lines_of_the_worker_stay_behind() -> None:
    async def closing(line: Line, request: Request) -> None:
        await line.send(
            json_reply(extra="Connection: close\r\nX-Request-Id: theirs\r\nkeep-alive: timeout=5\r\n")
        )
        line.writer.close()

    async with gateway_rig() as rig:
        rig.worker.answer = closing
        reader, writer = await rig.connect()
        for step in (1, 2):
            writer.write(post())
            status, headers, _ = await read_reply(reader)
            assert (status, headers["x-request-id"]) == (200, f"saga-{step}")
            assert "connection" not in headers
            assert "keep-alive" not in headers
        assert len(rig.worker.lines) == 2


async def test_two_replies_to_one_request_are_never_passed_on() -> None:
    async def twice(line: Line, request: Request) -> None:
        await line.send(json_reply() + json_reply(b"evil"))

    async with gateway_rig() as rig:
        rig.worker.answer = twice
        reader, writer = await rig.connect()
        writer.write(post())
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await read_reply(reader)
        assert rig.scheduler.outcomes == [Outcome.BROKEN]
        assert rig.gateway.stats().idle_worker_connections == 0


@pytest.mark.parametrize("usage", ["null", "{}", '"x"', '{"prompt_tokens": "x"}', "{"])
async def test_odd_usage_is_no_usage(usage: str) -> None:
    async def odd(line: Line, request: Request) -> None:
        await line.send(json_reply(b'{"a":"\\"usage\\":{}","usage":' + usage.encode() + b"}"))

    async with gateway_rig() as rig:
        rig.worker.answer = odd
        assert (await rig.ask(post()))[0] == 200
        assert rig.scheduler.results[1].usage is None


async def test_usage_at_the_end_of_a_long_reply_in_small_reads() -> None:
    async def long(line: Line, request: Request) -> None:
        await line.send(SSE_HEAD)
        data = b"".join(event("x" * 100) for _ in range(300)) + event("", USAGE) + SSE_END
        for at in range(0, len(data), 1000):
            await line.send(data[at : at + 1000])

    async with gateway_rig() as rig:
        rig.worker.answer = long
        _, _, body = await rig.ask(post())
        assert body.count(b"data: ") == 302
        assert rig.scheduler.results[1].usage == Usage(10, 4, 5)


async def test_nagle_is_off_on_both_sides() -> None:
    async with gateway_rig() as rig:
        rig.scheduler.hold = True
        _, writer = await rig.connect()
        writer.write(post())
        await until(lambda: rig.scheduler.calls)
        (client,) = rig.gateway.links
        link = await rig.gateway.pool.connect(("127.0.0.1", rig.worker.port))
        for transport in (client.transport, link.transport):
            sock = transport.get_extra_info("socket")
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
        link.transport.abort()
        rig.scheduler.exchanges[0].abort()


async def test_a_body_field_cannot_write_header_lines() -> None:
    async with gateway_rig() as rig:
        rig.scheduler.target = rig.worker.target(
            session="a\r\nx-evil: 1", reply_headers=((b"x-saga-session-id", b"a\r\nset-cookie: evil"),)
        )
        _, headers, _ = await rig.ask(post())
        assert rig.worker.requests[0].headers[b"x-session-id"] == b"a%0D%0Ax-evil%3A%201"
        assert headers["x-saga-session-id"] == "a  set-cookie: evil"
        assert "set-cookie" not in headers
