"""Taking a local cluster down: asked first, then told, then killed; nothing of it is left."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from saga_cli.control import Control
from saga_cli.folder import ClusterFolder
from saga_cli.local import processes
from saga_cli.local.processes import Daemon
from saga_cli.selection import ranges
from saga_cli.units import plural
from saga_core.errors import ClusterError, SagaError
from saga_core.states import ENDED

if TYPE_CHECKING:
    import psutil

TERM_S: Final = 10.0
"""Between TERM and KILL of what did not end when asked: a worker frees its shared memory in that time."""
KILL_S: Final = 5.0
ASK_S: Final = 5.0
"""For the head to take the request."""


def take_down(
    folder: ClusterFolder,
    *,
    timeout_s: float,
    only: Sequence[Daemon] | None = None,
    drain_s: float | None = None,
) -> int:
    """End the cluster's processes on this machine (or `only` some daemons); returns how many daemons there were.

    Asks the head to shut down, and after `timeout_s` sends TERM, then KILL, to what is left. drain_s: the head first
    lets workflows end, for so long at most.
    """
    daemons = list(only) if only is not None else processes.find(folder)
    everything = processes.family(daemons)
    deadline = time.monotonic() + timeout_s + (drain_s or 0.0)
    if _asked(folder, daemons, drain_s):
        processes.wait_gone([d.process for d in daemons if d.kind == processes.HEAD], deadline)
    # Those whom the head told are ending; a node that was still starting, or had no head, is told here.
    processes.signal_all([daemon.process for daemon in daemons], signal.SIGTERM)
    left = processes.wait_gone(everything, deadline)
    _insist(left)
    return len(daemons)


def _asked(folder: ClusterFolder, daemons: Sequence[Daemon], drain_s: float | None) -> bool:
    """Whether the head among `daemons` took the request; without it each daemon is told on its own."""
    if all(daemon.kind != processes.HEAD for daemon in daemons):
        return False
    try:
        Control.of(folder, timeout_s=ASK_S).shutdown(drain=drain_s is not None, within_s=drain_s or 0.0)
    except SagaError:
        return False
    return True


def _insist(left: list[psutil.Process]) -> None:
    for number, patience_s in ((signal.SIGTERM, TERM_S), (signal.SIGKILL, KILL_S)):
        if left:
            processes.signal_all(left, number)
            left = processes.wait_gone(left, time.monotonic() + patience_s)
    if left:
        raise ClusterError(
            f"processes {', '.join(str(p.pid) for p in left)} do not end, not even when killed"
        )


def stop(folder: ClusterFolder, *, force: bool, timeout_s: float, drain_s: float | None = None) -> int:
    """`saga down`: take everything down; returns how many daemons ran.

    Without `force` it refuses, with ClusterError, while programs started by saga are live; with `drain_s` it lets them
    end, for so many seconds at most.
    """
    if not force and drain_s is None:
        refuse_while_live(folder)
    return take_down(folder, timeout_s=timeout_s, drain_s=drain_s)


def refuse_while_live(folder: ClusterFolder) -> None:
    """Raises ClusterError while programs that saga started are live."""
    try:
        workflows = Control.of(folder).workflows()
    except ClusterError:
        return  # nobody to ask: what is left is only cleared away
    live = [w.id for w in workflows if w.state not in ENDED and w.kind != "outside"]
    if live:
        raise ClusterError(
            f"{plural(len(live), 'workflow')} still live ({ranges(live)}): wait for them (`saga wait all`), cancel "
            "them, let them end with `saga down --drain`, or use `saga down --force` (their programs start again at "
            "the next `saga up`)"
        )
