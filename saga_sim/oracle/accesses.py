"""The cache accesses of one worker, as data: who held which blocks from when to when.

A block is named by the stream it belongs to and its position; blocks before the point where a stream leaves another
are the other's. So a prompt is a few runs of blocks from the root on, and sessions share exactly the runs they have in
common.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from itertools import pairwise
from typing import NamedTuple

import msgspec

from saga_core.errors import UserError


class Run(NamedTuple):
    """The blocks `low` to `high` (without it) of a stream; positions count from the root of the prompt."""

    stream: int
    low: int
    high: int


class Access(msgspec.Struct, frozen=True, kw_only=True):
    """One step's use of the cache: it looks up its prompt at `start_s` and holds its blocks until `end_s`.

    runs: the full blocks that it holds at its end, prompt and output, from the root on.
    prompt_blocks: how many leading ones of them its prompt can find in the cache.
    private_blocks: blocks held meanwhile whose content nobody can find, such as the last one, part full.
    tokens: its context at its end. new_tokens: of its prompt, what its session had not computed before.
    tool: class of what follows it, such as `tool:bash`; empty where unknown.
    filled_s: when it takes, all at once, the blocks that it does not find; None: at its start.
    found_blocks: how many of `prompt_blocks` the run's own cache had; None where nobody looked.
    """

    start_s: float
    end_s: float
    workflow: str
    session: str
    runs: tuple[Run, ...]
    prompt_blocks: int
    private_blocks: int = 0
    tokens: int
    new_tokens: int = 0
    tool: str = ""
    filled_s: float | None = None
    found_blocks: int | None = None

    @property
    def blocks(self) -> int:
        """Full blocks held at its end."""
        return self.runs[-1].high if self.runs else 0


class Recording(msgspec.Struct, frozen=True, kw_only=True):
    """Accesses of one worker in order of their start. `ends_s`: when each workflow finished; absent = it did not."""

    block_tokens: int
    accesses: tuple[Access, ...]
    ends_s: dict[str, float]

    def check(self) -> None:
        """Raises UserError where the accesses contradict each other or the order of time."""
        if self.block_tokens < 1:
            raise UserError(f"blocks of {self.block_tokens} tokens (valid: 1 or more)")
        trunks: dict[int, tuple[Run, ...]] = {}
        for index, access in enumerate(self.accesses):
            fault = _fault(access, trunks)
            if index and access.start_s < self.accesses[index - 1].start_s:
                fault = f"starts at {access.start_s:g} s, before the access in front of it"
            if access.end_s > self.ends_s.get(access.workflow, access.end_s):
                fault = f"ends after its workflow {access.workflow!r} did"
            if fault is not None:
                raise UserError(f"access {index} of session {access.session!r}: {fault}")


def _fault(access: Access, trunks: dict[int, tuple[Run, ...]]) -> str | None:
    if access.end_s < access.start_s:
        return f"ends at {access.end_s:g} s, before its start at {access.start_s:g} s"
    if access.filled_s is not None and not access.start_s <= access.filled_s <= access.end_s:
        return f"is filled at {access.filled_s:g} s, not between its start and its end"
    if not 0 <= access.prompt_blocks <= access.blocks or access.private_blocks < 0:
        return f"a prompt of {access.prompt_blocks} blocks in {access.blocks} (valid: 0 to {access.blocks})"
    if not 0 <= (access.found_blocks or 0) <= access.prompt_blocks:
        return f"{access.found_blocks} blocks found of {access.prompt_blocks} looked up"
    if access.runs and access.runs[0].low != 0:
        return f"its first run begins at block {access.runs[0].low}, not at the root"
    for before, run in pairwise(access.runs):
        if run.low != before.high:
            return f"stream {run.stream} begins at block {run.low}, where {before.high} is next"
    for at, run in enumerate(access.runs):
        if run.high <= run.low:
            return f"an empty run of stream {run.stream}"
        if trunks.setdefault(run.stream, access.runs[:at]) != access.runs[:at]:
            return f"stream {run.stream} left another stream elsewhere before (a stream has one trunk)"
    return None


class Recorder:
    """Collects accesses while a worker runs, in any order, and names streams by number."""

    def __init__(self, block_tokens: int) -> None:
        self.block_tokens = block_tokens
        self._accesses: list[Access] = []
        self._streams: dict[Hashable, int] = {}
        self._ends_s: dict[str, float] = {}

    def runs(self, pieces: Iterable[tuple[Hashable, int, int]]) -> tuple[Run, ...]:
        """Runs with numbers for streams; equal objects are one stream."""
        return tuple(
            Run(self._streams.setdefault(stream, len(self._streams)), low, high)
            for stream, low, high in pieces
        )

    def add(self, access: Access) -> None:
        self._accesses.append(access)

    def ended(self, workflow: str, at_s: float) -> None:
        """The workflow finished; what only it used is of no more use."""
        self._ends_s[workflow] = at_s

    def recording(self) -> Recording:
        """All accesses so far by start, checked. Raises UserError where they contradict each other."""
        ordered = sorted(self._accesses, key=lambda access: (access.start_s, access.end_s))
        made = Recording(block_tokens=self.block_tokens, accesses=tuple(ordered), ends_s=dict(self._ends_s))
        made.check()
        return made
