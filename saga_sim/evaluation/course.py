"""The course of an evaluation: what is kept already, what is still to run, first the peak, then all that hangs on it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

import msgspec

from saga_core.errors import UserError
from saga_sim.evaluation.cells import CellResult
from saga_sim.evaluation.crew import Crew
from saga_sim.evaluation.fingerprint import key
from saga_sim.evaluation.plan import Cell, Load, probes
from saga_sim.evaluation.sets import digest, work_set
from saga_sim.evaluation.store import Store

MINUTE_S = 60.0
Alike = tuple[str, Load, float, int, str, str]


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """A cell without a result, and why."""

    cell: Cell
    why: str


class Peak(msgspec.Struct, frozen=True, kw_only=True):
    """The most workflows per minute that a cluster sustained in closed loops, and with how many at a time."""

    work: str
    workers: int
    workflows: int
    per_min: float
    at_once: float


@dataclass(slots=True, kw_only=True)
class Told:
    """How the course tells what it does: a stage begins with these cells to run and so many kept from before; a cell ended."""

    stage: Callable[[str, Sequence[Cell], int], None] = lambda _name, _cells, _kept: None
    ended: Callable[[Cell, float | None, str], None] = lambda _cell, _wall_s, _why: None


@dataclass(slots=True)
class Course:
    """All of one evaluation. `run` may be cut short at any time; run it again and it goes on."""

    store: Store
    traces: Path | None
    jobs: int
    told: Told = field(default_factory=Told)
    failures: list[Failure] = field(default_factory=list)
    peaks: list[Peak] = field(default_factory=list)

    def run(self, cells: Sequence[Cell]) -> list[CellResult]:
        """The results of all cells that gave one, in the order asked for."""
        wanted = probes(cells)
        if wanted:
            self.peaks = peaks(self._stage("the sustainable peak", wanted))
        return self._stage("profiles", [cell for cell in map(self._paced, cells) if cell is not None])

    def _paced(self, cell: Cell) -> Cell | None:
        """A cell that asks for a share of the peak, with its rate; None if no peak was found."""
        if cell.load is not Load.PEAK:
            return cell
        for peak in self.peaks:
            if (peak.work, peak.workers, peak.workflows) == (cell.work, cell.workers, cell.workflows):
                return msgspec.structs.replace(cell, rate_per_s=cell.level * peak.per_min / MINUTE_S)
        self.failures.append(Failure(cell=cell, why="the sustainable peak was not found"))
        return None

    def _stage(self, name: str, cells: Sequence[Cell]) -> list[CellResult]:
        keys = {cell: key(cell, digest(work_set(cell.work), self.traces)) for cell in cells}
        found = {cell: kept for cell in cells if (kept := self.store.get(keys[cell])) is not None}
        open_cells = [cell for cell in cells if cell not in found]
        self.told.stage(name, open_cells, len(found))
        if open_cells:
            self._work([(keys[cell], cell) for cell in open_cells], found)
        return [found[cell] for cell in cells if cell in found]

    def _work(self, cells: Sequence[tuple[str, Cell]], found: dict[Cell, CellResult]) -> None:
        with Crew(min(self.jobs, len(cells)), self.traces) as crew:
            for cell, answer in crew.run(cells):
                if answer.result is None:
                    self.failures.append(Failure(cell=cell, why=answer.why))
                else:
                    self.store.add(answer.result)
                    found[cell] = answer.result
                self.told.ended(cell, None if answer.result is None else answer.result.wall_s, answer.why)


def peaks(results: Iterable[CellResult]) -> list[Peak]:
    """For each set and cluster the concurrency whose steady rate, as a mean over seeds, is highest."""
    rates: dict[tuple[str, int, int, float], list[float]] = {}
    for result in results:
        if result.steady_per_min is not None:
            cell = result.cell
            rates.setdefault((cell.work, cell.workers, cell.workflows, cell.level), []).append(
                result.steady_per_min
            )
    best: dict[tuple[str, int, int], Peak] = {}
    for (work, workers, workflows, at), found in rates.items():
        made = Peak(work=work, workers=workers, workflows=workflows, per_min=fmean(found), at_once=at)
        known = best.get((work, workers, workflows))
        if known is None or made.per_min > known.per_min:
            best[(work, workers, workflows)] = made
    return list(best.values())


def check_jobs(jobs: int) -> int:
    """Raises UserError for a number of processes that makes no sense."""
    if not 1 <= jobs <= 1024:
        raise UserError(f"{jobs} processes are not valid (valid: 1 to 1024)")
    return jobs


@dataclass(slots=True)
class Pace:
    """How long is left: by the time that ended cells of the same kind took, or of any kind."""

    jobs: int
    _walls_s: dict[Alike, list[float]] = field(default_factory=dict)
    _all_s: list[float] = field(default_factory=list)

    def ended(self, cell: Cell, wall_s: float) -> None:
        self._walls_s.setdefault(_kind(cell), []).append(wall_s)
        self._all_s.append(wall_s)

    def left_s(self, cells: Iterable[Cell]) -> float | None:
        """Seconds for these cells; None before the first one has ended."""
        if not self._all_s:
            return None
        usual_s = fmean(self._all_s)
        return sum(fmean(self._walls_s.get(_kind(cell), [usual_s])) for cell in cells) / self.jobs


def _kind(cell: Cell) -> Alike:
    return cell.work, cell.load, cell.level, cell.workers, cell.twist, cell.profile
