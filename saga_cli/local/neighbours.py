"""What others do on this machine while we measure."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

import psutil

from saga_cli.folder import ClusterFolder
from saga_cli.local import processes


def others_cores(folder: ClusterFolder) -> Callable[[], float]:
    """From now until it is asked: the CPU cores that others than the cluster in `folder` and this process took."""
    ours = [psutil.Process(), *processes.family(processes.find(folder))]

    def taken() -> tuple[float, float]:
        whole, mine = psutil.cpu_times(), [process.cpu_times() for process in ours if process.is_running()]
        return sum(whole) - whole.idle - getattr(whole, "iowait", 0.0), sum(t.user + t.system for t in mine)

    (all_s, ours_s), began = taken(), monotonic()

    def asked() -> float:
        all_then_s, ours_then_s = taken()
        return max(0.0, (all_then_s - all_s) - (ours_then_s - ours_s)) / (monotonic() - began)

    return asked
