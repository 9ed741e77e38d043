"""`python -m saga_slurm.standby --cluster-dir DIR`: ends with 0 when the head is lost, and one is to begin here.

Runs beside node daemons of jobs that do not have the head. That two begin one at once is no harm: the later claim has
it (ADR 6), and the head's own job, when it comes back, takes it over again.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from saga_core.access import Access
from saga_core.errors import SagaError
from saga_shell import cluster, log
from saga_slurm import head, records
from saga_slurm.allocation import Role
from saga_slurm.commands import Commands
from saga_slurm.facts import Job, SlurmError

LOOK_S: Final = 1.0
LOST_S: Final = 10.0
"""Silence of a head whose job does not run: twice the lease of its claim."""
SILENT_S: Final = 30.0
"""Silence of a head whose job runs, for all that Slurm knows: it takes minutes to notice a machine that is gone
(SlurmdTimeout), but the job's own script starts a head again within five failures, which take 10 s and the leases."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signs:
    """What is seen of the head."""

    silent_s: float
    job: Job | None
    """Its job; None: Slurm does not know it, or does not answer."""
    left: bool = False
    """The cluster's own script has said that its head is over."""


def lost(signs: Signs) -> bool:
    """Whether a head must begin elsewhere. Pure."""
    job = signs.job
    if job is not None and job.waiting:  # requeued: perhaps for hours
        return signs.silent_s >= LOST_S
    if signs.left:  # it ended in peace, or was given up for good
        return False
    return signs.silent_s >= (LOST_S if job is not None and job.over else SILENT_S)


class Watch:
    """Looks at one folder's head."""

    def __init__(self, folder: Path, commands: Commands, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder, self._commands, self._clock = folder, commands, clock
        self._heard_at = clock()

    async def step(self) -> bool:
        """One look; whether the head is lost."""
        access = cluster.read_access(self._folder)
        if access is None or await asyncio.to_thread(head.answers, access):
            self._heard_at = self._clock()
            return False
        silent_s = self._clock() - self._heard_at
        if silent_s < LOST_S:
            return False
        signs = Signs(silent_s=silent_s, job=await self._job(access.job), left=self._left(access))
        if lost(signs):
            log.warning("head lost", job=access.job, silent_s=silent_s, state=signs.job and signs.job.state)
            return True
        return False

    async def _job(self, id_: str) -> Job | None:
        try:
            return (await self._commands.jobs([id_])).get(id_)
        except SlurmError:
            return None

    def _left(self, access: Access) -> bool:
        """A head that stood in for another one may end: that is not the cluster's end."""
        found = (each for each in records.read_all(self._folder) if each.job == access.job)
        return any(
            each.allocation.role is Role.CLUSTER and records.has_left(self._folder, each.tag)
            for each in found
        )


async def _until_lost(folder: Path) -> None:
    watch = Watch(folder, Commands())
    while True:
        try:
            if await watch.step():
                return
        except SagaError as error:
            log.warning("standby", problem=error)
        await asyncio.sleep(LOOK_S)


def main() -> int:
    """Exit code 0: begin a head here. TERM ends it otherwise."""
    parser = argparse.ArgumentParser(prog="python -m saga_slurm.standby", description=__doc__)
    parser.add_argument("--cluster-dir", type=Path, required=True)
    parser.add_argument("--log-level", choices=log.LEVELS, default=os.environ.get("SAGA_LOG_LEVEL", "info"))
    options = parser.parse_args()
    log.start(options.log_level)
    asyncio.run(_until_lost(options.cluster_dir))
    return 0


if __name__ == "__main__":
    sys.exit(main())
