"""What processes have used, from /proc: CPU time of all their threads and their memory."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

PROC = Path("/proc")


def tree(pid: int) -> list[int]:
    """`pid` and all processes below it."""
    found, todo = [], [pid]
    while todo:
        found.append(todo.pop())
        for file in PROC.glob(f"{found[-1]}/task/*/children"):
            with suppress(OSError):
                todo += [int(child) for child in file.read_text().split()]
    return found


def cpu_ns(pid: int) -> int:
    """Time on a processor of the whole tree so far: schedstat, exact where utime counts ticks."""
    total = 0
    for process in tree(pid):
        for file in PROC.glob(f"{process}/task/*/schedstat"):
            with suppress(OSError):
                total += int(file.read_text().split()[0])
    return total


def pss_mb(pid: int) -> float:
    """Proportional set size of the tree: shared pages are divided among those who share them."""
    return sum(_rollup(process, "Pss:") for process in tree(pid)) / 1024


def rss_mb(pid: int) -> float:
    """Resident set size of the tree."""
    return sum(_rollup(process, "Rss:") for process in tree(pid)) / 1024


def _rollup(pid: int, field: str) -> int:
    try:
        lines = (PROC / str(pid) / "smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(field)), 0)


def total_load() -> float:
    """Load average of the machine over one minute: how much company the measurement had."""
    return float((PROC / "loadavg").read_text().split()[0])
