"""The accesses of a simulated run, recorded while it goes on, and how far its caches were from the oracle.

It looks and changes nothing: a witnessed run has the same facts at the same times.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

import msgspec

from saga_core.costs import CostTable
from saga_core.events import Fact, SessionPaused, WorkflowEnded
from saga_core.ids import WorkerId
from saga_sim.clock import Clock
from saga_sim.costs import Shape
from saga_sim.oracle.accesses import Access, Recorder, Recording
from saga_sim.oracle.belady import compare
from saga_sim.oracle.causes import Portion, causes, portions
from saga_sim.oracle.own import own_outcome

if TYPE_CHECKING:
    from saga_sim.requests import Request
    from saga_sim.world import World

BLOCK_WISE = ("farthest", "farthest-cost")
"""The oracles of a run's ratio; the two that drop whole sessions never came near them (docs/oracle.md)."""


class Belady(msgspec.Struct, frozen=True, kw_only=True):
    """What a run's caches computed again, over what an oracle would have on the same accesses at the same times.

    reference: the run whose accesses these are. Compulsory misses are left out of both. Sums over the workers; ratios
    are None where the oracle computes nothing again. uncached_share: of the blocks that running steps held, what had no
    room beside the others in the oracle's replay; where it is not small, the ratios say little.
    """

    reference: str
    ratio_s: float | None
    ratio_tokens: float | None
    again_s: float
    again_tokens: int
    oracle_s: float
    oracle_tokens: int
    looked_up_tokens: int
    compulsory_tokens: int
    uncached_share: float
    portions: tuple[Portion, ...] = ()
    """Of `again_s` and `oracle_s`, by what happened since the session's last access."""


class Witness:
    """Build the world with `fact` among its listeners, then let the witness `look_at` it. One witness for one run.

    Only for runs in which no worker dies: a new engine has a cache that nobody looks at.
    """

    def __init__(self) -> None:
        self._recorders: dict[WorkerId, _Looker] = {}
        self._clock: Clock | None = None
        self._pauses: dict[str, list[float]] = {}

    def look_at(self, world: World) -> None:
        """Record the accesses of all its workers."""
        self._clock = world.clock
        for node in world.nodes.values():
            for name, worker in node.workers.items():
                looker = _Looker(world.clock, world.spec.preset.shape)
                self._recorders[name] = worker.engine.cache.observer = looker

    def fact(self, at: float, fact: Fact) -> None:
        """A fact and its virtual time in seconds."""
        if isinstance(fact, WorkflowEnded):
            for looker in self._recorders.values():
                looker.recorder.ended(str(fact.workflow), at)
        elif isinstance(fact, SessionPaused):
            self._pauses.setdefault(fact.session, []).append(at)

    @property
    def pauses(self) -> Mapping[str, Sequence[float]]:
        """When the gate paused each session."""
        return self._pauses

    def recordings(self) -> list[Recording]:
        """One per worker that served anything."""
        made = [looker.recorder.recording() for looker in self._recorders.values()]
        return [recording for recording in made if recording.accesses]


class _Looker:
    """Told by one cache who holds what; the holder is a request."""

    def __init__(self, clock: Clock, shape: Shape) -> None:
        self.recorder = Recorder(shape.block_tokens)
        self._chunk_blocks = shape.step_tokens // shape.block_tokens
        self._clock = clock
        self._came: dict[int, tuple[float, int, int]] = {}
        """By request: since when, what it looked up, and what it found, in blocks."""

    def came(self, holder: Request, found: int) -> None:
        """It is admitted, perhaps again after a preemption, with so many leading blocks found."""
        looked_up = (holder.known_tokens - 1) // self.recorder.block_tokens
        self._came[holder.key] = self._clock.now, looked_up, found

    def left(self, holder: Request, private: int) -> None:
        """It lets all go that it holds, `private` blocks of it part-filled."""
        start_s, looked_up, found = self._came.pop(holder.key)
        self.recorder.add(
            Access(
                start_s=start_s,
                end_s=self._clock.now,
                workflow=holder.session.partition(".")[0],
                session=holder.session,
                runs=self.recorder.runs(holder.stream.pieces(holder.stored)),
                prompt_blocks=min(looked_up, holder.stored),
                private_blocks=private,
                tokens=holder.known_tokens,
                filled_s=self._filled_s(holder, start_s, looked_up - found),
                new_tokens=max(0, holder.prompt_tokens - holder.computed_before),
                found_blocks=found,
            )
        )

    def _filled_s(self, holder: Request, start_s: float, fresh: int) -> float | None:
        """One chunk is taken at the start; many are taken one by one until the first token, so here in the middle of it."""
        if fresh <= self._chunk_blocks:
            return None
        until_s = holder.first_at if holder.first_at is not None else self._clock.now
        return (start_s + max(start_s, until_s)) / 2


def belady(
    recordings: list[Recording],
    blocks: int,
    costs: CostTable,
    reference: str,
    pauses: Mapping[str, Sequence[float]] = MappingProxyType({}),
) -> Belady:
    """The run against the oracle, worker by worker on a pool of `blocks`, and summed."""
    own = [own_outcome(recording, costs) for recording in recordings]
    best = [compare(recording, blocks, costs, (), BLOCK_WISE) for recording in recordings]
    again_s, again_tokens = sum(o.missed_s for o in own), sum(o.missed_tokens for o in own)
    oracle_s, oracle_tokens = sum(b.best_s for b in best), sum(b.best_tokens for b in best)
    held = sum(access.blocks for recording in recordings for access in recording.accesses)
    return Belady(
        reference=reference,
        ratio_s=again_s / oracle_s if oracle_s else None,
        ratio_tokens=again_tokens / oracle_tokens if oracle_tokens else None,
        again_s=again_s,
        again_tokens=again_tokens,
        oracle_s=oracle_s,
        oracle_tokens=oracle_tokens,
        looked_up_tokens=sum(o.looked_up_tokens for o in own),
        compulsory_tokens=sum(o.compulsory_tokens for o in own),
        uncached_share=sum(b.outcomes["farthest"].uncached_blocks for b in best) / max(1, held),
        portions=portions(
            row
            for recording, mine, its in zip(recordings, own, best, strict=True)
            for row in zip(causes(recording, pauses), mine.each_s, its.best.each_s, strict=True)
        ),
    )
