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
from saga_cli.units import UNKNOWN, duration, plural
from saga_core.errors import ClusterError
from saga_core.views import ClusterView
from saga_slurm import jobs, plan
from saga_slurm.backends import backend_for
from saga_slurm.elastic import Phase
from saga_slurm.facts import SlurmAway
from saga_slurm.jobs import Standing
from saga_slurm.plan import Course, Plan

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


class ScalingView(msgspec.Struct, frozen=True, kw_only=True):
    """What the cluster does about its size by itself."""

    min_nodes: int
    max_nodes: int
    idle_timeout_s: float | None
    joined: dict[str, int]
    """Allocations that it asked for, by what they do: coming, serving, leaving."""
    why: str
    """What it makes of the moment."""
    last: str = ""
    """What it did last."""
    failures: int = 0
    """In a row."""
    retry_s: float | None = None
    """Until it tries again after a failure."""
    problem: str = ""
    """Why it cannot ask for nodes."""
    ended: str = ""
    """Why it ended the cluster."""


class SlurmClusterView(msgspec.Struct, frozen=True, kw_only=True):
    """The answer: in JSON the head's fields stand beside `allocations`."""

    cluster: ClusterView | None
    allocations: list[AllocationView]
    scaling: ScalingView | None = None


def show_status(held: Given) -> None:
    """Print both. Before there is a head the jobs alone say what becomes of the cluster; raises for one that is silent."""
    allocations = asyncio.run(_allocations(held.folder))
    cluster, problem = None, None
    try:
        cluster = held.control().cluster()
    except ClusterError as error:
        problem = error
    scaling = scaling_view(plan.read_plan(held.folder.path), plan.read_course(held.folder.path), time.time())
    plain = msgspec.to_builtins(cluster) if cluster is not None else {}
    held.renderer.show(
        plain | {"allocations": msgspec.to_builtins(allocations), "scaling": msgspec.to_builtins(scaling)},
        table=lambda _: _table(SlurmClusterView(cluster=cluster, allocations=allocations, scaling=scaling)),
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


def scaling_view(wanted: Plan | None, course: Course, now: float) -> ScalingView | None:
    """None: the cluster stays as it is. Pure."""
    if wanted is None:
        return None
    phases, limits, backoff = list(course.joined.values()), wanted.limits, course.backoff
    return ScalingView(
        min_nodes=limits.min_nodes, max_nodes=limits.max_nodes, idle_timeout_s=limits.idle_timeout_s,
        joined={str(phase): phases.count(phase) for phase in Phase if phase in phases},
        why=course.why or "has not looked yet", last=course.doing, failures=backoff.failures,
        retry_s=max(0.0, backoff.until - now) if backoff.failures else None,
        problem=course.problem, ended=course.ended,
    )  # fmt: skip


def scaling_lines(scaling: ScalingView) -> list[str]:
    """`scaling  1 to 4 nodes, ends after 30m00s idle; asked for 1 more: 2 workers are wanted, 1 are there or coming`"""
    ends = f", ends after {duration(scaling.idle_timeout_s)} idle" if scaling.idle_timeout_s else ""
    joined = "".join(f", {count} {phase}" for phase, count in scaling.joined.items())
    lines = [
        f"scaling  {scaling.min_nodes} to {plural(scaling.max_nodes, 'node')}{ends}{joined}; {scaling.why}"
    ]
    if scaling.problem:
        lines.append(f"scaling  cannot ask for nodes from inside the job: {scaling.problem}")
    if scaling.failures:
        lines.append(
            f"scaling  {plural(scaling.failures, 'failure')}, tries again in {duration(scaling.retry_s)}"
        )
    if scaling.ended:
        lines.append(f"scaling  the cluster was ended: {scaling.ended}")
    return lines


def _table(view: SlurmClusterView) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    parts = [cluster_table(view.cluster), Text()] if view.cluster is not None else []
    lines = [Text(line) for line in scaling_lines(view.scaling)] if view.scaling is not None else []
    return Group(*parts, allocation_table(view.allocations), *lines)


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
