"""The view in a browser: nobody comes in without the key, and nothing is fetched from elsewhere."""

from __future__ import annotations

import re

import aiohttp
import pytest
from aiohttp import web

pytest.importorskip("textual_serve", reason="the extra `web` is not installed")

from saga_cli.top.web import PAGE, guarded


@pytest.fixture
async def url():
    server = guarded("true", port=0, title="a <title>", key="the-key")
    runner = web.AppRunner(await server._make_app())
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


@pytest.mark.parametrize(
    "path", ["/", "/?key=wrong", "/ws", "/static/js/textual.js", "/download/x", "/ws?key=the-key"]
)
async def test_nobody_comes_in_without_the_key(url, path):
    async with aiohttp.ClientSession() as http, http.get(url + path) as answer:
        assert answer.status == 403
        assert "the-key" not in await answer.text()


async def test_the_key_opens_the_page_and_a_cookie_keeps_it(url):
    jar = aiohttp.CookieJar(unsafe=True)
    async with aiohttp.ClientSession(cookie_jar=jar) as http:
        async with http.get(url + "/?key=the-key") as answer:
            text = await answer.text()
            assert answer.status == 200
            assert "key" not in str(answer.url), "it does not stay in the address"
        cookie = next(iter(jar))
        assert (cookie["httponly"], cookie["samesite"]) == (True, "Strict")
        assert "a &lt;title&gt;" in text
        async with http.get(url + "/static/js/textual.js") as answer:
            assert answer.status == 200


def test_the_page_asks_nobody_else():
    assert not re.search(r"(https?:)?//", PAGE.replace("{socket}", ""))
