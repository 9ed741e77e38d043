"""The jobs of a cluster's folder: submitted, looked up, told apart from those that are over."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec

from saga_core.errors import ClusterError
from saga_shell.files import write_private
from saga_slurm import records
from saga_slurm.allocation import Allocation
from saga_slurm.backend import Backend
from saga_slurm.commands import Commands
from saga_slurm.facts import Job
from saga_slurm.records import Record
from saga_slurm.rendering import render
from saga_slurm.site import Site


@dataclass(frozen=True, slots=True)
class Standing:
    """One allocation and Slurm's word on it; None: Slurm does not know it any more."""

    record: Record
    job: Job | None

    @property
    def live(self) -> bool:
        """Whether it runs, or may yet."""
        return self.job is not None and not self.job.over


def known(folder: Path) -> list[Record]:
    """Allocations that were not over when they were last looked at, oldest first."""
    return [record for record in records.read_all(folder) if not record.over]


async def standing(backend: Backend, folder: Path) -> list[Standing]:
    """Every allocation of the folder that was not over when it was last looked at, oldest first.

    Whether a submission happened whose answer never came is found out here, and noted.
    """
    settled = [await _settled(backend, folder, record) for record in known(folder)]
    facts = await backend.jobs([record.job for record in settled if record.job])
    found = [Standing(record, facts.get(record.job)) for record in settled]
    for each in found:
        if not each.live:
            _noted(folder, each.record, over=True)
    return found


async def _settled(backend: Backend, folder: Path, record: Record) -> Record:
    if record.job:
        return record
    job = await backend.find(record.tag, job_name=record.allocation.job_name)
    return record if job is None else _noted(folder, record, job=job)


def _noted(folder: Path, record: Record, **facts: Any) -> Record:
    """What was found out, written where the folder takes it: a full one must not keep anybody from ending a cluster.

    Nothing is lost: what is not written is found out again.
    """
    noted = msgspec.structs.replace(record, **facts)
    with contextlib.suppress(ClusterError):
        records.write(folder, noted)
    return noted


async def submit(backend: Backend, folder: Path, allocation: Allocation, site: Site) -> Record:
    """Render the script and hand it to Slurm; the record says which job it became."""
    script = rendered(allocation, site)
    record = Record(allocation=allocation, asked_at=time.time(), site=site)
    records.write(folder, record)
    path = records.script_file(folder, record.tag)
    _write(path, script)
    job = await backend.submit(path, tag=record.tag, job_name=allocation.job_name)
    return _noted(folder, record, job=job)


def rendered(allocation: Allocation, site: Site) -> str:
    """The script of an allocation. UserError for what cannot stand in one."""
    return render(allocation, site, version=_version())


async def try_out(commands: Commands, folder: Path, allocation: Allocation, site: Site) -> None:
    """Whether Slurm would take such a script from this machine: raises as `submit` would. Nothing is submitted."""
    path = records.script_file(folder, f"try-{os.getpid()}")
    _write(path, rendered(allocation, site))
    try:
        await commands.would_start(path)
    finally:
        path.unlink(missing_ok=True)


def _write(path: Path, script: str) -> None:
    try:
        write_private(path, script.encode())
    except OSError as error:
        raise ClusterError(f"{path}: cannot be written: {error.strerror}") from None


def _version() -> str:
    try:
        return version("saga-llm")
    except PackageNotFoundError:  # run from a source tree
        return "0"
