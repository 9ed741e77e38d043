"""A second job for a cluster whose first one Slurm may end without requeueing it: it waits until that one has failed.

`python -m saga_slurm.spare --cluster-dir DIR --tag TAG` submits one for the allocation of that tag, from a node of it,
when its head has served for a while: heads that cannot live must not beget jobs for ever.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
import uuid
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from saga_core.errors import SagaError
from saga_shell import cluster, log
from saga_slurm import head, jobs, records
from saga_slurm.allocation import Allocation, Role
from saga_slurm.backend import Backend
from saga_slurm.backends import backend_for
from saga_slurm.records import Record
from saga_slurm.site import Site

LOOK_S: Final = 1.0


def wanted(allocation: Allocation, site: Site) -> bool:
    """Whether one is to wait. A job of one node is requeued, and one of a chain has its successor. Pure."""
    several = allocation.role is Role.CLUSTER and allocation.nodes > 1
    return several and not allocation.lead_s and site.job.spare and site.job.no_kill


def spare_of(record: Record) -> Allocation:
    """What is to begin when the job of `record` has failed. Pure, but for its tag."""
    return replace(
        record.allocation,
        tag=uuid.uuid4().hex,
        predecessor=record.tag,
        predecessor_job=record.job,
        lead_s=0,
    )


async def ensure(backend: Backend, folder: Path, record: Record, site: Site) -> Record | None:
    """Submit one, unless none is wanted or one waits. Raises as a submission does, where Slurm takes none from here."""
    if not wanted(record.allocation, site):
        return None
    live = [each.record for each in await jobs.standing(backend, folder) if each.live]
    if any(each.allocation.predecessor == record.tag for each in live):
        return None
    return await jobs.submit(backend, folder, spare_of(record), site)


def _until_settled(folder: Path, job: str, settled_s: float) -> None:
    """Returns when the head has answered from that job for so long."""
    since: float | None = None
    while since is None or time.monotonic() - since < settled_s:
        time.sleep(LOOK_S)
        access = cluster.read_access(folder)
        serves = access is not None and access.job == job and head.answers(access)
        since = (since or time.monotonic()) if serves else None


async def _ensure(folder: Path, tag: str) -> None:
    record = next((each for each in records.read_all(folder) if each.tag == tag and each.job), None)
    if record is None or record.site is None:
        return
    async with backend_for(record.site.slurm) as backend:
        found = await ensure(backend, folder, record, record.site)
    if found is not None:
        log.info("the next spare waits", job=found.job)


def main() -> int:
    """Exit code 0, also where Slurm takes no job from here: the cluster serves without."""
    parser = argparse.ArgumentParser(prog="python -m saga_slurm.spare", description=__doc__)
    parser.add_argument("--cluster-dir", type=Path, required=True)
    parser.add_argument("--tag", required=True, help="of the allocation that it is for")
    parser.add_argument(
        "--settled", type=float, default=60.0, metavar="S", help="once its head has served so long"
    )
    options = parser.parse_args()
    log.start(os.environ.get("SAGA_LOG_LEVEL", "info"))
    os.umask(0o077)
    try:
        _until_settled(options.cluster_dir, os.environ.get("SLURM_JOB_ID", ""), options.settled)
        asyncio.run(_ensure(options.cluster_dir, options.tag))
    except SagaError as error:
        log.warning("no further spare (`saga up --slurm` on the login node submits one)", problem=error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
