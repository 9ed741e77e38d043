"""`python -m saga_head --cluster-dir DIR`: the head daemon, in the foreground."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import resource
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from saga_core.errors import SagaError, UserError
from saga_head import claim, garbage
from saga_head.app import SUPERSEDED_EXIT, App
from saga_shell import log


async def _serve(recovered: Callable[[], App]) -> None:
    with garbage.loading():
        app = recovered()
    with garbage.brief():
        await app.run()


def _run(folder: Path, address: str, *, have_lock: bool) -> None:
    """Claim the folder, and be its head."""
    claimed, contested = claim.take(folder, locked=have_lock)
    fence = claim.Fence(folder, claimed)
    app = partial(App, folder, fence, address, contested=contested)
    try:
        import uvloop
    except ImportError:
        runner = asyncio.run
    else:
        runner = uvloop.run
    try:
        runner(_serve(app))
    finally:
        fence.release()


def _allow_many_files() -> None:
    """Three descriptors per stream: take what the system lets us have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def main() -> int:
    """Exit code 0 after a stop that was asked for, 1 on a problem, 2 for wrong usage, 3 where a newer head acts."""
    parser = argparse.ArgumentParser(prog="python -m saga_head", description=__doc__)
    parser.add_argument("--cluster-dir", type=Path, required=True, help="folder of the cluster")
    parser.add_argument(
        "--address", default="", help="where others reach this machine (default: head.host, or its name)"
    )
    parser.add_argument(
        "--take-over",
        action="store_true",
        help="take the folder over from a head that may still live, here or on a lost machine: it ends itself",
    )
    parser.add_argument("--log-level", choices=log.LEVELS, default=os.environ.get("SAGA_LOG_LEVEL", "info"))
    options = parser.parse_args()
    log.start(options.log_level)
    folder: Path = options.cluster_dir
    os.umask(0o077)
    # That the machine is taken away soon is for its node daemon to know.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    _allow_many_files()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with claim.locked(folder, take_over=options.take_over) as have_lock:
            _run(folder, options.address, have_lock=have_lock)
    except SagaError as error:
        print(f"saga_head: {error}", file=sys.stderr)  # noqa: T201 - the log may not be set up
        if isinstance(error, claim.Superseded):
            return SUPERSEDED_EXIT
        return 2 if isinstance(error, UserError) else 1
    except OSError as error:
        print(f"saga_head: {error.filename or folder}: {error.strerror or error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
