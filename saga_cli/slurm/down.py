"""`saga down` of a cluster in Slurm: the head is asked, its jobs are waited for, what is left is cancelled."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from saga_cli.control import Control
from saga_cli.folder import ClusterFolder
from saga_core.errors import ClusterError, SagaError
from saga_slurm import jobs, plan, records
from saga_slurm.backend import Backend
from saga_slurm.jobs import Standing

ASK_S: Final = 10.0
"""For the head to take the request, perhaps through an srun."""
LOOK_S: Final = 1.0
CANCEL_S: Final = 60.0
"""From scancel until Slurm says that it is over: KillWait is 30 s by default."""


def in_slurm(folder: ClusterFolder) -> bool:
    """Whether the folder knows jobs that may run."""
    return any(not record.over for record in records.read_all(folder.path))


async def take_down(
    backend: Backend, folder: ClusterFolder, *, timeout_s: float, drain_s: float | None = None
) -> int:
    """End every job of the folder; how many there were. ClusterError names those that do not end.

    drain_s: the head first lets workflows end, for so long at most.
    """
    plan.remove_plan(folder.path)
    live = [each for each in await jobs.standing(backend, folder.path) if each.live]
    waiting = [each.record.job for each in live if each.job is not None and each.job.waiting]
    await backend.cancel(waiting)
    if len(waiting) < len(live) and await asyncio.to_thread(_asked, folder, drain_s):
        await _until_over(backend, folder, timeout_s + (drain_s or 0.0))
    left = [each for each in await jobs.standing(backend, folder.path) if each.live]
    await backend.cancel([each.record.job for each in left])
    if left := await _until_over(backend, folder, CANCEL_S):
        numbers = ", ".join(each.record.job for each in left)
        raise ClusterError(
            f"Slurm does not end job {numbers} within {CANCEL_S:g} s of scancel; `squeue --me` shows why"
        )
    folder.access_file.unlink(missing_ok=True)
    return len(live)


def _asked(folder: ClusterFolder, drain_s: float | None) -> bool:
    try:
        Control.of(folder, timeout_s=ASK_S).shutdown(drain=drain_s is not None, within_s=drain_s or 0.0)
    except SagaError:
        return False
    return True


async def _until_over(backend: Backend, folder: ClusterFolder, timeout_s: float) -> list[Standing]:
    """Those that live when all are over, or when the time is."""
    end = time.monotonic() + timeout_s
    while left := [each for each in await jobs.standing(backend, folder.path) if each.live]:
        if time.monotonic() > end:
            break
        await asyncio.sleep(LOOK_S)
    return left
