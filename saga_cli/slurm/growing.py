"""`saga node grow`: ask Slurm for the cluster's nodes from here, where compute nodes may not."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from saga_cli.control import Control
from saga_cli.folder import ClusterFolder
from saga_core.errors import SagaError, UserError
from saga_core.views import ClusterView
from saga_slurm import plan
from saga_slurm.backends import backend_for
from saga_slurm.plan import Plan
from saga_slurm.scaler import Scaler

LOOK_S: Final = 5.0
"""A look may go through an srun."""
ANSWER_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Door:
    """The head from a login node, by whatever way reaches it; only looked at."""

    def look(self, folder: Path) -> ClusterView | None:
        """None while it does not answer."""
        try:
            return Control.of(ClusterFolder(folder), timeout_s=ANSWER_S).cluster(workflows=0)
        except SagaError:
            return None

    def remove(self, folder: Path, node: str, *, reason: str, within_s: float) -> None:
        """The process beside the head does."""
        raise NotImplementedError

    def shut_down(self, folder: Path, *, within_s: float) -> bool:
        """The same."""
        raise NotImplementedError


def growable(folder: ClusterFolder) -> Plan:
    """What the cluster may ask for. UserError where it does not, or does by itself."""
    found = plan.read_plan(folder.path)
    if found is None:
        raise UserError(
            f"the cluster at {folder.path} does not grow (`saga up --slurm --max-nodes N` starts one that does)"
        )
    if not plan.read_course(folder.path).problem:
        raise UserError(
            "this cluster asks for its nodes itself, from inside its job: nothing is to be done here"
        )
    return found


async def grow(folder: ClusterFolder) -> None:
    """Until the cluster is down, or its job can ask itself."""
    wanted = growable(folder)
    async with backend_for(wanted.site.slurm) as backend:
        scaler = Scaler(folder.path, backend, Door())
        while plan.read_course(folder.path).problem and await scaler.step():  # noqa: ASYNC110 - a file is looked at
            await asyncio.sleep(LOOK_S)
