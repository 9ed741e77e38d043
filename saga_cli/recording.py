"""A cluster's journal files as a source of traces: all kept ones, also while the head writes. Read only."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from saga_core.errors import ClusterError, UserError

if TYPE_CHECKING:
    from saga_core.events import Fact
    from saga_sim.trace import Workflow
    from saga_sim.trace.importers import Imported, ImportOptions
    from saga_sim.trace.journal import Recorder

ENDS: Final = (signal.SIGINT, signal.SIGTERM)
POLL_S: Final = 0.5
POLL_SHARE: Final = 0.1
"""Reading a growing journal again from its start may take at most this share of the time."""


@dataclass(slots=True)
class Segments:
    """The kept journals of a folder, in order, and how far they were read."""

    folder: Path
    number: int = -1
    place: int = 0

    def facts(self) -> Iterator[tuple[float, Fact]]:
        """What was written since the last call. Raises ClusterError for damage that is no torn end."""
        from saga_head.journal import Torn, read

        kept = self._kept()
        for number, path in kept:
            if number < self.number:
                continue
            if number > self.number:
                self.number, self.place = number, 0
            try:
                if path.stat().st_size == self.place:
                    continue
                for end, at, fact in read(path):
                    if end > self.place:
                        self.place = end
                        yield at, fact
            except Torn as torn:
                if number != kept[-1][0]:
                    raise ClusterError(
                        f"{path}: damaged at byte {torn.at}, and newer journals follow"
                    ) from None
            except FileNotFoundError:
                continue  # a snapshot took its place meanwhile
            except OSError as error:
                raise ClusterError(f"{path}: cannot be read: {error.strerror or error}") from None

    def _kept(self) -> list[tuple[int, Path]]:
        found = []
        for path in self.folder.glob("journal-*.log"):
            digits = path.stem.rpartition("-")[2]
            if digits.isdigit():
                found.append((int(digits), path))
        return sorted(found)


@dataclass(frozen=True, slots=True)
class Copies:
    """Journal files by name, in the order given, as somebody copied them from a cluster."""

    paths: Sequence[Path]

    def facts(self) -> Iterator[tuple[float, Fact]]:
        """All of them. A torn end is one only in the last file. Raises UserError for what is no journal."""
        from saga_head.journal import Torn, read

        for path in self.paths:
            try:
                yield from ((at, fact) for _, at, fact in read(path))
            except Torn as torn:
                if torn.at == 0 or path != self.paths[-1]:
                    raise UserError(
                        f"{path}: not a whole journal at byte {torn.at} (valid: journal-*.log of a cluster)"
                    ) from None
            except OSError as error:
                raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None


Source = Segments | Copies


def source_of(paths: Sequence[Path]) -> Source:
    """A cluster folder, its journal folder, or copies of its files. Raises UserError for a mixture."""
    if not any(path.is_dir() for path in paths):
        return Copies(paths)
    if len(paths) > 1:
        raise UserError("a folder stands alone (valid: one cluster folder, or journal files of one cluster)")
    folder = paths[0]
    return Segments(folder if any(folder.glob("journal-*.log")) else journal_folder(folder))


class Exported(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of an export, an import or a recording. `running`: workflows told as far as they came."""

    file: str
    workflows: int
    steps: int
    running: int
    left_out: dict[str, int]


def exported(
    out: Path, workflows: Sequence[Workflow], left_out: dict[str, int], running: int = 0
) -> Exported:
    """Write `workflows` in one piece. Raises UserError when there are none, saying why."""
    from saga_sim.trace import write_trace

    if not workflows:
        told = ", ".join(f"{what}: {count}" for what, count in left_out.items())
        raise UserError(f"{out}: no workflow to write{f' (left out: {told})' if told else ''}")
    write_trace(out, workflows)
    steps = sum(len(workflow.steps) for workflow in workflows)
    return Exported(file=str(out), workflows=len(workflows), steps=steps, running=running, left_out=left_out)


def journal_folder(cluster: Path) -> Path:
    """Where the cluster at `cluster` keeps its journal. Raises UserError when there is none."""
    folder = cluster / "journal"
    if not any(folder.glob("journal-*.log")):
        raise UserError(f"{folder}: no journal (valid: --cluster-dir of a cluster that was started once)")
    return folder


def chosen(source: Source, selectors: Sequence[str]) -> frozenset[int] | None:
    """The numbers that a person means among the workflows of the journal; None for all."""
    from saga_cli.selection import select
    from saga_core.events import WorkflowSubmitted

    if not selectors:
        return None
    known = [fact.workflow for _, fact in source.facts() if isinstance(fact, WorkflowSubmitted)]
    return frozenset(select(",".join(selectors), known))


def export(source: Source, recorder: Recorder) -> tuple[list[Workflow], list[Workflow]]:
    """The workflows of the journal: those that ended, and those that still run as far as they came."""
    ended = list(_taken(source, recorder))
    return ended, list(recorder.running())


def from_journal(paths: Sequence[Path], options: ImportOptions, limit: int | None) -> Imported:
    """What `saga trace import saga` reads: a cluster folder or copies of its journal files."""
    from saga_sim.trace.importers import Imported, check_limit
    from saga_sim.trace.journal import Recorder

    check_limit(limit)
    recorder = Recorder(workload=options.workload, tenant=options.tenant)
    ended, running = export(source_of(paths), recorder)
    return Imported(workflows=arranged([*ended, *running])[:limit], left_out=recorder.left_out)


def arranged(workflows: list[Workflow]) -> list[Workflow]:
    """In order of arrival, counted from the first of them."""
    if not workflows:
        return []
    first_s = min(workflow.arrival_s or 0.0 for workflow in workflows)
    moved = [
        msgspec.structs.replace(workflow, arrival_s=round((workflow.arrival_s or 0.0) - first_s, 6))
        for workflow in workflows
    ]
    return sorted(moved, key=lambda workflow: (workflow.arrival_s or 0.0, int(workflow.workflow_id[5:])))


def record(
    folder: Path, out: Path, recorder: Recorder, on_workflow: Callable[[Workflow], Any]
) -> list[Workflow]:
    """Follow the journal until Ctrl-C or TERM; each workflow is in `out` as a whole line as soon as it ends.

    At the end `out` is written anew in order of arrival. Raises UserError when `out` exists already.
    """
    segments = Segments(folder)
    made: list[Workflow] = []
    _create(out)
    try:
        with _until_asked():
            while True:
                began = time.monotonic()
                for workflow in _taken(segments, recorder):
                    made.append(workflow)
                    _append(out, workflow)
                    on_workflow(workflow)
                took_s = time.monotonic() - began
                time.sleep(max(POLL_S, took_s / POLL_SHARE))
    except KeyboardInterrupt:
        return arranged(made)
    finally:
        if not made:
            out.unlink(missing_ok=True)


@contextmanager
def _until_asked() -> Iterator[None]:
    """INT and TERM interrupt: a shell starts what it puts in the background with INT ignored."""
    before = {number: signal.signal(number, signal.default_int_handler) for number in ENDS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _taken(segments: Source, recorder: Recorder) -> Iterator[Workflow]:
    for at, fact in segments.facts():
        ended = recorder.take(at, fact)
        if ended is not None:
            yield ended


def _create(out: Path) -> None:
    from saga_sim.trace.format import SUFFIXES

    if not out.name.endswith(SUFFIXES):
        raise UserError(f"{out}: a trace file ends in {' or '.join(SUFFIXES)}")
    try:
        out.open("xb").close()
    except FileExistsError:
        raise UserError(f"{out}: exists already (valid: a new file; a recording replaces none)") from None
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {error.strerror}") from None


def _append(out: Path, workflow: Workflow) -> None:
    """One line in one write; in a `.gz` it is a member of its own, so that the file is whole at any moment."""
    import gzip

    from saga_sim.trace.format import encode_workflow

    line = encode_workflow(workflow) + b"\n"
    data = gzip.compress(line, mtime=0) if out.name.endswith(".gz") else line
    try:
        with out.open("ab", buffering=0) as stream:
            stream.write(data)
    except OSError as error:
        raise ClusterError(f"{out}: cannot be written: {error.strerror}") from None
