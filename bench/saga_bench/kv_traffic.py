"""Mixed traffic for one real engine: steps that grow and are compacted, aborts, random orders of session control, resets."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from random import Random

import aiohttp

from saga_bench import engine
from saga_bench.kv import VOCABULARY
from saga_core.errors import ClusterError
from saga_core.kv import commands
from saga_core.kv.retention import OVER, Standing, Worth
from saga_vllm.control import Control, NoControl
from saga_vllm.listener import family

HANDS = 6
"""Steps at the same time."""
MOST_CONTEXT_TOKENS = 3000
SYSTEM_TOKENS = 128


class Traffic:
    """The traffic of one life. Contexts go on from life to life."""

    def __init__(
        self, running: engine.Running, control: Control, contexts: dict[str, list[int]], rng: Random
    ) -> None:
        self.running, self.control, self.contexts, self.rng = running, control, contexts, rng
        self.count: Counter[str] = Counter()
        self.faults: list[str] = []
        self.over = asyncio.Event()
        self.sizes: list[int] = []

    async def work(self, seconds: float) -> None:
        """Everything at once, for so long; ClusterError and others where the engine fails."""
        headers = {"Authorization": f"Bearer {self.running.key}"}
        async with (
            aiohttp.ClientSession(self.running.url, headers=headers) as http,
            asyncio.TaskGroup() as group,
        ):
            for _ in range(HANDS):
                group.create_task(self._hand(http))
            group.create_task(self._orders())
            group.create_task(self._resets(http, min(5.0, seconds / 10)))
            group.create_task(self._measure(seconds / 10))
            group.create_task(self._end(seconds))

    async def _end(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        self.over.set()

    async def _hand(self, http: aiohttp.ClientSession) -> None:
        while not self.over.is_set():
            session = self.rng.choice(list(self.contexts))
            prompt = self._prompt(session)
            if self.rng.random() < 0.1:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.05):
                        await self._step(http, session, prompt, 200)
                self.count["aborted"] += 1
            else:
                await self._step(http, session, prompt, self.rng.choice([1, 8, 40]))
                self.count["steps"] += 1

    def _prompt(self, session: str) -> list[int]:
        """It grows, and is compacted when it is too long: to what all share, and something new."""
        context = self.contexts[session] + tokens(self.rng, self.rng.choice([10, 80, 300]))
        if len(context) > MOST_CONTEXT_TOKENS:
            context = self.contexts["0.s0"][:SYSTEM_TOKENS] + tokens(self.rng, 100)
        self.contexts[session] = context
        return context

    async def _step(self, http: aiohttp.ClientSession, session: str, prompt: list[int], count: int) -> None:
        body = {"model": engine.NAME, "prompt": prompt, "max_tokens": count, "ignore_eos": True}
        async with http.post("/v1/completions", json=body, headers={"X-Session-ID": session}) as answer:
            said = await answer.text()
            if answer.status != 200:
                raise ClusterError(f"a step gave {answer.status}: {said[:200]}")

    async def _orders(self) -> None:
        while not self.over.is_set():
            order = self._order()
            try:
                await self.control.ask(order)
                self.count[type(order).__name__] += 1
            except NoControl:  # nothing of it is here, or there is no room: said, and nothing was done
                if not isinstance(order, commands.Export | commands.Adopt | commands.Prefetch):
                    raise
                self.count[f"{type(order).__name__} refused"] += 1
            await asyncio.sleep(self.rng.uniform(0.0, 0.05))

    def _order(self) -> commands.Command:
        session, other = self.rng.choices(list(self.contexts), k=2)
        path = str(self.running.folder / f"moved-{self.rng.randrange(4)}")
        orders: list[commands.Command] = [
            commands.Retain(session=session, worth=self._worth(), ttl_s=self.rng.choice([None, 0.5, 5.0])),
            commands.Value(worths={session: self._worth(), other: None}),
            commands.Release(session=session),
            commands.Drop(session=session),
            commands.Stats(),
            commands.Snapshot(),
            commands.Prefetch(session=session),
            commands.Export(session=session, path=path),
            commands.Adopt(session=session, path=path),
        ]
        return self.rng.choice(orders)

    def _worth(self) -> Worth:
        some = [OVER, (Standing.PAUSED, 0.0), (Standing.HELD, float("inf"))]
        return self.rng.choice([*some, *((Standing.LIVE, self.rng.random()) for _ in range(5))])

    async def _resets(self, http: aiohttp.ClientSession, every_s: float) -> None:
        while not await self._is_over(every_s):
            async with http.post("/reset_prefix_cache") as answer:
                self.count["resets done" if answer.status == 200 else "resets refused"] += 1

    async def _measure(self, every_s: float) -> None:
        while not await self._is_over(every_s):
            self.sizes.append(resident_mb(self.running.pid))
        self.sizes.append(resident_mb(self.running.pid))

    async def _is_over(self, within_s: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self.over.wait()
        return self.over.is_set()


def tokens(rng: Random, count: int) -> list[int]:
    """So many, at random."""
    return [rng.randrange(*VOCABULARY) for _ in range(count)]


def resident_mb(pid: int) -> int:
    """Resident memory of an engine, with all its processes."""
    return sum(process.memory_info().rss for process in family(pid)) >> 20
