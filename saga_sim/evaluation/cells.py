"""One cell run: the set drawn, the cluster built, the profile simulated, and what is kept of it."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter, process_time

import msgspec

from saga_core.errors import UserError
from saga_sim.cluster import Link
from saga_sim.costs import preset
from saga_sim.evaluation.plan import Cell, Load
from saga_sim.evaluation.sets import draw, work_set
from saga_sim.evaluation.twists import Kind, twist, twisted
from saga_sim.evaluation.variants import known, variant
from saga_sim.experiment import Arrivals, Figures, fitted, simulate
from saga_sim.oracle.witness import Witness
from saga_sim.runs import ReplayResult, RunState
from saga_sim.trace.records import Workflow
from saga_sim.work import told
from saga_sim.world import ClusterSpec

GPUS_PER_NODE = 8
WITNESSED_WORKERS, WITNESSED_PRESSURE, WITNESSED = 16, 1.0, ("saga", "saga+lru")
"""Up to so many workers and from that pressure on a run is compared with the oracle, for a third more time: these profiles with
every seed, the others with the first one. The ratio does not depend on size; where everything fits there is little to compare."""
DECIMALS = 3
"""Completion times are kept to the millisecond."""
MINUTE_S = 60.0


class CellResult(msgspec.Struct, frozen=True, kw_only=True):
    """completions_s: per workflow in order of arrival, None where it did not finish. steady_per_min: workflows that ended
    per minute between the first and the last fifth of them, so without ramp and drain.
    """

    key: str
    cell: Cell
    figures: Figures
    completions_s: tuple[float | None, ...]
    steady_per_min: float | None
    wall_s: float
    cpu_s: float = 0.0


def run_cell(cell: Cell, traces: Path | None, key: str = "") -> CellResult:
    """Run it. The same cell gives the same result but for how long that took. Raises UserError for sets that are not here."""
    began_s, began_cpu_s = perf_counter(), process_time()
    named = variant(cell.profile)
    spec = _spec(cell, named.host)
    workflows = _workflows(cell, traces, spec)
    declared = None if named.sigma is None else told(spec.preset.costs, named.sigma, cell.seed)
    witness = Witness() if _is_witnessed(cell) else None
    with known(named) as scheduler:
        figures, result = simulate(
            scheduler, workflows, spec, arrivals(cell), seed=cell.seed, declared=declared, instances=named.instance,
            witness=witness, fair=True,
        )  # fmt: skip
    return CellResult(
        key=key,
        cell=cell,
        figures=figures,
        completions_s=tuple(_completions(result)),
        steady_per_min=steady_per_min(sorted(run.ended_s for run in result.runs)),
        wall_s=perf_counter() - began_s,
        cpu_s=process_time() - began_cpu_s,
    )


def _is_witnessed(cell: Cell) -> bool:
    if cell.load is not Load.PRESSURE or cell.twist:
        return False
    asked = cell.seed == 0 or cell.profile in WITNESSED
    return asked and cell.workers <= WITNESSED_WORKERS and cell.level >= WITNESSED_PRESSURE


def _spec(cell: Cell, host: float) -> ClusterSpec:
    """The set's workers; host: pools of memory behind each worker's."""
    kind = preset(work_set(cell.work).preset).with_host(host)
    return ClusterSpec(
        preset=kind, workers=cell.workers, per_node=GPUS_PER_NODE // kind.gpus, link=Link.of(kind.way_s)
    )


def _workflows(cell: Cell, traces: Path | None, spec: ClusterSpec) -> list[Workflow]:
    """The set's, or those of two sets one after the other, with the tool times that the cell asks for."""
    found, made = twist(cell.twist), work_set(cell.work)
    if found.kind is not Kind.THEN:
        return fitted(twisted(draw(made, traces, cell.workflows, cell.seed, cell.half), found), spec)
    before = cell.workflows // 2
    drawn = [
        *draw(made, traces, before, cell.seed, cell.half),
        *draw(work_set(found.other), traces, cell.workflows - before, cell.seed, cell.half),
    ]
    return fitted(drawn, spec)


def arrivals(cell: Cell) -> Arrivals:
    """When its workflows come. Raises UserError for a share of a peak that nobody found yet."""
    match cell.load:
        case Load.PRESSURE:
            return Arrivals(pressure=cell.level)
        case Load.AT_ONCE:
            return Arrivals(max_live=round(cell.level))
        case Load.PEAK:
            if cell.rate_per_s is None:
                raise UserError(f"{cell}: the peak is not known yet")
            return Arrivals(per_s=cell.rate_per_s)


def _completions(result: ReplayResult) -> list[float | None]:
    return [
        round(run.completion_s, DECIMALS) if run.state is RunState.FINISHED else None for run in result.runs
    ]


def steady_per_min(ends_s: list[float]) -> float | None:
    """The rate of the middle three fifths of rising ends; None if they ended at once."""
    fifth = len(ends_s) // 5
    first, last = fifth, len(ends_s) - 1 - fifth
    span_s = ends_s[last] - ends_s[first] if last > first else 0.0
    return (last - first) / span_s * MINUTE_S if span_s else None
