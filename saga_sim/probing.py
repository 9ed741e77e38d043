"""Calls that tell what an engine costs: cold and cached prefills of several lengths, decoding alone and in batches.

Each worker is asked at the same time as the others, since they share a machine in real work too. The prompts are random
token ids, so that nothing is cached but what these calls put there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from random import Random

from saga_core.errors import ClusterError
from saga_sim.calibration import Probe
from saga_sim.client import Patience, Reply, StepCaller, StepFailed
from saga_sim.prompts import DEFAULT_VOCAB
from saga_sim.runs import Endpoint

LENGTHS = (0.03, 0.06, 0.12, 0.25, 0.5, 0.85)
"""Cold prompts, as shares of the longest context."""
TURN_TOKENS = 200
"""What a later turn adds to a cached prompt: a tool's short answer."""
DECODED = 48
BATCHES = (2, 4, 8)
BATCH_LENGTHS = (0.03, 0.12)


@dataclass(slots=True, kw_only=True)
class _Line:
    """One workflow of the probing, at one worker."""

    client: object
    headers: dict[str, str]
    tokens: list[int]


class Prober:
    """Asks the workers behind a gateway. `open_workflow` gives a new workflow's endpoint."""

    def __init__(
        self,
        caller: StepCaller,
        open_workflow: Callable[[], Awaitable[Endpoint]],
        *,
        workers: int,
        max_model_len: int,
        on_probe: Callable[[int], None],
    ) -> None:
        self._caller, self._open, self._workers = caller, open_workflow, workers
        self._longest = max_model_len
        self._random = Random()  # noqa: S311 - a workload; unseeded: nothing of an earlier probing may be cached
        self._on_probe = on_probe
        self.probes: list[Probe] = []

    async def all(self) -> list[Probe]:
        """Every probe; the list is also kept while they come."""
        await self._turns(64, 8)  # the first call of an engine is slower: not counted
        self.probes.clear()
        for share in LENGTHS:
            await self._turns(int(share * self._longest), DECODED)
        for batch in BATCHES:
            for share in BATCH_LENGTHS:
                await self._batch(batch, int(share * self._longest))
        return self.probes

    async def _turns(self, tokens: int, decoded: int) -> None:
        """At each worker: a cold prompt, and then a short turn on top of it."""
        lines = [await self._line(tokens) for _ in range(self._workers)]
        for _ in range(2):
            replies = await asyncio.gather(*(self._call(line, decoded) for line in lines))
            self._keep([probe for probe, reply in replies if reply.attempts == 1])
            for line, (_, reply) in zip(lines, replies, strict=True):
                line.tokens += reply.output_ids + self._tokens(TURN_TOKENS)

    async def _batch(self, batch: int, tokens: int) -> None:
        """At each worker `batch` calls at once; their prompts are cached, so that they decode together."""
        lines = [await self._line(tokens) for _ in range(self._workers * batch)]
        for start in range(0, len(lines), self._workers):
            await asyncio.gather(*(self._call(line, 2) for line in lines[start : start + self._workers]))
        replies = await asyncio.gather(*(self._call(line, 4 * DECODED) for line in lines))
        together = _together([reply for _, reply in replies], [probe for probe, _ in replies])
        self._keep([_with_batch(probe, batch) for probe in together])

    def _keep(self, probes: Sequence[Probe]) -> None:
        self.probes += probes
        self._on_probe(len(self.probes))

    async def _line(self, tokens: int) -> _Line:
        endpoint = await self._open()
        return _Line(client=self._caller.bound_to(endpoint), headers={}, tokens=self._tokens(tokens))

    async def _call(self, line: _Line, decoded: int) -> tuple[Probe, Reply]:
        started_at = asyncio.get_running_loop().time()
        try:
            reply = await self._caller.call(
                line.client, line.tokens, decoded, line.headers, on_first=_nothing, on_retry=_nothing_of
            )
        except StepFailed as failed:
            raise ClusterError(f"a probe of {len(line.tokens)} tokens failed: {failed}") from failed
        probe = Probe(
            prompt_tokens=reply.prompt_tokens or len(line.tokens),
            cached_tokens=reply.cached_tokens or 0,
            output_tokens=reply.output_tokens or decoded,
            ttft_s=(reply.first_at or reply.ended_at) - started_at,
            duration_s=reply.ended_at - started_at,
        )
        return probe, reply

    def _tokens(self, count: int) -> list[int]:
        low, high = DEFAULT_VOCAB
        return [self._random.randrange(low, high) for _ in range(count)]


def _together(replies: Sequence[Reply], probes: Sequence[Probe]) -> list[Probe]:
    """The calls whose decoding nearly all happened while all others decoded too; a call tried twice says nothing."""
    begun = max(reply.first_at or reply.ended_at for reply in replies)
    ended = min(reply.ended_at for reply in replies)
    return [
        probe
        for probe, reply in zip(probes, replies, strict=True)
        if reply.attempts == 1 and ended - begun > 0.9 * (reply.ended_at - (reply.first_at or reply.ended_at))
    ]


def _with_batch(probe: Probe, batch: int) -> Probe:
    return Probe(
        prompt_tokens=probe.prompt_tokens,
        cached_tokens=probe.cached_tokens,
        output_tokens=probe.output_tokens,
        ttft_s=probe.ttft_s,
        duration_s=probe.duration_s,
        batch=batch,
    )


def _nothing() -> None:
    pass


def _nothing_of(_: str) -> None:
    pass


async def probe(
    open_workflow: Callable[[], Awaitable[Endpoint]],
    *,
    model: str,
    workers: int,
    max_model_len: int,
    on_probe: Callable[[int], None] = lambda _: None,
) -> list[Probe]:
    """Measure the workers of a running cluster; a few minutes on a CPU. Nothing else should run there."""
    async with StepCaller(model=model, patience=Patience()) as caller:
        prober = Prober(
            caller,
            open_workflow,
            workers=workers,
            max_model_len=max_model_len,
            on_probe=on_probe,
        )
        return await prober.all()
