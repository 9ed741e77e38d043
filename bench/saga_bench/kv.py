"""`saga bench kv`: one engine, its memory short; least recently used, by worth, and with host memory behind the pool.

Sessions share a system prompt, take turns and are away in tools between them, for times of two kinds (short and long,
both exponential, as the worth is told: recompute time over expected return). Turns are played in the order in which
they would come, one at a time: so what is found depends on the order alone, not on how fast this machine is. Only
turns after a session's first count. Nobody tells the engine of `stock` anything; the others hear after each turn.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from random import Random
from statistics import fmean, median

import aiohttp
import msgspec

from saga_bench import engine
from saga_core.errors import ClusterError
from saga_core.kv import commands
from saga_core.kv.retention import OVER, RETURN_FLOOR_S, Standing
from saga_vllm.control import Control

MODES = ("stock", "retain", "retain+offload")
VOCABULARY = (16, 4000)


class KvOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What is played."""

    model: str = "agent"
    pool_tokens: int = 16_384
    host_tokens: int = 32_768
    """Behind the pool, in the mode with offloading."""
    pressures: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0)
    """Contexts of all sessions, as a multiple of the pool."""
    shared_tokens: int = 256
    context_tokens: int = 2048
    turn_tokens: int = 128
    turns: int = 8
    short_s: float = 5.0
    long_s: float = 30.0
    long_share: float = 0.5
    rounds: int = 1
    seed: int = 0

    @property
    def mean_tokens(self) -> float:
        """Of a session that is half done."""
        return self.context_tokens + self.turn_tokens * self.turns / 2

    def sessions(self, pressure: float) -> int:
        """As many as need that multiple of the pool."""
        return max(2, round(pressure * self.pool_tokens / self.mean_tokens))


class Turn(msgspec.Struct, frozen=True):
    """One step: the first `tokens` of the session's context are its prompt."""

    session: int
    number: int
    tokens: int
    away_s: float
    """Expected until the next one; 0: it is the last."""


class KvRow(msgspec.Struct, frozen=True, kw_only=True):
    """One mode at one pressure in one round."""

    mode: str
    pressure: float
    round: int
    sessions: int
    turns: int
    cached_share: float
    """Of the prompts of next turns."""
    ttft_ms: float
    """Mean of next turns, measured by the client."""
    ttft_p50_ms: float


def played(options: KvOptions, pressure: float, round_: int) -> list[Turn]:
    """All turns, in the order in which they come."""
    rng = Random(f"{options.seed} {pressure} {round_}")  # noqa: S311 - a workload
    coming: list[tuple[float, Turn]] = []
    for session in range(options.sessions(pressure)):
        mean_s = options.long_s if rng.random() < options.long_share else options.short_s
        at_s = rng.uniform(0.0, options.short_s)
        for number in range(options.turns):
            tokens = options.context_tokens + number * options.turn_tokens
            last = number == options.turns - 1
            coming.append((at_s, Turn(session, number, tokens, 0.0 if last else mean_s)))
            at_s += rng.expovariate(1.0 / mean_s)
    return [turn for _, turn in sorted(coming, key=lambda item: (item[0], item[1].session))]


async def run_kv(options: KvOptions, say: Callable[[str], None]) -> list[KvRow]:
    """Every mode on a worker of its own. ClusterError: one did not start."""
    rows: list[KvRow] = []
    longest = options.context_tokens + options.turns * options.turn_tokens + 64
    with tempfile.TemporaryDirectory(prefix="saga-bench-") as folder:
        model = await engine.build(options.model, Path(folder))
        for mode in MODES:
            say(f"{mode}: starting a worker")
            async with engine.running(
                model,
                pool_tokens=options.pool_tokens,
                max_model_len=longest,
                host_tokens=options.host_tokens if mode.endswith("offload") else 0,
                control=mode != "stock",
            ) as worker:
                async for row in _of_mode(options, mode, worker):
                    say(f"  {mode} at {row.pressure:g}: {row.cached_share:.0%} found, {row.ttft_ms:.0f} ms")
                    rows.append(row)
    return rows


async def _of_mode(options: KvOptions, mode: str, worker: engine.Running) -> AsyncIterator[KvRow]:
    headers = {"Authorization": f"Bearer {worker.key}"}
    limits = aiohttp.ClientTimeout(total=engine.START_S)
    async with (
        aiohttp.ClientSession(worker.url, headers=headers, timeout=limits, trust_env=False) as http,
        Control(worker.url, worker.key, engine.INCARNATION) as control,
    ):
        for round_ in range(options.rounds):
            for pressure in options.pressures:
                player = Player(options, pressure, round_, http, control if mode != "stock" else None)
                yield await player.play(mode)


class Player:
    """One round at one pressure on one worker."""

    def __init__(
        self,
        options: KvOptions,
        pressure: float,
        round_: int,
        http: aiohttp.ClientSession,
        control: Control | None,
    ) -> None:
        self._options, self._pressure, self._round = options, pressure, round_
        self._http, self._control = http, control
        rng = Random(f"tokens {options.seed} {pressure} {round_}")  # noqa: S311 - a workload
        shared = list(_tokens(rng, options.shared_tokens))
        whole = options.context_tokens + options.turns * options.turn_tokens
        self._contexts = [
            shared + list(_tokens(rng, whole - len(shared))) for _ in range(options.sessions(pressure))
        ]

    async def play(self, mode: str) -> KvRow:
        """All turns; what was found in those that came back."""
        turns = played(self._options, self._pressure, self._round)
        found = asked = 0
        took_s: list[float] = []
        for turn in turns:
            began = time.perf_counter()
            cached = await self._step(turn)
            if turn.number:
                took_s.append(time.perf_counter() - began)
                found, asked = found + cached, asked + turn.tokens
            await self._tell(turn)
        return KvRow(
            mode=mode,
            pressure=self._pressure,
            round=self._round,
            sessions=len(self._contexts),
            turns=len(took_s),
            cached_share=found / asked,
            ttft_ms=1e3 * fmean(took_s),
            ttft_p50_ms=1e3 * median(took_s),
        )

    def _name(self, turn: Turn) -> str:
        return f"{self._round * 10_000 + int(self._pressure * 100) * 100 + turn.session}.main"

    async def _step(self, turn: Turn) -> int:
        prompt = self._contexts[turn.session][: turn.tokens]
        body = {"model": engine.NAME, "prompt": prompt, "max_tokens": 1, "temperature": 0, "ignore_eos": True}
        headers = {"X-Session-ID": self._name(turn)}
        async with self._http.post("/v1/completions", json=body, headers=headers) as answer:
            if answer.status != 200:
                raise ClusterError(f"a step gave {answer.status}: {(await answer.text())[:200]}")
            usage = (await answer.json())["usage"]
        return int((usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0)

    async def _tell(self, turn: Turn) -> None:
        if self._control is None:
            return
        worth = (int(Standing.LIVE), 1.0 / (turn.away_s + RETURN_FLOOR_S)) if turn.away_s else OVER
        await self._control.ask(commands.Value(worths={self._name(turn): worth}))


def _tokens(rng: Random, count: int) -> Iterator[int]:
    return (rng.randrange(*VOCABULARY) for _ in range(count))


def run(options: KvOptions, say: Callable[[str], None]) -> list[KvRow]:
    """`run_kv`, to its end."""
    return asyncio.run(run_kv(options, say))
