"""The HTTP server around the engine model."""

import asyncio
import hmac
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from types import TracebackType
from typing import Self

import msgspec
from aiohttp import web

from saga_core.kv.commands import PATH
from saga_fake.answers import Answer
from saga_fake.config import FakeConfig
from saga_fake.control import SessionControl
from saga_fake.driver import Driver
from saga_fake.embeddings import EmbeddingsRequest, embeddings
from saga_fake.engine import Engine
from saga_fake.faults import ONLY_AT_START, Fault, Mode
from saga_fake.front import Front
from saga_fake.messages import MessagesRequest, count_tokens, messages_error, rendered
from saga_fake.metrics import CONTENT_TYPE, metrics_text
from saga_fake.publisher import Publisher
from saga_fake.requests import Output
from saga_fake.responses import ResponsesRequest
from saga_fake.tokens import tokenise
from saga_fake.wire import (
    ChatRequest,
    CompletionRequest,
    RequestRefused,
    TokenizeRequest,
    check_model,
    error_body,
    read_request,
)

VERSION = "0.32.0"
"""The vLLM whose surface this is; so that version checks see a known one."""
LARGEST_BODY_BYTES = 64 << 20
BUSY = "The engine is currently busy and cannot accept new requests. Please try again later or on a different instance."
"""vLLM's `QueueOverflowError`."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class FakeServer:
    """A running engine double: `async with FakeServer(FakeConfig()) as server: … server.url …`.

    `crash` is what the crash faults do: the process's exit when it has one of its own, else a sudden stop in place.
    """

    def __init__(self, config: FakeConfig, *, crash: Callable[[], None] | None = None) -> None:
        self.config = config
        self.engine = Engine(config.shape, config.costs)
        self.fault = config.fault
        self.port = config.port
        self._crash = crash or self._stop_in_place
        self._front = Front(config)
        self._control = SessionControl(self.engine, config.incarnation, VERSION)
        self._started = int(time.time())
        self._driver: Driver | None = None
        self._publisher: Publisher | None = None
        self._runner: web.AppRunner | None = None
        self._listener: asyncio.Server | None = None
        self._hung = asyncio.Event()
        self._chunks_sent = 0

    @property
    def url(self) -> str:
        return f"http://{self.config.host}:{self.port}"

    @property
    def driver(self) -> Driver:
        assert self._driver is not None, "not started"
        return self._driver

    async def __aenter__(self) -> Self:
        if self.config.kv_events_endpoint is not None:
            self._publisher = Publisher(
                self.config.kv_events_endpoint, self.config.kv_replay_endpoint, self.config.kv_topic
            )
        publish = self._publisher.publish if self._publisher else None
        self._driver = Driver(self.engine, speed=self.config.speed, publish=publish)
        try:
            await self._listen()
        except BaseException:
            await self.close()
            raise
        self.set_fault(self.config.fault)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Abort all streams and stop; nothing is left behind."""
        self._cut_off()
        if self._runner is not None:
            await self._runner.cleanup()
        if self._driver is not None:
            await self._driver.close()
        if self._publisher is not None:
            await self._publisher.close()

    def set_fault(self, fault: Fault) -> None:
        """Misbehave in this way from now on."""
        self.fault = fault
        self._chunks_sent = 0
        self.driver.slow_factor = fault.amount if fault.mode is Mode.SLOW else 1.0
        hang = fault.mode is Mode.HANG
        self.driver.freeze(frozen=hang or fault.mode is Mode.STALL)
        if hang:
            self._hung.clear()
        else:
            self._hung.set()
        if fault.mode is Mode.CRASH:
            asyncio.get_running_loop().call_soon(self._crash)

    async def _listen(self) -> None:
        app = web.Application(middlewares=[self._guard], client_max_size=LARGEST_BODY_BYTES)
        app.add_routes(
            [
                web.post("/v1/chat/completions", self._chat),
                web.post("/v1/completions", self._completion),
                web.post("/v1/messages", self._messages),
                web.post("/v1/messages/count_tokens", self._messages_prompt),
                web.post("/v1/messages/render", self._messages_prompt),
                web.post("/v1/responses", self._responses),
                web.post("/v1/embeddings", self._embeddings),
                web.post("/tokenize", self._tokenize),
                web.get("/v1/models", self._models),
                web.get("/health", self._health),
                web.get("/version", self._version),
                web.get("/metrics", self._metrics),
                web.get("/load", self._load),
                web.post("/reset_prefix_cache", self._reset_prefix_cache),
                web.post("/fake/mode", self._set_mode),
                *([web.post(PATH, self._order)] if self.config.control else []),
            ]
        )
        self._runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        assert self._runner.server is not None
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(self._runner.server, self.config.host, self.config.port)
        self.port = self._listener.sockets[0].getsockname()[1]

    def _stop_in_place(self) -> None:
        """The crash of a server without its own process: no port, no connections, no steps."""
        self.driver.freeze(frozen=True)
        self._cut_off()

    def _cut_off(self) -> None:
        """Close the port and every connection, at once and without goodbye."""
        if self._listener is not None:
            self._listener.close()
        server = self._runner.server if self._runner is not None else None
        for connection in server.connections if server is not None else ():
            if connection.transport is not None:
                connection.transport.abort()

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Key check, faults and error bodies around every handler."""
        try:
            if request.path.startswith(("/v1", "/fake", PATH)) and not self._may_enter(request):
                return _json({"error": "Unauthorized"}, 401)
            if request.path != "/fake/mode":
                await self._hung.wait()
            return await handler(request)
        except RequestRefused as refused:
            in_messages = request.path.startswith("/v1/messages")
            return _json(messages_error(refused) if in_messages else refused.body(), refused.status)
        except ConnectionError:
            return web.Response()  # nobody is there to read it: not worth a traceback on stderr
        except web.HTTPException as error:
            return _json(error_body(error.reason, status=error.status, kind=error.reason), error.status)

    def _may_enter(self, request: web.Request) -> bool:
        key = self.config.api_key
        if not key:
            return True
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(given.encode(), key.encode())

    async def _chat(self, http: web.Request) -> web.StreamResponse:
        request = read_request(await self._body(http), ChatRequest)
        answer = self._front.chat(request, http.headers.get("X-Request-Id"), http.headers.get("X-Session-ID"))
        return await self._answer(http, answer, stream=bool(request.stream), usage=request.usage_wanted)

    async def _completion(self, http: web.Request) -> web.StreamResponse:
        request = read_request(await self._body(http), CompletionRequest)
        answer = self._front.completion(
            request, http.headers.get("X-Request-Id"), http.headers.get("X-Session-ID")
        )
        return await self._answer(http, answer, stream=bool(request.stream), usage=request.usage_wanted)

    async def _messages(self, http: web.Request) -> web.StreamResponse:
        request = read_request(await self._body(http), MessagesRequest)
        answer = self._front.messages(
            request, http.headers.get("X-Request-Id"), http.headers.get("X-Session-ID")
        )
        return await self._answer(http, answer, stream=bool(request.stream), usage=True)

    async def _messages_prompt(self, http: web.Request) -> web.Response:
        """What is said of a prompt without answering it."""
        request = read_request(await self._body(http), MessagesRequest)
        check_model(request.model, self.config.served)
        return _json(rendered(request) if http.path.endswith("/render") else count_tokens(request))

    async def _tokenize(self, http: web.Request) -> web.Response:
        request = read_request(await self._body(http), TokenizeRequest)
        ids = tokenise(request.prompt)
        most = self.config.shape.max_model_len_tokens
        return _json({"count": len(ids), "max_model_len": most, "tokens": ids, "token_strs": None})

    async def _responses(self, http: web.Request) -> web.StreamResponse:
        request = read_request(await self._body(http), ResponsesRequest)
        answer = self._front.responses(request, http.headers.get("X-Session-ID"))
        return await self._answer(http, answer, stream=bool(request.stream), usage=True)

    async def _embeddings(self, http: web.Request) -> web.Response:
        request = read_request(await self._body(http), EmbeddingsRequest)
        return _json(embeddings(request, check_model(request.model, self.config.served)))

    async def _body(self, http: web.Request) -> bytes:
        if self.fault.mode is Mode.REFUSE:
            raise RequestRefused(BUSY, status=503, kind="Service Unavailable")
        if http.content_type != "application/json":
            only = "1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed"
            raise RequestRefused(only, kind="Bad Request")
        return await http.read()

    async def _answer(
        self, http: web.Request, answer: Answer, *, stream: bool, usage: bool
    ) -> web.StreamResponse:
        self._control.arrived(answer.request)
        async with aclosing(self.driver.generate(answer.request)) as outputs:
            if stream:
                return await self._stream(http, answer, outputs, usage=usage)
            async for output in outputs:
                answer.add(output)
                answer.events(output)
        return _json(answer.whole())

    async def _stream(
        self,
        http: web.Request,
        answer: Answer,
        outputs: AsyncGenerator[Output, None],
        *,
        usage: bool,
    ) -> web.StreamResponse:
        """One event, and one HTTP chunk, per token."""
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        response.enable_chunked_encoding()
        await response.prepare(http)
        async for output in outputs:
            frames = [] if answer.generated else answer.opening()
            answer.add(output)
            for frame in [*frames, *answer.events(output)]:
                await self._send(http, response, frame)
        for frame in answer.closing(usage=usage):
            await self._send(http, response, frame)
        if answer.last_words:
            await response.write(answer.last_words)
        await response.write_eof()
        return response

    async def _send(self, http: web.Request, response: web.StreamResponse, event: bytes) -> None:
        await self._hung.wait()
        self._break_stream(http)
        await response.write(event)
        self._chunks_sent += 1

    def _break_stream(self, http: web.Request) -> None:
        """The faults that wait for a number of chunks."""
        if (
            self.fault.mode not in {Mode.CRASH_AFTER_CHUNKS, Mode.RESET}
            or self._chunks_sent < self.fault.amount
        ):
            return
        if self.fault.mode is Mode.CRASH_AFTER_CHUNKS:
            self._crash()
        elif http.transport is not None:
            http.transport.abort()
        raise ConnectionResetError(f"fault {self.fault.mode} after {self._chunks_sent} chunks")

    async def _models(self, _: web.Request) -> web.Response:
        cards: list[dict[str, object]] = [
            {
                "id": name,
                "object": "model",
                "created": self._started,
                "owned_by": "vllm",
                "root": name,
                "parent": None,
                "max_model_len": self.config.shape.max_model_len_tokens,
                "permission": [],
            }
            for name in self.config.models
        ]
        base = self.config.models[0]
        for name in self.config.adapters:  # as vLLM's cards of LoRA adapters: without a length
            cards.append(cards[0] | {"id": name, "root": f"/adapters/{name}", "parent": base})
            cards[-1]["max_model_len"] = None
        return _json({"object": "list", "data": cards})

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response()

    async def _version(self, _: web.Request) -> web.Response:
        return _json({"version": VERSION})

    async def _metrics(self, _: web.Request) -> web.Response:
        text = metrics_text(self.engine, self.config.models[0])
        return web.Response(body=text.encode(), headers={"Content-Type": CONTENT_TYPE})

    async def _load(self, _: web.Request) -> web.Response:
        return _json({"server_load": self.driver.in_flight})

    async def _reset_prefix_cache(self, _: web.Request) -> web.Response:
        return web.Response(status=200 if self.engine.reset_prefix_cache() else 500)

    async def _order(self, http: web.Request) -> web.Response:
        """What the node daemon asks of the session control; the driver tells who listens what follows of it."""
        body = self._control.answer(await http.read())
        self.driver.tell()
        return web.Response(body=body, content_type="application/msgpack")

    async def _set_mode(self, http: web.Request) -> web.Response:
        try:
            fault = msgspec.json.decode(await http.read(), type=Fault)
        except msgspec.DecodeError as error:
            raise RequestRefused(f"{error}; modes: {', '.join(Mode)}", param="mode") from error
        if fault.mode in ONLY_AT_START:
            raise RequestRefused(f"{fault.mode} is a fault of the start: use --fault", param="mode")
        self.set_fault(fault)
        return _json(msgspec.to_builtins(fault))


def _json(body: object, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(body), status=status, content_type="application/json")
