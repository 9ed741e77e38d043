"""Who listens on a port: asked before a key is sent there.

Between the choice of a free port and the bind, another user of the node can take it; the key must not reach them.
"""

import contextlib
import os
from collections.abc import Iterator

import psutil


def listener_is_ours(port: int, pid: int, host: str = "127.0.0.1") -> bool:
    """Whether a process of `pid`'s tree or process group listens on host:port.

    The address must match exactly: the kernel prefers the exact one, so nobody's wildcard socket can answer for it.
    """
    return any(_listens(process, host, port) for process in family(pid))


def family(pid: int) -> Iterator[psutil.Process]:
    """The process, its descendants, and what else lives in its process group (orphans of the tree)."""
    seen: set[int] = set()
    with contextlib.suppress(psutil.Error):
        root = psutil.Process(pid)
        for process in [root, *root.children(recursive=True)]:
            seen.add(process.pid)
            yield process
    for process in psutil.process_iter():
        if process.pid not in seen and _group(process.pid) == pid:
            yield process


def _group(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except OSError:
        return None


def _listens(process: psutil.Process, host: str, port: int) -> bool:
    try:
        connections = process.net_connections(kind="tcp")
    except psutil.Error:
        return False
    return any(c.status == psutil.CONN_LISTEN and c.laddr == (host, port) for c in connections)
