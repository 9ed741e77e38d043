"""How a cluster may grow and shrink by itself, and how far that has come: two files in its folder.

`slurm/scaling/plan.json` is written by `saga up`, removed by `saga down`, and read again at every look.
`slurm/scaling/course.json` is written by the process that does it; it survives that process, its job and the cluster.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from saga_core.errors import ClusterError
from saga_shell.files import write_private
from saga_slurm import records
from saga_slurm.allocation import Allocation
from saga_slurm.elastic import Backoff, Limits, Phase
from saga_slurm.site import Site

FOLDER: Final = "scaling"
PLAN: Final = "plan.json"
COURSE: Final = "course.json"


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What may be done, and what a further allocation is asked for as."""

    limits: Limits
    join: Allocation
    """One node; its tag is replaced."""
    site: Site


class Course(msgspec.Struct, frozen=True, kw_only=True):
    """What is being done. Times in seconds since the epoch."""

    at: float = 0.0
    doing: str = ""
    """The latest decision that was not to wait, or `hold`."""
    why: str = ""
    joined: dict[str, Phase] = {}
    """By tag: the allocations that the cluster asked for and that are not over."""
    backoff: Backoff = Backoff()
    problem: str = ""
    """Why this process cannot ask for nodes at all."""
    ended: str = ""
    """Why the cluster has ended by itself; empty: it has not."""


def _file(folder: Path, name: str) -> Path:
    return folder / records.FOLDER / FOLDER / name


def read_plan(folder: Path) -> Plan | None:
    """None: this cluster does not grow or shrink."""
    data = _read(_file(folder, PLAN))
    try:
        return None if data is None else msgspec.json.decode(data, type=Plan)
    except msgspec.DecodeError as error:
        raise ClusterError(
            f"{_file(folder, PLAN)} is damaged ({error}); `saga up --slurm` writes it anew"
        ) from None


def write_plan(folder: Path, plan: Plan) -> None:
    """Raises ClusterError where the folder cannot be written."""
    _write(_file(folder, PLAN), msgspec.json.format(msgspec.json.encode(plan), indent=2) + b"\n")


def remove_plan(folder: Path) -> None:
    """From here on nothing is asked for."""
    _file(folder, PLAN).unlink(missing_ok=True)


def read_course(folder: Path) -> Course:
    """An empty one where none stands, or one that cannot be read: what it says is then found out again."""
    data = _read(_file(folder, COURSE))
    try:
        return Course() if data is None else msgspec.json.decode(data, type=Course)
    except msgspec.DecodeError:
        return Course()


def write_course(folder: Path, course: Course) -> None:
    """Raises ClusterError where the folder cannot be written."""
    _write(_file(folder, COURSE), msgspec.json.encode(course) + b"\n")


def remove_course(folder: Path) -> None:
    """For a cluster that begins anew."""
    _file(folder, COURSE).unlink(missing_ok=True)


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ClusterError(f"{path}: cannot be read: {error.strerror}") from None


def _write(path: Path, data: bytes) -> None:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(path, data)
    except OSError as error:
        raise ClusterError(f"{path}: cannot be written: {error.strerror}") from None
