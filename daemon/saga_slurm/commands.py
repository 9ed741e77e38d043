"""The reference way to Slurm: its own commands, as a person would call them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from saga_slurm import accounts, reading
from saga_slurm.accounts import By
from saga_slurm.allocation import COMMENT_PREFIX
from saga_slurm.calls import Answer, call
from saga_slurm.facts import Job, Node, Partition, SlurmAway, SlurmError, SlurmRefused, Step, Version

TRIES: Final = 3
PAUSE_S: Final = 1.0
"""Before the second try; half to three halves of it, then twice that: a thousand clients shall not come at once."""
_AWAY: Final = (
    "unable to contact slurm controller",
    "socket timed out",
    "connection refused",
    "connection timed out",
    "resource temporarily unavailable",
    "zero bytes were transmitted or received",
    "unable to connect to slurm daemon",
    "transport endpoint is not connected",
)
"""Words of Slurm for a controller that is restarting, overrun or away; all mean: again, later."""
_REFUSED: Final = (
    "invalid partition",
    "invalid account",
    "invalid qos",
    "invalid feature",
    "invalid license",
    "invalid generic resource",
    "invalid gres",
    "invalid number of nodes",
    "invalid job array",
    "invalid reservation",
    "invalid time limit",
    "invalid dependency",
    "job dependency problem",
    "requested node configuration is not available",
    "requested time limit is invalid",
    "requested partition configuration not available",
    "more processors requested than permitted",
    "node count specification invalid",
    "user's group not permitted to use this partition",
    "access/permission denied",
    "job violates accounting/qos policy",
    "unrecognized option",
    "invalid --",
    "memory specification can not be satisfied",
    "unable to allocate resources",
    "submission is restricted",
)
"""Words of Slurm for a request that will not do, however often it is made."""
_UNKNOWN_JOB: Final = "invalid job id"
_NO_ACCOUNTING: Final = "not running a supported accounting_storage plugin"


class Commands:
    """`sbatch`, `squeue`, `scancel`, `scontrol`, `sinfo`."""

    name = "cli"

    def __init__(self, timeout_s: float = 30.0) -> None:
        self._timeout_s = timeout_s

    async def version(self) -> Version:
        """Of the commands in PATH."""
        return reading.read_version(await self._out("sbatch", "--version"))

    async def ping(self) -> None:
        """By `scontrol ping`, which says DOWN and, in old versions, is content with it."""
        answer = await self._call("scontrol", "ping")
        if answer.code or " UP" not in answer.out:
            raise SlurmAway(f"the Slurm controller is away: {answer.words}")

    async def submit(self, script: Path, *, tag: str, job_name: str) -> str:
        """A submission whose answer was lost may have happened: it is looked for before it is made again."""
        for attempt in range(TRIES):
            answer = await self._attempt("sbatch", "--parsable", str(script))
            if answer is not None and answer.code == 0:
                return reading.read_job_id(answer.out)
            if answer is not None and not is_away(answer):
                raise _failure(answer, "sbatch")
            await _pause(attempt)
            if (found := await self.find(tag, job_name=job_name)) is not None:
                return found
        raise SlurmAway(
            f"the job was not submitted: {answer.words if answer else 'sbatch did not answer in time'}"
        )

    async def find(self, tag: str, *, job_name: str) -> str | None:
        """By the comment, among our jobs of that name."""
        found = reading.read_jobs(await self._squeue("--me", f"--name={job_name}"))
        return next((job.id for job in found.values() if job.comment == COMMENT_PREFIX + tag), None)

    async def jobs(self, ids: Sequence[str]) -> dict[str, Job]:
        """By one squeue; those that it has forgotten, by scontrol."""
        if not ids:
            return {}
        # Named one by one, an unknown id would make squeue fail: all of ours are asked for instead.
        known = reading.read_jobs(await self._squeue("--me"))
        missing = [id_ for id_ in ids if id_ not in known]
        shown = await asyncio.gather(*(self._shown(id_) for id_ in missing))
        known |= {job.id: job for job in shown if job is not None}
        return {id_: known[id_] for id_ in ids if id_ in known}

    async def _shown(self, id_: str) -> Job | None:
        answer = await self._asked("scontrol", "show", "job", "--oneliner", id_)
        if answer.code == 0:
            return reading.read_job_record(answer.out)
        if _UNKNOWN_JOB in answer.words.lower():
            return None
        raise _failure(answer, "scontrol show job")

    async def cancel(self, ids: Sequence[str]) -> None:
        """By scancel, for all at once."""
        if ids:
            await self._done("scancel", "--quiet", *ids)

    async def signal(self, id_: str, name: str, *, batch: bool = False) -> None:
        """By scancel, which asks the node daemons: never by a signal to srun."""
        await self._done("scancel", "--quiet", *(["--batch"] if batch else []), f"--signal={name}", id_)

    async def requeue(self, id_: str) -> None:
        """By scontrol."""
        await self._done("scontrol", "requeue", id_)

    async def hold(self, id_: str) -> None:
        """By scontrol."""
        await self._done("scontrol", "hold", id_)

    async def release(self, id_: str) -> None:
        """By scontrol."""
        await self._done("scontrol", "release", id_)

    async def nodes(self) -> list[Node]:
        """By sinfo."""
        return reading.read_nodes(await self._out("sinfo", "-h", "-N", "-o", reading.NODE_FORMAT))

    async def partitions(self) -> list[Partition]:
        """By sinfo."""
        return reading.read_partitions(await self._out("sinfo", "-h", "-o", reading.PARTITION_FORMAT))

    async def steps(self, id_: str) -> list[Step]:
        """By squeue."""
        return reading.read_steps(await self._out("squeue", "-h", "-s", "-j", id_, "-o", reading.STEP_FORMAT))

    async def settings(self) -> dict[str, str]:
        """Those of the controller that anybody may see."""
        return reading.read_settings(await self._out("scontrol", "show", "config"))

    async def would_start(self, script: Path) -> str:
        """Slurm's word on when a script would start; nothing is submitted. SlurmRefused: never."""
        answer = await self._asked("sbatch", "--test-only", str(script))
        if answer.code:
            raise _failure(answer, "sbatch --test-only")
        return reading.with_local_times(answer.words.removeprefix("sbatch: "))

    async def account_weights(self, by: By) -> dict[str, float]:
        """What weight each account has. Raises SlurmError where this Slurm keeps none."""
        if by is By.QOS:
            priorities = accounts.read_qos(await self._kept(*accounts.QOS))
            return accounts.by_qos(
                priorities, accounts.read_associations(await self._kept(*accounts.ASSOCIATIONS))
            )
        shares = accounts.read_shares(await self._kept(*accounts.SSHARE))
        return accounts.by_shares(shares) if by is By.SHARES else accounts.by_fair_share(shares)

    async def _kept(self, *argv: str) -> str:
        """What stands in slurmdbd. sshare ends well where there is none, sacctmgr does not."""
        answer = await self._asked(*argv)
        if _NO_ACCOUNTING in answer.words:
            raise SlurmError(accounts.NO_ACCOUNTING)
        if answer.code:
            raise _failure(answer, argv[0])
        return answer.out

    async def close(self) -> None:
        """Every command has ended with its call."""

    async def _squeue(self, *which: str) -> str:
        return await self._out("squeue", "-h", "-t", "all", *which, "-o", reading.JOB_FORMAT)

    async def _out(self, *argv: str) -> str:
        answer = await self._asked(*argv)
        if answer.code:
            raise _failure(answer, argv[0])
        return answer.out

    async def _done(self, *argv: str) -> None:
        answer = await self._asked(*argv)
        if answer.code and _UNKNOWN_JOB not in answer.words.lower():
            raise _failure(answer, argv[0])

    async def _asked(self, *argv: str) -> Answer:
        """The answer to something that may be asked twice."""
        for attempt in range(TRIES - 1):
            answer = await self._attempt(*argv)
            if answer is not None and not is_away(answer):
                return answer
            await _pause(attempt)
        return await self._call(*argv)

    async def _attempt(self, *argv: str) -> Answer | None:
        """None: no answer in time."""
        try:
            return await self._call(*argv)
        except SlurmAway:
            return None

    async def _call(self, *argv: str) -> Answer:
        return await call(argv, timeout_s=self._timeout_s)


def is_away(answer: Answer) -> bool:
    """Whether the controller was not there, rather than unwilling."""
    return answer.code != 0 and any(words in answer.words.lower() for words in _AWAY)


def _failure(answer: Answer, command: str) -> SlurmError | SlurmRefused:
    words = answer.words.lower()
    if is_away(answer):
        return SlurmAway(f"{command}: {answer.words}")
    if any(refused in words for refused in _REFUSED):
        return SlurmRefused(f"Slurm refuses: {answer.words}")
    return SlurmError(f"{command} failed (exit code {answer.code}): {answer.words}")


async def _pause(attempt: int) -> None:
    await asyncio.sleep(PAUSE_S * 2**attempt * random.uniform(0.5, 1.5))  # noqa: S311 - no secret
