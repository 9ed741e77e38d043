"""`saga bench decide`: how long one placement decision of the pure head takes.

A decision is `Head.handle(StepArrived)`: refusals checked, the fact applied to the book, a worker
chosen, the placement applied, the actions made. A step is that and `Head.handle(StepFinished)`.
Nothing around the head is in it: no journal, no HTTP. The garbage collector runs as it does in the
daemon. Rounds visit the sizes in alternating order, and every profile within a size, because the
machine's noise comes in stretches.
"""

from __future__ import annotations

import argparse
import gc
import random
import sys
import tracemalloc
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import product
from statistics import median
from time import perf_counter_ns

import msgspec

from saga_bench.crowd import START_S, arrival, crowded_head, end
from saga_core.events import ProfileChanged
from saga_core.head import Head
from saga_core.ids import StepId, WorkflowId
from saga_core.policy.profiles import PROFILES

STEP_GAP_S = 0.001
"""Between two steps of the crowd: 1,000 steps per second are 64 GPUs' worth of agents."""
IN_FLIGHT_PER_WORKER = 4
"""Steps kept running while others arrive, as far as there are workflows."""
SEED = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class DecideOptions:
    """What is measured."""

    workers: tuple[int, ...] = (8, 64, 512)
    workflows: tuple[int, ...] = (10, 1_000, 10_000)
    profiles: tuple[str, ...] = tuple(PROFILES)
    decisions: int = 4_000
    """Per round, profile and size."""
    rounds: int = 5

    @classmethod
    def quick(cls) -> DecideOptions:
        """The same sizes in a few seconds."""
        return cls(decisions=1_000, rounds=2)


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One profile at one size. Times in microseconds: the median over rounds, `min` and `max` beside it."""

    profile: str
    workers: int
    workflows: int
    p50_us: float
    p99_us: float
    per_s: float
    """Decisions per second of one core, nothing else done: 1e6 / mean."""
    step_us: float
    """Median of a whole step: arrival, placement and end."""
    p50_min_us: float
    p50_max_us: float
    p99_min_us: float
    p99_max_us: float
    max_us: float
    """The longest of all: a full garbage collection, or the machine taken away."""
    rounds: int


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """What the head keeps, in bytes of Python objects (tracemalloc)."""

    workers: int
    workflows: int
    head_bytes: int
    per_workflow_bytes: int


@dataclass(slots=True)
class _Samples:
    """Nanoseconds of one round."""

    decisions: list[int] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)


Key = tuple[str, int, int]


def run_decide(options: DecideOptions, on_row: Callable[[Row], None] = lambda _: None) -> list[Row]:
    """Measure every profile at every size; `on_row` is told each finished row, in the last round."""
    rounds: dict[Key, list[_Samples]] = {}
    rows: list[Row] = []
    sizes = list(product(options.workers, options.workflows))
    for number in range(options.rounds):
        for workers, workflows in sizes if number % 2 else reversed(sizes):
            for profile, samples in _round(options, workers, workflows):
                rounds.setdefault((profile, workers, workflows), []).append(samples)
                if number == options.rounds - 1:
                    rows.append(_row((profile, workers, workflows), rounds[profile, workers, workflows]))
                    on_row(rows[-1])
    return sorted(rows, key=lambda row: (row.workers, row.workflows))


def _round(options: DecideOptions, workers: int, workflows: int) -> Iterator[tuple[str, _Samples]]:
    """One head of this size, asked under each profile in turn."""
    head = crowded_head(workers, workflows, options.profiles[0])
    gc.collect()
    load = _Load(head, workers, workflows)
    load.run(load.most, _Samples())  # until as many steps run as shall run
    for profile in options.profiles:
        head.handle(ProfileChanged(profile=profile), now=load.now)
        load.run(options.decisions // 10, _Samples())  # let the processor's caches settle
        samples = _Samples()
        load.run(options.decisions, samples)
        yield profile, samples


class _Load:
    """Agents that ask: a random workflow's next step arrives, the oldest running step ends."""

    def __init__(self, head: Head, workers: int, workflows: int) -> None:
        self.head = head
        self.now = START_S + 1_000.0
        self._random = random.Random(SEED)  # noqa: S311 - a workload, not a secret
        self._workflows = workflows
        self._step = head.book.last_step
        self._running: deque[StepId] = deque()
        self.most = min(workflows // 2, workers * IN_FLIGHT_PER_WORKER)

    def run(self, count: int, samples: _Samples) -> None:
        handle = self.head.handle
        for _ in range(count):
            self._step += 1
            self.now += STEP_GAP_S
            step = StepId(self._step)
            event = arrival(step, WorkflowId(self._random.randrange(self._workflows) + 1))
            start = perf_counter_ns()
            handle(event, now=self.now)
            arrived = perf_counter_ns() - start
            samples.decisions.append(arrived)
            self._running.append(step)
            while len(self._running) > self.most:
                over = end(self._running.popleft())
                start = perf_counter_ns()
                handle(over, now=self.now)
                samples.steps.append(arrived + perf_counter_ns() - start)


def _row(key: Key, rounds: list[_Samples]) -> Row:
    p50 = [_quantile_us(r.decisions, 0.5) for r in rounds]
    p99 = [_quantile_us(r.decisions, 0.99) for r in rounds]
    mean_us = median(sum(r.decisions) / len(r.decisions) / 1e3 for r in rounds)
    return Row(
        profile=key[0],
        workers=key[1],
        workflows=key[2],
        p50_us=round(median(p50), 1),
        p99_us=round(median(p99), 1),
        per_s=round(1e6 / mean_us),
        step_us=round(median(_quantile_us(r.steps, 0.5) for r in rounds), 1),
        p50_min_us=round(min(p50), 1),
        p50_max_us=round(max(p50), 1),
        p99_min_us=round(min(p99), 1),
        p99_max_us=round(max(p99), 1),
        max_us=round(max(max(r.decisions) for r in rounds) / 1e3),
        rounds=len(rounds),
    )


def _quantile_us(values_ns: list[int], share: float) -> float:
    ordered = sorted(values_ns)
    return ordered[int(share * (len(ordered) - 1))] / 1e3


def head_memory(workers: int = 64, workflows: int = 1_000) -> Memory:
    """Bytes of Python objects that a head keeps for `workflows` live workflows."""
    profile = next(iter(PROFILES))
    tracemalloc.start()
    try:
        empty = _traced(workers, 0, profile)
        full = _traced(workers, workflows, profile)
    finally:
        tracemalloc.stop()
    per_workflow = (full - empty) // workflows
    return Memory(workers=workers, workflows=workflows, head_bytes=full, per_workflow_bytes=per_workflow)


def _traced(workers: int, workflows: int, profile: str) -> int:
    gc.collect()
    before = tracemalloc.get_traced_memory()[0]
    head = crowded_head(workers, workflows, profile)
    gc.collect()
    after = tracemalloc.get_traced_memory()[0]
    assert head.book.live == workflows
    return after - before


def main() -> int:
    """Print JSON lines: one per row as it is finished, the memory last."""
    parser = argparse.ArgumentParser(prog="python -m saga_bench.decide", description=__doc__)
    parser.add_argument("--json", action="store_true", help="JSON lines (the only form; tables: saga bench)")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int)
    given = parser.parse_args()
    options = DecideOptions.quick() if given.quick else DecideOptions()
    if given.rounds:
        options = DecideOptions(decisions=options.decisions, rounds=given.rounds)
    run_decide(options, lambda row: print(msgspec.json.encode(row).decode(), flush=True))
    print(msgspec.json.encode(head_memory()).decode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
