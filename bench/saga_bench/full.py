"""`saga bench decide --full`: what decisions cost where the workers' memory is short and the gate has work to do.

`saga_bench.agents` makes the load: pools that hold a part of what the live workflows need, so that sessions are held,
paused and resumed at almost every event. Each kind of event has its own distribution: a step that arrives, one that
ends (and lets others in), a workflow that ends, a node's report, an epoch.

Times are the thread's processor time, less what reading that clock costs: on a busy machine real time says how busy it
is. Each size and profile is a process of its own, so that its memory is its own. The garbage collector runs as it does
in the daemon (`saga_head.garbage`).
"""

from __future__ import annotations

import argparse
import gc
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from itertools import pairwise
from statistics import median
from time import thread_time_ns
from typing import Final

import msgspec
from msgspec.structs import replace

from saga_bench.agents import Agents
from saga_bench.procfs import rss_mb, total_load
from saga_core.actions import Action
from saga_core.config import Config, HeadConfig
from saga_core.errors import ClusterError
from saga_core.events import Event
from saga_core.head import Head
from saga_head import garbage

LIMIT_S: Final = 3600.0
"""A process that says nothing for so long hangs."""
COME_S: Final = 30.0
"""Virtual seconds in which the agents come."""
KINDS: Final = ("submit", "arrive", "finish", "end", "report", "tick")


class FullOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What is measured. pressure: what the live workflows need over what the pools hold."""

    sizes: tuple[tuple[int, int], ...] = ((64, 1_000), (512, 10_000), (1_000, 100_000))
    """(workers, live workflows)"""
    profiles: tuple[str, ...] = ("saga", "thunder", "sticky")
    pressure: float = 2.0
    warm_s: float = 90.0
    """Virtual seconds before measuring begins."""
    decisions: int = 20_000
    ticks: int = 100
    """At least so many of each."""
    traced: int = 10_000
    """Sizes up to so many workflows are run once more with tracemalloc."""

    def quick(self) -> FullOptions:
        """The smallest size only, for a fifth as long."""
        return replace(self, sizes=self.sizes[:1], decisions=self.decisions // 5, warm_s=self.warm_s / 2)


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """Microseconds of one kind of event."""

    count: int
    p50_us: float
    p99_us: float
    max_us: float


class FullRow(msgspec.Struct, frozen=True, kw_only=True):
    """One profile at one size.

    held: steps that waited at the gate, on average.
    rss_per_workflow_bytes: growth of the process, the bench's own notes of its agents included;
    per_workflow_bytes: Python objects that `saga_core` made and keeps (tracemalloc); None: not traced at this size.
    gc_max_us: the longest garbage collection, also part of the event it fell into; gc_growing_us: while the agents came,
    before the measurement. load: the machine's load average.
    """

    profile: str
    workers: int
    workflows: int
    pressure: float
    held: float
    arrive: Spread
    finish: Spread
    end: Spread
    report: Spread
    tick: Spread
    rss_per_workflow_bytes: int
    per_workflow_bytes: int | None = None
    gc_max_us: float = 0.0
    gc_growing_us: float = 0.0
    load: float = 0.0


def run_full(
    options: FullOptions,
    on_start: Callable[[str, int, int], None] = lambda _profile, _workers, _workflows: None,
    on_row: Callable[[FullRow], None] = lambda _: None,
) -> list[FullRow]:
    """Measure every profile at every size; the callbacks are told what begins and what was found."""
    rows: list[FullRow] = []
    for workers, workflows in options.sizes:
        for profile in options.profiles:
            on_start(profile, workers, workflows)
            one = replace(options, sizes=((workers, workflows),), profiles=(profile,))
            row = msgspec.json.decode(_in_process(one, "time"), type=FullRow)
            if workflows <= options.traced:
                row = replace(row, per_workflow_bytes=int(_in_process(one, "trace")))
            rows.append(row)
            on_row(row)
    return rows


def _in_process(options: FullOptions, what: str) -> bytes:
    """Raises ClusterError with the process's last words when it fails."""
    told = msgspec.json.encode(options).decode()
    command = [sys.executable, "-m", "saga_bench.full", "--options", told, "--what", what]
    done = subprocess.run(command, capture_output=True, timeout=LIMIT_S, check=False)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise ClusterError(f"the measurement ended with {done.returncode}: {''.join(said[-1:])}")
    return done.stdout


# -- in the process ---------------------------------------------------------------------------


class _Clock:
    """Hands events to the head and notes how long it takes."""

    def __init__(self, agents: Agents) -> None:
        self._agents = agents
        self.ns: dict[str, list[int]] = {kind: [] for kind in KINDS}
        self.held = 0
        self._own_ns = _cost_of_asking()

    def handle(self, name: str, event: Event) -> list[Action]:
        agents = self._agents
        began = thread_time_ns()
        actions = agents.head.handle(event, now=agents.now)
        self.ns[name].append(max(0, thread_time_ns() - began - self._own_ns))
        self.held += agents.held
        return actions

    def spread(self, kind: str) -> Spread:
        ordered = sorted(self.ns[kind]) or [0]
        last = len(ordered) - 1
        p50, p99 = ordered[last // 2] / 1e3, ordered[int(0.99 * last)] / 1e3
        return Spread(
            count=len(self.ns[kind]),
            p50_us=round(p50, 1),
            p99_us=round(p99, 1),
            max_us=round(ordered[-1] / 1e3, 1),
        )


class _Collections:
    """The longest garbage collection."""

    def __init__(self) -> None:
        self.longest_ns = 0
        self._began = 0

    def __call__(self, phase: str, _: object) -> None:
        if phase == "start":
            self._began = thread_time_ns()
        else:
            self.longest_ns = max(self.longest_ns, thread_time_ns() - self._began)

    def longest_us(self) -> float:
        """Since the last time that this was asked."""
        longest_ns, self.longest_ns = self.longest_ns, 0
        return round(longest_ns / 1e3, 1)


def _cost_of_asking() -> int:
    """Nanoseconds between two looks at the clock: a system call, 0.2 to 2 µs by machine."""
    looks = [thread_time_ns() for _ in range(2001)]
    return int(median(after - before for before, after in pairwise(looks)))


def _settled(options: FullOptions) -> Agents:
    """Agents at work for long enough that as many end as begin."""
    ((workers, workflows),) = options.sizes
    config = Config(profile=options.profiles[0], head=HeadConfig(max_waiting=1_000_000))
    agents = Agents(Head(config), workers, workflows, options.pressure)
    agents.begin(COME_S)
    until = agents.now + options.warm_s
    agents.run(lambda: agents.now >= until, lambda _, event: agents.head.handle(event, now=agents.now))
    return agents


def measure(options: FullOptions) -> FullRow:
    """One size and profile in this process."""
    ((workers, workflows),) = options.sizes
    before_mb = _rss_mb()
    collections = _Collections()
    gc.callbacks.append(collections)
    agents = _settled(options)
    after_mb = _rss_mb()
    growing_us = collections.longest_us()
    clock = _Clock(agents)
    arrived, ticked = clock.ns["arrive"], clock.ns["tick"]
    agents.run(
        lambda: len(arrived) >= options.decisions and len(ticked) >= options.ticks,
        clock.handle,
    )
    gc.callbacks.remove(collections)
    return FullRow(
        profile=options.profiles[0],
        workers=workers,
        workflows=workflows,
        pressure=options.pressure,
        held=round(clock.held / max(1, sum(map(len, clock.ns.values()))), 1),
        rss_per_workflow_bytes=round((after_mb - before_mb) * 2**20 / workflows),
        gc_max_us=collections.longest_us(),
        gc_growing_us=growing_us,
        load=total_load(),
        arrive=clock.spread("arrive"),
        finish=clock.spread("finish"),
        end=clock.spread("end"),
        report=clock.spread("report"),
        tick=clock.spread("tick"),
    )


def _rss_mb() -> float:
    import os

    return rss_mb(os.getpid())


def traced(options: FullOptions) -> int:
    """Bytes of Python objects per live workflow that `saga_core` made and keeps."""
    ((_, workflows),) = options.sizes
    tracemalloc.start()
    agents = _settled(options)
    gc.collect()
    found = tracemalloc.take_snapshot().filter_traces(
        [tracemalloc.Filter(inclusive=True, filename_pattern="*saga_core*")]
    )
    tracemalloc.stop()
    assert agents.head.book.live > 0
    return sum(entry.size for entry in found.statistics("filename")) // workflows


def main() -> int:
    """Measure one size and profile in this process: what `saga bench decide --full` starts for each row."""
    parser = argparse.ArgumentParser(prog="python -m saga_bench.full", description=__doc__)
    parser.add_argument("--options", default="{}", help="FullOptions as JSON, with one size and profile")
    parser.add_argument("--what", choices=("time", "trace"), default="time")
    given = parser.parse_args()
    options = msgspec.json.decode(given.options, type=FullOptions)
    with garbage.brief():
        print(msgspec.json.encode(measure(options)).decode() if given.what == "time" else traced(options))
    return 0


if __name__ == "__main__":
    sys.exit(main())
