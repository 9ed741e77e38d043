"""SIGUSR1 says that this machine is taken away soon, and kills nothing that runs below the daemon.

Slurm sends a step's signals to every process of it (slurmstepd, whatever the proctrack plugin finds), and an engine or an
agent that has no handler would die of the notice that it is there to survive. So the signal is blocked, not handled: what
the daemon starts inherits that, where a handler would be reset to its deadly default.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable

NOTICE = signal.SIGUSR1


def hold() -> None:
    """From here on notices wait to be heard. To be called before there are threads: each has its own mask."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {NOTICE})


def hear(told: Callable[[], None]) -> None:
    """Have `told` called in the running loop at each notice, until it is closed."""
    loop = asyncio.get_running_loop()

    def wait() -> None:
        while True:
            signal.sigwait({NOTICE})
            try:
                loop.call_soon_threadsafe(told)
            except RuntimeError:  # the loop is closed: the daemon has ended
                return

    threading.Thread(target=wait, name="notices", daemon=True).start()
