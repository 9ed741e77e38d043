"""What Slurm says of jobs, nodes, partitions and steps, whichever way it was asked."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec

from saga_core.errors import ClusterError, UserError


class JobState(StrEnum):
    """Every job state of Slurm 22.05 to 26.05 (`man squeue`, JOB STATE CODES)."""

    PENDING = "PENDING"
    CONFIGURING = "CONFIGURING"
    RUNNING = "RUNNING"
    SUSPENDED = "SUSPENDED"
    STOPPED = "STOPPED"
    SIGNALING = "SIGNALING"
    RESIZING = "RESIZING"
    STAGE_OUT = "STAGE_OUT"
    COMPLETING = "COMPLETING"
    REQUEUED = "REQUEUED"
    REQUEUE_HOLD = "REQUEUE_HOLD"
    REQUEUE_FED = "REQUEUE_FED"
    RESV_DEL_HOLD = "RESV_DEL_HOLD"
    SPECIAL_EXIT = "SPECIAL_EXIT"
    EXPEDITING = "EXPEDITING"
    POWER_UP_NODE = "POWER_UP_NODE"
    RECONFIG_FAIL = "RECONFIG_FAIL"
    LAUNCH_FAILED = "LAUNCH_FAILED"
    UPDATE_DB = "UPDATE_DB"
    BOOT_FAIL = "BOOT_FAIL"
    CANCELLED = "CANCELLED"
    COMPLETED = "COMPLETED"
    DEADLINE = "DEADLINE"
    FAILED = "FAILED"
    NODE_FAIL = "NODE_FAIL"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    PREEMPTED = "PREEMPTED"
    REVOKED = "REVOKED"
    TIMEOUT = "TIMEOUT"


OVER: Final = frozenset({
    JobState.BOOT_FAIL, JobState.CANCELLED, JobState.COMPLETED, JobState.DEADLINE, JobState.FAILED,
    JobState.NODE_FAIL, JobState.OUT_OF_MEMORY, JobState.PREEMPTED, JobState.REVOKED, JobState.TIMEOUT,
})  # fmt: skip
"""A job in one of these does not run again (a requeued one is PENDING)."""
WAITING: Final = frozenset({
    JobState.PENDING, JobState.REQUEUED, JobState.REQUEUE_HOLD, JobState.REQUEUE_FED, JobState.RESV_DEL_HOLD,
    JobState.SPECIAL_EXIT, JobState.EXPEDITING, JobState.POWER_UP_NODE, JobState.CONFIGURING,
})  # fmt: skip
"""Its script does not run yet."""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One job, as Slurm sees it at one moment. Times in seconds since the epoch."""

    id: str
    state: JobState
    reason: str = ""
    """Why it waits, or why it ended; empty where Slurm says None."""
    name: str = ""
    comment: str = ""
    partition: str = ""
    nodelist: str = ""
    """Compressed, as `node[1-3]`."""
    node_count: int = 0
    submitted_at: float | None = None
    starts_at: float | None = None
    """When it started, or Slurm's estimate while it waits."""
    ends_at: float | None = None
    batch_host: str = ""

    @property
    def over(self) -> bool:
        return self.state in OVER

    @property
    def waiting(self) -> bool:
        return self.state in WAITING


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """One machine."""

    name: str
    state: str
    cpus: int
    memory_mb: int
    gres: str = ""
    reason: str = ""


class Partition(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    default: bool
    up: bool
    time_limit_s: float | None
    """None: no limit."""
    nodes: int
    gres: str = ""


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """`id` as scancel takes it: `12.0`."""

    id: str
    name: str
    nodelist: str


class Version(msgspec.Struct, frozen=True, order=True):
    """Of Slurm: 22.05.8 is (22, 5, 8)."""

    year: int
    month: int
    patch: int = 0

    def __str__(self) -> str:
        return f"{self.year}.{self.month:02d}.{self.patch}"


class SlurmError(ClusterError):
    """Slurm could not do it; the text has its own words."""


class SlurmAway(SlurmError):  # noqa: N818 - a fact, and a case callers tell apart
    """The controller does not answer now; the same may work later."""


class SlurmRefused(UserError):  # noqa: N818 - the same
    """Slurm says that the request can never be granted."""
