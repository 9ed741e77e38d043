"""The daemon's children: each one a tree of processes with a group, a session and a mark of its own.

Rules of this file
  1. A tree is ended as a whole, and is over when no process of it is left: not when its first process is gone.
  2. Whatever is started is known to the guard, so that a killed daemon leaves nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from saga_node import guard
from saga_shell import log

POLL_S = 0.02


class Tree:
    """One running child with all its descendants."""

    def __init__(self, process: asyncio.subprocess.Process, mark: str) -> None:
        self.process, self.mark, self.pid = process, mark, process.pid

    def alive(self) -> list[int]:
        """Processes of it that live."""
        return guard.members([self.mark], [self.pid])

    async def end(self, grace_s: float) -> None:
        """SIGTERM to all, SIGKILL after `grace_s` seconds to what is left; return when nothing is."""
        end = asyncio.get_running_loop().time() + grace_s
        if grace_s > 0:
            self._terminate()
        while grace_s > 0 and self.alive() and asyncio.get_running_loop().time() < end:  # noqa: ASYNC110 - another process tells nobody
            await asyncio.sleep(POLL_S)
        await self.kill()

    async def kill(self) -> None:
        """SIGKILL to all; return when none lives, or when one cannot be killed (then it is logged)."""
        end = asyncio.get_running_loop().time() + guard.PATIENCE_S
        while left := self.alive():
            for pid in left:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            if asyncio.get_running_loop().time() > end:
                log.error("process-not-killable", pids=",".join(map(str, left)))
                return
            await asyncio.sleep(POLL_S)

    def _terminate(self) -> None:
        for pid in self.alive():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGTERM)


class Processes:
    """Starts trees, and keeps the guard that ends them all with the daemon. Close it at the end."""

    def __init__(self, folder: Path) -> None:
        """`folder` is private to this daemon and goes with it."""
        self.folder = folder
        self.mark = secrets.token_hex(8)
        self._started = 0
        self._groups: set[int] = set()
        self._files: set[Path] = set()
        self._folders: list[Path] = []
        self._guard = self._start_guard()

    async def start(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        output: int,
        cwd: str | None = None,
        dies_with_us: bool = False,
    ) -> Tree:
        """Start `argv` (no shell) with stdout and stderr to the file descriptor `output`; OSError as exec(3) has it.

        `dies_with_us` asks the kernel as well to kill the first process with the daemon.
        """
        self._started += 1
        mark = f"{self.mark}-{self._started}"
        outer = env.get(guard.MARK)
        marks = ":".join(filter(None, (outer, self.mark, mark)))
        process = await asyncio.create_subprocess_exec(
            *(_die_with_parent() if dies_with_us else ()),
            *argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=cwd,
            env={**env, guard.MARK: marks},
            start_new_session=True,
        )
        self._groups.add(process.pid)
        self._tell(f"+{process.pid}\n")
        return Tree(process, mark)

    def forget(self, tree: Tree) -> None:
        """It is over: its number may be another's tomorrow."""
        self._groups.discard(tree.pid)
        self._tell(f"-{tree.pid}\n")

    def remember(self, files: Collection[Path]) -> None:
        """Files in shared memory that a tree would leave when it is killed."""
        for file in set(files) - self._files:
            self._files.add(file)
            self._tell(f"={file}\n")

    def own(self, folder: Path) -> None:
        """A further folder that is private to this daemon and goes with it, however it ends."""
        if folder not in self._folders:
            self._folders.append(folder)
            self._tell(f"*{folder}\n")

    def check_guard(self) -> None:
        """Start the guard again where somebody killed it."""
        if self._guard.poll() is not None:
            log.warning("guard-died", exit_code=self._guard.returncode)
            self._hang_up()
            self._guard = self._start_guard()

    async def close(self) -> None:
        """Let the guard end what is left and remove the folder; return when it is done."""
        self._hang_up()
        while self._guard.poll() is None:  # noqa: ASYNC110 - another process tells nobody
            await asyncio.sleep(POLL_S)
        for folder in (self.folder, *self._folders):
            shutil.rmtree(folder, ignore_errors=True)

    def _hang_up(self) -> None:
        assert self._guard.stdin is not None
        with contextlib.suppress(OSError):
            self._guard.stdin.close()

    def _start_guard(self) -> subprocess.Popen[bytes]:
        argv = [sys.executable, "-I", "-S", guard.__file__, self.mark, str(self.folder)]
        process = subprocess.Popen(  # noqa: S603 - our own file
            argv, stdin=subprocess.PIPE, start_new_session=True, env={}, cwd="/", bufsize=0
        )
        assert process.stdin is not None
        with contextlib.suppress(OSError):
            lines = [f"+{group}\n" for group in self._groups]
            lines += [f"={file}\n" for file in self._files] + [f"*{folder}\n" for folder in self._folders]
            process.stdin.write("".join(lines).encode())
        return process

    def _tell(self, line: str) -> None:
        assert self._guard.stdin is not None
        try:
            self._guard.stdin.write(line.encode())
        except OSError:
            self.check_guard()


def _die_with_parent() -> tuple[str, ...]:
    """A prefix that sets PR_SET_PDEATHSIG. Not a `preexec_fn`: Python must not run between fork and exec of a
    process with threads. Without util-linux the guard alone does it.
    """
    return ("setpriv", "--pdeathsig", "KILL", "--") if shutil.which("setpriv") else ()
