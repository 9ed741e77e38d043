"""Following a job from its submission until the cluster serves: by Slurm's word, by the folder, by the head.

Slurm is asked often while a job is young and seldom while it waits (controllers are shared by thousands); the
folder and the head are asked often once the job runs.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Final

from saga_cli.control import Control
from saga_cli.folder import ClusterFolder, tail
from saga_cli.slurm.picture import Phase, Picture, Times, picture
from saga_cli.slurm.show import Show
from saga_core.access import Access
from saga_core.errors import ClusterError
from saga_core.states import WorkerState
from saga_core.views import ClusterView
from saga_slurm import records
from saga_slurm.allocation import Role
from saga_slurm.backend import Backend
from saga_slurm.facts import Job, SlurmAway
from saga_slurm.records import Record

LOOK_S: Final = 0.25
"""Between two looks at the folder and the head."""
YOUNG_S, YOUNG_ASK_S, ASK_S = 30.0, 1.0, 10.0
"""A job younger than this is asked about so often, an older one so seldom."""
ANSWER_S: Final = 5.0
"""For one answer of the head, which may be at the other end of an srun."""


class Follower:
    """One job on its way."""

    def __init__(self, backend: Backend, folder: ClusterFolder, record: Record, *, workers: int) -> None:
        """`workers`: those wanted of this job, all nodes together."""
        self._backend, self._folder, self._record, self._workers = backend, folder, record, workers
        self._job = Job(id=record.job, state="PENDING")  # type: ignore[arg-type]
        self._times = Times(asked_at=record.asked_at)
        self._asked_at = 0.0

    async def until_ready(self, show: Show, *, timeout_s: float) -> tuple[ClusterView, Times]:
        """The cluster once all nodes of the job serve, and what took how long.

        The time counts from when Slurm starts the job. ClusterError says why it does not serve, with the logs' ends.
        """
        view: ClusterView | None = None
        while True:
            await self._ask()
            if not self._job.waiting:
                view = await asyncio.to_thread(self._head_says)
            seen = self._picture(view)
            show(seen)
            if seen.phase is Phase.READY and view is not None:
                return view, self._times
            self._look_for_failure(seen, view, timeout_s)
            await asyncio.sleep(LOOK_S)

    def _picture(self, view: ClusterView | None) -> Picture:
        wanted = self._record.allocation
        seen = picture(
            self._job,
            nodes=wanted.nodes,
            workers=self._workers,
            times=self._times,
            view=view,
            now=time.time(),
        )
        self._times = seen.times
        return seen

    async def _ask(self) -> None:
        now = time.time()
        every_s = YOUNG_ASK_S if now - self._record.asked_at < YOUNG_S else ASK_S
        if now - self._asked_at < every_s:
            return
        self._asked_at = now
        try:
            jobs = await self._backend.jobs([self._record.job])
        except SlurmAway:
            return  # the launch goes on without it
        if self._record.job not in jobs:
            raise ClusterError(f"Slurm does not know job {self._record.job} any more: was it cancelled?")
        self._job = jobs[self._record.job]
        if not self._job.waiting and self._times.granted_at is None:
            self._times = replace(self._times, granted_at=self._job.starts_at)

    def _head_says(self) -> ClusterView | None:
        """None until it is there."""
        began = records.began(self._folder.path, self._record.tag)
        if began is None or began.job != self._record.job:
            return None
        self._times = replace(self._times, began_at=began.at)
        try:
            access = self._folder.access()
            if not self._is_ours(access):
                return None
            view = Control.of(self._folder, timeout_s=ANSWER_S).cluster()
        except ClusterError:
            return None
        return view

    def _is_ours(self, access: Access) -> bool:
        """Not the file that an earlier head left."""
        if self._record.allocation.role is not Role.CLUSTER:
            return True
        began = records.began(self._folder.path, self._record.tag)
        if began is None or (access.job, access.restarts) != (began.job, began.restarts):
            return False
        self._times = replace(self._times, head_at=access.started_at)
        return True

    def _look_for_failure(self, seen: Picture, view: ClusterView | None, timeout_s: float) -> None:
        if seen.phase is Phase.FAILED:
            raise self._failed(f"job {self._job.id} ended before the cluster served: {ended(self._job)}")
        for worker in view.workers if view is not None else ():
            if worker.node.startswith(f"{self._job.id}.") and worker.state == WorkerState.LOST:
                reason = worker.reason or "no reason given"
                raise self._failed(f"worker {worker.id} failed at its start: {reason}", worker.id)
        granted_at = self._times.granted_at
        if granted_at is not None and time.time() - granted_at > timeout_s:
            raise self._failed(
                f"job {self._job.id} does not serve {timeout_s:g} s after its start: {seen.told()}"
            )

    def _failed(self, what: str, worker: str = "") -> ClusterError:
        folder, lines = self._folder, [what]
        nodes = sorted((folder.path / "log").glob(f"node-{self._job.id}.*.log"))
        logs = [folder.path / "log" / f"slurm-{self._job.id}.out", folder.head_log, *nodes[:1]]
        for log in [folder.worker_log(worker)] if worker else logs:
            if last := tail(log):
                lines += [f"{log} ends with:", *(f"  | {line}" for line in last)]
        return ClusterError("\n".join(lines))


def ended(job: Job) -> str:
    """`FAILED (NonZeroExitCode)`"""
    return f"{job.state} ({job.reason})" if job.reason else str(job.state)
