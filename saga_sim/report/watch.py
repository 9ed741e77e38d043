"""What a run shows only while it goes on: which workers are busy, and what their memory holds.

Told of every fact, it looks and changes nothing: a watched run has the same facts at the same times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from saga_core.events import Fact, StepFinished, StepLost, StepPlaced, WorkflowSubmitted
from saga_core.ids import StepId, WorkerId
from saga_sim.cache import Cache, Span
from saga_sim.report.data import MemorySample

if TYPE_CHECKING:
    from saga_sim.world import World

FIRST_EVERY_S = 1.0
MOST_SAMPLES = 240
"""When there are as many, every second one goes and the next come half as often."""


class Watch:
    """Build the world with `beside(…)` as its `on_fact`, then let the watch `look_at` it. One watch for one run."""

    def __init__(self) -> None:
        self._caches: Callable[[], Iterable[Cache]] | None = None
        self.memory: list[MemorySample] = []
        self._began: float | None = None
        self._next_at = 0.0
        self._every_s = FIRST_EVERY_S
        self._where: dict[StepId, WorkerId] = {}
        self._steps: dict[WorkerId, int] = {}
        self._since: dict[WorkerId, float] = {}
        self._spans: list[tuple[float, float]] = []

    def look_at(self, world: World) -> None:
        """Sample the memory of its workers, of those that are there at the time."""
        self._caches = lambda: (
            w.engine.cache for node in world.nodes.values() for w in node.workers.values()
        )

    def beside(self, other: Callable[[float, Fact], None]) -> Callable[[float, Fact], None]:
        """Tells `other` and this watch."""

        def told(at: float, fact: Fact) -> None:
            other(at, fact)
            self.fact(at, fact)

        return told

    def fact(self, at: float, fact: Fact) -> None:
        """A fact and its virtual time in seconds; time counts from the first workflow."""
        if self._began is None:
            if not isinstance(fact, WorkflowSubmitted):
                return
            self._began = at
        at -= self._began
        match fact:
            case StepPlaced():
                self._leave(at, fact.step)
                self._enter(at, fact.step, fact.worker)
            case StepFinished() | StepLost():
                self._leave(at, fact.step)
            case _:
                pass
        if at >= self._next_at:
            self._sample(at)

    def busy_spans(self) -> Iterator[tuple[float, float]]:
        """From when to when some worker had steps, in seconds; those still busy: without end."""
        yield from self._spans
        yield from ((since, float("inf")) for since in self._since.values())

    def _enter(self, at: float, step: StepId, worker: WorkerId) -> None:
        self._where[step] = worker
        self._steps[worker] = self._steps.get(worker, 0) + 1
        self._since.setdefault(worker, at)

    def _leave(self, at: float, step: StepId) -> None:
        worker = self._where.pop(step, None)
        if worker is None:
            return
        self._steps[worker] -= 1
        if not self._steps[worker]:
            self._spans.append((self._since.pop(worker), at))

    def _sample(self, at: float) -> None:
        if self._caches is None:
            return
        self.memory.append(memory_sample(at, self._caches()))
        if len(self.memory) >= MOST_SAMPLES:
            del self.memory[1::2]
            self._every_s *= 2
        self._next_at = at + self._every_s


def memory_sample(at: float, caches: Iterable[Cache]) -> MemorySample:
    """Shares of all blocks by what holds them now."""
    whole = held = leftover = idle = 0
    for cache in caches:
        whole += cache.blocks
        held += cache.blocks - cache.free
        idle += cache.idle
        leftover += sum(len(span) for span in cache.spans() if _is_leftover(span))
    whole = max(1, whole)
    return MemorySample(
        at_s=at, running=held / whole, kept=(idle - leftover) / whole, leftover=leftover / whole
    )


def _is_leftover(span: Span) -> bool:
    """Held by nobody and of a workflow that has ended."""
    owner = span.stream.owner
    return not span.holders and owner is not None and owner.over
