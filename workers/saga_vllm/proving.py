"""What a started engine really does, tried out with a few tiny steps: only what was proven is used.

Nothing here makes a start fail: what cannot be tried is not proven, and says why.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import NamedTuple

import aiohttp

from saga_core.errors import SagaError
from saga_core.kv import commands
from saga_core.kv.retention import Standing
from saga_core.wire import Capability
from saga_vllm.control import Control

PREFIX_HITS, EVENTS, CONTROL, TIERS, PRIORITY, MOVING = (
    "prefix hits",
    "events",
    "session control",
    "tiers",
    "priority",
    "moving",
)

SESSION = "0.saga-probe"
"""No workflow has the number 0."""
LOWEST_TOKEN, TOKENS = 16, 64
"""Every vocabulary has these; below are special ones."""
STEP_S = 60.0
"""The first step of an engine may compile kernels."""
EVENT_S = 3.0
EVENT_POLL_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A ready engine, and what it was started for."""

    url: str
    key: str
    model: str
    block_tokens: int
    control: Control | None
    why_not: str
    """Why it has no session control."""
    ordered: bool
    host_tokens: int
    """KV in host memory that it was started with."""
    heard: Callable[[str], int]
    """Tokens of a session that its KV events have told of."""
    folder: Path | None = None
    """Where a session's KV may be written to; None: moving is not tried."""


Found = tuple[bool | None, str]
"""Whether it works, and what was seen."""


class Findings(NamedTuple):
    """What was found out of one start."""

    capabilities: tuple[Capability, ...]
    """In the order of the table of `saga doctor`."""
    kv_token_bytes: int
    """Of one token's KV in a file; 0: it cannot be moved."""


async def prove(trial: Trial) -> Findings:
    """Try it."""
    headers = {"Authorization": f"Bearer {trial.key}", "X-Session-ID": SESSION}
    limits = aiohttp.ClientTimeout(total=STEP_S)
    async with aiohttp.ClientSession(trial.url, headers=headers, timeout=limits, trust_env=False) as http:
        prompt = [LOWEST_TOKEN + secrets.randbelow(TOKENS) for _ in range(2 * trial.block_tokens + 1)]
        steps = Steps(http, trial.model, prompt)
        moves = _Moves(trial)
        hits = await _told(PREFIX_HITS, _prefix_hits(steps))
        found = (
            hits,
            await _told(EVENTS, _events(trial, len(prompt))),
            await _told(CONTROL, _session_control(trial, steps, hits=bool(hits.works))),
            await _told(TIERS, _tiers(trial, steps)),
            await _told(PRIORITY, _priority(trial, steps)),
            await _told(MOVING, moves.find(steps)),
        )
        return Findings(found, moves.token_bytes if found[-1].works else 0)


async def _told(name: str, finding: Awaitable[Found]) -> Capability:
    try:
        works, detail = await finding
    except TimeoutError:
        return Capability(name, False, f"no answer within {STEP_S:g} s")
    except (SagaError, aiohttp.ClientError, OSError, ValueError, LookupError, TypeError) as error:
        return Capability(name, False, str(error) or type(error).__name__)
    return Capability(name, works, detail)


@dataclass(frozen=True, slots=True)
class Steps:
    """The same short prompt, again and again."""

    http: aiohttp.ClientSession
    model: str
    prompt: list[int]

    async def step(self, **more: object) -> int:
        """One step; how many tokens of its prompt were found. ValueError: the engine does not serve it."""
        body = {"model": self.model, "prompt": self.prompt, "max_tokens": 1, "temperature": 0} | more
        async with self.http.post("/v1/completions", json=body) as answer:
            if answer.status != HTTPStatus.OK:
                raise ValueError(f"a step gave {answer.status}: {(await answer.text())[:200]}")
            details = (await answer.json())["usage"].get("prompt_tokens_details")
        return int((details or {}).get("cached_tokens") or 0)


async def _prefix_hits(steps: Steps) -> Found:
    await steps.step()
    found, whole = await steps.step(), len(steps.prompt)
    if not found:
        return False, f"none of {whole} tokens of the same prompt was found again"
    return True, f"{found} of {whole} tokens were found again"


async def _events(trial: Trial, tokens: int) -> Found:
    loop = asyncio.get_running_loop()
    end = loop.time() + EVENT_S
    while not (heard := trial.heard(SESSION)):
        if loop.time() >= end:
            return False, f"no event of a prompt of {tokens} tokens within {EVENT_S:g} s"
        await asyncio.sleep(EVENT_POLL_S)
    return True, f"{heard} tokens of the session were told of"


async def _session_control(trial: Trial, steps: Steps, *, hits: bool) -> Found:
    """What is retained is counted as the session's, and what is dropped is not found any more."""
    if trial.control is None:
        return None, trial.why_not
    await trial.control.ask(commands.Retain(session=SESSION, worth=(Standing.LIVE, 1.0), ttl_s=STEP_S))
    held = await trial.control.ask(commands.Stats())
    dropped = await trial.control.ask(commands.Drop(session=SESSION))
    if not isinstance(held, commands.Holdings) or not isinstance(dropped, commands.Done):
        return False, "it gave an answer to another order"
    mine = held.sessions.get(SESSION)
    if mine is None or mine.standing != Standing.LIVE:
        return False, "the session's blocks were not known as its own"
    if not dropped.blocks:
        return False, "nothing was dropped"
    if hits and not trial.host_tokens:  # from a tier it would be found again
        if await steps.step():
            return False, "what was dropped was still there"
        await trial.control.ask(commands.Drop(session=SESSION))
    return True, f"{dropped.blocks} of {held.blocks} blocks were kept and dropped (vLLM {held.version})"


async def _tiers(trial: Trial, steps: Steps) -> Found:
    """What was dropped from the pool is found again behind it."""
    if not trial.host_tokens:
        return None, "the engine was started without one"
    if trial.control is None:
        return None, "it comes with session control"
    for _ in range(2):  # blocks are stored with the next step's work
        await steps.step()
    await trial.control.ask(commands.Drop(session=SESSION))
    found = await steps.step()
    await trial.control.ask(commands.Drop(session=SESSION))
    if not found:
        return False, "nothing was found behind the pool"
    return True, f"host memory for {trial.host_tokens} tokens: {found} were loaded from there"


async def _priority(trial: Trial, steps: Steps) -> Found:
    if not trial.ordered:
        return None, "the engine serves as requests come"
    await steps.step(priority=1)
    if trial.control is None:
        return None, "priorities are taken; their order was not tried without session control"
    held = await trial.control.ask(commands.Stats())
    await trial.control.ask(commands.Drop(session=SESSION))
    if isinstance(held, commands.Holdings) and held.smallest_first:
        return True, "the smallest goes first"
    return False, "the smallest does not go first"


class _Moves:
    """A session's KV written, dropped, read again, and found by the next step."""

    def __init__(self, trial: Trial) -> None:
        self._trial = trial
        self.token_bytes = 0

    async def find(self, steps: Steps) -> Found:
        control, folder = self._trial.control, self._trial.folder
        if control is None or folder is None:
            return None, "it comes with session control"
        path = folder / "trial.kv"
        try:
            await steps.step()
            sent = await control.ask(commands.Export(session=SESSION, path=str(path)))
            await control.ask(commands.Drop(session=SESSION))
            taken = await control.ask(commands.Adopt(session=SESSION, path=str(path)))
            found = await steps.step()
            await control.ask(commands.Drop(session=SESSION))
        finally:
            path.unlink(missing_ok=True)
        if not isinstance(sent, commands.Moved) or not isinstance(taken, commands.Moved):
            return False, "it gave an answer to another order"
        if not sent.tokens or not found or not taken.copied_bytes:
            return False, f"of {sent.tokens} tokens that were written {found} were found again"
        self.token_bytes = -(-sent.copied_bytes // sent.tokens)
        return True, f"{sent.tokens} tokens were written and read, {self.token_bytes:,} bytes each"
