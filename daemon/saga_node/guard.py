"""Takes the daemon's whole process tree down when the daemon dies, however it dies.

A tiny process of its own that reads a pipe from the daemon: lines `+GROUP` and `-GROUP` name the process groups that
live, `=PATH` a file in shared memory that an engine would leave, `*PATH` a folder of the daemon. At the end of the pipe, which no `kill -9` can
prevent, it kills every process of those groups and every process that carries the daemon's mark in its environment
(a program may have left its group), and removes the daemon's folders and those files that nobody else uses.

Run by path with `python -I -S`, so it imports nothing but the standard library and starts in milliseconds.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Collection, Iterator

MARK = "SAGA_TREE"
"""Environment variable of everything that a daemon starts: marks separated by `:`, an outer daemon's first."""
PATIENCE_S = 5.0
"""A killed process is gone in milliseconds, one in an uninterruptible wait (a dead file server) never."""
POLL_S = 0.01


def members(marks: Collection[str], groups: Collection[int]) -> list[int]:
    """Living processes of this user that carry one of `marks` or belong to one of `groups` (or its session)."""
    wanted = {mark.encode() for mark in marks}
    return [
        pid
        for pid in _own_pids()
        if not _groups_of(pid).isdisjoint(groups) or not _marks(pid).isdisjoint(wanted)
    ]


def kill(marks: Collection[str], groups: Collection[int], patience_s: float = PATIENCE_S) -> list[int]:
    """SIGKILL all of them until none is left; return those that would not go."""
    end = time.monotonic() + patience_s
    while left := members(marks, groups):
        for pid in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > end:
            return left
        time.sleep(POLL_S)
    return []


def remove_unused(files: Collection[str]) -> None:
    """Remove those `files` that no living process of this user maps; by inode, for semaphores are renamed."""
    used = {inode for pid in _own_pids() for inode in _mapped(pid)} if files else set()
    for file in files:
        with contextlib.suppress(OSError):
            if os.lstat(file).st_ino not in used:
                os.unlink(file)  # noqa: PTH108 - see above


def _mapped(pid: int) -> Iterator[int]:
    """Inodes in shared memory that a process maps, from proc(5)."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/maps", encoding="utf-8", errors="replace") as maps:  # noqa: PTH123
        for line in maps:
            if " /dev/shm/" in line:
                yield int(line.split(maxsplit=5)[4])


def _own_pids() -> Iterator[int]:
    uid = os.getuid()
    with os.scandir("/proc") as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and entry.stat().st_uid == uid and int(entry.name) != os.getpid():
                    yield int(entry.name)


def _groups_of(pid: int) -> set[int]:
    """Process group and session of a living process, from proc(5); nothing for a zombie."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:  # noqa: PTH123 - pathlib is half of this process's start
            state, _, group, session = stat.read().rpartition(b")")[2].split()[:4]
    except (OSError, ValueError):
        return set()
    return set() if state in b"ZX" else {int(group), int(session)}


def _marks(pid: int) -> set[bytes]:
    """The marks that a process was started with; a zombie has no environment any more."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as environ:  # noqa: PTH123
            variables = environ.read().split(b"\0")
    except OSError:
        return set()
    start = f"{MARK}=".encode()
    return {
        mark for value in variables if value.startswith(start) for mark in value[len(start) :].split(b":")
    }


def main(mark: str, folders: list[str]) -> None:
    """Wait for the daemon's end, then clean up."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    groups: set[int] = set()
    files: set[str] = set()
    for line in sys.stdin:
        sign, word = line[0], line[1:].rstrip("\n")
        if sign == "=":
            files.add(word)
        elif sign == "*":
            folders.append(word)
        else:
            (groups.add if sign == "+" else groups.discard)(int(word))
    kill([mark], groups)
    remove_unused(files)
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
