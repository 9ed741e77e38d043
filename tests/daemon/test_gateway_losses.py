"""Clients that leave, workers that die, readers that stall."""

import asyncio
import json
import socket

import pytest
from gateway_rig import (
    BODY,
    SSE_HEAD,
    Line,
    Request,
    Worker,
    answer_json,
    event,
    gateway_rig,
    json_reply,
    post,
    read_reply,
    until,
)

from saga_core.events import Outcome
from saga_head.gateway.limits import Limits
from saga_head.gateway.port import Exchange, Refusal


async def silent(line: Line, request: Request) -> None:
    await asyncio.sleep(60)


async def begun(line: Line, request: Request) -> None:
    await line.send(SSE_HEAD + event("a"))
    await asyncio.sleep(60)


@pytest.mark.parametrize("way", ["close", "half", "reset"])
@pytest.mark.parametrize("stage", ["waiting", "silent", "begun"])
async def test_a_client_that_leaves_frees_its_worker(stage: str, way: str) -> None:
    async with gateway_rig() as rig:
        rig.worker.answer = begun if stage == "begun" else silent
        rig.scheduler.hold = stage == "waiting"
        reader, writer = await rig.connect()
        writer.write(post())
        await until(lambda: rig.scheduler.calls if stage == "waiting" else rig.worker.requests)
        if stage == "begun":
            await reader.readuntil(b"\r\n\r\n")
            assert rig.gateway.stats().bodies_bytes == 0, "the body is not kept while the reply runs"
        if way == "half":
            writer.write_eof()
        elif way == "close":
            writer.close()
        else:
            writer.transport.abort()
        await until(lambda: rig.scheduler.results)
        assert rig.scheduler.outcomes == [Outcome.CLIENT_GONE]
        if stage != "waiting":
            await until(lambda: rig.worker.lines[0].reader.at_eof() or rig.worker.lines[0].reader.exception())
        else:
            assert rig.scheduler.target
            rig.scheduler.exchanges[0].dispatch(rig.scheduler.target)  # too late: nothing happens
            assert rig.worker.requests == []


async def test_a_client_that_leaves_while_the_connection_is_opened() -> None:
    async with gateway_rig() as rig:
        opening, stopped = asyncio.Event(), asyncio.Event()

        async def never(address: object) -> object:
            opening.set()
            try:
                return await asyncio.sleep(60)
            finally:
                stopped.set()

        rig.gateway.pool.connect = never  # type: ignore[method-assign, assignment]
        _, writer = await rig.connect()
        writer.write(post())
        await asyncio.wait_for(opening.wait(), 5)
        writer.close()
        await until(lambda: rig.scheduler.results)
        assert rig.scheduler.outcomes == [Outcome.CLIENT_GONE]
        await asyncio.wait_for(stopped.wait(), 5)


async def test_a_stale_connection_is_replaced_without_a_word() -> None:
    async with gateway_rig() as rig:
        assert (await rig.ask(post()))[0] == 200

        async def close_reused(line: Line, request: Request) -> None:
            if len(line.requests) > 1:
                line.kill()
            else:
                await answer_json(line, request)

        rig.worker.answer = close_reused
        assert (await rig.ask(post()))[0] == 200
        assert rig.scheduler.losses == []
        assert [len(line.requests) for line in rig.worker.lines] == [2, 1]
        assert rig.worker.requests[-1].body == BODY


async def test_a_connection_idle_for_too_long_is_not_reused() -> None:
    now = [0.0]
    async with gateway_rig(Limits(sweep_s=60), lambda: now[0]) as rig:
        for _ in range(2):
            assert (await rig.ask(post()))[0] == 200
        assert len(rig.worker.lines) == 1
        now[0] += 3.6  # vLLM closes at 5 s
        assert (await rig.ask(post()))[0] == 200
        assert len(rig.worker.lines) == 2


async def test_a_fresh_connection_that_dies_is_a_loss() -> None:
    async def die(line: Line, request: Request) -> None:
        line.kill()

    async with gateway_rig() as rig:
        rig.worker.answer = die
        status, headers, body = await rig.ask(post())
        assert (status, json.loads(body)["error"]["code"]) == (502, "worker_lost")
        assert headers["x-request-id"] == "saga-1"
        assert len(rig.scheduler.losses) == 1
        assert rig.scheduler.outcomes == [Outcome.LOST]
        assert len(rig.worker.requests) == 1


@pytest.mark.parametrize("when", ["at once", "later"])
async def test_a_lost_step_goes_elsewhere_with_its_body(when: str) -> None:
    async def die(line: Line, request: Request) -> None:
        await line.send(b"HTTP/1.1 200 OK\r\ncontent-le")
        line.kill()

    other = Worker()
    await other.start()

    def again(exchange: Exchange, worker: str) -> bool:
        target = other.target(worker="w1", reply_headers=((b"x-saga-worker", b"w1"),))
        if when == "at once":
            exchange.dispatch(target)
        else:
            asyncio.get_running_loop().call_later(0.02, exchange.dispatch, target)
        return True

    body = BODY + b" " * 200_000
    async with gateway_rig() as rig:
        rig.worker.answer = die
        rig.scheduler.on_lost = again
        status, headers, _ = await rig.ask(post(body))
        assert (status, headers["x-saga-worker"]) == (200, "w1")
        assert other.requests[0].body == body
        assert rig.scheduler.outcomes == [Outcome.DONE]
    await other.stop()


async def test_nothing_listens_there() -> None:
    async with gateway_rig() as rig:
        await rig.worker.stop()
        status, _, body = await rig.ask(post())
        assert status == 502
        assert f"cannot connect to 127.0.0.1:{rig.worker.port}" in json.loads(body)["error"]["message"]
        rig.scheduler.on_lost = lambda exchange, _: exchange.refuse(Refusal(503, "x", "y", "z", 1)) is None
        assert (await rig.ask(post()))[0] == 503
        assert rig.scheduler.outcomes == [Outcome.LOST, Outcome.REJECTED]


async def test_a_connect_that_takes_too_long() -> None:
    async with gateway_rig(Limits(connect_timeout_s=0.05)) as rig:
        loop = asyncio.get_running_loop()
        original = loop.create_connection
        reader, writer = await rig.connect()

        async def slow(*args: object, **kwargs: object) -> object:
            return await asyncio.sleep(60)

        loop.create_connection = slow  # type: ignore[method-assign, assignment]
        try:
            writer.write(post())
            status, _, body = await read_reply(reader)
        finally:
            loop.create_connection = original  # type: ignore[method-assign]
        assert status == 502
        assert "no answer within 0.05 s" in json.loads(body)["error"]["message"]


async def broken_stream(line: Line, request: Request) -> None:
    await line.send(SSE_HEAD + event("a") + event("b"))
    await asyncio.sleep(0.02)
    line.kill()


async def test_a_broken_stream_ends_with_an_error_event() -> None:
    async with gateway_rig() as rig:
        rig.worker.answer = broken_stream
        reader, writer = await rig.connect()
        writer.write(post())
        status, _, body = await asyncio.wait_for(read_reply(reader), 5)
        events = body.decode().split("\n\n")
        error = json.loads(events[2].removeprefix("data: "))["error"]
        assert (status, error["code"], events[3:]) == (200, "worker_lost", [""])
        assert rig.scheduler.outcomes == [Outcome.BROKEN]
        rig.worker.answer = answer_json
        writer.write(post())
        assert (await read_reply(reader))[0] == 200, "the message was ended properly"


async def test_the_openai_client_raises_on_a_broken_stream() -> None:
    openai = pytest.importorskip("openai")
    async with gateway_rig() as rig:
        rig.worker.answer = broken_stream
        async with openai.AsyncOpenAI(
            base_url=f"http://127.0.0.1:{rig.port}/s/tok/v1", api_key="k", max_retries=0
        ) as client:
            reply = await client.chat.completions.create(model="m", messages=[], stream=True)
            words: list[str] = []
            with pytest.raises(openai.APIError, match="worker w0 was lost"):  # noqa: PT012
                async for piece in reply:
                    words += [piece.choices[0].delta.content]
            assert words == ["a", "b"]
        assert rig.scheduler.asked == [("tok", "k")]


@pytest.mark.parametrize("cut_at", [1, 5, 80, len(event("b")) - 3])
async def test_of_a_torn_event_nothing_is_passed_on(cut_at: int) -> None:
    async def torn(line: Line, request: Request) -> None:
        await line.send(SSE_HEAD + event("a") + event("b")[:cut_at])
        await asyncio.sleep(0.02)
        line.kill()

    async with gateway_rig() as rig:
        rig.worker.answer = torn
        status, _, body = await rig.ask(post())
        first, error, end = body.decode().split("\n\n")
        assert (status, end, json.loads(error[6:])["error"]["code"]) == (200, "", "worker_lost")
        assert json.loads(first[6:])["choices"][0]["delta"]["content"] == "a"


@pytest.mark.parametrize(
    "sent",
    [
        SSE_HEAD + b"ffff\r\ndata: x\n\n\r\n",
        json_reply()[:-5],
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
    ],
)
async def test_what_cannot_be_ended_well_is_cut(sent: bytes) -> None:
    async def cut(line: Line, request: Request) -> None:
        await line.send(sent)
        await asyncio.sleep(0.02)
        line.kill()

    async with gateway_rig() as rig:
        rig.worker.answer = cut
        reader, writer = await rig.connect()
        writer.write(post())
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await asyncio.wait_for(read_reply(reader), 5)
        await until(lambda: rig.scheduler.results)
        assert rig.scheduler.outcomes == [Outcome.BROKEN]


@pytest.mark.parametrize(
    ("stage", "call"),
    [("waiting", "abort"), ("silent", "abort"), ("begun", "abort"), ("silent", "lose"), ("begun", "lose")],
)
async def test_the_scheduler_stops_a_step(stage: str, call: str) -> None:
    async with gateway_rig() as rig:
        rig.worker.answer = begun if stage == "begun" else silent
        rig.scheduler.hold = stage == "waiting"
        reader, writer = await rig.connect()
        writer.write(post())
        await until(lambda: rig.scheduler.calls if stage == "waiting" else rig.worker.requests)
        if stage == "begun":
            await reader.readuntil(b"\r\n\r\n")
            await reader.readuntil(b"\n\n\r\n")
        exchange = rig.scheduler.exchanges[0]
        if call == "lose":
            exchange.lose("heartbeat")
        exchange.abort()
        if stage == "begun":
            rest = await reader.readuntil(b"0\r\n\r\n")
            assert (b"workflow_cancelled" if call == "abort" else b"worker_lost") in rest
            assert rig.scheduler.outcomes == [Outcome.BROKEN]
        else:
            assert (await read_reply(reader))[0] == (410 if call == "abort" else 502)
            assert rig.scheduler.outcomes == [Outcome.REJECTED if call == "abort" else Outcome.LOST]


async def test_stalled_readers_cost_bounded_memory() -> None:
    sent = [0]

    async def flood(line: Line, request: Request) -> None:
        await line.send(SSE_HEAD)
        while True:
            data = event("x" * 8000) * 8
            await line.send(data)
            sent[0] += len(data)

    now = [0.0]
    async with gateway_rig(Limits(sweep_s=0.01, stalled_reader_s=300), lambda: now[0]) as rig:
        rig.worker.answer = flood
        for _ in range(4):
            _, writer = await rig.connect()
            writer.transport.pause_reading()
            writer.write(post())
        await until(lambda: len(rig.gateway.links) == 4 and all(link.paused for link in rig.gateway.links))
        before = -1
        while before != sent[0]:
            before = sent[0]
            await asyncio.sleep(0.1)
        held = [link.transport.get_write_buffer_size() for link in rig.gateway.links]
        assert max(held) < 1_000_000, held
        now[0] += 301
        await until(lambda: len(rig.scheduler.results) == 4)
        assert rig.scheduler.outcomes == [Outcome.CLIENT_GONE] * 4


async def test_a_stalled_reader_that_half_closes_is_gone_at_once() -> None:
    async def flood(line: Line, request: Request) -> None:
        await line.send(SSE_HEAD)
        while True:
            await line.send(event("x" * 8000))

    async with gateway_rig() as rig:
        rig.worker.answer = flood
        _, writer = await rig.connect()
        writer.transport.pause_reading()
        writer.write(post())
        await until(lambda: any(link.paused for link in rig.gateway.links))
        writer.write_eof()
        await until(lambda: rig.scheduler.results)
        assert rig.scheduler.outcomes == [Outcome.CLIENT_GONE]


async def test_a_reply_that_ends_while_the_client_is_stalled() -> None:
    async def large(line: Line, request: Request) -> None:
        await line.send(json_reply(b"x" * 300_000))

    async with gateway_rig() as rig:
        rig.worker.answer = large
        reader, writer = await rig.connect()
        writer.write(post())
        await until(lambda: rig.gateway.links)
        (link,) = rig.gateway.links
        link.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        link.transport.set_write_buffer_limits(high=0)
        await read_reply(reader)
        assert rig.scheduler.outcomes == [Outcome.DONE]
        (worker_link,) = rig.gateway.pool._idle[("127.0.0.1", rig.worker.port)]
        assert worker_link.transport.is_reading(), "it was paused by the last read"

        rig.worker.answer = silent
        link.pause_writing()
        writer.write(post())
        await until(lambda: len(rig.worker.requests) == 2)
        assert not worker_link.transport.is_reading(), "the client takes nothing yet"
        link.resume_writing()
        assert worker_link.transport.is_reading()


async def test_a_slow_reader_gets_all_of_it() -> None:
    body = b"x" * 8_000_000

    async def large(line: Line, request: Request) -> None:
        await line.send(json_reply(body))

    async with gateway_rig() as rig:
        rig.worker.answer = large
        reader, writer = await rig.connect()
        writer.transport.pause_reading()
        writer.write(post())
        await until(lambda: any(link.paused for link in rig.gateway.links))
        writer.transport.resume_reading()
        status, _, answer = await asyncio.wait_for(read_reply(reader), 10)
        assert (status, answer == body) == (200, True)
        rig.worker.answer = answer_json
        writer.write(post())
        assert (await read_reply(reader))[0] == 200
        assert len(rig.worker.lines) == 1, "the connection was reused though it had been paused"
