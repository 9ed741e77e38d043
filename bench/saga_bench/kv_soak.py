"""A soak of one real engine: mixed traffic, random orders, aborts, resets and kills, for as long as one likes.

`python -m saga_bench.kv_soak --seconds 1800 --kills 6 --record soak.json`: prints how it goes, and writes what came of it. The
engine is killed in the midst of its work in the first half of the time, and begins a new life each time; the last life
has the second half for itself, so that a leak has time to show. Exit code 1: something of `faults` was found.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import aiohttp
import msgspec

from saga_bench import engine
from saga_bench.kv_traffic import HANDS, MOST_CONTEXT_TOKENS, Traffic, tokens
from saga_core.errors import ClusterError
from saga_core.ids import WorkerId
from saga_core.kv import commands
from saga_node.checker import Checker
from saga_node.residence import Residence
from saga_vllm import cleanup
from saga_vllm.control import Control
from saga_vllm.kv_events import KvEvents
from saga_vllm.listener import family

SESSIONS = 60
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


async def _look(traffic: Traffic, residence: Residence, files: int) -> None:
    """Note what should not be, now that nobody asks for anything."""
    count, sizes, faults, pid = traffic.count, traffic.sizes, traffic.faults, traffic.running.pid
    held = await _quiet(traffic.control)
    if held.free != held.blocks:
        faults.append(f"{held.blocks - held.free} of {held.blocks} blocks leaked")
    if differs := await _differs(traffic.control, residence):
        faults.append(f"the mirror is not the engine: {differs}")
    if _files(pid) > files + SPARE_FILES:
        faults.append(f"{_files(pid)} files are open, {files} were")
    if count.total() > SETTLED and sizes[-1] > GROWTH * sizes[len(sizes) // 2]:
        faults.append(f"memory grows: {sizes} MB")
    if "session control is off" in (traffic.running.folder / "worker.log").read_text(errors="replace"):
        faults.append("session control has given up")


async def _quiet(control: Control) -> commands.Holdings:
    deadline = time.monotonic() + QUIET_S
    while True:
        held = await control.ask(commands.Stats())
        assert isinstance(held, commands.Holdings)
        if (not held.requests and held.free == held.blocks) or time.monotonic() > deadline:
            return held
        await asyncio.sleep(0.1)


async def _differs(control: Control, residence: Residence) -> object:
    deadline = time.monotonic() + QUIET_S
    while True:
        answer = await control.ask(commands.Snapshot())
        assert isinstance(answer, commands.Resident)
        differs = residence.differs(answer)
        if not differs or time.monotonic() > deadline:
            return differs
        await asyncio.sleep(0.3)


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
        traffic, files = Traffic(running, control, contexts, rng), _files(running.pid)
        following = [
            asyncio.create_task(_follow(events, residence)),
            asyncio.create_task(Checker(eye, residence).run()),
        ]
        try:
            left = await _work(traffic, seconds, killed)
            if not killed:
                await _look(traffic, residence, files)
        finally:
            for task in following:
                task.cancel()
            await asyncio.gather(*following, return_exceptions=True)
            events.close()
        return Life(
            seconds=seconds, killed=killed, count=dict(traffic.count), holes=residence.holes,
            healed=residence.healed, files=(files, _files(running.pid)), memory_mb=tuple(traffic.sizes),
            left=left, faults=tuple(traffic.faults),
        )  # fmt: skip


async def _follow(events: KvEvents, residence: Residence) -> None:
    async for heard in events:
        residence.hear(heard)
        residence.news()


async def _work(traffic: Traffic, seconds: float, killed: bool) -> tuple[str, ...]:
    """Until the time is over; killed it ends with its hands full. What it left in shared memory."""
    if not killed:
        try:
            await traffic.work(seconds)
        except* (ClusterError, aiohttp.ClientError) as errors:
            traffic.faults += [f"the engine failed: {error!r}" for error in errors.exceptions]
        return ()
    working = asyncio.create_task(traffic.work(2 * seconds))
    done, _ = await asyncio.wait([working], timeout=seconds)
    if done:
        traffic.faults.append(f"the engine failed before it was killed: {working.exception()!r}")
        return ()
    ours = await asyncio.to_thread(cleanup.belongings, traffic.running.pid)
    os.killpg(traffic.running.pid, signal.SIGKILL)
    await asyncio.wait([working])  # whoever waited for an answer hears of it
    if working.exception() is None:
        traffic.faults.append("nobody noticed the kill")
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
