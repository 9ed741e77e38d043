"""Calls that tell what an engine costs, made under the conditions of use.

Each worker is measured while the others are busy with the same, and alone: they share a machine in real work too, and
not all of it all the time. Calls decode alone and in batches, and beside others that come in. The prompts are random
token ids, so that nothing is cached but what these calls put there.

A call must be known to be where it is measured: two calls that met in one engine would look like a slow engine. So
each line of calls is a workflow that stays on one worker (a profile that places by a hash), and a first call to
nowhere in particular tells which one that is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from random import Random

from msgspec.structs import replace

from saga_core.errors import ClusterError
from saga_sim.calibration import Probe
from saga_sim.client import Address, Patience, Reply, StepCaller, StepFailed
from saga_sim.prompts import DEFAULT_VOCAB
from saga_sim.runs import Endpoint

LENGTHS = (0.03, 0.06, 0.12, 0.25, 0.5, 0.85)
"""Cold prompts, as shares of the longest context."""
TURN_TOKENS = 200
"""What a later turn adds to a cached prompt: a tool's short answer."""
DECODED = 48
BATCHES = ((2, 0.12), (2, 0.5), (4, 0.12), (4, 0.4), (6, 0.3), (8, 0.03), (8, 0.2))
"""Calls that decode together, and their prompts as shares of the longest context."""
VISITED = (0.12, 0.4, 0.7)
"""Prompts of the calls that come in while another decodes."""
VISITS = 6
"""Calls that come in, one after the other."""
OPENED = 40
"""Workflows opened for each line wanted before one gives up: a hash deals them out unevenly."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A workflow of the probing: its address, and how to ask on which worker its latest call was."""

    endpoint: Endpoint
    home: Callable[[], Awaitable[str]]


@dataclass(slots=True, kw_only=True)
class _Line:
    """One workflow of the probing, at one worker."""

    client: Address
    tokens: list[int] = field(default_factory=list)


class Prober:
    """Asks the workers behind a gateway that keeps every workflow on one worker."""

    def __init__(
        self,
        caller: StepCaller,
        open_workflow: Callable[[], Awaitable[Opened]],
        *,
        workers: int,
        max_model_len: int,
        on_probe: Callable[[int], None],
    ) -> None:
        self._caller, self._open, self._workers = caller, open_workflow, workers
        self._longest = max_model_len
        self._random = Random()  # noqa: S311 - a workload; unseeded: nothing of an earlier probing may be cached
        self._on_probe = on_probe
        self._lines: dict[str, list[_Line]] = {}
        """By worker."""
        self.probes: list[Probe] = []

    async def all(self) -> list[Probe]:
        """Every probe; the list is also kept while they come."""
        await self._find_lines(max(batch for batch, _ in BATCHES))
        everyone = list(self._lines.values())
        for lines in [everyone, *([here] for here in everyone)]:
            await self._measure(lines)
        return self.probes

    async def _measure(self, workers: Sequence[Sequence[_Line]]) -> None:
        """All kinds of calls at these workers at once, while the others idle."""
        await self._turns(workers, 64)  # the first call after a pause is slower: not counted
        del self.probes[-2 * len(workers) :]
        for share in LENGTHS:
            await self._turns(workers, int(share * self._longest))
        for batch, share in BATCHES:
            await self._each(workers, batch, int(share * self._longest), self._batch)
        for share in VISITED:
            await self._each(workers, 2, int(share * self._longest), self._visited)

    # -- lines -------------------------------------------------------------------------------

    async def _find_lines(self, each: int) -> None:
        """Open workflows until every worker has `each` of them. ClusterError when a worker gets none."""
        for _ in range(OPENED * each * self._workers):
            opened = await self._open()
            line = _Line(client=self._caller.bound_to(opened.endpoint))
            await self._call(line, self._tokens(8), 2)
            self._lines.setdefault(await opened.home(), []).append(line)
            if len(self._lines) == self._workers and all(len(x) >= each for x in self._lines.values()):
                return
        raise ClusterError(
            f"calls reached {len(self._lines)} of {self._workers} workers (`saga status` says why)"
        )

    # -- measuring ---------------------------------------------------------------------------

    async def _turns(self, workers: Sequence[Sequence[_Line]], tokens: int) -> None:
        """At each worker: a cold prompt, and then a short turn on top of it."""
        for lines in workers:
            lines[0].tokens = self._tokens(tokens)
        for _ in range(2):
            calls = [self._call(lines[0], lines[0].tokens, DECODED) for lines in workers]
            for lines, (probe, reply) in zip(workers, await asyncio.gather(*calls), strict=True):
                lines[0].tokens = lines[0].tokens + reply.output_ids + self._tokens(TURN_TOKENS)
                self._keep([probe] if reply.attempts == 1 else [])

    async def _each(
        self,
        workers: Sequence[Sequence[_Line]],
        count: int,
        tokens: int,
        measure: Callable[[Sequence[_Line]], Awaitable[Probe | None]],
    ) -> None:
        """The same measurement with `count` lines of each worker, begun together. Their prompts are cached by then."""
        measured = [lines[:count] for lines in workers]
        for together in zip(*measured, strict=True):
            for line in together:
                line.tokens = self._tokens(tokens)
            await asyncio.gather(*(self._call(line, line.tokens, 2) for line in together))
        found = await asyncio.gather(*(measure(lines) for lines in measured))
        self._keep([probe for probe in found if probe is not None])

    async def _batch(self, lines: Sequence[_Line]) -> Probe | None:
        """Calls at once that decode together: their mean."""
        called = await asyncio.gather(*(self._call(line, line.tokens, 4 * DECODED) for line in lines))
        return _together([reply for _, reply in called], [probe for probe, _ in called])

    async def _visited(self, lines: Sequence[_Line]) -> Probe | None:
        """A call that decodes while another line's calls come in, one after the other, for two tokens each."""
        host, guest = lines
        begun = asyncio.Event()
        hosting = asyncio.create_task(self._call(host, host.tokens, 8 * DECODED, on_first=begun.set))
        await begun.wait()
        guests = [(await self._call(guest, guest.tokens, 2))[0] for _ in range(VISITS)]
        in_time = not hosting.done()
        hosted, reply = await hosting
        return replace(hosted, visits=tuple(guests)) if in_time and reply.attempts == 1 else None

    def _keep(self, probes: Sequence[Probe]) -> None:
        self.probes += probes
        self._on_probe(len(self.probes))

    async def _call(
        self, line: _Line, prompt: list[int], decoded: int, *, on_first: Callable[[], None] = lambda: None
    ) -> tuple[Probe, Reply]:
        started_at = asyncio.get_running_loop().time()
        try:
            reply = await self._caller.call(
                line.client, prompt, decoded, {}, on_first=on_first, on_retry=_nothing_of
            )
        except StepFailed as failed:
            raise ClusterError(f"a probe of {len(prompt)} tokens failed: {failed}") from failed
        probe = Probe(
            prompt_tokens=reply.prompt_tokens or len(prompt),
            cached_tokens=reply.cached_tokens or 0,
            output_tokens=reply.output_tokens or decoded,
            ttft_s=(reply.first_at or reply.ended_at) - started_at,
            duration_s=reply.ended_at - started_at,
        )
        return probe, reply

    def _tokens(self, count: int) -> list[int]:
        low, high = DEFAULT_VOCAB
        return [self._random.randrange(low, high) for _ in range(count)]


def _together(replies: Sequence[Reply], probes: Sequence[Probe]) -> Probe | None:
    """The mean of calls that decoded together nearly all the time; None when they did not, or one was tried twice."""
    begun = max(reply.first_at or reply.ended_at for reply in replies)
    ended = min(reply.ended_at for reply in replies)
    if any(reply.attempts > 1 for reply in replies):
        return None
    if any(ended - begun < 0.9 * (probe.duration_s - probe.ttft_s) for probe in probes):
        return None
    many = len(probes)
    return replace(
        probes[0],
        ttft_s=sum(probe.ttft_s for probe in probes) / many,
        duration_s=sum(probe.duration_s for probe in probes) / many,
        batch=many,
    )


def _nothing_of(_: str) -> None:
    pass


async def probe(
    open_workflow: Callable[[], Awaitable[Opened]],
    *,
    model: str,
    workers: int,
    max_model_len: int,
    on_probe: Callable[[int], None] = lambda _: None,
) -> list[Probe]:
    """Measure the workers of a running cluster; a minute or two on a CPU. Nothing else should run there."""
    async with StepCaller(model=model, patience=Patience()) as caller:
        prober = Prober(
            caller, open_workflow, workers=workers, max_model_len=max_model_len, on_probe=on_probe
        )
        return await prober.all()
