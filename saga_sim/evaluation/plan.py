"""What an evaluation runs: cells, each one profile on one set of workflows at one load with one seed. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from math import inf

import msgspec

from saga_core.errors import UserError, choose


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
    """One run. profile: by its name, perhaps with what workflows declare (`variant`). rate_per_s: arrivals per second, of a share of the peak once the peak is known."""

    work: str
    profile: str
    load: Load
    level: float
    seed: int
    workflows: int
    workers: int
    half: Half = Half.ALL
    rate_per_s: float | None = None

    def __str__(self) -> str:
        """`swe pressure 1.5, sticky, seed 0`."""
        return f"{self.work} {self.load} {self.level:g} on {self.workers}, {self.profile}, seed {self.seed}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Sets times loads times cluster sizes. per_worker: workflows for each worker of the cluster."""

    works: tuple[str, ...]
    load: Load
    levels: tuple[float, ...]
    workers: tuple[int, ...]
    per_worker: int
    least: int = 0
    """At least that many workflows in a cell: short ones need more for a steady state."""

    def workflows(self, workers: int) -> int:
        return max(self.least, self.per_worker * workers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """A named evaluation."""

    what: str
    grids: tuple[Grid, ...]
    seeds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A profile and what workflows tell it: sigma of the log-normal error of the work they declare; None: nothing."""

    profile: str
    sigma: float | None = None


DECLARED = "+declared"


def variant(name: str) -> Variant:
    """Of `saga`, `saga+declared` or `saga+declared~0.7`. Raises UserError for any other addition."""
    profile, plus, addition = name.partition("+")
    if not plus:
        return Variant(profile=profile)
    word, tilde, sigma = addition.partition("~")
    with suppress(ValueError):
        error = float(sigma) if tilde else 0.0
        if f"+{word}" == DECLARED and 0 <= error < inf:
            return Variant(profile=profile, sigma=error)
    raise UserError(
        f"profile {name!r}: not known after '+' (valid: {profile}{DECLARED}, {profile}{DECLARED}~SIGMA)"
    )


WORKERS = 4
"""As in the policy study, section 1; 16 workers agreed with it there."""
MIX = "mix"
PEAK_SHARES = (0.5, 0.8, 0.9, 0.97, 1.1)
PROBES_PER_WORKER = (8, 12, 16, 20, 24, 28)
"""Workflows at a time, per worker, among which the peak lies: the study found it at 24 (its section 9)."""
PROBE_PROFILE = "sticky"
OVERLOADS = (1.0, 1.5, 2.0, 4.0)
SHORT, LONG = ("swe", "iso"), ("entire", "kvct")
"""Workflows of minutes and of hours. In overload short ones need many: the backlog must outgrow the pool first. The geomean
of `saga-blind` against `sticky` on swe at pressure 1.5 was 1.4 with 160 workflows, 3.2 with 500, 4.3 with 1,500."""
CHAT = 3000
"""tau-bench workflows last half a minute: 600 of them were over before they filled a quarter of the engines' time."""


def _pressure(
    works: tuple[str, ...], *at: float, per_worker: int, workers: tuple[int, ...] = (WORKERS,)
) -> Grid:
    return Grid(works=works, load=Load.PRESSURE, levels=at, workers=workers, per_worker=per_worker)


def _chat(*at: float) -> Grid:
    return Grid(works=("chat",), load=Load.PRESSURE, levels=at, workers=(WORKERS,), per_worker=0, least=CHAT)


def _mix(at: tuple[float, ...], per_worker: int) -> Grid:
    return Grid(works=(MIX,), load=Load.PEAK, levels=at, workers=(WORKERS,), per_worker=per_worker)


SUITES = {
    "quick": Suite(
        what="two sets at two pressures with one seed: a look, no evidence",
        grids=(_pressure(SHORT, 0.3, per_worker=40), _pressure(SHORT, 1.5, per_worker=75)),
        seeds=1,
    ),
    "standard": Suite(
        what="every set below and above the memory cliff, the ten-tenant mix at 80 and 97 % of the peak, three seeds",
        grids=(
            _pressure((*SHORT, *LONG, "web"), 0.3, per_worker=50),
            _pressure(SHORT, 1.5, per_worker=200),
            _pressure(LONG, 1.5, per_worker=50),
            _pressure(("web",), 0.5, per_worker=100),
            _chat(0.3, 1.5),
            _mix((0.8, 0.97), per_worker=150),
        ),
        seeds=3,
    ),
    "full": Suite(
        what="every set, pressure, share of the peak and cluster size, five seeds; hours",
        grids=(
            _pressure((*SHORT, *LONG, "web"), 0.1, 0.3, per_worker=75),
            _pressure((*SHORT, "web"), 0.5, *OVERLOADS, per_worker=500),
            _pressure(LONG, 0.5, *OVERLOADS, per_worker=75),
            _chat(0.3, 0.5, *OVERLOADS),
            _mix(PEAK_SHARES, per_worker=300),
            # 4 to 256 GPUs: the 70B worker takes four of them, the 8B worker one.
            _pressure(SHORT, 1.5, per_worker=200, workers=(1, 16, 64)),
            _pressure(LONG, 1.5, per_worker=75, workers=(16, 64, 256)),
        ),
        seeds=5,
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What a person changes of a suite; None: as the suite says."""

    works: tuple[str, ...] | None = None
    pressures: tuple[float, ...] | None = None
    seeds: int | None = None
    workflows: int | None = None
    half: Half = Half.ALL


def suite(name: str) -> Suite:
    """The suite of that name. Raises UserError with the valid ones."""
    if name not in SUITES:
        raise choose("suite", name, list(SUITES))
    return SUITES[name]


def enumerate_cells(plan: Suite, profiles: Sequence[str], choice: Choice) -> list[Cell]:
    """All cells, seed by seed so that a run cut short has whole comparisons, each once."""
    if not profiles:
        raise UserError("name at least one profile")
    grids = [_chosen(grid, choice) for grid in plan.grids]
    cells = [
        cell
        for seed in range(choice.seeds or plan.seeds)
        for grid in grids
        for cell in _cells(grid, profiles, seed, choice)
    ]
    if not cells:
        raise UserError("this choice of sets leaves nothing to run")
    return _largest(cells)


def _chosen(grid: Grid, choice: Choice) -> Grid:
    works = grid.works if choice.works is None else tuple(w for w in grid.works if w in choice.works)
    given = choice.pressures if grid.load is Load.PRESSURE else None
    return replace(grid, works=works, levels=given or grid.levels)


def _largest(cells: Sequence[Cell]) -> list[Cell]:
    """Given pressures fall into several grids: of cells that differ in size alone, the largest."""
    best: dict[Cell, Cell] = {}
    for cell in cells:
        alike = msgspec.structs.replace(cell, workflows=0)
        if alike not in best or cell.workflows > best[alike].workflows:
            best[alike] = cell
    return list(best.values())


def _cells(grid: Grid, profiles: Sequence[str], seed: int, choice: Choice) -> Iterator[Cell]:
    for work in grid.works:
        for workers in grid.workers:
            for at in grid.levels:
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
