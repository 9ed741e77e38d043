"""The backend that the site asks for, for as long as it is needed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from saga_slurm.backend import Backend
from saga_slurm.bridged import Pyslurm
from saga_slurm.commands import Commands
from saga_slurm.facts import SlurmError
from saga_slurm.site import SlurmSite


@asynccontextmanager
async def backend_for(site: SlurmSite) -> AsyncIterator[Backend]:
    """The way to Slurm. `auto`: pyslurm where its probe passes, else the commands; `pyslurm` says why it does not."""
    backend = await chosen(site)
    try:
        yield backend
    finally:
        await backend.close()


async def chosen(site: SlurmSite) -> Backend:
    """The backend itself; close it."""
    if site.backend == "cli":
        return Commands(site.timeout_s)
    bridge = Pyslurm(site.timeout_s, site.pyslurm_python)
    if site.backend == "auto" and not bridge.may_be_there():
        return Commands(site.timeout_s)
    try:
        await bridge.probe()
    except SlurmError:
        await bridge.close()
        if site.backend == "pyslurm":
            raise
        return Commands(site.timeout_s)
    return bridge
