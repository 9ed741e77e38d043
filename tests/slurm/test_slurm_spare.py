"""When a second job waits for the first one to fail, against a Slurm of the test's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from msgspec.structs import replace

from saga_slurm import records, spare
from saga_slurm.allocation import Allocation, Role
from saga_slurm.facts import Job, JobState, SlurmRefused
from saga_slurm.records import Record
from saga_slurm.site import JobSite, Site

FIRST = Allocation(
    role=Role.CLUSTER, tag="f" * 32, name="c", folder="/f", nodes=2, time_s=600, python="python"
)


@dataclass
class Queue:
    """A Slurm that takes every job, or refuses."""

    told: dict[str, Job] = field(default_factory=dict)
    scripts: list[str] = field(default_factory=list)
    refuses: bool = False

    async def submit(self, script: Path, *, tag: str, job_name: str) -> str:
        if self.refuses:
            raise SlurmRefused("no jobs from here")
        job = str(50 + len(self.scripts))
        self.scripts.append(script.read_text())
        self.told[job] = Job(id=job, state=JobState.PENDING)
        return job

    async def find(self, tag: str, *, job_name: str) -> str | None:
        return None

    async def jobs(self, ids: Sequence[str]) -> dict[str, Job]:
        return {id_: self.told[id_] for id_ in ids if id_ in self.told}


@pytest.mark.parametrize(
    ("changes", "site", "is_wanted"),
    [
        ({}, {}, True),
        ({"nodes": 1}, {}, False),  # requeued
        ({"lead_s": 600}, {}, False),  # of a chain
        ({"role": Role.JOIN}, {}, False),
        ({}, {"spare": False}, False),
        ({}, {"no_kill": False}, False),  # requeued as well
    ],
)
def test_when_one_is_wanted(changes: dict, site: dict, is_wanted: bool) -> None:
    assert spare.wanted(replace(FIRST, **changes), Site(job=JobSite(**site))) == is_wanted


async def test_one_waits_for_the_one_before_and_never_two(tmp_path: Path) -> None:
    queue, site = Queue(), Site(job=JobSite(partition="gpu"))
    first = Record(allocation=replace(FIRST, folder=str(tmp_path)), asked_at=1.0, job="41", site=site)
    records.write(tmp_path, first)
    second = await spare.ensure(queue, tmp_path, first, site)
    assert second is not None
    assert (second.allocation.predecessor, second.allocation.spare, second.site) == (first.tag, True, site)
    assert "#SBATCH --dependency=afternotok:41\n" in queue.scripts[0]
    assert "#SBATCH --partition=gpu\n" in queue.scripts[0]
    assert await spare.ensure(queue, tmp_path, first, site) is None  # it waits
    third = await spare.ensure(queue, tmp_path, second, site)  # the second one has begun
    assert third is not None
    assert "#SBATCH --dependency=afternotok:50\n" in queue.scripts[1]
    assert len({first.tag, second.tag, third.tag}) == 3


async def test_one_that_was_cancelled_is_submitted_anew(tmp_path: Path) -> None:
    queue, site = Queue(), Site()
    first = Record(allocation=replace(FIRST, folder=str(tmp_path)), asked_at=1.0, job="41", site=site)
    records.write(tmp_path, first)
    await spare.ensure(queue, tmp_path, first, site)
    queue.told["50"] = Job(id="50", state=JobState.CANCELLED)
    assert await spare.ensure(queue, tmp_path, first, site) is not None
    queue.told["51"], queue.refuses = Job(id="51", state=JobState.CANCELLED), True
    with pytest.raises(SlurmRefused):
        await spare.ensure(queue, tmp_path, first, site)


def test_records_of_an_earlier_saga_are_read(tmp_path: Path) -> None:
    records.write(tmp_path, Record(allocation=FIRST, asked_at=1.0))
    (path,) = (tmp_path / records.FOLDER).glob("*.json")
    path.write_text(path.read_text().replace('"site": null,', ""))
    assert records.read_all(tmp_path)[0].site is None
