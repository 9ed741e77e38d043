"""The allocations of a cluster, as its folder knows them: one file each, so that nobody overwrites another's.

`slurm/<tag>.json` is written before Slurm is asked and again when it has answered: a record without a job is an
intention whose outcome is looked up by its tag. Beside it stand the script that was submitted (`.sbatch`), when the
script began (`.began`), and that its head has left (`.left`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from saga_core.errors import ClusterError
from saga_shell.files import write_private
from saga_slurm.allocation import Allocation
from saga_slurm.site import Site

FOLDER: Final = "slurm"


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One allocation and what became of it."""

    allocation: Allocation
    asked_at: float
    """Seconds since the epoch, of the machine that submitted."""
    job: str = ""
    site: Site | None = None
    """How Slurm was asked; None: written by an earlier saga."""
    over: bool = False
    """Nobody needs to ask Slurm about it any more."""

    @property
    def tag(self) -> str:
        return self.allocation.tag


class Began(msgspec.Struct, frozen=True, kw_only=True):
    """Said by the batch script at its start."""

    job: str
    restarts: int
    at: float


def script_file(folder: Path, tag: str) -> Path:
    return folder / FOLDER / f"{tag}.sbatch"


def write(folder: Path, record: Record) -> None:
    """Raises ClusterError where the folder cannot be written."""
    path = folder / FOLDER / f"{record.tag}.json"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(path, msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n")
    except OSError as error:
        raise ClusterError(f"{path}: cannot be written: {error.strerror}") from None


def read_all(folder: Path) -> list[Record]:
    """Every allocation that was asked for, oldest first; none where there was none."""
    try:
        found = [_read(path) for path in (folder / FOLDER).glob("*.json")]
    except OSError as error:
        raise ClusterError(f"{folder / FOLDER}: cannot be read: {error.strerror}") from None
    return sorted(found, key=lambda record: (record.asked_at, record.tag))


def _read(path: Path) -> Record:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Record)
    except msgspec.DecodeError as error:
        raise ClusterError(
            f"{path} is damaged ({error}); once it is removed, its job is no longer known"
        ) from None


def forget(folder: Path, record: Record) -> None:
    """Remove what stands of an allocation that is over."""
    for ending in ("json", "sbatch", "began", "left"):
        (folder / FOLDER / f"{record.tag}.{ending}").unlink(missing_ok=True)


def began(folder: Path, tag: str) -> Began | None:
    """When the batch script last began; None: it has not."""
    try:
        return msgspec.json.decode((folder / FOLDER / f"{tag}.began").read_bytes(), type=Began)
    except (OSError, msgspec.DecodeError):
        return None


def has_left(folder: Path, tag: str) -> bool:
    """Whether the script has said that its head has ended in peace."""
    return (folder / FOLDER / f"{tag}.left").exists()
