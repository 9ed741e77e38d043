"""The backend that the site asks for."""

from __future__ import annotations

from saga_slurm.backend import Backend
from saga_slurm.commands import Commands
from saga_slurm.site import Site


async def backend_for(site: Site) -> Backend:
    """The way to Slurm from here."""
    return Commands(site.slurm.timeout_s)
