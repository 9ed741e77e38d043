"""Agent programs: started once, watched, ended.

Rules of this file
  1. No shell; a program's environment is the daemon's own less saga's secrets, plus what was given with it.
  2. More than `slots` wait here, in the order they came.
  3. A program is over with its last process: what it leaves in the background goes with it.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from saga_core import wire
from saga_core.errors import ClusterError
from saga_core.ids import WorkflowId
from saga_core.node_words import ProgramExited
from saga_node import room
from saga_node.logfile import LogFile
from saga_node.processes import Processes, Tree
from saga_node.tasks import Tasks
from saga_shell import log

_SECRET = re.compile(r"VLLM_API_KEY|SAGA_\w*(KEY|SECRET|TOKEN)\w*")


@dataclass(slots=True, eq=False)
class Program:
    """One program, waiting or running."""

    want: wire.RunProgram
    tree: Tree | None = None
    grace_s: float | None = None
    """Set once it shall end."""

    @property
    def name(self) -> tuple[WorkflowId, int]:
        return self.want.workflow, self.want.attempt


class Runner:
    """The programs of this node."""

    def __init__(
        self,
        processes: Processes,
        slots: int,
        tell: Callable[[ProgramExited], None],
        here: Callable[[Mapping[str, str]], Mapping[str, str]] = dict,
    ) -> None:
        """`here` puts this node's own address into a program's environment, in the place of the head's."""
        self._processes, self._slots, self._tell, self._here = processes, slots, tell, here
        self._waiting: dict[tuple[WorkflowId, int], Program] = {}
        self._running: dict[tuple[WorkflowId, int], Program] = {}
        self._tasks = Tasks()

    def start(self, want: wire.RunProgram) -> None:
        """Start it as soon as a slot is free; its `ProgramExited` follows in every case."""
        program = Program(want)
        self._waiting[program.name] = program
        self._fill()

    def end(self, workflow: WorkflowId, attempt: int, grace_s: float) -> None:
        """SIGTERM now, SIGKILL after `grace_s`; nothing when it is over. May be asked for again."""
        name = (workflow, attempt)
        if waiting := self._waiting.pop(name, None):
            self._over(waiting, None, "ended before it was started")
        running = self._running.get(name)
        if running is None or running.grace_s is not None:
            return
        log.info("program-ending", workflow=workflow, attempt=attempt, grace_s=grace_s)
        running.grace_s = grace_s
        if running.tree is not None:
            self._tasks.start(running.tree.end(grace_s), f"end of program {workflow}")

    async def close(self, grace_s: float) -> None:
        """End all of them, together."""
        for workflow, attempt in [*self._waiting, *self._running]:
            self.end(workflow, attempt, grace_s)
        await self._tasks.finished()

    def _fill(self) -> None:
        while self._waiting and len(self._running) < self._slots:
            name, program = next(iter(self._waiting.items()))
            del self._waiting[name]
            self._running[name] = program
            self._tasks.start(self._live(program), f"program {name[0]}")

    async def _live(self, program: Program) -> None:
        try:
            exit_code = await self._run(program)
        except ClusterError as error:
            self._over(program, None, str(error))
        else:
            self._over(program, exit_code, exit_reason(exit_code))
        del self._running[program.name]
        self._fill()

    def _over(self, program: Program, exit_code: int | None, reason: str) -> None:
        workflow, attempt = program.name
        log.info("program-exited", workflow=workflow, attempt=attempt, exit_code=exit_code, reason=reason)
        self._tell(ProgramExited(workflow, attempt, exit_code, reason))

    async def _run(self, program: Program) -> int:
        """Its exit code, or minus the signal that killed it. ClusterError: it could not be started."""
        workflow, attempt = program.name
        output = LogFile(Path(program.want.log))
        try:
            program.tree = tree = await self._start(program.want, output.fd)
        finally:
            output.close()
        log.info("program-started", workflow=workflow, attempt=attempt, pid=tree.pid)
        if program.grace_s is not None:  # asked for while it was being started
            await tree.end(program.grace_s)
        exit_code = await tree.process.wait()
        await tree.kill()
        self._processes.forget(tree)
        return exit_code

    async def _start(self, want: wire.RunProgram, output: int) -> Tree:
        if not want.argv:
            raise ClusterError("no program given: its command line is empty")
        env = environment(os.environ, self._here(want.env))
        try:
            argv = room.confined(want, env)
            return await self._processes.start(argv, env=env, output=output, cwd=want.cwd)
        except FileNotFoundError:
            raise ClusterError(_missing(want)) from None
        except PermissionError:
            raise ClusterError(f"may not run {want.argv[0]} in {want.cwd}: permission denied") from None
        except (OSError, ValueError) as error:
            raise ClusterError(f"cannot start {want.argv[0]}: {error}") from None


def _missing(want: wire.RunProgram) -> str:
    """Which of the two exec(3) did not find."""
    found = Path(want.cwd).is_dir()
    return f"no such program: {want.argv[0]}" if found else f"cwd {want.cwd} does not exist"


def environment(inherited: Mapping[str, str], given: Mapping[str, str]) -> dict[str, str]:
    """A program's environment: `inherited` without saga's own secrets, and `given` over it."""
    return {name: value for name, value in inherited.items() if not _SECRET.fullmatch(name)} | dict(given)


def exit_reason(code: int) -> str:
    """How a process ended, in words; empty for success. Negative codes are signals, as in `subprocess`."""
    if code >= 0:
        return f"exit code {code}" if code else ""
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
