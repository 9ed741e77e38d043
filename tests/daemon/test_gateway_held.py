"""Steps that wait: what keeps a client from giving up, and how errors are told when a head has gone."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from gateway_rig import (
    SSE_END,
    SSE_HEAD,
    USAGE,
    Line,
    Request,
    Rig,
    chunk,
    event,
    gateway_rig,
    json_reply,
    post,
    read_reply,
    until,
)

from saga_core.events import Outcome
from saga_head.gateway.limits import Limits
from saga_head.gateway.port import Refusal, Usage

LIMITS = Limits(held_stream_s=0.05, held_json_s=0.05, held_beat_s=0.05, sweep_s=0.01)
STREAMING = json.dumps(
    {"model": "m", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
).encode()
NO = Refusal(503, "overloaded_error", "no_worker", "no worker was ready", 10)


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with gateway_rig(LIMITS) as found:
        found.scheduler.hold = True
        yield found


async def waiting(rig: Rig, data: bytes) -> asyncio.StreamReader:
    """A client whose step waits and has heard that it does."""
    reader, writer = await rig.connect()
    writer.write(data)
    await until(lambda: rig.scheduler.calls, "the call")
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
    assert b"HTTP/1.1 200 OK\r\n" in head
    assert b"x-request-id: saga-1\r\n" in head
    assert b"content-length" not in head
    return reader


async def rest(reader: asyncio.StreamReader) -> bytes:
    """The decoded rest of a chunked body."""
    body = b""
    while size := int(await asyncio.wait_for(reader.readuntil(b"\r\n"), 5), 16):
        body += (await reader.readexactly(size + 2))[:-2]
    assert await reader.readexactly(2) == b"\r\n"
    return body


def send(rig: Rig) -> None:
    assert rig.scheduler.target is not None
    rig.scheduler.exchanges[0].dispatch(rig.scheduler.target)


async def stream(line: Line, request: Request) -> None:
    await line.send(SSE_HEAD + event("a") + event("", USAGE) + SSE_END)


async def test_a_stream_that_waits_hears_comments_and_then_its_answer(rig: Rig) -> None:
    rig.worker.answer = stream
    reader = await waiting(rig, post(STREAMING))
    for _ in range(2):
        assert await asyncio.wait_for(reader.readuntil(b"\n\n\r\n"), 5) == chunk(
            b": waiting for its turn\n\n"
        )
    send(rig)
    lines = [line for line in (await rest(reader)).split(b"\n\n") if line and not line.startswith(b":")]
    assert [json.loads(line[6:])["usage"] for line in lines[1:2]] == [USAGE]
    assert lines[-1] == b"data: [DONE]"
    await rig.quiet()
    assert (rig.scheduler.results[1].outcome, rig.scheduler.results[1].usage) == (
        Outcome.DONE,
        Usage(10, 4, 5),
    )


@pytest.mark.parametrize("extra", ["", "connection: close\r\n"])
async def test_an_answer_that_waits_begins_with_white_space(rig: Rig, extra: str) -> None:
    reader = await waiting(rig, post(headers=extra))
    send(rig)
    body = await rest(reader)
    assert body.startswith(b" ")
    assert json.loads(body)["usage"] == USAGE
    await rig.quiet()
    assert rig.scheduler.results[1].usage == Usage(10, 4, 5)


async def test_the_connection_serves_on_after_an_early_head(rig: Rig) -> None:
    reader, writer = await rig.connect()
    for step in (1, 2):
        writer.write(post())
        await until(lambda: len(rig.scheduler.calls) == step, "the call")  # noqa: B023
        await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
        assert rig.scheduler.target is not None
        rig.scheduler.exchanges[step - 1].dispatch(rig.scheduler.target)
        assert json.loads(await rest(reader))["usage"] == USAGE


async def test_one_that_does_not_wait_long_has_its_own_head() -> None:
    async with gateway_rig() as rig:
        status, headers, body = await rig.ask(post())
        assert (status, "content-length" in headers, body[:1]) == (200, True, b"{")


async def test_a_late_refusal_is_an_event_in_a_stream(rig: Rig) -> None:
    reader = await waiting(rig, post(STREAMING))
    rig.scheduler.exchanges[0].refuse(NO)
    *_, last = (await rest(reader)).strip().split(b"\n\n")
    assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == "no_worker"
    assert rig.scheduler.results[1].outcome is Outcome.REJECTED


async def test_a_late_error_of_the_worker_is_an_event_in_a_stream(rig: Rig) -> None:
    async def refuse(line: Line, request: Request) -> None:
        await line.send(json_reply(b'{"error":\n{"message":"too long"}}', status="400 Bad Request"))

    rig.worker.answer = refuse
    reader = await waiting(rig, post(STREAMING, path="/v1/messages"))
    send(rig)
    *_, last = (await rest(reader)).strip().split(b"\n\n")
    told = json.loads(last.removeprefix(b"event: error\ndata: "))
    assert (told["type"], told["error"]["type"], told["error"]["message"]) == (
        "error",
        "invalid_request_error",
        "too long",
    )
    await rig.quiet()
    assert (rig.scheduler.results[1].outcome, rig.scheduler.results[1].status) == (Outcome.REFUSED, 400)


@pytest.mark.parametrize("of_the_worker", [True, False])
async def test_a_late_error_elsewhere_breaks_the_reply_off(rig: Rig, of_the_worker: bool) -> None:
    async def refuse(line: Line, request: Request) -> None:
        await line.send(json_reply(b'{"error":{}}', status="400 Bad Request"))

    rig.worker.answer = refuse
    reader = await waiting(rig, post())
    if of_the_worker:
        send(rig)
    else:
        rig.scheduler.exchanges[0].refuse(NO)
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await rest(reader)


async def test_a_worker_lost_before_its_head_is_made_good_behind_an_early_one(rig: Rig) -> None:
    async def die(line: Line, request: Request) -> None:
        rig.worker.answer = stream
        line.kill()

    def again(exchange: object, worker: str) -> bool:
        send(rig)
        return True

    rig.worker.answer = die
    rig.scheduler.on_lost = again
    reader = await waiting(rig, post(STREAMING))
    send(rig)
    assert b"data: [DONE]" in await rest(reader)
    assert len(rig.scheduler.losses) == 1


async def test_http_1_0_has_no_chunks_and_waits_in_silence(rig: Rig) -> None:
    reader, writer = await rig.connect()
    writer.write(post(version="1.0"))
    await until(lambda: rig.scheduler.calls, "the call")
    await asyncio.sleep(5 * LIMITS.held_json_s)  # what must not come has no event to wait for
    send(rig)
    status, headers, body = await asyncio.wait_for(read_reply(reader), 5)
    assert (status, json.loads(body)["usage"]) == (200, USAGE)
    assert "transfer-encoding" not in headers


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/v1/messages"])
async def test_a_refusal_has_the_shape_of_its_api_a_reason_and_a_time(path: str) -> None:
    async with gateway_rig() as rig:
        rig.scheduler.refusal = Refusal(503, "overloaded_error", "queue_full", "9 steps wait already")
        status, headers, body = await rig.ask(post(path=path))
        said = json.loads(body)
        assert (status, headers["x-saga-dropped-reason"]) == (503, "queue_full")
        assert int(headers["retry-after"]) > 0
        assert said["error"]["message"] == "9 steps wait already"
        assert said["error"]["type"] == "overloaded_error"
        assert said.get("type") == ("error" if path == "/v1/messages" else None)
        rig.scheduler.denied = Refusal(401, "authentication_error", "invalid_api_key", "no")
        assert json.loads((await rig.ask(post(path=path)))[2]).get("type") == said.get("type")


async def test_usage_of_messages_counts_cached_tokens_apart() -> None:
    async def answer(line: Line, request: Request) -> None:
        usage = {"input_tokens": 10, "output_tokens": 3, "cache_read_input_tokens": 90}
        await line.send(json_reply(json.dumps({"type": "message", "usage": usage}).encode()))

    async with gateway_rig() as rig:
        rig.worker.answer = answer
        await rig.ask(post(path="/v1/messages"))
        assert rig.scheduler.results[1].usage == Usage(100, 90, 3)


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("/v1/messages", b'{"error":{"message":"bad tokens","type":"Bad Request","code":400}}', "bad tokens"),
        ("/v1/messages", b'{"type":"error","error":{"type":"BadRequestError","message":"bad"}}', "bad"),
        ("/v1/messages", b'{"detail":"Not Found"}', "Not Found"),
        ("/v1/embeddings", b'{"detail":"Not Found"}', "Not Found"),
        ("/v1/embeddings", b'{"detail":[{"loc":["body"]}]}', '[{"loc":["body"]}]'),
        ("/v1/chat/completions", b"Internal Server Error", "Internal Server Error"),
        ("/v1/chat/completions", b"", "the worker gave no reason"),
        ("/v1/chat/completions", b'{"error":{"message":"as it is","odd":1}}', "as it is"),
    ],
)
@pytest.mark.parametrize("chunked", [False, True])
async def test_a_workers_error_has_the_shape_of_its_api(
    path: str, body: bytes, message: str, chunked: bool
) -> None:
    async def refuse(line: Line, request: Request) -> None:
        if chunked:
            head = b"HTTP/1.1 400 Bad Request\r\ntransfer-encoding: chunked\r\n\r\n"
            await line.send(head + (chunk(body) if body else b"") + b"0\r\n\r\n")
        else:
            await line.send(json_reply(body, status="400 Bad Request"))

    async with gateway_rig() as rig:
        rig.worker.answer = refuse
        rig.scheduler.target = rig.worker.target(reply_headers=((b"x-saga-worker", b"w0"),))
        status, headers, told = await rig.ask(post(path=path))
        assert (status, headers["x-saga-worker"], headers["x-request-id"]) == (400, "w0", "saga-1")
        assert json.loads(told)["error"]["message"] == message
        assert (json.loads(told).get("type") == "error") == (path == "/v1/messages")
        assert (told == body) == (b"as it is" in body)
        await rig.quiet()
        assert rig.scheduler.results[1].outcome is Outcome.REFUSED
        assert (await rig.ask(post(path=path)))[0] == 400
        assert len(rig.worker.lines) == 1, "the worker's connection is kept"
