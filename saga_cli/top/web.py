"""`saga top --web`: the same view in a browser, for who has the key in its address.

Rules of this file
  1. It listens on this machine only; from elsewhere, an SSH tunnel leads there.
  2. Every request needs the key: the address that is printed has it, a cookie keeps it. Whoever else has an account
     on this machine gets 403.
  3. Nothing is fetched from anywhere else: the page is ours, its script and fonts come with textual-serve.
"""

from __future__ import annotations

import hmac
import os
import secrets
import shlex
import sys
from collections.abc import Awaitable, Callable
from html import escape
from typing import TYPE_CHECKING, Final

from saga_core.errors import ClusterError, UserError

if TYPE_CHECKING:
    from aiohttp import web
    from textual_serve.server import Server

    from saga_cli.options import Given

HOST: Final = "127.0.0.1"
COOKIE: Final = "saga-top"
NOT_HERE: Final = "saga top --web needs the package textual-serve: `pip install 'saga-llm[web]'` (the terminal needs none of it)"
PAGE: Final = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<link rel="stylesheet" href="/static/css/xterm.css">
<style>
@font-face {{ font-family: "Roboto Mono"; src: url("/static/fonts/RobotoMono-VariableFont_wght.ttf"); }}
html, body {{ margin: 0; height: 100%; background: #121212; color: #e0e0e0; font-family: "Roboto Mono", monospace; }}
#said {{ position: absolute; inset: 0; display: flex; align-items: center; justify-content: center; z-index: 1; }}
body.-first-byte #said {{ display: none; }}
body.-closed #said {{ display: flex; background: #121212; }}
.over {{ display: none; }} body.-closed .over {{ display: inline; }} body.-closed .wait {{ display: none; }}
#said a {{ color: #4ebf71; }}
</style>
<script src="/static/js/textual.js"></script></head>
<body><div id="said"><span class="wait">saga top starts …</span>
<span class="over">It has ended. <a href="/">Start again</a></span></div>
<div id="terminal" class="textual-terminal" data-session-websocket-url="{socket}" data-font-size="{size}"></div>
</body></html>
"""
Handler = Callable[["web.Request"], Awaitable["web.StreamResponse"]]


def serve(held: Given, arguments: list[str], *, port: int) -> None:
    """Serve it until Ctrl-C. `arguments`: of the `saga top` that each page runs.

    Raises UserError without textual-serve, ClusterError where there is no cluster or the port is taken.
    """
    try:
        import textual_serve.server  # noqa: F401
    except ImportError:
        raise UserError(NOT_HERE) from None
    held.control().cluster()
    _check_free(port)
    key = secrets.token_urlsafe(24)
    command = [sys.executable, "-m", "saga_cli", "--cluster-dir", str(held.folder.path), "top", *arguments]
    title = f"saga top: {held.folder.path}"
    server = guarded(shlex.join(command), port=port, title=title, key=key)
    held.renderer.note("Ctrl-C ends it; who has this address can look, and can change nothing")
    held.renderer.show(
        {"url": f"http://{HOST}:{port}/?key={key}"}, table=lambda a: a["url"], quiet=lambda a: [a["url"]]
    )
    server.serve()


def _check_free(port: int) -> None:
    """The library would tell of it by a traceback."""
    import socket

    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise ClusterError(
                f"port {port}: {os.strerror(error.errno or 0)}; --port takes another one"
            ) from None


def guarded(command: str, *, port: int, title: str, key: str) -> Server:
    """A server of textual-serve with our page, that lets nobody in without `key`."""
    from aiohttp import web
    from textual_serve.server import Server

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        given = request.query.get("key", "")
        if request.path == "/" and given:
            if not _same(given, key):
                raise web.HTTPForbidden(text="the key in the address is not valid\n")
            answer = web.HTTPFound("/")
            answer.set_cookie(COOKIE, key, httponly=True, samesite="Strict")
            raise answer
        if not _same(request.cookies.get(COOKIE, ""), key):
            raise web.HTTPForbidden(
                text="this page needs the key in the address that `saga top --web` printed\n"
            )
        return await handler(request)

    class Guarded(Server):
        async def _make_app(self) -> web.Application:
            app = await super()._make_app()
            app.middlewares.append(guard)
            return app

        async def on_startup(self, app: web.Application) -> None:
            """The library greets on stdout, which is the answer's."""

        def initialize_logging(self) -> None:
            """The library logs each byte count to stdout."""

        async def handle_index(self, request: web.Request) -> web.Response:
            size = request.query.get("fontsize", "")
            text = PAGE.format(
                title=escape(title),
                socket=escape(f"ws://{request.host}/ws"),
                size=size if size.isdecimal() and len(size) < 3 else "14",
            )
            return web.Response(text=text, content_type="text/html")

    return Guarded(command, host=HOST, port=port, title=title)


def _same(given: str, key: str) -> bool:
    return hmac.compare_digest(given.encode(), key.encode())
