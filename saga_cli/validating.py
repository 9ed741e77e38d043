"""The simulator beside live workers: the same workflows both ways, and the error of each figure.

Rules of this file
  1. Each cell (a profile at a pressure) is run in rounds, all cells once a round. Two live runs of one cell differ, and
     two simulated ones whose costs differ by a hundredth do too: under cache pressure small causes have large effects.
     So means are compared, and the scatter of both sides is said.
  2. A round begins with a calibration; the table that is used in the end is fitted to those of all rounds.
  3. What other processes took of the machine meanwhile is said beside each cell: they slow live workers only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import TYPE_CHECKING, Any, Final

import msgspec

from saga_cli import calibrating
from saga_cli.control import Control
from saga_cli.folder import ClusterFolder
from saga_cli.local.neighbours import others_cores
from saga_cli.progress import Progress
from saga_cli.replaying import Workload
from saga_cli.replaying import run as replay
from saga_cli.units import UNKNOWN, count, duration
from saga_core.policy.profiles import PROFILES

if TYPE_CHECKING:
    from rich.console import RenderableType

    from saga_core.costs import CostTable
    from saga_sim.calibration import Probe
    from saga_sim.costs import Preset
    from saga_sim.runs import Summary
    from saga_sim.trace import Workflow
    from saga_sim.world import ClusterSpec

BLOCK_TOKENS: Final = 32
CONTEXT_TOKENS: Final = 8192
KV_TOKENS: Final = 32768
SEED_STEP: Final = 1_000_003
"""Between the prompts of two live runs: nothing of one is in a cache for the next."""
SHAKEN: Final = 5
"""Simulated runs beside each live one."""
SHAKE: Final = 0.01
"""By how much each cost of a simulated run is off at most: no calibration is better than that."""


class LiveRun(msgspec.Struct, frozen=True, kw_only=True):
    """One live run with the simulated ones of the same workflows under the same numbers.

    others_cores: CPU cores that processes other than the cluster and this one took meanwhile, on average.
    """

    live: Any
    simulated: list[Any]
    others_cores: float


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """One cell. Times in seconds, means over its runs; errors are of the simulated mean, relative to the live one.

    tct_spread: of the live runs, largest less smallest mean TCT over the mean; None for a single run.
    tct_scatter: the same of the simulated ones.
    """

    profile: str
    pressure: float
    runs: list[LiveRun]
    tct_live_s: float
    tct_simulated_s: float
    ttft_live_s: float
    ttft_simulated_s: float
    cached_live_tokens: float
    cached_simulated_tokens: float
    cached_share: float
    """Live, of all prompt tokens."""
    tct_error: float
    ttft_error: float
    cached_error: float
    tct_spread: float | None
    tct_scatter: float
    others_cores: float


class Validation(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of `saga sim validate`. mean_*: mean absolute errors over the cells."""

    workers: int
    workflows: int
    rounds: int
    preset: Any
    calibration_error: float
    cells: list[Compared]
    mean_tct_error: float
    mean_cached_error: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the person asked to validate."""

    profiles: Sequence[str]
    pressures: Sequence[float]
    workers: int
    workload: Workload
    engine: str
    seed: int
    rounds: int = 1


@dataclass(slots=True, kw_only=True)
class _Cell:
    profile: str
    pressure: float
    workflows: list[Workflow] = field(default_factory=list)
    lives: list[tuple[Summary, int, float]] = field(default_factory=list)
    """Figures, the workflows that the head had seen before, and the cores that others took."""


def validate(plan: Plan, show: Progress) -> Validation:
    """Start a cluster in a folder of its own, measure it, and run everything live and simulated."""
    from saga_cli.local.private import private_cluster

    with private_cluster("validate", _settings(plan), show) as folder:
        cells, measured = _live(plan, folder, show)
    spec = _spec(plan, measured.preset)
    compared = [_compared(plan, spec, cell, show) for cell in cells]
    return Validation(
        workers=plan.workers,
        workflows=len(cells[0].workflows),
        rounds=plan.rounds,
        preset=measured.preset,
        calibration_error=measured.mean_error,
        cells=compared,
        mean_tct_error=_mean([abs(cell.tct_error) for cell in compared]),
        mean_cached_error=_mean([abs(cell.cached_error) for cell in compared]),
    )


def _settings(plan: Plan) -> dict[str, object]:
    """What the simulator has to know of the engine is said, not left to the engine's defaults.

    Engines that order by priority serve as steps come where none is given; so one cluster does for all profiles.
    """
    ordered = [name for name in plan.profiles if PROFILES[name].engine_order]
    step = ("--max-num-batched-tokens", str(calibrating.STEP_TOKENS)) if plan.engine == "vllm" else ()
    return {
        "profile": (ordered or plan.profiles)[0],
        "workers.engine": plan.engine,
        "workers.count": plan.workers,
        "workers.max_model_len": CONTEXT_TOKENS,
        "workers.kv_tokens": KV_TOKENS,
        "workers.block_size": BLOCK_TOKENS,
        "workers.max_seqs": calibrating.MAX_SEQS,
        "workers.extra_args": step,
    }


def _spec(plan: Plan, preset: Preset) -> ClusterSpec:
    from saga_sim.cluster import Link
    from saga_sim.world import ClusterSpec

    return ClusterSpec(preset=preset, workers=plan.workers, per_node=plan.workers, link=Link.of(preset.way_s))


# -- live ----------------------------------------------------------------------------------


def _live(plan: Plan, folder: ClusterFolder, show: Progress) -> tuple[list[_Cell], calibrating.Measured]:
    """All cells, round by round; the arrivals of a cell are those of the first round's calibration."""
    control, settings = Control.of(folder), folder.settings() or {}
    cells = [_Cell(profile=p, pressure=q) for q in plan.pressures for p in plan.profiles]
    probes: list[Probe] = []
    measured: calibrating.Measured | None = None
    for turn in range(plan.rounds):
        probes += calibrating.measure(control, settings, show)
        measured = calibrating.fitted(control, settings, probes)
        for number, cell in enumerate(cells):
            if not turn:
                cell.workflows = _arriving(plan, _spec(plan, measured.preset), cell.pressure)
            seed = plan.seed + (turn * len(cells) + number) * SEED_STEP
            cell.lives.append(_one(control, folder, cell, seed, show))
    assert measured is not None
    return cells, measured


def _arriving(plan: Plan, spec: ClusterSpec, pressure: float) -> list[Workflow]:
    """The workflows with arrivals of that pressure written into them: live and simulated ones read the same."""
    from msgspec.structs import replace as changed

    from saga_sim.experiment import Arrivals, fitted

    workflows = fitted(plan.workload.load(), spec)
    due = Arrivals(pressure=pressure, max_gap_s=None).pace(spec, workflows, plan.seed).arrivals(workflows)
    return [changed(w, arrival_s=round(at, 6)) for w, at in zip(workflows, due, strict=True)]


def _one(
    control: Control, folder: ClusterFolder, cell: _Cell, seed: int, show: Progress
) -> tuple[Summary, int, float]:
    control.use_profile(cell.profile)
    before = max((workflow.id for workflow in control.workflows()), default=0)
    others = others_cores(folder)
    live = replay(control, Workload(seed=seed), cell.workflows, show=show).summary
    if live.interrupted:
        raise KeyboardInterrupt
    return live, before, others()


# -- simulated -----------------------------------------------------------------------------


def _compared(plan: Plan, spec: ClusterSpec, cell: _Cell, show: Progress) -> Compared:
    show.phase(f"simulating {cell.profile} at {cell.pressure:g}")
    runs = [
        LiveRun(live=live, simulated=_simulated(plan, spec, cell, before), others_cores=others)
        for live, before, others in cell.lives
    ]
    live = [run.live for run in runs]
    ours = [summary for run in runs for summary in run.simulated]
    tct, ttft = (_means(live, ours, name) for name in ("tct_mean_s", "ttft_mean_s"))
    cached = _means(live, ours, "cached_tokens")
    return Compared(
        profile=cell.profile,
        pressure=cell.pressure,
        runs=runs,
        tct_live_s=tct[0],
        tct_simulated_s=tct[1],
        ttft_live_s=ttft[0],
        ttft_simulated_s=ttft[1],
        cached_live_tokens=cached[0],
        cached_simulated_tokens=cached[1],
        cached_share=_mean([summary.cached_share or 0.0 for summary in live]),
        tct_error=_error(tct),
        ttft_error=_error(ttft),
        cached_error=_error(cached),
        tct_spread=_spread(live) if len(live) > 1 else None,
        tct_scatter=_spread(ours),
        others_cores=_mean([run.others_cores for run in runs]),
    )


def _simulated(plan: Plan, spec: ClusterSpec, cell: _Cell, before: int) -> list[Summary]:
    """Runs of what the live cluster ran; names and numbers are its own, since a hash places by them."""
    from saga_cli.local.processes import LOCAL_NODE
    from saga_sim.experiment import Arrivals, simulate

    named = replace(spec, names=(LOCAL_NODE,), workflows_before=before)
    found = []
    for number in range(SHAKEN):
        preset = replace(spec.preset, costs=_shaken(spec.preset.costs, number))
        figures, _ = simulate(
            cell.profile,
            cell.workflows,
            replace(named, preset=preset),
            Arrivals(max_gap_s=None),
            seed=plan.seed,
        )
        found.append(figures.summary)
    return found


def _shaken(costs: CostTable, number: int) -> CostTable:
    """The table with each cost off by at most `SHAKE`, another way for each number; number 0: as it is."""
    draw = Random(number).uniform  # noqa: S311 - a workload
    reach = SHAKE if number else 0.0
    values = {name: getattr(costs, name) * (1.0 + draw(-reach, reach)) for name in costs.__slots__}
    return type(costs)(**values)


def _means(live: Sequence[Summary], ours: Sequence[Summary], name: str) -> tuple[float, float]:
    return _mean([getattr(s, name) or 0.0 for s in live]), _mean([getattr(s, name) or 0.0 for s in ours])


def _error(means: tuple[float, float]) -> float:
    live, ours = means
    return ours / live - 1.0 if live else float("nan")


def _spread(summaries: Sequence[Summary]) -> float:
    values = [summary.tct_mean_s or 0.0 for summary in summaries]
    return (max(values) - min(values)) / _mean(values) if any(values) else 0.0


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


# -- showing -------------------------------------------------------------------------------


def table(validation: Validation) -> RenderableType:
    """Live beside simulated, cell by cell."""
    from rich.console import Group
    from rich.text import Text

    from saga_cli.grid import Grid

    rows = [
        (f"{c.pressure:g}", c.profile, duration(c.tct_live_s), _share(c.tct_spread), duration(c.tct_simulated_s),
         _share(c.tct_scatter), f"{c.tct_error:+.1%}", f"{c.ttft_error:+.1%}", _share(c.cached_share),
         f"{c.cached_error:+.1%}", f"{c.others_cores:.2f}")
        for c in validation.cells
    ]  # fmt: skip
    head = (">PRESS", "*PROFILE", ">TCT LIVE", ">SPREAD", ">SIM", ">SPREAD", ">ERROR", ">TTFT", ">CACHED",
            ">ERROR", ">OTHERS")  # fmt: skip
    whole = (
        f"mean absolute error: mean TCT {validation.mean_tct_error:.1%}, cached tokens "
        f"{validation.mean_cached_error:.1%} (calibration {validation.calibration_error:.1%}; "
        f"{count(validation.workers)} workers, {count(validation.workflows)} workflows a run, "
        f"{count(validation.rounds)} live runs a cell)\nSPREAD: largest less smallest over mean. "
        "OTHERS: CPU cores that other processes took: they slow the live side alone."
    )
    return Group(Grid(*head, rows=rows, empty="nothing was run"), Text(), Text(whole))


def _share(share: float | None) -> str:
    return UNKNOWN if share is None else f"{share:.1%}"
