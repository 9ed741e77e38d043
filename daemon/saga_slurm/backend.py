"""What saga asks of Slurm, whichever way it is asked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from saga_slurm.facts import Job, Node, Partition, Step, Version


class Backend(Protocol):
    """One way to a Slurm controller. Every call ends within the backend's deadline.

    They raise SlurmRefused for what Slurm will never do, SlurmAway while the controller does not answer, SlurmError
    for everything else; the text has Slurm's own words.
    """

    name: str

    async def version(self) -> Version:
        """Of this side's Slurm."""

    async def ping(self) -> None:
        """SlurmAway unless the controller answers."""

    async def submit(self, script: Path, *, tag: str, job_name: str) -> str:
        """The new job's id. Said twice with one `tag`, it submits once."""

    async def find(self, tag: str, *, job_name: str) -> str | None:
        """The id of the job that was submitted with `tag`, if Slurm has one."""

    async def jobs(self, ids: Sequence[str]) -> dict[str, Job]:
        """Those of them that Slurm still knows."""

    async def cancel(self, ids: Sequence[str]) -> None:
        """An unknown or ended job is no error."""

    async def signal(self, id_: str, name: str, *, batch: bool = False) -> None:
        """`name` as `USR1`, to the job's steps (or `12.0`: to that one); `batch`: to its script alone."""

    async def requeue(self, id_: str) -> None:
        """Start the job anew under its id."""

    async def hold(self, id_: str) -> None:
        """Keep a waiting job from starting."""

    async def release(self, id_: str) -> None:
        """Let a held job start."""

    async def nodes(self) -> list[Node]:
        """Every machine that this user may see."""

    async def partitions(self) -> list[Partition]:
        """The same of partitions."""

    async def steps(self, id_: str) -> list[Step]:
        """The steps of a job that run now."""

    async def close(self) -> None:
        """Leave nothing running."""


def inside(job: str, node: str, argv: Sequence[str]) -> list[str]:
    """The command that runs `argv` on a node of a running job, its input and output joined to ours."""
    place = ["srun", f"--jobid={job}", "--overlap", "--nodes=1", "--ntasks=1", f"--nodelist={node}"]
    return [*place, "--cpus-per-task=1", "--gres=none", "--mem=0", "--quiet", "--unbuffered", *argv]
