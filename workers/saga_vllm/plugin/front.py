"""The way through vLLM's HTTP server: `POST /saga/kv` goes to the engine, everything else passes by.

An ASGI middleware (`--middleware`), since it stands outside of vLLM's own key check it has one of its own. The body is
not looked at here: the engine's side checks it (`saga_core.kv.commands`).
"""

from __future__ import annotations

import asyncio
import hmac
import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from saga_core.kv.commands import MAX_ORDER_BYTES, PATH

ENGINE_ANSWER_S = 30.0
"""An order is done between two steps of the engine; a long prefill step on a CPU takes seconds."""

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class SessionControl:
    """Answers one path."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._key = os.environ.get("VLLM_API_KEY", "")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        if scope["type"] != "http" or scope["path"] != PATH:
            await self._app(scope, receive, send)
            return
        status, body = await self._answer(scope, receive)
        headers = [
            (b"content-type", b"application/msgpack"),
            (b"content-length", str(len(body)).encode()),
        ]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, scope: Scope, receive: Receive) -> tuple[int, bytes]:
        if scope["method"] != "POST":
            return 405, b""
        if not self._may_enter(scope):
            return 401, b""
        frame = await _body(receive)
        if frame is None:
            return 413, b""
        client = getattr(scope["app"].state, "engine_client", None)
        core = getattr(client, "engine_core", None)
        if core is None:
            return 503, b"no engine"
        try:
            async with asyncio.timeout(ENGINE_ANSWER_S):
                answer: bytes = await core.call_utility_async("saga_kv", frame)
        except TimeoutError:
            return 504, b"the engine has not answered"
        except Exception as error:  # noqa: BLE001 - an order that fails is an answer, not a traceback
            return 500, str(error).encode()
        return 200, answer

    def _may_enter(self, scope: Scope) -> bool:
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        return bool(self._key) and hmac.compare_digest(given, f"Bearer {self._key}".encode())


async def _body(receive: Receive) -> bytes | None:
    """The whole body; None: too long."""
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > MAX_ORDER_BYTES:
            return None
        if not message.get("more_body") or message["type"] == "http.disconnect":
            return bytes(body)
