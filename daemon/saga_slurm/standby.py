"""`python -m saga_slurm.standby --cluster-dir DIR`: ends with 0 when the head is lost, and one is to begin here.

Runs beside node daemons of jobs that do not have the head, and as a deputy on other nodes of the job that has it. That
two begin one at once is no harm: the later claim has it (ADR 6), and the head's own job, when it comes back, takes it
over again.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Callable, Mapping
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
SILENT_S: Final = 20.0
"""Silence after which a deputy begins a head. The script of the head's job starts it again within five failures, which
take 10 s and the starts."""
NOT_RUNNING: Final = 0.5
"""Of that, where Slurm says that the head's job does not run: nobody there begins one. Twice the lease of its claim."""
FOR_ALL_WE_KNOW: Final = 1.5
"""Of that, in another job, where the head's runs for all that Slurm knows: it takes minutes to notice a machine that is
gone (SlurmdTimeout), but deputies come first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deputy:
    """Of the job's own head. A job whose first machine is gone runs on, for Slurm, without its script."""

    job: str
    restarts: int
    """Of the run that this process is part of: the head of an earlier one is nobody's any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signs:
    """What is seen of the head."""

    silent_s: float
    job: Job | None
    """Its job; None: Slurm does not know it, or does not answer."""
    left: bool = False
    """The cluster's own script has said that its head has ended in peace."""


def lost(signs: Signs, patience_s: float = SILENT_S, *, deputy: bool = False) -> bool:
    """Whether a head must begin here. A deputy does not ask what Slurm calls the job that it is in itself. Pure."""
    job = signs.job
    if job is not None and job.waiting:  # requeued: perhaps for hours
        return signs.silent_s >= patience_s * NOT_RUNNING
    if signs.left:  # it ended in peace
        return False
    if deputy:
        return signs.silent_s >= patience_s
    over = job is not None and job.over
    return signs.silent_s >= patience_s * (NOT_RUNNING if over else FOR_ALL_WE_KNOW)


class Watch:
    """Looks at one folder's head."""

    def __init__(
        self,
        folder: Path,
        commands: Commands,
        *,
        patience_s: float = SILENT_S,
        deputy: Deputy | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder, self._commands, self._clock = folder, commands, clock
        self._patience_s, self._deputy = patience_s, deputy
        self._heard_at = clock()

    async def step(self) -> bool:
        """One look; whether the head is lost."""
        access = cluster.read_access(self._folder)
        if access is None or self._others(access) or await asyncio.to_thread(head.answers, access):
            self._heard_at = self._clock()
            return False
        silent_s = self._clock() - self._heard_at
        if silent_s < self._patience_s * NOT_RUNNING:
            return False
        job = None if self._deputy is not None else await self._job(access.job)
        signs = Signs(silent_s=silent_s, job=job, left=self._left(access))
        if lost(signs, self._patience_s, deputy=self._deputy is not None):
            log.warning("head lost", job=access.job, silent_s=silent_s, state=signs.job and signs.job.state)
            return True
        return False

    def _others(self, access: Access) -> bool:
        """For a deputy: another job has the head, or its own has not begun one in this run."""
        mine = self._deputy
        return mine is not None and (access.job, access.restarts) != (mine.job, mine.restarts)

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


async def _until_lost(folder: Path, patience_s: float, deputy: Deputy | None) -> None:
    watch = Watch(folder, Commands(), patience_s=patience_s, deputy=deputy)
    while True:
        try:
            if await watch.step():
                return
        except SagaError as error:
            log.warning("standby", problem=error)
        await asyncio.sleep(LOOK_S)


def _deputy(environment: Mapping[str, str]) -> Deputy:
    restarts = environment.get("SLURM_RESTART_COUNT", "")
    return Deputy(
        job=environment.get("SLURM_JOB_ID", ""), restarts=int(restarts) if restarts.isdecimal() else 0
    )


def main() -> int:
    """Exit code 0: begin a head here. TERM ends it otherwise."""
    parser = argparse.ArgumentParser(prog="python -m saga_slurm.standby", description=__doc__)
    parser.add_argument("--cluster-dir", type=Path, required=True)
    parser.add_argument(
        "--silent", type=float, default=SILENT_S, metavar="S", help="how long it may be silent"
    )
    parser.add_argument("--deputy", action="store_true", help="of this job's own head, and of no other")
    parser.add_argument("--log-level", choices=log.LEVELS, default=os.environ.get("SAGA_LOG_LEVEL", "info"))
    options = parser.parse_args()
    log.start(options.log_level)
    deputy = _deputy(os.environ) if options.deputy else None
    asyncio.run(_until_lost(options.cluster_dir, options.silent, deputy))
    return 0


if __name__ == "__main__":
    sys.exit(main())
