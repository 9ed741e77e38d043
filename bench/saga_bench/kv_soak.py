"""A soak of one real engine: mixed traffic, random orders, aborts, resets and kills, for as long as one likes.

`python -m saga_bench.kv_soak --seconds 1800 --kills 6 --record soak.json`: prints how it goes, and writes what came of it. The
engine is killed in the midst of its work in the first half of the time, and begins a new life each time; the last life
has the second half for itself, so that a leak has time to show. Exit code 1: something of `faults` was found.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

import aiohttp
import msgspec

from saga_bench import engine
from saga_bench.kv import VOCABULARY
from saga_core.errors import ClusterError
from saga_core.ids import WorkerId
from saga_core.kv import commands
from saga_core.kv.retention import OVER, Standing, Worth
from saga_node.checker import Checker
from saga_node.residence import Residence
from saga_vllm import cleanup
from saga_vllm.control import Control, NoControl
from saga_vllm.kv_events import KvEvents
from saga_vllm.listener import family

SESSIONS = 60
HANDS = 6
"""Steps at the same time."""
MOST_CONTEXT_TOKENS = 3000
SYSTEM_TOKENS = 128
GROWTH = 1.05
"""Of resident memory over the second half of the last life."""
SETTLED = 20_000
"""Steps and orders of a life after which its memory should stand: vLLM keeps 10,000 batches of KV events."""
QUIET_S = 15.0
"""Until the last abort has reached the engine, and the mirror the engine's state."""
SPARE_FILES = HANDS + 4
"""Connections of ours."""


class SoakOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What is done."""

    seconds: float = 1800.0
    kills: int = 6
    model: str = "nano"
    pool_tokens: int = 8192
    host_tokens: int = 16_384
    seed: int = 11


class Life(msgspec.Struct, frozen=True, kw_only=True):
    """From a start of the engine to its end."""

    seconds: float
    killed: bool
    count: dict[str, int]
    """Steps, aborts, orders and resets."""
    holes: int
    healed: int
    files: tuple[int, int]
    """Open ones of its processes, at the start and at the end."""
    memory_mb: tuple[int, ...]
    """Resident, ten times."""
    left: tuple[str, ...]
    """In shared memory after its death, before anybody tidied up."""
    faults: tuple[str, ...]


class SoakResult(msgspec.Struct, frozen=True, kw_only=True):
    """All of it."""

    options: SoakOptions
    lives: tuple[Life, ...]

    @property
    def faults(self) -> list[str]:
        """What must not be, in words."""
        return [f"life {number}: {fault}" for number, life in enumerate(self.lives) for fault in life.faults]


class Soak:
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
            self.sizes.append(_resident_mb(self.running.pid))
        self.sizes.append(_resident_mb(self.running.pid))

    async def _is_over(self, within_s: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self.over.wait()
        return self.over.is_set()

    # -- at the end ----------------------------------------------------------------------

    async def look(self, residence: Residence, files: int) -> None:
        """Note what should not be, now that nobody asks for anything."""
        held = await self._quiet()
        if held.free != held.blocks:
            self.faults.append(f"{held.blocks - held.free} of {held.blocks} blocks leaked")
        if differs := await self._differs(residence):
            self.faults.append(f"the mirror is not the engine: {differs}")
        if _files(self.running.pid) > files + SPARE_FILES:
            self.faults.append(f"{_files(self.running.pid)} files are open, {files} were")
        if self.count.total() > SETTLED and self.sizes[-1] > GROWTH * self.sizes[len(self.sizes) // 2]:
            self.faults.append(f"memory grows: {self.sizes} MB")
        if "session control is off" in (self.running.folder / "worker.log").read_text(errors="replace"):
            self.faults.append("session control has given up")

    async def _quiet(self) -> commands.Holdings:
        deadline = time.monotonic() + QUIET_S
        while True:
            held = await self.control.ask(commands.Stats())
            assert isinstance(held, commands.Holdings)
            if (not held.requests and held.free == held.blocks) or time.monotonic() > deadline:
                return held
            await asyncio.sleep(0.1)

    async def _differs(self, residence: Residence) -> object:
        deadline = time.monotonic() + QUIET_S
        while True:
            answer = await self.control.ask(commands.Snapshot())
            assert isinstance(answer, commands.Resident)
            differs = residence.differs(answer)
            if not differs or time.monotonic() > deadline:
                return differs
            await asyncio.sleep(0.3)


def tokens(rng: Random, count: int) -> list[int]:
    """So many, at random."""
    return [rng.randrange(*VOCABULARY) for _ in range(count)]


def _resident_mb(pid: int) -> int:
    return sum(process.memory_info().rss for process in family(pid)) >> 20


def _files(pid: int) -> int:
    return sum(process.num_fds() for process in family(pid))


async def soak(options: SoakOptions, model: Path, say: Callable[[str], None]) -> SoakResult:
    """All lives, one after the other. `model`: the folder of a demo model of that size."""
    rng = Random(options.seed)  # noqa: S311 - a load, not a secret
    contexts = {f"{i // 2}.s{i}": tokens(rng, 200) for i in range(SESSIONS)}
    short_s = options.seconds / 2 / max(1, options.kills)
    spans = [(short_s, True)] * options.kills + [(options.seconds - short_s * options.kills, False)]
    lives = []
    for number, (seconds, killed) in enumerate(spans):
        life = await _live(options, model, number + 1, seconds, killed, contexts, rng)
        lives.append(life)
        say(msgspec.json.encode(life).decode())
    return SoakResult(options=options, lives=tuple(lives))


async def _live(
    options: SoakOptions, model: Path, number: int, seconds: float, killed: bool,
    contexts: dict[str, list[int]], rng: Random,
) -> Life:  # fmt: skip
    async with (
        engine.running(
            model, pool_tokens=options.pool_tokens, max_model_len=2 * MOST_CONTEXT_TOKENS,
            host_tokens=options.host_tokens, control=True, incarnation=number, events=True,
        ) as running,
        Control(running.url, running.key, number) as control,
        Control(running.url, running.key, number) as eye,
    ):  # fmt: skip
        residence = Residence(WorkerId("soak/0"), number)
        events = KvEvents(f"ipc://{running.folder}/events", f"ipc://{running.folder}/replay", sync_s=0.5)
        at_work, files = Soak(running, control, contexts, rng), _files(running.pid)
        following = [
            asyncio.create_task(_follow(events, residence)),
            asyncio.create_task(Checker(eye, residence).run()),
        ]
        try:
            left = await _work(at_work, seconds, killed)
            if not killed:
                await at_work.look(residence, files)
        finally:
            for task in following:
                task.cancel()
            await asyncio.gather(*following, return_exceptions=True)
            events.close()
        return Life(
            seconds=seconds, killed=killed, count=dict(at_work.count), holes=residence.holes,
            healed=residence.healed, files=(files, _files(running.pid)), memory_mb=tuple(at_work.sizes),
            left=left, faults=tuple(at_work.faults),
        )  # fmt: skip


async def _follow(events: KvEvents, residence: Residence) -> None:
    async for heard in events:
        residence.hear(heard)
        residence.news()


async def _work(at_work: Soak, seconds: float, killed: bool) -> tuple[str, ...]:
    """Until the time is over; killed it ends with its hands full. What it left in shared memory."""
    if not killed:
        try:
            await at_work.work(seconds)
        except* (ClusterError, aiohttp.ClientError) as errors:
            at_work.faults += [f"the engine failed: {error!r}" for error in errors.exceptions]
        return ()
    working = asyncio.create_task(at_work.work(2 * seconds))
    done, _ = await asyncio.wait([working], timeout=seconds)
    if done:
        at_work.faults.append(f"the engine failed before it was killed: {working.exception()!r}")
        return ()
    ours = await asyncio.to_thread(cleanup.belongings, at_work.running.pid)
    os.killpg(at_work.running.pid, signal.SIGKILL)
    await asyncio.wait([working])  # whoever waited for an answer hears of it
    if working.exception() is None:
        at_work.faults.append("nobody noticed the kill")
    return tuple(sorted(str(path) for path in ours if path.exists()))


async def _main(options: SoakOptions) -> SoakResult:
    with tempfile.TemporaryDirectory(prefix="saga-soak-") as folder:
        model = await engine.build(options.model, Path(folder))
        return await soak(options, model, lambda line: print(line, flush=True))


def main() -> int:
    """Run one, and say what came of it."""
    usual = SoakOptions()
    parser = argparse.ArgumentParser(prog="saga_bench.kv_soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=usual.seconds)
    parser.add_argument("--kills", type=int, default=usual.kills)
    parser.add_argument("--seed", type=int, default=usual.seed)
    parser.add_argument("--record", type=Path, default=None, help="write the result to this file as JSON")
    given = parser.parse_args()
    options = SoakOptions(seconds=given.seconds, kills=given.kills, seed=given.seed)
    result = asyncio.run(_main(options))
    if given.record is not None:
        given.record.write_bytes(msgspec.json.format(msgspec.json.encode(result)) + b"\n")
    for fault in result.faults:
        print(fault, file=sys.stderr)
    return 1 if result.faults else 0


if __name__ == "__main__":
    sys.exit(main())
