"""A head hands over to another one: programs' calls go on by their node's address, and none of them fails."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
from head_rig import HeadProcess, engine, node, running_head, until, workflow

from saga_node.endpoint import Address, Endpoint

SHORT = {"model": "m", "messages": [{"role": "user", "content": "hello " * 40}], "max_tokens": 4}
LONG_TOKENS = 600
LONG = SHORT | {"max_tokens": LONG_TOKENS, "ignore_eos": True}


@asynccontextmanager
async def endpoint(head: HeadProcess):
    """A node's, as its daemon finds the head."""

    def find() -> Address | None:
        url = urlsplit(head.access.url)
        return url.hostname or "", url.port or 0

    found = Endpoint(find, hold_s=30.0)
    await found.start()
    try:
        yield found
    finally:
        await found.close()


class Program:
    """Calls in a loop, by one connection and by new ones, until told to end."""

    def __init__(self, url: str, key: str) -> None:
        self.url, self.calls, self.failed, self.ends = url, 0, list[str](), False
        self._headers = {"Authorization": f"Bearer {key}"}

    async def run(self) -> None:
        async with aiohttp.ClientSession(headers=self._headers) as kept:
            while not self.ends:
                try:
                    async with kept.post(self.url, json=SHORT) as reply:
                        await self._note(reply)
                    async with (
                        aiohttp.ClientSession(headers=self._headers) as new,
                        new.post(self.url, json=SHORT) as reply,
                    ):
                        await self._note(reply)
                except aiohttp.ClientError as error:
                    self.failed.append(repr(error))

    async def _note(self, reply: aiohttp.ClientResponse) -> None:
        body = await reply.json()
        self.calls += 1
        if reply.status != 200 or body["usage"]["completion_tokens"] != 4:
            self.failed.append(f"{reply.status} {body}")


async def long_call(url: str, key: str, *, stream: bool) -> int:
    """How many words came."""
    headers = {"Authorization": f"Bearer {key}"}
    async with (
        aiohttp.ClientSession(headers=headers) as http,
        http.post(url, json=LONG | {"stream": stream}) as reply,
    ):
        assert reply.status == 200
        if not stream:
            return (await reply.json())["usage"]["completion_tokens"]
        lines = [line async for line in reply.content]
    assert lines[-2] == b"data: [DONE]\n"
    return sum(b'"content":' in line for line in lines)


async def handed_over(head: HeadProcess) -> None:
    status, _ = await head.call("POST", "/saga/v1/shutdown", {"hand_over": True, "within_s": 60})
    assert status == 202
    await until(
        lambda: json.loads((head.folder / "head.json").read_bytes())["released"], "the claim's release"
    )


async def test_no_call_fails_while_one_head_follows_another(tmp_path: Path) -> None:
    async with running_head(tmp_path) as old, engine(speed=3.0) as one, endpoint(old) as here:
        flow = await workflow(old)
        path = urlsplit(flow["base_url"]).path + "/chat/completions"
        program = Program(here.url + path, flow["api_key"])
        async with node(old, one.url):
            running = asyncio.create_task(program.run())
            began = [
                asyncio.create_task(long_call(url + path, flow["api_key"], stream=stream))
                for stream in (True, False)
                for url in (here.url, old.access.url)
            ]
            await until(
                lambda: program.calls > 10 and len(one.engine.running) >= len(began), "calls under way"
            )
            await handed_over(old)
        calls = program.calls
        async with running_head(tmp_path, more=("--take-over",)) as new, node(new, one.url, name="n2"):
            await until(lambda: program.calls > calls + 10, "calls at the new head")
            assert not any(each.done() for each in began), "the old head was to be busy still"
            assert old.process is not None
            assert old.process.returncode is None
            status, seen = await new.call("GET", f"/saga/v1/workflows/{flow['id']}")
            assert (status, seen["kind"]) == (200, "replay")
            assert [n >= LONG_TOKENS - 1 for n in await asyncio.gather(*began)] == [True] * 4
            assert await asyncio.wait_for(old.process.wait(), 10) == 0, "".join(old.lines)
            program.ends = True
            await running
        assert not program.failed
        assert new.access.epoch > 0


async def test_calls_that_no_worker_has_go_to_the_next_head(tmp_path: Path) -> None:
    async with running_head(tmp_path) as old, engine() as one, endpoint(old) as here:
        flow = await workflow(old)
        path = urlsplit(flow["base_url"]).path + "/chat/completions"
        program = Program(here.url + path, flow["api_key"])
        running = asyncio.create_task(program.run())

        async def waits() -> bool:
            return (await old.call("GET", "/saga/v1/cluster"))[1]["totals"]["steps_waiting"] > 0

        async with asyncio.timeout(10):
            while not await waits():
                await asyncio.sleep(0.02)
        await handed_over(old)
        assert old.process is not None
        assert await asyncio.wait_for(old.process.wait(), 10) == 0
        async with running_head(tmp_path, more=("--take-over",)) as new, node(new, one.url):
            await until(lambda: program.calls > 2, "calls at the new head")
            program.ends = True
            await running
        assert not program.failed
