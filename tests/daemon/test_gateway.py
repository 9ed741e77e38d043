"""The gateway's whole way: a client, the hot path, a worker, and the fallback beside it."""

import asyncio
import json

import pytest
from gateway_rig import (
    BODY,
    SSE_END,
    SSE_HEAD,
    USAGE,
    Line,
    Request,
    event,
    gateway_rig,
    json_reply,
    post,
    read_reply,
)

from saga_core.events import Outcome
from saga_head.gateway.port import Usage


async def test_a_reply_passes_with_our_lines_in_its_head() -> None:
    async with gateway_rig() as rig:
        rig.scheduler.target = rig.worker.target(session="s 1", reply_headers=((b"x-saga-worker", b"w0"),))
        status, headers, body = await rig.ask(
            post(
                path="/s/tok/v1/chat/completions?beta=true",
                headers="Authorization: Bearer mine\r\nX-Request-ID: theirs\r\nX-Session-Id: sid\r\n"
                "X-Priority: 9\r\nX-Saga-Workflow-Id: wf\r\nUser-Agent: ua\r\nConnection: keep-alive, x-y\r\nX-Y: 1\r\n",
            )
        )
        assert (status, json.loads(body)["usage"]) == (200, USAGE)
        assert headers["x-request-id"] == "saga-1"
        assert headers["x-saga-worker"] == "w0"
        assert headers["server"] == "uvicorn"
        request = rig.worker.requests[0]
        assert request.line == b"POST /v1/chat/completions?beta=true HTTP/1.1"
        assert request.body == BODY
        assert request.headers == {
            b"host": f"127.0.0.1:{rig.worker.port}".encode(),
            b"authorization": b"Bearer wk",
            b"x-request-id": b"saga-1",
            b"x-session-id": b"s%201",
            b"content-length": b"%d" % len(BODY),
            b"user-agent": b"ua",
        }
        call = rig.scheduler.calls[0]
        assert rig.scheduler.asked == [("tok", "mine")]
        assert (call.api, call.body_bytes, call.fields.model) == ("/v1/chat/completions", len(BODY), "m")
        assert call.headers == {
            b"x-request-id": b"theirs",
            b"x-session-id": b"sid",
            b"x-saga-workflow-id": b"wf",
        }
        result = rig.scheduler.results[1]
        assert (result.outcome, result.status, result.usage) == (Outcome.DONE, 200, Usage(10, 4, 5))
        assert result.ttft_s is not None
        assert rig.scheduler.firsts[1] == result.ttft_s <= result.duration_s


async def test_one_connection_serves_both_worlds() -> None:
    async with gateway_rig() as rig:
        reader, writer = await rig.connect()
        for step in (1, 2):
            writer.write(post())
            status, headers, _ = await read_reply(reader)
            assert (status, headers["x-request-id"]) == (200, f"saga-{step}")
        writer.write(b"GET /health HTTP/1.1\r\nhost: h\r\n\r\n")
        status, headers, body = await read_reply(reader)
        assert (status, headers["connection"], json.loads(body)["path"]) == (200, "close", "/health")
        assert await reader.read() == b""
        assert len(rig.worker.lines) == 1, "the worker's connection is kept"


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_streams_on_both_loops(loop: str) -> None:
    async def stream(line: Line, request: Request) -> None:
        await line.send(SSE_HEAD)
        for word in "abc":
            await line.send(event(word))
        await line.send(event("", USAGE) + SSE_END)

    async def main() -> None:
        async with gateway_rig() as rig:
            rig.worker.answer = stream
            status, headers, body = await rig.ask(post(BODY + b" " * 300_000))
            assert status == 200
            assert headers["transfer-encoding"] == "chunked"
            assert body.count(b"data: ") == 5
            assert rig.scheduler.results[1].usage == Usage(10, 4, 5)
            status, _, body = await rig.ask(
                b"POST /admin HTTP/1.1\r\nhost: h\r\ncontent-length: 200000\r\n\r\n" + b"x" * 200_000
            )
            assert (status, json.loads(body)["bytes"]) == (200, 200_000)

    if loop == "uvloop":
        uvloop = pytest.importorskip("uvloop")
        uvloop.run(main())
    else:
        asyncio.run(main())


async def test_an_error_of_the_worker_is_passed_on() -> None:
    async def refuse(line: Line, request: Request) -> None:
        await line.send(json_reply(b'{"error":{}}', status="404 Not Found"))

    async with gateway_rig() as rig:
        rig.worker.answer = refuse
        status, _, body = await rig.ask(post())
        assert (status, body) == (404, b'{"error":{}}')
        result = rig.scheduler.results[1]
        assert (result.outcome, result.status, result.usage) == (Outcome.REFUSED, 404, None)
