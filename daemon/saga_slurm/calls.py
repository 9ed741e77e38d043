"""One call of a Slurm command: with a deadline, killed when it passes, in an environment that is not another job's."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from saga_slurm.facts import SlurmAway, SlurmError
from saga_slurm.reading import TIME_FORMAT

MAX_ANSWER_BYTES: Final = 64 * 1024 * 1024
"""A squeue of 100,000 jobs has some 20 MB."""
KEPT: Final = frozenset({"SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_CLUSTERS"})
"""What says which Slurm is meant; other SLURM_ variables are of a job that we may run in."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command said."""

    code: int
    out: str
    err: str

    @property
    def words(self) -> str:
        """What went wrong, in the command's own words."""
        lines = [line.strip() for line in (self.err or self.out).splitlines() if line.strip()]
        return "; ".join(lines) or f"exit code {self.code}"


def environment(outer: Mapping[str, str] = os.environ) -> dict[str, str]:
    """`outer` without what an outer job left in it, and with the words and times that we can read."""
    plain = {name: value for name, value in outer.items() if not name.startswith("SLURM_") or name in KEPT}
    return plain | {"LC_ALL": "C", "SLURM_TIME_FORMAT": TIME_FORMAT}


async def call(argv: Sequence[str], *, timeout_s: float, given: str = "") -> Answer:
    """Run `argv` with `given` on its standard input.

    Raises SlurmError where there is no such command, SlurmAway where it takes longer than `timeout_s`; nothing of it
    is left then.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environment(),
            start_new_session=True,
            limit=MAX_ANSWER_BYTES,
        )
    except FileNotFoundError:
        raise SlurmError(
            f"there is no {argv[0]} here: this is not a login node of a Slurm cluster, or its commands are not "
            "in PATH"
        ) from None
    try:
        async with asyncio.timeout(timeout_s):
            out, err = await process.communicate(given.encode())
    except TimeoutError:
        raise SlurmAway(f"{argv[0]} did not answer within {timeout_s:g} s") from None
    finally:
        await _ended(process)
    return Answer(process.returncode or 0, out.decode(errors="replace"), err.decode(errors="replace"))


async def _ended(process: asyncio.subprocess.Process) -> None:
    """Killed with all that it started, if it still runs."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await asyncio.shield(process.wait())
