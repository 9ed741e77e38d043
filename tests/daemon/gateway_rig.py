"""A fake scheduler, scripted workers and raw clients for the gateway's tests."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

from aiohttp import web

from saga_core.events import Outcome
from saga_head.gateway.limits import Limits
from saga_head.gateway.port import Call, Caller, Exchange, Refusal, Result, Target
from saga_head.gateway.server import Gateway, close_after_reply

BODY = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}]}).encode()
USAGE = {
    "prompt_tokens": 10,
    "completion_tokens": 5,
    "total_tokens": 15,
    "prompt_tokens_details": {"cached_tokens": 4},
}


def post(
    body: bytes = BODY,
    *,
    path: str = "/v1/chat/completions",
    headers: str = "",
    version: str = "1.1",
    length: bool = True,
) -> bytes:
    size = f"content-length: {len(body)}\r\n" if length else ""
    return f"POST {path} HTTP/{version}\r\nhost: h\r\n{size}{headers}\r\n".encode() + body


async def until(condition: Callable[[], object], what: str = "the condition", timeout_s: float = 5.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come true in {timeout_s} s"
        await asyncio.sleep(0.002)


class FakeScheduler:
    """Dispatches at once to `target`, unless told otherwise; records all it is told."""

    def __init__(self) -> None:
        self.target: Target | None = None
        self.hold = False
        self.refusal: Refusal | None = None
        self.denied: Refusal | None = None
        self.on_lost: Callable[[Exchange, str], bool] | None = None
        self.calls: list[Call] = []
        self.exchanges: list[Exchange] = []
        self.asked: list[tuple[str | None, str | None]] = []
        self.results: dict[int, Result] = {}
        self.firsts: dict[int, float] = {}
        self.losses: list[tuple[int, str, str]] = []
        self.begun: list[bool] = []
        self.steps = 0

    def authenticate(self, token: str | None, bearer: str | None) -> Caller | Refusal:
        self.asked.append((token, bearer))
        return self.denied or Caller("t", 7 if token else None)

    def next_step(self) -> int:
        self.steps += 1
        return self.steps

    def arrive(self, call: Call, exchange: Exchange) -> None:
        self.calls.append(call)
        self.exchanges.append(exchange)
        if self.refusal is not None:
            exchange.refuse(self.refusal)
        elif not self.hold:
            assert self.target is not None
            exchange.dispatch(self.target)

    def first_byte(self, step: int, ttft_s: float) -> None:
        assert step not in self.firsts, "first_byte came twice"
        self.firsts[step] = ttft_s

    def finish(self, step: int, result: Result) -> None:
        assert step not in self.results, "finish came twice"
        assert 1 <= step <= self.steps
        self.results[step] = result

    def lost(self, step: int, worker: str, detail: str, *, begun: bool = False) -> bool:
        self.losses.append((step, worker, detail))
        self.begun.append(begun)
        return False if self.on_lost is None else self.on_lost(self.exchanges[step - 1], worker)

    @property
    def outcomes(self) -> list[Outcome]:
        return [self.results[step].outcome for step in sorted(self.results)]


@dataclass
class Request:
    """What a worker was sent."""

    line: bytes
    headers: dict[bytes, bytes]
    head: bytes
    body: bytes


Answer = Callable[["Line", Request], Awaitable[None]]


@dataclass
class Line:
    """One connection at the worker."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    requests: list[Request] = field(default_factory=list)
    closed: asyncio.Event = field(default_factory=asyncio.Event)

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    def kill(self) -> None:
        self.writer.transport.abort()


def json_reply(body: bytes | None = None, extra: str = "", status: str = "200 OK") -> bytes:
    body = json.dumps({"choices": [], "usage": USAGE}).encode() if body is None else body
    head = f"HTTP/1.1 {status}\r\nserver: uvicorn\r\ncontent-length: {len(body)}\r\ncontent-type: application/json\r\n{extra}\r\n"
    return head.encode() + body


SSE_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
)


def chunk(payload: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(payload), payload)


def event(text: str, usage: dict[str, object] | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    piece = {
        "id": "c",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": [] if usage else [choice],
    }
    if usage:
        piece["usage"] = usage
    return chunk(b"data: " + json.dumps(piece).encode() + b"\n\n")


SSE_END = chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"


async def answer_json(line: Line, request: Request) -> None:
    await line.send(json_reply())


class Worker:
    """A scripted worker: reads whole requests, answers as `answer` says."""

    def __init__(self, answer: Answer = answer_json) -> None:
        self.answer = answer
        self.lines: list[Line] = []
        self.requests: list[Request] = []
        self.port = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, port: int = 0) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port, limit=1 << 26)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server:
            self._server.close()
        for line in self.lines:
            line.kill()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def target(self, **more: object) -> Target:
        fields = {"worker": "w0", "host": "127.0.0.1", "port": self.port, "key": "wk", "session": None} | more
        return Target(**fields)  # type: ignore[arg-type]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        line = Line(reader, writer)
        self.lines.append(line)
        try:
            while True:
                request = await read_request(reader)
                line.requests.append(request)
                self.requests.append(request)
                await self.answer(line, request)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            line.closed.set()
            writer.close()
            with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                await writer.wait_closed()
            self._tasks.discard(task)


async def read_request(reader: asyncio.StreamReader) -> Request:
    head = await reader.readuntil(b"\r\n\r\n")
    line, *rest = head[:-4].split(b"\r\n")
    pairs = [item.partition(b": ") for item in rest]
    headers = {name: value for name, _, value in pairs}
    assert len(headers) == len(pairs), "a header came twice"
    return Request(line, headers, head, await reader.readexactly(int(headers[b"content-length"])))


async def read_reply(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    first, *rest = head[:-4].split("\r\n")
    headers = {name.lower(): value for name, _, value in (item.partition(": ") for item in rest)}
    if headers.get("transfer-encoding") == "chunked":
        pieces = []
        while size := int(await reader.readuntil(b"\r\n"), 16):
            pieces.append((await reader.readexactly(size + 2))[:-2])
        await reader.readexactly(2)
        body = b"".join(pieces)
    elif "content-length" in headers:
        body = await reader.readexactly(int(headers["content-length"]))
    else:
        body = await reader.read()
    return int(first.split()[1]), headers, body


@dataclass
class Rig:
    gateway: Gateway
    scheduler: FakeScheduler
    worker: Worker
    port: int

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 26)
        self._writers.append(writer)
        return reader, writer

    _writers: list[asyncio.StreamWriter] = field(default_factory=list)

    async def ask(self, data: bytes) -> tuple[int, dict[str, str], bytes]:
        reader, writer = await self.connect()
        writer.write(data)
        return await asyncio.wait_for(read_reply(reader), 10)

    async def quiet(self) -> None:
        await until(lambda: self.gateway.exchanges == 0, "every exchange's end")


async def _hello(request: web.Request) -> web.Response:
    return web.json_response(
        {"path": request.path, "method": request.method, "bytes": len(await request.read())}
    )


@contextlib.asynccontextmanager
async def gateway_rig(
    limits: Limits | None = None, clock: Callable[[], float] = time.monotonic
) -> AsyncIterator[Rig]:
    app = web.Application(client_max_size=1 << 24)
    app.router.add_route("*", "/{path:.*}", _hello)
    close_after_reply(app)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    scheduler, worker = FakeScheduler(), Worker()
    await worker.start()
    scheduler.target = worker.target()
    assert runner.server is not None
    gateway = Gateway(scheduler, runner.server, limits or Limits(), clock)
    port = await gateway.start("127.0.0.1", 0)
    rig = Rig(gateway, scheduler, worker, port)
    try:
        yield rig
    finally:
        for writer in rig._writers:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
        await gateway.close()
        await worker.stop()
        await runner.cleanup()
        assert gateway.ledger.held_bytes == 0
        assert gateway.spoken.held_bytes == 0
        assert gateway.exchanges == 0
        assert len(scheduler.results) == len(scheduler.calls), "a step without its finish()"
        assert not any(call.body for call in scheduler.calls), "a body outlives its step"
