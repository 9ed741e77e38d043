"""What the control API reads and writes: one JSON value each way."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from aiohttp import web

from saga_core.errors import UserError

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
