"""What an evaluation runs: cells, each one profile on one set of workflows at one load with one seed. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import product

import msgspec

from saga_core.errors import UserError


class Load(StrEnum):
    """How arrivals are set: `level` is a pressure, a share of the sustainable peak, or workflows at a time."""

    PRESSURE = "pressure"
    PEAK = "peak"
    AT_ONCE = "at-once"


class Half(StrEnum):
    """Which workflows: constants may be chosen on one half of them and reported on the other."""

    ALL = "all"
    TUNE = "tune"
    REPORT = "report"


class Cell(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One run. profile: by its name, perhaps with something changed (`variants`). twist: what is different about the set
    (`twists`). rate_per_s: arrivals per second, of a share of the peak once the peak is known.
    """

    work: str
    profile: str
    load: Load
    level: float
    seed: int
    workflows: int
    workers: int
    half: Half = Half.ALL
    twist: str = ""
    rate_per_s: float | None = None

    def __str__(self) -> str:
        """`swe pressure 1.5 on 4 cv~2, sticky, seed 0`."""
        twist = f" {self.twist}" if self.twist else ""
        return f"{self.work} {self.load} {self.level:g} on {self.workers}{twist}, {self.profile}, seed {self.seed}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Sets times loads times cluster sizes times twists. per_worker: workflows for each worker of the cluster."""

    works: tuple[str, ...]
    load: Load
    levels: tuple[float, ...]
    workers: tuple[int, ...]
    per_worker: int
    least: int = 0
    """At least that many workflows in a cell: short ones need more for a steady state."""
    twists: tuple[str, ...] = ("",)
    profiles: tuple[str, ...] | None = None
    """Only these; None: all."""

    def workflows(self, workers: int) -> int:
        return max(self.least, self.per_worker * workers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """A named evaluation."""

    what: str
    grids: tuple[Grid, ...]
    seeds: int
    baselines: tuple[str, ...] | None = None
    """Instead of the targets'."""
    judged: bool = True
    """Whether it runs what targets are about, at the size they are about."""


MIX = "mix"
WORKERS = 4
"""As in the policy study, section 1; 16 workers agreed with it there."""
PROBES_PER_WORKER = (8, 12, 16, 20, 24, 28)
"""Workflows at a time, per worker, among which the peak lies: the study found it at 24 (its section 9)."""
PROBE_PROFILE = "sticky"


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What a person changes of a suite; None: as the suite says."""

    works: tuple[str, ...] | None = None
    pressures: tuple[float, ...] | None = None
    seeds: int | None = None
    workflows: int | None = None
    half: Half = Half.ALL


def profiles_of(plan: Suite, every: Sequence[str]) -> list[str]:
    """All that the suite runs, in its order; `every`: what a grid runs that names none."""
    return list(dict.fromkeys(name for grid in plan.grids for name in grid.profiles or every))


def enumerate_cells(
    plan: Suite, profiles: Sequence[str] | None, choice: Choice, every: Sequence[str] = ()
) -> list[Cell]:
    """All cells, seed by seed so that a run cut short has whole comparisons, each once.

    profiles: what a person asked for, in every grid; None: each grid its own, and `every` one where it names none.
    """
    if profiles is not None and not profiles:
        raise UserError("name at least one profile")
    grids = [_chosen(grid, choice) for grid in plan.grids]
    cells = [
        cell
        for seed in range(choice.seeds or plan.seeds)
        for grid in grids
        for cell in _cells(grid, profiles or grid.profiles or every, seed, choice)
    ]
    if not cells:
        raise UserError("this choice of sets leaves nothing to run")
    return _largest(cells)


def _chosen(grid: Grid, choice: Choice) -> Grid:
    works = grid.works if choice.works is None else tuple(w for w in grid.works if w in choice.works)
    given = choice.pressures if grid.load is Load.PRESSURE else None
    return replace(grid, works=works, levels=given or grid.levels)


def _largest(cells: Sequence[Cell]) -> list[Cell]:
    """Several grids may ask for the same with fewer or more workflows: all take the most, and each cell is there once."""
    most: dict[Cell, int] = {}
    for cell in cells:
        alike = msgspec.structs.replace(cell, workflows=0, profile="")
        most[alike] = max(cell.workflows, most.get(alike, 0))
    alikes = (msgspec.structs.replace(cell, workflows=0, profile="") for cell in cells)
    return list(
        dict.fromkeys(
            msgspec.structs.replace(cell, workflows=most[alike])
            for cell, alike in zip(cells, alikes, strict=True)
        )
    )


def _cells(grid: Grid, profiles: Sequence[str], seed: int, choice: Choice) -> Iterator[Cell]:
    for work, workers, at, twist in product(grid.works, grid.workers, grid.levels, grid.twists):
        for profile in profiles:
            yield Cell(
                work=work,
                profile=profile,
                load=grid.load,
                level=at,
                seed=seed,
                workflows=choice.workflows or grid.workflows(workers),
                workers=workers,
                half=choice.half,
                twist=twist,
            )


def probes(cells: Sequence[Cell]) -> list[Cell]:
    """The runs that find the sustainable peak of the cells that ask for a share of it: closed loops, two seeds."""
    asked = [cell for cell in cells if cell.load is Load.PEAK]
    found = {
        msgspec.structs.replace(
            cell,
            profile=PROBE_PROFILE,
            load=Load.AT_ONCE,
            level=at * cell.workers,
            seed=seed,
            rate_per_s=None,
        )
        for cell in asked
        for at in PROBES_PER_WORKER
        for seed in (0, 1)
    }
    return sorted(found, key=lambda cell: (cell.work, cell.workers, cell.seed, cell.level))
