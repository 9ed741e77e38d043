"""`saga eval` for a person: what to run, progress with the time left, and the reports."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from saga_cli.progress import Progress
from saga_cli.units import duration, plural
from saga_core.errors import UserError, choose

if TYPE_CHECKING:
    from rich.console import RenderableType

    from saga_sim.evaluation.answer import Evaluation
    from saga_sim.evaluation.cells import CellResult
    from saga_sim.evaluation.course import Course, Pace
    from saga_sim.evaluation.plan import Cell, Choice

TRACES = Path("../shared/traces")
"""Where a checkout may have the recordings beside it."""
BASELINES = ("sticky", "thunder", "ttl", "saga-paper", "saga+declared")
"""What the targets are set against; of these, those that are run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """A whole evaluation, checked."""

    suite: str
    chosen: Sequence[str] | None
    """Profiles that were asked for; None: the suite's."""
    profiles: Sequence[str]
    baselines: Sequence[str]
    choice: Choice
    traces: Path | None
    folder: Path
    jobs: int


def traces_folder(given: Path | None) -> Path | None:
    """The one given, of SAGA_TRACES, or beside the checkout. Raises UserError for one given that is no folder."""
    told = given or (Path(os.environ["SAGA_TRACES"]) if os.environ.get("SAGA_TRACES") else None)
    if told is not None and not told.expanduser().is_dir():
        raise UserError(f"{told}: no folder of trace files")
    if told is not None:
        return told.expanduser().resolve()
    return TRACES.resolve() if TRACES.is_dir() else None


def profiles(names: str | None) -> list[str] | None:
    """Of a comma-separated list; None: those of the suite. Raises UserError for unknown ones."""
    from saga_cli.simulating import profiles as known
    from saga_sim.evaluation.variants import changed, variant

    if names is None:
        return None
    chosen = [name.strip() for name in names.split(",") if name.strip()]
    known(",".join(dict.fromkeys(variant(name).profile for name in chosen)))
    if len(set(chosen)) < len(chosen):
        raise UserError(f"--profile {names!r}: name each profile once")
    for name in chosen:
        changed(variant(name))
    return chosen


def planned(suite_name: str, chosen: Sequence[str] | None) -> list[str]:
    """The profiles of the evaluation: those chosen, or the suite's."""
    from saga_sim.evaluation.plan import profiles_of
    from saga_sim.evaluation.suites import suite

    return list(chosen) if chosen is not None else profiles_of(suite(suite_name), every())


def every() -> list[str]:
    """All profiles there are, and ours with declared work."""
    from saga_core.policy.profiles import PROFILES
    from saga_sim.evaluation.suites import LEARNED, PERFECT

    return [*PROFILES, *([PERFECT] if LEARNED in PROFILES else [])]


def works(names: str | None) -> tuple[str, ...] | None:
    """The sets of a comma-separated list; None: as the suite says. Raises UserError for one that there is none of."""
    from saga_sim.evaluation.sets import work_set

    return None if names is None else tuple(work_set(name.strip()).name for name in names.split(","))


def half(name: str) -> str:
    """`all`, `tune` or `report`. Raises UserError for anything else."""
    from saga_sim.evaluation.plan import Half

    if name not in set(Half):
        raise choose("half", name, [*Half])
    return name


def baselines(names: str | None, suite_name: str, profiles: Sequence[str]) -> list[str]:
    """Those named, or of the usual ones those that are run. Raises UserError for one that is not run."""
    from saga_sim.evaluation.suites import suite

    if names is None:
        usual = suite(suite_name).baselines or BASELINES
        return [name for name in usual if name in profiles] or [profiles[0]]
    chosen = [name.strip() for name in names.split(",") if name.strip()]
    for name in chosen:
        if name not in profiles:
            raise choose("baseline", name, list(profiles))
    return chosen


def run(setup: Setup, show: Progress) -> Evaluation:
    """Run what is not kept yet, and write the three reports into the folder."""
    from saga_sim.evaluation import markdown, page
    from saga_sim.evaluation.course import Course, Told
    from saga_sim.evaluation.plan import enumerate_cells
    from saga_sim.evaluation.sets import absent
    from saga_sim.evaluation.store import opened
    from saga_sim.evaluation.suites import suite

    cells = enumerate_cells(suite(setup.suite), setup.chosen, setup.choice, every())
    missing = absent(setup.traces)
    skipped = {cell.work: missing[cell.work] for cell in cells if cell.work in missing}
    for name, why in skipped.items():
        show.say(f"skipped: {name}: {why}")
    cells = [cell for cell in cells if cell.work not in skipped]
    if not cells:
        raise UserError("none of the sets chosen is here: " + "; ".join(skipped.values()))
    with opened(setup.folder) as store:
        if store.dropped:
            show.say(f"{plural(store.dropped, 'damaged result')} dropped")
        shown = _Shown(show, setup.jobs)
        course = Course(store, setup.traces, setup.jobs, Told(stage=shown.stage, ended=shown.ended))
        try:
            results = course.run(cells)
        except KeyboardInterrupt:
            show.say(f"what has ended is kept in {setup.folder}: the same command goes on from there")
            raise
    answer = evaluation(setup, course, results, skipped)
    _write(setup.folder / "eval.json", _json(answer))
    _write(setup.folder / "eval.md", markdown.render(answer))
    _write(setup.folder / "eval.html", page.render(answer))
    return answer


@dataclass(slots=True)
class _Shown:
    """Tells the course's progress, with the time that is left."""

    show: Progress
    jobs: int
    left: dict[Cell, None] = field(default_factory=dict)
    total: int = 0
    pace: Pace | None = None

    def stage(self, name: str, cells: Sequence[Cell], kept: int) -> None:
        from saga_sim.evaluation.course import Pace

        self.pace = self.pace or Pace(self.jobs)
        self.left, self.total = dict.fromkeys(cells), len(cells)
        self.show.phase(f"{name}: {plural(len(cells), 'cell')} to run, {kept} kept from before", self.total)

    def ended(self, cell: Cell, wall_s: float | None, why: str) -> None:
        assert self.pace is not None
        if wall_s is not None:
            self.pace.ended(cell, wall_s)
        self.left.pop(cell, None)
        left_s = self.pace.left_s(self.left)
        took = f"{wall_s:.1f} s" if wall_s is not None else f"FAILED: {why}"
        rest = "" if left_s is None else f"; about {duration(left_s)} left"
        self.show.advance(self.total - len(self.left), f"{cell}: {took}{rest}")


def evaluation(
    setup: Setup, course: Course, results: Sequence[CellResult], skipped: dict[str, str]
) -> Evaluation:
    """The results folded and judged."""
    from saga_sim.evaluation.answer import Evaluation, SetUp, headline, losses
    from saga_sim.evaluation.fingerprint import code
    from saga_sim.evaluation.suites import suite
    from saga_sim.evaluation.summary import standings
    from saga_sim.evaluation.targets import judge

    found = standings(results, setup.baselines)
    judged = judge(found) if suite(setup.suite).judged else []
    return Evaluation(
        set_up=SetUp(
            suite=setup.suite,
            command=_command(),
            profiles=tuple(setup.profiles),
            baselines=tuple(setup.baselines),
            seeds=setup.choice.seeds or suite(setup.suite).seeds,
            machine=machine(),
            versions=versions(),
            skipped=tuple(skipped.items()),
            code=code(),
        ),
        headline=headline(judged, found),
        targets=tuple(judged),
        losses=tuple(losses(found, setup.profiles)),
        standings=tuple(found),
        peaks=tuple(course.peaks),
        failures=tuple(course.failures),
        cells=len(results),
        cpu_s=sum(result.cpu_s for result in results),
    )


def _command() -> str:
    from shlex import join

    return join(["saga", *sys.argv[1:]])


def versions() -> tuple[tuple[str, str], ...]:
    """Of saga and Python."""
    from importlib.metadata import version

    return (("saga", version("saga-llm")), ("Python", platform.python_version()))


def machine() -> str:
    """Where it ran: it decides how long that took, not what came out."""
    return f"{plural(os.cpu_count() or 1, 'core')}, {platform.system()} {platform.machine()}"


def _json(answer: Evaluation) -> str:
    import msgspec

    return msgspec.json.format(msgspec.json.encode(answer), indent=1).decode() + "\n"


def _write(path: Path, text: str) -> None:
    scratch = path.with_name(f".{path.name}.new")
    try:
        scratch.write_text(text, encoding="utf-8")
        scratch.replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from None


def table(answer: Evaluation, folder: Path) -> RenderableType:
    """The verdict, the targets that were run, and the gains over the first baseline."""
    from rich.console import Group
    from rich.text import Text

    from saga_sim.evaluation import rows
    from saga_sim.evaluation.targets import State

    judged = [j for j in answer.targets if j.state is not State.NOT_RUN]
    parts: list[RenderableType] = [Text(answer.headline), Text()]
    if judged:
        parts += [_grid(rows.targets(judged)), Text()]
    for baseline in answer.set_up.baselines[:1]:
        parts += [Text(f"Times as fast as {baseline}:"), _grid(rows.overview(answer, baseline)), Text()]
    parts += [Text(f"FAILED {failure.cell}: {failure.why}") for failure in answer.failures]
    parts.append(Text(f"Reports: {folder / 'eval.html'}, eval.md, eval.json"))
    return Group(*parts)


def _grid(shown: object) -> RenderableType:
    from rich.table import Table

    from saga_sim.evaluation.rows import Table as Rows

    assert isinstance(shown, Rows)
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for at, name in enumerate(shown.head):
        grid.add_column(name, justify="left" if at < shown.words else "right")
    for row in shown.rows:
        grid.add_row(*row)
    return grid
