"""A tier of host memory behind one real vLLM CPU engine: what the pool gave away is loaded, not computed."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest
from engine_rig import BLOCK, INCARNATION, KEY, KV_BYTES, Worker, started

from saga_core.kv import commands
from saga_core.kv.retention import Standing
from saga_vllm.cleanup import belongings
from saga_vllm.control import Control
from saga_vllm.proving import Trial, prove

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(240)]

HOST_TOKENS = 32_768


@pytest.fixture(scope="module")
def worker(tmp_path_factory) -> Iterator[Worker]:
    with started(tmp_path_factory.mktemp("engine"), host_bytes=HOST_TOKENS * KV_BYTES) as found:
        yield found


@pytest.fixture
async def control(worker: Worker) -> AsyncIterator[Control]:
    async with Control(worker.url, KEY, INCARNATION) as found:
        yield found


async def metric(worker: Worker, name: str) -> float:
    async with aiohttp.ClientSession(worker.url) as http, http.get("/metrics") as answer:
        lines = [line for line in (await answer.text()).splitlines() if line.startswith(f"vllm:{name}")]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


async def test_the_probe_finds_the_tier(worker: Worker, control: Control) -> None:
    trial = Trial(
        url=worker.url, key=KEY, model="nano", block_tokens=BLOCK, control=control, why_not="", ordered=True,
        host_tokens=HOST_TOKENS, heard=lambda _: 64, folder=worker.scratch,
    )  # fmt: skip
    found = {capability.name: capability for capability in (await prove(trial)).capabilities}
    assert all(capability.works for capability in found.values()), found
    assert "were loaded from there" in found["tiers"].detail


async def test_what_the_pool_gave_away_is_loaded_and_is_the_same(worker: Worker, control: Control) -> None:
    prompt = worker.prompt(3000)
    assert await worker.step("1.main", prompt, tokens=12) == 0
    first = worker.said
    await worker.traffic(20_000)
    (chain,) = (await control.ask(commands.Snapshot(sessions=["1.main"]))).chains
    assert chain.blocks == [], "the pool has nothing of it any more"
    before = await metric(worker, "external_prefix_cache_hits_total")
    assert await worker.step("1.main", prompt, tokens=12) == 3000 // BLOCK * BLOCK
    assert await metric(worker, "external_prefix_cache_hits_total") - before == 3000 // BLOCK * BLOCK
    assert worker.said == first, "what was loaded is what was computed"


async def test_what_is_loaded_is_the_sessions_own_again(worker: Worker, control: Control) -> None:
    prompt = worker.prompt(3000)
    await worker.step("2.main", prompt)
    await worker.traffic(10_000)
    await worker.step("2.main", prompt)
    await control.ask(commands.Retain(session="2.main", worth=(Standing.LIVE, 1.0)))
    await worker.traffic(10_000)
    (chain,) = (await control.ask(commands.Snapshot(sessions=["2.main"]))).chains
    assert len(chain.blocks) == 3000 // BLOCK, "retained in the pool, whatever lies behind it"


async def test_the_tier_is_bounded(worker: Worker) -> None:
    prompt = worker.prompt(3000)
    await worker.step("3.main", prompt)
    await worker.traffic(HOST_TOKENS + 10_000)
    assert await worker.step("3.main", prompt) == 0


async def test_what_is_worth_more_stays_longer_in_the_tier(worker: Worker, control: Control) -> None:
    prompt, plain = worker.prompt(3000), worker.prompt(3000)
    await worker.step("4.main", prompt)
    await worker.step("5.plain", plain)
    await control.ask(commands.Retain(session="4.main", worth=(Standing.LIVE, 1.0)))
    await worker.traffic(HOST_TOKENS + 10_000)
    assert await worker.reset(), "the pool holds nothing of it either"
    assert await worker.step("4.main", prompt) == 3000 // BLOCK * BLOCK
    assert await worker.step("5.plain", plain) == 0


async def test_what_is_loaded_ahead_is_found_in_the_pool(worker: Worker, control: Control) -> None:
    whole = 3000 // BLOCK
    prompt = worker.prompt(3000)
    await worker.step("6.main", prompt)
    await worker.traffic(12_000)
    assert await resident(control, "6.main") == 0
    assert await control.ask(commands.Prefetch(session="6.main")) == commands.Done(blocks=whole)
    async with asyncio.timeout(20):
        while await resident(control, "6.main") < whole or (await control.ask(commands.Stats())).requests:
            await asyncio.sleep(0.01)
    assert await control.ask(commands.Prefetch(session="6.main")) == commands.Done(blocks=0), "it is there"
    before = await metric(worker, "external_prefix_cache_hits_total")
    assert await worker.step("6.main", prompt) == whole * BLOCK
    assert await metric(worker, "external_prefix_cache_hits_total") == before, "nothing was left to load"
    assert await control.ask(commands.Prefetch(session="7.none")) == commands.Done(blocks=0)


async def resident(control: Control, session: str) -> int:
    (chain,) = (await control.ask(commands.Snapshot(sessions=[session]))).chains
    return len(chain.blocks)


def test_killed_it_leaves_nothing_in_shared_memory(worker: Worker) -> None:
    mapped = belongings(worker.process.pid)
    assert not [path for path in mapped if "offload" in path.name], "the tier is private memory"
    before = set(Path("/dev/shm").iterdir())
    os.killpg(worker.process.pid, signal.SIGKILL)
    worker.process.wait(10)
    assert set(Path("/dev/shm").iterdir()) <= before
    assert not list(Path("/dev/shm").glob("vllm_offload*"))
