"""pyslurm as a backend: reads and commands through the bridge process, everything else by Slurm's commands."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from saga_slurm import pyslurm_bridge
from saga_slurm.allocation import COMMENT_PREFIX
from saga_slurm.calls import MAX_ANSWER_BYTES, environment
from saga_slurm.commands import Commands
from saga_slurm.facts import Job, Node, Partition, SlurmAway, SlurmError, SlurmRefused, Step, Version
from saga_slurm.reading import job_state, read_version

PYTHON_VARIABLE: Final = "SAGA_PYSLURM_PYTHON"
PROBE_S: Final = 3.0
"""For a bridge to say hello: pyslurm answers in milliseconds, or its Slurm does not fit."""
RELEASES_AHEAD: Final = 3
"""A client may speak to a controller of its own release or of the next three (since 24.11)."""


class Pyslurm:
    """One bridge process, started when it is first needed and again after it died or hung."""

    name = "pyslurm"

    def __init__(self, timeout_s: float = 30.0, python: str = "") -> None:
        self._timeout_s = timeout_s
        self._python = python or os.environ.get(PYTHON_VARIABLE) or sys.executable
        self._commands = Commands(timeout_s)
        self._process: asyncio.subprocess.Process | None = None
        self._turn = asyncio.Lock()
        self._number = 0

    def may_be_there(self) -> bool:
        """Whether a probe is worth its time: our own interpreter is known not to have pyslurm without being started."""
        return self._python != sys.executable or importlib.util.find_spec("pyslurm") is not None

    async def probe(self) -> None:
        """Raises SlurmError, saying why, unless the bridge answers and its Slurm fits the controller's."""
        hello = await self._ask("hello", PROBE_S)
        mine, theirs = read_version(hello["pyslurm"]), read_version(hello["slurm"])
        if not fits(mine, theirs):
            raise SlurmError(f"pyslurm {mine} does not speak to a controller of Slurm {theirs}")

    async def version(self) -> Version:
        """Of the commands, which also submit and start steps."""
        return await self._commands.version()

    async def ping(self) -> None:
        """By a hello."""
        await self._ask("hello")

    async def submit(self, script: Path, *, tag: str, job_name: str) -> str:
        """By sbatch, which reads the script's directives."""
        return await self._commands.submit(script, tag=tag, job_name=job_name)

    async def find(self, tag: str, *, job_name: str) -> str | None:
        """Among all jobs that Slurm holds."""
        found = await self._ask("find", comment=COMMENT_PREFIX + tag, name=job_name)
        return None if found is None else str(found)

    async def jobs(self, ids: Sequence[str]) -> dict[str, Job]:
        """By one load of all jobs: a millisecond or three."""
        told = await self._ask("jobs", ids=list(ids)) if ids else []
        # Slurm writes CANCELLED+ and the like here too.
        plain = [each | {"state": job_state(each["state"])} for each in told]
        return {job.id: job for job in _facts(plain, list[Job])}

    async def cancel(self, ids: Sequence[str]) -> None:
        """Each by a call of its own."""
        if ids:
            await self._ask("cancel", ids=list(ids))

    async def signal(self, id_: str, name: str, *, batch: bool = False) -> None:
        """A single step is signalled by scancel."""
        if "." in id_:
            return await self._commands.signal(id_, name, batch=batch)
        await self._ask("signal", id_=id_, name=name, batch=batch)
        return None

    async def requeue(self, id_: str) -> None:
        """Start the job anew."""
        await self._ask("requeue", id_=id_)

    async def hold(self, id_: str) -> None:
        """Keep it waiting."""
        await self._ask("hold", id_=id_)

    async def release(self, id_: str) -> None:
        """Let it start."""
        await self._ask("release", id_=id_)

    async def nodes(self) -> list[Node]:
        """Every machine."""
        return _facts(await self._ask("nodes"), list[Node])

    async def partitions(self) -> list[Partition]:
        """Every partition."""
        return _facts(await self._ask("partitions"), list[Partition])

    async def steps(self, id_: str) -> list[Step]:
        """By squeue: pyslurm fails for a job without steps."""
        return await self._commands.steps(id_)

    async def close(self) -> None:
        """End the bridge."""
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _ask(self, call: str, timeout_s: float | None = None, **words: object) -> Any:
        """The answer; SlurmAway where there is none in time, and the bridge is started anew for the next."""
        async with self._turn:
            try:
                async with asyncio.timeout(timeout_s or self._timeout_s):
                    line = await self._exchange(call, words)
            except TimeoutError:
                await self.close()
                raise SlurmAway(f"pyslurm did not answer {call!r} in time") from None
            except (OSError, ValueError):
                line = b""
            if not line:
                await self.close()
                raise SlurmAway(
                    f"the pyslurm bridge ({self._python}) ended: is pyslurm there, and a slurm.conf?"
                )
        return _opened(line)

    async def _exchange(self, call: str, words: dict[str, object]) -> bytes:
        process = self._process or await self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        self._number += 1
        request = {"id": self._number, "call": call, "with": words}
        process.stdin.write(msgspec.json.encode(request) + b"\n")
        await process.stdin.drain()
        return await process.stdout.readline()

    async def _start(self) -> asyncio.subprocess.Process:
        self._process = await asyncio.create_subprocess_exec(
            self._python, str(Path(pyslurm_bridge.__file__)),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
            env=environment(), start_new_session=True, limit=MAX_ANSWER_BYTES,
        )  # fmt: skip
        return self._process


class _Problem(msgspec.Struct):
    kind: str
    message: str


class _Answer(msgspec.Struct):
    ok: Any = None
    error: _Problem | None = None


def _opened(line: bytes) -> Any:
    try:
        answer = msgspec.json.decode(line, type=_Answer)
    except msgspec.DecodeError as error:
        raise SlurmError(f"the pyslurm bridge says {line[:80]!r} ({error})") from None
    match answer.error:
        case None:
            return answer.ok
        case _Problem(kind="away", message=message):
            raise SlurmAway(f"pyslurm: {message}")
        case _Problem(message=message) if re.search(r"permission|not permitted", message, re.IGNORECASE):
            raise SlurmRefused(f"Slurm refuses: {message}")
        case _Problem(message=message):
            raise SlurmError(f"pyslurm: {message}")


T = TypeVar("T")


def _facts(told: Any, kind: type[T]) -> T:
    try:
        return msgspec.convert(told, kind)
    except msgspec.ValidationError as error:
        raise SlurmError(f"pyslurm's answer is not understood: {error}") from None


def fits(client: Version, controller: Version) -> bool:
    """Whether libslurm of `client` may speak to `controller`: never to an older one, and not to one far ahead."""
    return (client.year, client.month) <= (controller.year, controller.month) and (
        _release(controller) - _release(client) <= RELEASES_AHEAD
    )


def _release(version: Version) -> int:
    """Releases in order: two a year (05, 11) as of 24.05; 9 months apart before."""
    return version.year * 2 + (version.month > 8)
