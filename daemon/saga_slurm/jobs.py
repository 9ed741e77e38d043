"""The jobs of a cluster's folder: submitted, looked up, told apart from those that are over."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import msgspec

from saga_core.errors import ClusterError
from saga_shell.files import write_private
from saga_slurm import records
from saga_slurm.allocation import Allocation
from saga_slurm.backend import Backend
from saga_slurm.facts import Job
from saga_slurm.records import Record


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
            records.write(folder, msgspec.structs.replace(each.record, over=True))
    return found


async def _settled(backend: Backend, folder: Path, record: Record) -> Record:
    if record.job:
        return record
    job = await backend.find(record.tag, job_name=record.allocation.job_name)
    return record if job is None else _noted(folder, record, job)


def _noted(folder: Path, record: Record, job: str) -> Record:
    noted = msgspec.structs.replace(record, job=job)
    records.write(folder, noted)
    return noted


async def submit(backend: Backend, folder: Path, allocation: Allocation, script: str) -> Record:
    """Hand the script to Slurm; the record says which job it became."""
    record = Record(allocation=allocation, asked_at=time.time())
    records.write(folder, record)
    path = records.script_file(folder, record.tag)
    try:
        write_private(path, script.encode())
    except OSError as error:
        raise ClusterError(f"{path}: cannot be written: {error.strerror}") from None
    return _noted(folder, record, await backend.submit(path, tag=record.tag, job_name=allocation.job_name))
