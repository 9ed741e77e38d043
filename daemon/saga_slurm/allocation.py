"""What an allocation of a cluster is to be, before Slurm has heard of it."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Final

import msgspec

from saga_core.errors import UserError

JOB_PREFIX: Final = "saga-"
COMMENT_PREFIX: Final = "saga:"
"""A job's comment is this and its tag: by it a submission whose answer was lost is found again."""


class Role(StrEnum):
    CLUSTER = "cluster"
    """Head and node daemons."""
    JOIN = "join"
    """Node daemons for a cluster that has its head elsewhere."""
    TOOLS = "tools"
    """Nodes without engines, for agent programs."""


class Allocation(msgspec.Struct, frozen=True, kw_only=True):
    """One job of a cluster."""

    role: Role
    tag: str
    """Unique; 32 hex digits."""
    name: str
    """Of the cluster."""
    folder: str
    """The cluster's folder, the same path on every node."""
    nodes: int
    gpus_per_node: int = 0
    time_s: int
    python: str
    """Interpreter that has saga, where neither site nor container has one."""
    settings: dict[str, str] = {}
    """Of this allocation's node daemons, over those of the cluster (`saga_node --set`)."""
    partition: str = ""
    account: str = ""
    qos: str = ""
    predecessor: str = ""
    """Tag of the allocation in whose place this one steps (`--chain`)."""
    predecessor_job: str = ""
    lead_s: int = 0
    """How long before the predecessor's end it starts; 0: only if that fails."""
    elastic: bool = False
    """Beside its head runs what grows and shrinks the cluster."""
    grown: bool = False
    """Asked for by the cluster itself, which may give it back."""

    def __post_init__(self) -> None:
        if self.nodes < 1:
            raise UserError(f"--nodes {self.nodes}: at least 1 is valid")
        if self.gpus_per_node < 0:
            raise UserError(f"--gpus-per-node {self.gpus_per_node}: at least 0 is valid")
        if self.time_s < 60:
            raise UserError(f"--time of {self.time_s} s: Slurm counts in minutes, at least 0:01:00 is valid")
        if re.search(r'[\n\r"\\%]', self.folder):
            raise UserError(
                f"{self.folder!r}: a cluster's folder must not have \", \\, % or a line end in its path"
            )

    @property
    def spare(self) -> bool:
        """Whether it is there for the case that its predecessor is lost with the machine of its script."""
        return bool(self.predecessor_job) and not self.lead_s

    @property
    def job_name(self) -> str:
        return JOB_PREFIX + re.sub(r"[^A-Za-z0-9._-]", "-", self.name).removeprefix(JOB_PREFIX)

    @property
    def comment(self) -> str:
        return COMMENT_PREFIX + self.tag


def wall_time(text: str) -> int:
    """Seconds of a `--time`: `90` or `90m` (minutes), `1:30:00`, `1-12:00:00`, `8h`, `2d`. UserError for anything else."""
    if found := re.fullmatch(r"(\d+)([mhd]?)", text):
        return int(found[1]) * {"": 60, "m": 60, "h": 3600, "d": 86400}[found[2]]
    if found := re.fullmatch(r"(?:(\d+)-)?(\d+):(\d{1,2})(?::(\d{1,2}))?", text):
        days, first, second, third = (int(part or 0) for part in found.groups())
        if found[1] is None and found[4] is None:  # as Slurm reads it: minutes:seconds
            return first * 60 + second
        return days * 86400 + first * 3600 + second * 60 + third
    raise UserError(f"--time {text!r} is not a time (valid: 8:00:00, 1-12:00:00, 90 minutes, 8h, 2d)")


def slurm_time(seconds: int) -> str:
    """`D-HH:MM:SS`, without the days where there are none."""
    days, rest = divmod(seconds, 86400)
    clock = f"{rest // 3600:02d}:{rest % 3600 // 60:02d}:{rest % 60:02d}"
    return f"{days}-{clock}" if days else clock
