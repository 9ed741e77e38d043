"""`saga bench sim`: how fast virtual time runs, and in how much memory, as the simulated cluster grows.

Every size has the same load per worker: so many workflows alive at once, each that ends followed by the next. What is
measured is a span of virtual time after all have begun: events of the simulator's clock per second of one core (its
processor time, which is real time on a machine that does nothing else). Each run is a process of its own, so that its
peak memory is its own and one size leaves nothing behind for the next; rounds visit the sizes in alternating order,
because the machine's noise comes in stretches. Small clusters are run several times in a row within a round: a tenth
of a second says nothing.
"""

from __future__ import annotations

import argparse
import gc
import resource
import subprocess
import sys
from collections.abc import Callable
from math import log2
from statistics import median
from time import process_time
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec.structs import replace

from saga_bench.procfs import total_load
from saga_core.errors import ClusterError, UserError

if TYPE_CHECKING:
    from saga_sim.trace.records import Workflow
    from saga_sim.world import World

PRESET: Final = "llama3-8b-h100"
"""One GPU to a worker, eight workers to a node: the most workers, and so the most work, per GPU."""
SYNTH: Final = "swe-bench-like"
KINDS: Final = 200
"""Different workflows; more are these again under other names."""
FIRST_GPUS, STEP, LARGEST_GPUS = 16, 4, 10_000
"""Sizes measured: 16 GPUs and four times as many, and so on; the issue's largest cluster is 10,000."""
STEADY_GPUS: Final = 256
"""A smaller cluster is simulated as often as makes as many GPUs together."""
LIMIT_S: Final = 3600.0
"""A process that says nothing for so long hangs."""


class SimulationOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What is measured. live: workflows alive per GPU; warm_s, span_s: virtual seconds before and while measuring."""

    most_gpus: int = 1024
    profile: str = "saga"
    live: int = 10
    warm_s: float = 20.0
    span_s: float = 20.0
    rounds: int = 2

    def __post_init__(self) -> None:
        if not FIRST_GPUS <= self.most_gpus <= LARGEST_GPUS:
            raise UserError(
                f"a largest cluster of {self.most_gpus} GPUs is not valid (valid: {FIRST_GPUS} to {LARGEST_GPUS})"
            )

    def quick(self) -> SimulationOptions:
        """The same sizes up to 256 GPUs, once, for half as long."""
        return replace(self, most_gpus=min(self.most_gpus, 256), span_s=self.span_s / 2, rounds=1)

    def sizes(self) -> list[int]:
        """In GPUs, the largest last."""
        sizes = [FIRST_GPUS]
        while sizes[-1] * STEP <= self.most_gpus:
            sizes.append(sizes[-1] * STEP)
        return sizes if sizes[-1] == self.most_gpus else [*sizes, self.most_gpus]


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """One process. live: workflows alive when measuring began; core_s: of the span;
    start_s: until then; both over all worlds, in seconds of one core.
    """

    gpus: int
    live: int
    worlds: int
    events: int
    core_s: float
    start_s: float
    peak_mb: float
    load: float


class SizeRow(msgspec.Struct, frozen=True, kw_only=True):
    """One size: medians over rounds with their extremes. start_s: building and filling one world, in seconds
    of one core.

    per_doubling_us: how much dearer an event became per doubling of the cluster since the size before. speed: virtual
    seconds per second of one core. load: the machine's load average, the highest seen.
    """

    gpus: int
    nodes: int
    live: int
    events: int
    events_per_s: float
    events_per_s_min: float
    events_per_s_max: float
    event_us: float
    per_doubling_us: float | None
    speed: float
    start_s: float
    peak_mb: float
    load: float
    rounds: int


class Growth(msgspec.Struct, frozen=True, kw_only=True):
    """The cost of an event against the logarithm of the cluster: `base_us + doubling_us * log2(gpus)`, least squares.

    cost_ratio: the largest cluster's cost over the smallest's; log_ratio: the same of log2(gpus). within_log: cost_ratio
    is not above log_ratio. off: the largest share by which a size lies off the line. bend: what a doubling costs at the
    end over what it costs at the start; above 1 the cost grows faster and faster even on a logarithmic scale.
    """

    base_us: float
    doubling_us: float
    off: float
    cost_ratio: float
    log_ratio: float
    within_log: bool
    bend: float | None


class SimulationBench(msgspec.Struct, frozen=True, kw_only=True):
    """The answer. growth: None with a single size."""

    preset: str
    workload: str
    options: SimulationOptions
    rows: list[SizeRow]
    growth: Growth | None


def run_simulation(
    options: SimulationOptions,
    on_start: Callable[[int, int], None] = lambda _round, _gpus: None,
    on_row: Callable[[Measured], None] = lambda _: None,
) -> SimulationBench:
    """Measure every size in every round; the callbacks are told what begins and what was found."""
    sizes = options.sizes()
    found: dict[int, list[Measured]] = {size: [] for size in sizes}
    for number in range(options.rounds):
        for gpus in sizes if number % 2 == 0 else reversed(sizes):
            on_start(number, gpus)
            found[gpus].append(_in_process(options, gpus))
            on_row(found[gpus][-1])
    rows: list[SizeRow] = []
    for gpus in sizes:
        rows.append(_row(options, found[gpus], rows[-1] if rows else None))
    return SimulationBench(preset=PRESET, workload=SYNTH, options=options, rows=rows, growth=growth(rows))


def _in_process(options: SimulationOptions, gpus: int) -> Measured:
    """Raises ClusterError with the process's last words when it fails."""
    command = [sys.executable, "-m", "saga_bench.simulation", "--gpus", str(gpus)]
    done = subprocess.run(
        [*command, "--options", msgspec.json.encode(options).decode()],
        capture_output=True,
        timeout=LIMIT_S,
        check=False,
    )
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise ClusterError(
            f"the simulation of {gpus} GPUs ended with {done.returncode}: {''.join(said[-1:])}"
        )
    return msgspec.json.decode(done.stdout, type=Measured)


def _row(options: SimulationOptions, rounds: list[Measured], before: SizeRow | None) -> SizeRow:
    from saga_sim.costs import preset

    first, costs = rounds[0], [run.core_s / run.events * 1e6 for run in rounds]
    event_us = median(costs)
    doublings = log2(first.gpus / before.gpus) if before is not None else 0.0
    return SizeRow(
        gpus=first.gpus,
        nodes=-(-first.gpus // _per_node(preset(PRESET).gpus)),
        live=first.live,
        events=first.events,
        events_per_s=1e6 / event_us,
        events_per_s_min=1e6 / max(costs),
        events_per_s_max=1e6 / min(costs),
        event_us=event_us,
        per_doubling_us=(event_us - before.event_us) / doublings if before is not None else None,
        speed=median(options.span_s * run.worlds / run.core_s for run in rounds),
        start_s=median(run.start_s / run.worlds for run in rounds),
        peak_mb=max(run.peak_mb for run in rounds),
        load=max(run.load for run in rounds),
        rounds=len(rounds),
    )


def _per_node(gpus: int) -> int:
    return max(1, 8 // gpus)


def growth(rows: list[SizeRow]) -> Growth | None:
    """The line through cost and log2(GPUs); None for fewer than two sizes."""
    if len(rows) < 2:
        return None
    xs, ys = [log2(row.gpus) for row in rows], [row.event_us for row in rows]
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True)) / sum(
        (x - mean_x) ** 2 for x in xs
    )
    base = mean_y - slope * mean_x
    off = max(abs(y - base - slope * x) / y for x, y in zip(xs, ys, strict=True))
    cost_ratio, log_ratio = ys[-1] / ys[0], xs[-1] / xs[0]
    return Growth(
        base_us=base,
        doubling_us=slope,
        off=off,
        cost_ratio=cost_ratio,
        log_ratio=log_ratio,
        within_log=cost_ratio <= log_ratio,
        bend=_bend(rows),
    )


def _bend(rows: list[SizeRow]) -> float | None:
    first, last = rows[1].per_doubling_us, rows[-1].per_doubling_us
    return last / first if len(rows) > 2 and first and last else None


# -- in the process ---------------------------------------------------------------------------


def measure(options: SimulationOptions, gpus: int) -> Measured:
    """Simulate one size in this process, several times if it is small."""
    from saga_sim.trace.synth import synthesise

    kinds = synthesise(SYNTH, KINDS, 0)
    worlds = max(1, STEADY_GPUS // gpus)
    spans = []
    for _ in range(worlds):
        spans.append(_Span(options, gpus, kinds))
        gc.collect()
    return Measured(
        gpus=gpus,
        live=spans[0].live,
        worlds=worlds,
        events=sum(span.events for span in spans),
        core_s=sum(span.core_s for span in spans),
        start_s=sum(span.start_s for span in spans),
        peak_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,  # in KiB on Linux
        load=total_load(),
    )


class _Over(Exception):  # noqa: N818 - the end of a span: nobody sees it
    pass


class _Span:
    """One world from its building to the end of the measured span."""

    def __init__(self, options: SimulationOptions, gpus: int, kinds: list[Workflow]) -> None:
        from saga_sim.cluster import Link
        from saga_sim.costs import preset
        from saga_sim.experiment import Arrivals, fitted, quiet_config, repeated
        from saga_sim.world import ClusterSpec, World

        began_s = process_time()
        kind, alive = preset(PRESET), options.live * gpus
        spec = ClusterSpec(
            preset=kind, workers=gpus // kind.gpus, per_node=_per_node(kind.gpus), link=Link.of(kind.way_s)
        )
        # As many again may follow: in a span some workflows end, and each makes room for one.
        workflows = repeated(fitted(kinds, spec), 2 * alive)
        arrivals = Arrivals(per_s=1.25 * alive / options.warm_s)
        world = World(spec, quiet_config(options.profile, kind.costs))
        world.clock.at(options.warm_s, self._begin, world)
        world.clock.at(options.warm_s + options.span_s, self._end, world)
        try:
            world.run(workflows, arrivals.pace(spec, workflows, seed=0), max_live=alive)
        except _Over:
            pass
        else:
            raise ClusterError(
                f"{gpus} GPUs were through with {len(workflows)} workflows before the span was over"
            )
        self.start_s = self._began_s - began_s

    def _begin(self, world: World) -> None:
        self.live, self._events, self._began_s = world.head.book.live, world.clock.events, process_time()

    def _end(self, world: World) -> None:
        self.core_s, self.events = process_time() - self._began_s, world.clock.events - self._events
        raise _Over


def main() -> int:
    """Measure one size in this process and print it as JSON: what `saga bench sim` starts for each run."""
    parser = argparse.ArgumentParser(prog="python -m saga_bench.simulation", description=__doc__)
    parser.add_argument("--gpus", type=int, required=True)
    parser.add_argument("--options", default="{}", help="SimulationOptions as JSON")
    given = parser.parse_args()
    options = msgspec.json.decode(given.options, type=SimulationOptions)
    print(msgspec.json.encode(measure(options, given.gpus)).decode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
