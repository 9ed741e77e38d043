"""What the control API reads and writes: one JSON value each way."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from itertools import islice
from typing import Any, Final, TypeVar

import msgspec
from aiohttp import web

from saga_core.errors import UserError

PIECE: Final = 100
"""Values of a list made in one go: 1.2 ms of workflows, on a busy machine (docs/benchmarks.md)."""
T = TypeVar("T")


async def body(request: web.Request, kind: type[T]) -> T:
    """The request's value; an empty body is an empty object. Raises `UserError` for anything else."""
    try:
        return msgspec.json.decode(await request.read() or b"{}", type=kind)
    except msgspec.DecodeError as error:
        raise UserError(f"{request.method} {request.path}: {error}") from None


def bearer(request: web.Request) -> str:
    """The key that the request brings; empty: none."""
    kind, _, key = request.headers.get("Authorization", "").partition(" ")
    return key.strip() if kind.lower() == "bearer" else ""


def json(value: Any, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), status=status, content_type="application/json")


async def json_list(values: Iterable[Any]) -> web.Response:
    """A list of any length, made in pieces: between them the loop does what else there is to do."""
    waiting, pieces = iter(values), []
    while piece := list(islice(waiting, PIECE)):
        pieces.append(msgspec.json.encode(piece)[1:-1])
        await asyncio.sleep(0)
    return web.Response(body=b"[" + b",".join(pieces) + b"]", content_type="application/json")


def error(
    status: int, message: str, *, kind: str = "", code: str = "", retry_after_s: int | None = None
) -> web.Response:
    """An error in the shape of OpenAI's API."""
    kind = kind or ("api_error" if status >= 500 else "invalid_request_error")
    shown = {"message": message, "type": kind, "param": None, "code": code or str(status)}
    response = json({"error": shown}, status)
    if retry_after_s is not None:
        response.headers["Retry-After"] = str(retry_after_s)
    return response
