"""`python -m saga_slurm.scaling --cluster-dir DIR`: grows and shrinks a cluster, beside its head, until either ends."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path
from typing import Final

from saga_core.errors import SagaError
from saga_shell import log
from saga_slurm import head, jobs, plan
from saga_slurm.backends import backend_for
from saga_slurm.commands import Commands
from saga_slurm.facts import SlurmAway
from saga_slurm.plan import Plan
from saga_slurm.scaler import Scaler

LOOK_S: Final = 2.0
"""A look at the head costs it a millisecond; nodes take tens of seconds to come."""


async def _run(folder: Path) -> None:
    wanted = plan.read_plan(folder)
    if wanted is None:
        return
    async with backend_for(wanted.site.slurm) as backend:
        scaler = Scaler(folder, backend, head, job=os.environ.get("SLURM_JOB_ID", ""))
        scaler.note_problem(await problem(folder, wanted))
        while await _stepped(scaler):  # noqa: ASYNC110 - what it looks at lies elsewhere
            await asyncio.sleep(LOOK_S)


async def _stepped(scaler: Scaler) -> bool:
    """Slurm away, a folder that does not answer: the next look may see more."""
    try:
        return await scaler.step()
    except SagaError as error:
        log.warning("scaling", problem=error)
        return True


async def problem(folder: Path, wanted: Plan) -> str:
    """Why nodes cannot be asked for from here, in Slurm's words; empty: they can."""
    try:
        await jobs.try_out(Commands(wanted.site.slurm.timeout_s), folder, wanted.join, wanted.site)
    except SlurmAway:
        return ""
    except SagaError as error:
        return str(error)
    return ""


async def _until_told(folder: Path) -> None:
    """TERM, as every step of a job that ends hears it, is a clean end."""
    running = asyncio.ensure_future(_run(folder))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, running.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await running


def main() -> int:
    """Exit code 0 when there is nothing more to do, or it was told to end; 1 for a folder that is not one."""
    parser = argparse.ArgumentParser(prog="python -m saga_slurm.scaling", description=__doc__)
    parser.add_argument("--cluster-dir", type=Path, required=True)
    parser.add_argument("--log-level", choices=log.LEVELS, default=os.environ.get("SAGA_LOG_LEVEL", "info"))
    options = parser.parse_args()
    log.start(options.log_level)
    os.umask(0o077)
    try:
        asyncio.run(_until_told(options.cluster_dir))
    except SagaError as error:
        print(f"saga_slurm.scaling: {error}", file=sys.stderr)  # noqa: T201 - as every daemon's end
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
