"""What the gateway refuses, and how: the right status, OpenAI's error shape, a request id, nothing forwarded."""

import asyncio
import json

import pytest
from gateway_rig import BODY, Rig, gateway_rig, post, read_reply, until

from saga_core.events import Outcome
from saga_head.gateway.limits import Limits
from saga_head.gateway.port import Refusal

LINE = "POST /v1/chat/completions HTTP/1.1\r\n"
SMALL = Limits(body_bytes=1000, head_bytes=4096, linger_s=0.2, sweep_s=0.02)


def raw(*lines: str, body: bytes = b"") -> bytes:
    return (LINE + "".join(f"{line}\r\n" for line in ("host: h", *lines)) + "\r\n").encode("latin-1") + body


BAD_HEADS = {
    "both lengths": (400, raw("content-length: 3", "transfer-encoding: chunked")),
    "length twice": (400, raw("content-length: 3", "content-length: 3")),
    "two lengths": (400, raw("content-length: 3, 3")),
    "signed length": (400, raw("content-length: +3")),
    "hex length": (400, raw("content-length: 0x3")),
    "negative length": (400, raw("content-length: -3")),
    "empty length": (400, raw("content-length: ")),
    "length too long": (400, raw("content-length: 99999999999999999999")),
    "obs-fold": (400, raw("a: b", " folded")),
    "bare LF": (400, LINE.encode() + b"host: h\ncontent-length: 0\r\n\r\n"),
    "bare CR": (400, LINE.encode() + b"host: h\rx: y\r\n\r\n"),
    "NUL": (400, raw("a: \x00")),
    "space before colon": (400, raw("content-length : 3")),
    "no host": (400, LINE.encode() + b"content-length: 0\r\n\r\n"),
    "two hosts": (400, raw("host: other")),
    "other coding": (501, raw("transfer-encoding: gzip, chunked")),
    "chunked twice": (400, raw("transfer-encoding: chunked, chunked")),
    "coding twice": (400, raw("transfer-encoding: chunked", "transfer-encoding: chunked")),
    "coding in 1.0": (400, raw("transfer-encoding: chunked").replace(b"HTTP/1.1", b"HTTP/1.0")),
    "http 2.0": (505, raw("content-length: 0").replace(b"HTTP/1.1", b"HTTP/2.0")),
    "expectation": (417, raw("content-length: 3", "expect: 200-ok")),
    "long head": (431, raw("a: " + "x" * 4096)),
    "long head, open": (431, raw("a: " + "x" * 5000)[:-4]),
    "many headers": (431, raw(*(f"h{i}: v" for i in range(120)))),
    "large body": (413, raw("content-length: 1001")),
    "large chunk": (413, raw("transfer-encoding: chunked", body=b"3e9\r\n")),
    "bad chunk size": (400, raw("transfer-encoding: chunked", body=b"zz\r\n")),
    "signed chunk size": (400, raw("transfer-encoding: chunked", body=b"+3\r\nabc\r\n0\r\n\r\n")),
    "long chunk": (400, raw("transfer-encoding: chunked", body=b"3\r\nabcd\r\n")),
    "chunk without end": (400, raw("transfer-encoding: chunked", body=b"3\r\nabcXX0\r\n\r\n")),
    "bare LF chunk": (400, raw("transfer-encoding: chunked", body=b"3\nabc\r\n")),
    "endless chunk line": (400, raw("transfer-encoding: chunked", body=b"3;" + b"x" * 2000)),
    "unknown api": (404, raw("content-length: 3").replace(b"chat/completions", b"load_lora_adapter")),
    "dot segments": (404, raw("content-length: 3").replace(b"chat/completions", b"../reset_prefix_cache")),
}


def check_shape(status: int, headers: dict[str, str], body: bytes) -> dict[str, object]:
    error = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert headers["x-request-id"].startswith("saga-")
    assert headers["content-type"] == "application/json"
    return error  # type: ignore[no-any-return]


async def test_heads_and_framing() -> None:
    async with gateway_rig(SMALL) as rig:
        for name, (expected, data) in BAD_HEADS.items():
            reader, writer = await rig.connect()
            writer.write(data)
            status, headers, body = await asyncio.wait_for(read_reply(reader), 5)
            assert status == expected, f"{name}: {status} {body!r}"
            check_shape(status, headers, body)
            assert headers["connection"] == "close", name
            assert await asyncio.wait_for(reader.read(), 5) == b"", f"{name}: one answer, then the end"
        assert rig.worker.requests == []
        assert rig.scheduler.calls == []


BAD_BODIES = {
    "no json": (b"{", None),
    "empty": (b"", None),
    "an array": (b"[]", None),
    "a string": (b'"x"', None),
    "no model": (b"{}", "model"),
    "model null": (b'{"model":null}', "model"),
    "model number": (b'{"model":3}', "model"),
    "model empty": (b'{"model":""}', "model"),
    "stream word": (b'{"model":"m","stream":"yes"}', "stream"),
    "two values": (b'{"model":"m"} {}', None),
    "latin-1": (b'{"model":"\xe4"}', None),
}


async def test_bodies_and_the_connection_goes_on() -> None:
    async with gateway_rig(SMALL) as rig:
        reader, writer = await rig.connect()
        for name, (body, param) in BAD_BODIES.items():
            writer.write(post(body))
            status, headers, answer = await asyncio.wait_for(read_reply(reader), 5)
            error = check_shape(status, headers, answer)
            assert (status, error["param"]) == (400, param), (name, answer)
            assert "connection" not in headers
        writer.write(post())
        assert (await read_reply(reader))[0] == 200
        assert len(rig.scheduler.calls) == 1


async def test_a_stranger_is_refused_before_the_body() -> None:
    async with gateway_rig() as rig:
        rig.scheduler.denied = Refusal(401, "authentication_error", "invalid_api_key", "unknown key")
        head = post(b"", length=False, headers="content-length: 50000000\r\nexpect: 100-continue\r\n")
        status, headers, body = await rig.ask(head)
        assert (status, check_shape(status, headers, body)["code"]) == (401, "invalid_api_key")


async def test_a_refusal_of_the_scheduler() -> None:
    async with gateway_rig() as rig:
        rig.scheduler.refusal = Refusal(429, "rate_limit_error", "queue_full", "wait", 7)
        status, headers, body = await rig.ask(post())
        assert (status, headers["retry-after"], headers["x-request-id"]) == (429, "7", "saga-1")
        check_shape(status, headers, body)
        assert rig.scheduler.outcomes == [Outcome.REJECTED]


async def test_a_scheduler_that_fails_is_a_500() -> None:
    async with gateway_rig() as rig:
        rig.scheduler.target = None
        status, _, body = await rig.ask(post())
        assert (status, json.loads(body)["error"]["code"]) == (500, "internal_error")
        assert rig.scheduler.outcomes == [Outcome.REJECTED]


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"", None),
        (b"POST /v1/chat/completions HTTP/1.1\r\nhost: h", 408),
        (b"\r\n", None),
        (b"GET / HT", 408),
        (post(length=False, headers="content-length: 900\r\n"), 408),
        (post(b"5\r\nab", length=False, headers="transfer-encoding: chunked\r\n"), 408),
    ],
)
async def test_the_slow_are_let_go(sent: bytes, status: int | None) -> None:
    now = [100.0]
    limits = Limits(header_timeout_s=15, body_idle_s=30, sweep_s=0.01)
    async with gateway_rig(limits, lambda: now[0]) as rig:
        reader, writer = await rig.connect()
        writer.write(sent)
        await until(lambda: rig.gateway.stats().connections == 1)
        await asyncio.sleep(0.03)
        now[0] += 14.9
        await asyncio.sleep(0.03)
        assert rig.gateway.stats().connections == 1
        now[0] += 15.2
        answer = await asyncio.wait_for(reader.read(), 5)
        assert answer[:12] == (b"" if status is None else b"HTTP/1.1 %d" % status)
        now[0] += 3
        await until(lambda: rig.gateway.stats().connections == 0)


async def test_a_head_that_drips_is_timed_from_its_first_byte() -> None:
    now = [100.0]
    async with gateway_rig(Limits(sweep_s=0.01), lambda: now[0]) as rig:
        reader, writer = await rig.connect()
        for at in range(4):
            writer.write(LINE.encode()[at : at + 1])
            await asyncio.sleep(0.03)
            now[0] += 4
        status, _, _ = await asyncio.wait_for(read_reply(reader), 5)
        assert status == 408


async def test_an_idle_connection_is_closed_after_the_keep_alive_time() -> None:
    now = [100.0]
    async with gateway_rig(Limits(sweep_s=0.01), lambda: now[0]) as rig:
        reader, writer = await rig.connect()
        writer.write(post())
        await read_reply(reader)
        now[0] += 74
        await asyncio.sleep(0.03)
        assert rig.gateway.stats().connections == 1
        assert rig.gateway.stats().idle_worker_connections == 0, "idle for more than 3.5 s"
        now[0] += 2
        assert await asyncio.wait_for(reader.read(), 5) == b""


async def test_connections_beyond_the_limit() -> None:
    async with gateway_rig(Limits(connections=2)) as rig:
        held = [await rig.connect() for _ in range(2)]
        await until(lambda: rig.gateway.stats().connections == 2)
        status, headers, body = await rig.ask(post())
        assert (status, headers["retry-after"]) == (503, "1")
        assert "2 open connections" in str(check_shape(status, headers, body)["message"])
        held[0][1].write(post())
        assert (await read_reply(held[0][0]))[0] == 200


async def test_bodies_share_one_budget() -> None:
    async with gateway_rig(Limits(bodies_bytes=1000)) as rig:
        rig.scheduler.hold = True
        _, first = await rig.connect()
        first.write(post(BODY + b" " * 800))
        await until(lambda: rig.scheduler.calls)
        assert (await rig.ask(post(BODY + b" " * 800)))[0] == 503
        rig.scheduler.exchanges[0].abort()


async def test_drain_lets_running_exchanges_finish() -> None:
    async with gateway_rig() as rig:
        idle_reader, idle = await rig.connect()
        idle.write(post())
        await read_reply(idle_reader)
        rig.scheduler.hold = True
        reader, writer = await rig.connect()
        writer.write(post())
        await until(lambda: len(rig.scheduler.calls) == 2)
        draining = asyncio.create_task(rig.gateway.drain(5))
        assert await asyncio.wait_for(idle_reader.read(), 5) == b""
        with pytest.raises(OSError):
            await asyncio.open_connection("127.0.0.1", rig.port)
        assert rig.scheduler.target is not None
        rig.scheduler.exchanges[1].dispatch(rig.scheduler.target)
        assert (await read_reply(reader))[0] == 200
        assert await draining is True
        assert await asyncio.wait_for(reader.read(), 5) == b""


async def test_drain_gives_up_at_its_deadline() -> None:
    async with gateway_rig() as rig:
        rig.scheduler.hold = True
        _, writer = await rig.connect()
        writer.write(post())
        await until(lambda: rig.scheduler.calls)
        assert await rig.gateway.drain(0.05) is False


async def ask_pipelined(rig: Rig, data: bytes, count: int) -> list[int]:
    reader, writer = await rig.connect()
    writer.write(data)
    return [(await asyncio.wait_for(read_reply(reader), 5))[0] for _ in range(count)]


async def test_pipelined_requests_are_answered_in_order() -> None:
    async with gateway_rig() as rig:
        data = (
            post()
            + b"\r\n"
            + post(b"{}")
            + post(path="/v1/completions")
            + b"GET /x HTTP/1.1\r\nhost: h\r\n\r\n"
        )
        assert await ask_pipelined(rig, data, 4) == [200, 400, 200, 200]
        assert [call.api for call in rig.scheduler.calls] == ["/v1/chat/completions", "/v1/completions"]


async def test_too_much_pipelined_ends_the_connection_after_the_reply() -> None:
    async with gateway_rig(Limits(pipelined_bytes=100, linger_s=0.1, sweep_s=0.02)) as rig:
        rig.scheduler.hold = True
        reader, writer = await rig.connect()
        writer.write(post())
        await until(lambda: rig.scheduler.calls)
        writer.write(post() * 5)
        await asyncio.sleep(0.05)
        assert rig.scheduler.target is not None
        rig.scheduler.exchanges[0].dispatch(rig.scheduler.target)
        status, headers, _ = await read_reply(reader)
        assert (status, headers["connection"]) == (200, "close")
        assert await asyncio.wait_for(reader.read(), 5) == b""
        assert len(rig.scheduler.calls) == 1
