"""Mixed traffic, random orders, aborts and resets on one real engine, for long: nothing leaks, the mirror is the engine.

By hand or at night: `SAGA_SOAK_S=1800 pytest -m "vllm and nightly" tests/workers/test_vllm_soak.py -s`. Its last result
stands in docs/kv.md.
"""

import asyncio
import contextlib
import os
import time
from collections import Counter
from random import Random

import aiohttp
import psutil
import pytest
from engine_rig import INCARNATION, KEY, KV_BYTES, started

from saga_core.ids import WorkerId
from saga_core.kv import commands
from saga_core.kv.retention import OVER, Standing
from saga_node.checker import Checker
from saga_node.residence import Residence
from saga_vllm.control import Control
from saga_vllm.kv_events import KvEvents
from saga_vllm.listener import family

SOAK_S = float(os.environ.get("SAGA_SOAK_S", "60"))
pytestmark = [pytest.mark.vllm, pytest.mark.nightly, pytest.mark.timeout(SOAK_S + 400)]

SESSIONS = 60
HANDS = 6
"""Steps at the same time."""
HOST_TOKENS = 16_384
GROWTH = 1.05
"""Of resident memory over the second half of the time; vLLM keeps 10,000 batches of KV events, which fill up first."""
SETTLED_STEPS = 20_000
"""Orders and steps after which that is so; a shorter run only tells its figures."""


class Soak:
    def __init__(self, worker, control):
        self.worker, self.control, self.rng = worker, control, Random(11)
        self.contexts = {f"{i // 2}.s{i}": worker.prompt(200) for i in range(SESSIONS)}
        self.count = Counter()
        self.until = time.monotonic() + SOAK_S

    @property
    def on(self):
        return time.monotonic() < self.until

    async def hand(self):
        while self.on:
            session = self.rng.choice(list(self.contexts))
            context = self.contexts[session]
            context += self.worker.prompt(self.rng.choice([10, 80, 300]))
            if len(context) > 3000:
                self.contexts[session] = context = self.contexts["0.s0"][:128] + self.worker.prompt(100)
            tokens = self.rng.choice([1, 8, 40])
            if self.rng.random() < 0.1:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.05):
                        await self.worker.step(session, list(context), tokens=200)
                self.count["aborted"] += 1
            else:
                await self.worker.step(session, list(context), tokens=tokens)
                self.count["steps"] += 1

    async def orders(self):
        worths = [OVER, (Standing.PAUSED, 0.0), (Standing.HELD, float("inf"))]
        while self.on:
            session = self.rng.choice(list(self.contexts))
            worth = self.rng.choice([*worths, *((int(Standing.LIVE), self.rng.random()) for _ in range(5))])
            order = self.rng.choice(
                [
                    commands.Retain(session=session, worth=worth, ttl_s=self.rng.choice([None, 0.5, 5.0])),
                    commands.Value(worths={session: worth, self.rng.choice(list(self.contexts)): None}),
                    commands.Release(session=session),
                    commands.Drop(session=session),
                    commands.Stats(),
                    commands.Snapshot(),
                ]
            )
            await self.control.ask(order)
            self.count[type(order).__name__] += 1
            await asyncio.sleep(self.rng.uniform(0.0, 0.05))

    async def resets(self):
        while self.on:
            await asyncio.sleep(min(5.0, SOAK_S / 10))
            self.count["resets done" if await self.worker.reset() else "resets refused"] += 1

    async def memory(self):
        """Resident memory of all its processes, ten times."""
        sizes = []
        while self.on:
            await asyncio.sleep(SOAK_S / 10)
            sizes.append(_rss(self.worker))
        return sizes


def _rss(worker):
    return sum(process.memory_info().rss for process in family(worker.process.pid))


def _files(worker):
    return sum(process.num_fds() for process in family(worker.process.pid))


@pytest.fixture(scope="module")
def worker(tmp_path_factory):
    with started(tmp_path_factory.mktemp("engine"), host_bytes=HOST_TOKENS * KV_BYTES) as found:
        yield found


async def test_mixed_traffic_leaks_nothing_and_the_mirror_is_the_engine(worker) -> None:
    residence = Residence(WorkerId("n1/0"), INCARNATION)
    events = KvEvents(f"ipc://{worker.scratch}/events", f"ipc://{worker.scratch}/replay", sync_s=0.5)

    async def follow():
        async for heard in events:
            residence.hear(heard)
            residence.news()

    async with Control(worker.url, KEY, INCARNATION) as control, Control(worker.url, KEY, INCARNATION) as eye:
        soak = Soak(worker, control)
        files = _files(worker)
        following = [asyncio.create_task(follow()), asyncio.create_task(Checker(eye, residence).run())]
        early = asyncio.create_task(soak.memory())
        await asyncio.gather(soak.orders(), soak.resets(), *(soak.hand() for _ in range(HANDS)))
        held = await _quiet(control)
        print(dict(soak.count), f"holes {residence.holes}, healed {residence.healed}")
        assert held.free == held.blocks, "blocks leaked"
        assert sum(h.blocks for h in held.sessions.values()) <= held.blocks
        sizes = await early
        print("memory in MB:", [size >> 20 for size in sizes], f"files {files} -> {_files(worker)}")
        if soak.count.total() > SETTLED_STEPS:
            assert sizes[-1] < GROWTH * sizes[len(sizes) // 2]
        assert _files(worker) <= files + HANDS + 4, "connections of ours"
        await _agrees(control, residence)
        for task in following:
            task.cancel()
        await asyncio.gather(*following, return_exceptions=True)
    events.close()


async def _quiet(control):
    """When the last abort has reached the engine."""
    for _ in range(100):
        held = await control.ask(commands.Stats())
        if not held.requests and held.free == held.blocks:
            return held
        await asyncio.sleep(0.1)
    return held


async def _agrees(control, residence):
    for _ in range(50):
        answer = await control.ask(commands.Snapshot())
        differs = residence.differs(answer)
        if not differs:
            return
        await asyncio.sleep(0.3)
    raise AssertionError(f"the mirror is not the engine: {differs}")


def test_it_still_serves(worker) -> None:
    assert worker.process.poll() is None
    assert psutil.pid_exists(worker.process.pid)
    assert "session control is off" not in worker.log.read_text()


async def test_and_takes_orders(worker) -> None:
    async with aiohttp.ClientSession(worker.url) as http, http.get("/health") as answer:
        assert answer.status == 200
