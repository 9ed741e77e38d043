"""The daemons of a cluster folder as processes: start, find, end."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from saga_cli.folder import ClusterFolder
from saga_core.errors import ClusterError

if TYPE_CHECKING:
    import psutil

HEAD, NODE = "saga_head", "saga_node"
LOCAL_NODE: Final = "local"
"""Name of the one node of a cluster made by `saga up --local`."""
POLL_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class Daemon:
    """A running daemon of a cluster folder."""

    kind: str
    node: str
    process: psutil.Process

    @property
    def name(self) -> str:
        return "head" if self.kind == HEAD else f"node {self.node}"


def head_command(folder: ClusterFolder) -> list[str]:
    return [sys.executable, "-m", HEAD, "--cluster-dir", str(folder.path)]


def node_command(folder: ClusterFolder, node: str) -> list[str]:
    return [sys.executable, "-m", NODE, "--cluster-dir", str(folder.path), "--node", node]


def start(command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    """Start a daemon in a session of its own, its output appended to `log` (mode 0600)."""
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ClusterError(f"{log}: cannot be written: {error.strerror}") from None
    with os.fdopen(descriptor, "wb") as output:
        return subprocess.Popen(  # noqa: S603 - our own interpreter and module
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, cwd="/"
        )


def find(folder: ClusterFolder) -> list[Daemon]:
    """The living daemons of `folder` on this machine, whoever started them."""
    import psutil

    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        daemon = _daemon(process, process.info["cmdline"] or [], folder)
        if daemon is not None and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(daemon)
    return found


def _daemon(process: psutil.Process, argv: Sequence[str], folder: ClusterFolder) -> Daemon | None:
    if argv[1:5] == head_command(folder)[1:5] and len(argv) >= 5:
        return Daemon(HEAD, "", process)
    if argv[1:6] == node_command(folder, "")[1:6] and len(argv) >= 7:
        return Daemon(NODE, argv[6], process)
    return None


def family(daemons: Iterable[Daemon]) -> list[psutil.Process]:
    """The daemons and everything they started."""
    import psutil

    members: dict[int, psutil.Process] = {}
    for daemon in daemons:
        try:
            below = daemon.process.children(recursive=True)
        except psutil.NoSuchProcess:
            continue
        members |= {process.pid: process for process in (daemon.process, *below)}
    return list(members.values())


def wait_gone(processes: Iterable[psutil.Process], deadline: float) -> list[psutil.Process]:
    """Those still alive at `deadline` (of `time.monotonic`)."""
    left = list(processes)
    while left and time.monotonic() < deadline:
        left = [process for process in left if alive(process)]
        time.sleep(POLL_S if left else 0)
    return [process for process in left if alive(process)]


def alive(process: psutil.Process) -> bool:
    """Whether it runs; a zombie does not."""
    import psutil

    try:
        # A zombie is over; if it is our own child, this is where it is reaped.
        if process.status() != psutil.STATUS_ZOMBIE:
            return process.is_running()
        process.wait(0)
    except (psutil.NoSuchProcess, psutil.TimeoutExpired):
        pass
    return False


def signal_all(processes: Iterable[psutil.Process], number: int) -> None:
    """Send a signal to each that is still there."""
    import contextlib

    import psutil

    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)
