"""Real vLLM engines and priorities: who goes first, and what an engine does that was not started for them."""

import asyncio
import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest
from engine_rig import KEY, KV_BYTES, started

pytestmark = pytest.mark.vllm


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Holds the model that both engines serve."""
    return tmp_path_factory.mktemp("engines")


@contextlib.contextmanager
def worker(folder: Path, *, priority: bool) -> Iterator[str]:
    """An engine that runs one request at a time; its address."""
    small = {"max_model_len": 2048, "kv_bytes": 4096 * KV_BYTES, "max_num_seqs": 1}
    with started(folder, **small, priority=priority, control=False) as engine:
        yield engine.url


async def served(url: str, priorities: list[int]) -> list[int]:
    """In which order requests with these priorities are answered that come one after the other and have to wait."""
    order: list[int] = []
    async with aiohttp.ClientSession(url, headers={"Authorization": f"Bearer {KEY}"}) as http:

        async def ask(priority: int, tokens: int) -> None:
            body = {
                "model": "nano", "prompt": [20, 21, 22], "max_tokens": tokens, "ignore_eos": True,
                "temperature": 0, "priority": priority,
            }  # fmt: skip
            async with http.post("/v1/completions", json=body) as answer:
                assert answer.status == 200, await answer.text()
                await answer.read()
            order.append(priority)

        first = asyncio.create_task(ask(0, 1500))
        await waiting(http, "running", 1)
        others = []
        for number, priority in enumerate(priorities, start=1):
            others.append(asyncio.create_task(ask(priority, 4)))
            await waiting(http, "waiting", number)
        await asyncio.gather(first, *others)
    assert order[0] == 0, "the first one ran alone"
    return order[1:]


async def waiting(http: aiohttp.ClientSession, what: str, count: int) -> None:
    deadline = time.monotonic() + 20
    name = f"vllm:num_requests_{what}{{"
    while True:
        text = await (await http.get("/metrics")).text()
        found = [line for line in text.splitlines() if line.startswith(name)]
        if found and sum(float(line.rpartition(" ")[2]) for line in found) >= count:
            return
        assert time.monotonic() < deadline, found


ARRIVAL = [30, 1_700_000_000_123, -5, 10]
"""Whole milliseconds since 1970 are what a key of arrival comes to."""


def test_the_smallest_priority_goes_first(folder) -> None:
    with worker(folder, priority=True) as url:
        assert asyncio.run(served(url, ARRIVAL)) == sorted(ARRIVAL)


def test_an_engine_without_them_takes_and_ignores_them(folder) -> None:
    """Its documentation says that it refuses them; vLLM 0.32 does not. So only a worker's own word tells."""
    with worker(folder, priority=False) as url:
        assert asyncio.run(served(url, ARRIVAL)) == ARRIVAL
