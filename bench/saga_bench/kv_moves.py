"""`saga bench kv --moves`: a session's KV brought to another worker, against computing it there.

Two workers on one core each. Per context: what the new home's next turn takes when it has nothing, and when the KV was
exported and adopted before; both turns ask for the same prompt of another content, one token is generated.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random

import aiohttp
import msgspec

from saga_bench import engine
from saga_bench.kv import VOCABULARY
from saga_core.errors import ClusterError
from saga_core.kv import commands
from saga_vllm.control import Control

CONTEXTS = (4096, 8192, 16_384)
ROUNDS = 3


class MoveRow(msgspec.Struct, frozen=True, kw_only=True):
    """One context in one round; times in milliseconds, by the client."""

    tokens: int
    round: int
    cold_ms: float
    """The turn at a worker that has nothing of it."""
    export_ms: float
    adopt_ms: float
    turn_ms: float
    """The turn at a worker that has adopted it."""
    cached_tokens: int
    """That this turn found."""
    copied_bytes: int

    @property
    def moved_ms(self) -> float:
        """All of it, one after the other."""
        return self.export_ms + self.adopt_ms + self.turn_ms


class Home:
    """One worker and its orders."""

    def __init__(self, http: aiohttp.ClientSession, control: Control) -> None:
        self._http, self.control = http, control

    async def turn(self, session: str, prompt: list[int]) -> tuple[float, int]:
        """One step: how long it took, and the tokens found."""
        body = {"model": engine.NAME, "prompt": prompt, "max_tokens": 1, "temperature": 0, "ignore_eos": True}
        began = time.perf_counter()
        async with self._http.post("/v1/completions", json=body, headers={"X-Session-ID": session}) as answer:
            if answer.status != 200:
                raise ClusterError(f"a step gave {answer.status}: {(await answer.text())[:200]}")
            usage = (await answer.json())["usage"]
        found = int((usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0)
        return 1e3 * (time.perf_counter() - began), found

    async def order(self, command: commands.Command) -> tuple[float, commands.Answer]:
        """How long it took, and its answer."""
        began = time.perf_counter()
        answer = await self.control.ask(command)
        return 1e3 * (time.perf_counter() - began), answer


async def run_moves(model: str, say: Callable[[str], None], seed: int = 0) -> list[MoveRow]:
    """All contexts, `ROUNDS` times. ClusterError: a worker did not start, or did not do it."""
    rows: list[MoveRow] = []
    with tempfile.TemporaryDirectory(prefix="saga-bench-") as folder:
        made = await engine.build(model, Path(folder))
        async with AsyncExitStack() as stack:
            say("starting two workers")
            old, new = [await _home(stack, made) for _ in range(2)]
            for round_ in range(ROUNDS):
                for tokens in CONTEXTS:
                    rng = Random(f"{seed} {round_} {tokens}")  # noqa: S311 - a workload
                    rows.append(await _move(old, new, tokens, round_, rng, Path(folder) / "session.kv"))
                    say(f"  {tokens}: cold {rows[-1].cold_ms:.0f} ms, moved {rows[-1].moved_ms:.0f} ms")
    return rows


async def _home(stack: AsyncExitStack, model: Path) -> Home:
    worker = await stack.enter_async_context(
        engine.running(
            model,
            pool_tokens=3 * max(CONTEXTS),
            max_model_len=max(CONTEXTS) + 64,
            host_tokens=0,
            control=True,
        )
    )
    headers = {"Authorization": f"Bearer {worker.key}"}
    limits = aiohttp.ClientTimeout(total=engine.START_S)
    http = await stack.enter_async_context(
        aiohttp.ClientSession(worker.url, headers=headers, timeout=limits, trust_env=False)
    )
    control = await stack.enter_async_context(Control(worker.url, worker.key, engine.INCARNATION))
    return Home(http, control)


async def _move(old: Home, new: Home, tokens: int, round_: int, rng: Random, path: Path) -> MoveRow:
    prompt, other = ([rng.randrange(*VOCABULARY) for _ in range(tokens)] for _ in range(2))
    session = f"{round_ * 100 + tokens}.main"
    cold_ms, _ = await new.turn("1.cold", other)
    await old.turn(session, prompt)
    export_ms, sent = await old.order(commands.Export(session=session, path=str(path)))
    adopt_ms, taken = await new.order(commands.Adopt(session=session, path=str(path)))
    turn_ms, found = await new.turn(session, prompt)
    for home in (old, new):
        await home.control.ask(commands.Drop(session=session))
    await new.control.ask(commands.Drop(session="1.cold"))
    if not isinstance(sent, commands.Moved) or not isinstance(taken, commands.Moved):
        raise ClusterError("the engines answered another order")
    return MoveRow(
        tokens=tokens, round=round_, cold_ms=cold_ms, export_ms=export_ms, adopt_ms=adopt_ms, turn_ms=turn_ms,
        cached_tokens=found, copied_bytes=sent.copied_bytes,
    )  # fmt: skip


def run(model: str, say: Callable[[str], None], seed: int = 0) -> list[MoveRow]:
    """`run_moves`, to its end."""
    return asyncio.run(run_moves(model, say, seed))
