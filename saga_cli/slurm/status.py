"""`saga status` of a cluster in Slurm: what the head says, and what Slurm says of its allocations."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import msgspec

from saga_cli.folder import ClusterFolder
from saga_cli.grid import Grid
from saga_cli.options import Given
from saga_cli.slurm.asking import usual_site
from saga_cli.tables import cluster_table, state_text
from saga_cli.units import UNKNOWN, duration
from saga_core.errors import ClusterError
from saga_core.views import ClusterView
from saga_slurm import jobs
from saga_slurm.backends import backend_for
from saga_slurm.facts import SlurmAway
from saga_slurm.jobs import Standing

if TYPE_CHECKING:
    from rich.console import RenderableType


class AllocationView(msgspec.Struct, frozen=True, kw_only=True):
    """One job of the cluster."""

    job: str
    role: str
    state: str
    """Slurm's; `UNKNOWN` while its controller is away."""
    partition: str = ""
    nodes: int = 0
    nodelist: str = ""
    ends_s: float | None = None
    """Seconds of wall time left."""
    reason: str = ""
    """Why it waits."""


class SlurmClusterView(msgspec.Struct, frozen=True, kw_only=True):
    """The answer: in JSON the head's fields stand beside `allocations`."""

    cluster: ClusterView | None
    allocations: list[AllocationView]


def show_status(held: Given) -> None:
    """Print both. Before there is a head the jobs alone say what becomes of the cluster; raises for one that is silent."""
    allocations = asyncio.run(_allocations(held.folder))
    cluster, problem = None, None
    try:
        cluster = held.control().cluster()
    except ClusterError as error:
        problem = error
    plain = msgspec.to_builtins(cluster) if cluster is not None else {}
    held.renderer.show(
        plain | {"allocations": msgspec.to_builtins(allocations)},
        table=lambda _: _table(SlurmClusterView(cluster=cluster, allocations=allocations)),
        quiet=lambda _: [cluster.name] if cluster is not None else [],
    )
    if problem is not None and (held.folder.access_file.exists() or not allocations):
        raise problem


async def _allocations(folder: ClusterFolder) -> list[AllocationView]:
    async with backend_for(usual_site().slurm) as backend:
        try:
            found = await jobs.standing(backend, folder.path)
        except SlurmAway:
            return [
                AllocationView(
                    job=record.job,
                    role=record.allocation.role,
                    state="UNKNOWN",
                    nodes=record.allocation.nodes,
                )
                for record in jobs.known(folder.path)
            ]
    return [allocation_view(each, time.time()) for each in found if each.live]


def allocation_view(standing: Standing, now: float) -> AllocationView:
    """What is shown of a job that Slurm knows. Pure."""
    wanted, job = standing.record.allocation, standing.job
    assert job is not None
    ends_s = None if job.waiting or job.ends_at is None else max(0.0, job.ends_at - now)
    return AllocationView(
        job=job.id, role=wanted.role, state=job.state, partition=job.partition, nodes=wanted.nodes,
        nodelist=job.nodelist, ends_s=ends_s, reason=job.reason,
    )  # fmt: skip


def _table(view: SlurmClusterView) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    parts = [cluster_table(view.cluster), Text()] if view.cluster is not None else []
    return Group(*parts, allocation_table(view.allocations))


def allocation_table(allocations: list[AllocationView]) -> RenderableType:
    return Grid(
        ">JOB", "*ROLE", "STATE", "*PARTITION", ">NODES", "*ON", ">ENDS IN", "*REASON",
        rows=[
            (
                a.job, a.role, state_text(a.state.lower()), a.partition or UNKNOWN, str(a.nodes),
                a.nodelist or UNKNOWN, duration(a.ends_s), a.reason or UNKNOWN,
            )
            for a in allocations
        ],
        empty="no allocation",
    )  # fmt: skip
