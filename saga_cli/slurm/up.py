"""`saga up --slurm` and `saga up --join`: from flags to a cluster that serves.

Rules of this file
  1. What already runs or waits is followed, not submitted again.
  2. Ctrl-C leaves the job: its place in the queue is worth something. A launch that fails is cancelled, since idle
     machines cost.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import msgspec

from saga_cli.folder import ClusterFolder
from saga_cli.settling import concrete, settle
from saga_cli.slurm.asking import LEAD_S, Asked, allocation, plan, site_for
from saga_cli.slurm.follow import Follower
from saga_cli.slurm.picture import Times
from saga_cli.slurm.show import Show
from saga_core.errors import ClusterError, SagaError, UserError
from saga_core.views import ClusterView
from saga_slurm import jobs, records, spare
from saga_slurm import plan as scaling
from saga_slurm.allocation import Allocation, Role
from saga_slurm.backend import Backend
from saga_slurm.facts import SlurmError, SlurmRefused
from saga_slurm.records import Record
from saga_slurm.site import Site


@dataclass(frozen=True, slots=True)
class Launched:
    """The outcome of `launch`."""

    record: Record
    already: bool
    cluster: ClusterView | None
    """None: nobody waited for it."""
    times: Times | None


def script(asked: Asked, folder: ClusterFolder) -> str:
    """`--dry-run`: what would be submitted; nothing is written and Slurm is not asked."""
    if asked.elastic:
        _limits(asked, asked.nodes)
    settings = concrete(asked.resolved()) if asked.role is Role.CLUSTER else _held(folder)
    return jobs.rendered(allocation(asked, folder, settings), site_for(asked))


async def launch(
    backend: Backend, asked: Asked, folder: ClusterFolder, *, show: Show, timeout_s: float, wait: bool
) -> Launched:
    """Submit what is asked for, unless it is there already, and follow it until it serves."""
    site = site_for(asked)
    folder.make()
    records.read_all(folder.path)
    live = [each.record for each in await jobs.standing(backend, folder.path) if each.live]
    heads = [record for record in live if record.allocation.role is Role.CLUSTER]
    if asked.elastic:
        _limits(asked, heads[0].allocation.nodes if heads else asked.nodes)
    if asked.role is Role.CLUSTER:
        settle(folder, asked.resolved(), running=bool(heads))
        record = (
            _kept(heads[0], asked, folder) if heads else await _submit_chain(backend, asked, folder, site)
        )
        already = bool(heads)
        if heads:
            await _spared(backend, heads[0], folder, site)
    else:
        if not heads:
            raise UserError(
                f"no cluster in Slurm runs at {folder.path}: there is nothing to join (`saga up --slurm`)"
            )
        record, already = (
            await _submit(backend, allocation(asked, folder, _held(folder)), folder, site),
            False,
        )
    if not wait:
        return Launched(record, already, None, None)
    return await _followed(backend, folder, record, already=already, show=show, timeout_s=timeout_s)


async def _followed(
    backend: Backend, folder: ClusterFolder, record: Record, *, already: bool, show: Show, timeout_s: float
) -> Launched:
    count = int(record.allocation.settings.get("workers.count", _held(folder)["workers.count"]))
    follower = Follower(backend, folder, record, workers=count * record.allocation.nodes)
    try:
        view, times = await follower.until_ready(show, timeout_s=timeout_s)
    except SagaError:
        if not already:
            scaling.remove_plan(folder.path)
            await backend.cancel([r.job for r in records.read_all(folder.path) if _same_launch(r, record)])
        raise
    return Launched(record, already, view, times)


def _limits(asked: Asked, nodes: int) -> None:
    """UserError for limits that cannot be."""
    if asked.role is not Role.CLUSTER:
        raise UserError(
            "--min-nodes, --max-nodes, --idle-timeout: of a cluster (`saga up --slurm`), not of a join"
        )
    asked.limits(nodes)


def _kept(head: Record, asked: Asked, folder: ClusterFolder) -> Record:
    """The cluster that is there already, perhaps with other limits from here on."""
    if asked.elastic and not head.allocation.elastic:
        raise UserError(
            "this cluster was started without --min-nodes, --max-nodes or --idle-timeout, and cannot be given them "
            "while it runs (`saga down` first)"
        )
    if asked.elastic:
        _write_plan(asked, head.allocation, folder)
    return head


def _write_plan(asked: Asked, first: Allocation, folder: ClusterFolder) -> None:
    if asked.elastic:
        scaling.write_plan(folder.path, plan(asked, first, _held(folder)))
    else:
        scaling.remove_plan(folder.path)


def _same_launch(other: Record, record: Record) -> bool:
    """The job itself, and those that were to follow it in a chain."""
    return (
        bool(other.job) and not other.over and (other.tag == record.tag or bool(other.allocation.predecessor))
    )


async def _submit(backend: Backend, wanted: Allocation, folder: ClusterFolder, site: Site) -> Record:
    return await jobs.submit(backend, folder.path, wanted, site)


async def _submit_chain(backend: Backend, asked: Asked, folder: ClusterFolder, site: Site) -> Record:
    """The first allocation, and its successors, each of which waits for the one before it; or else a spare.

    Of a job of several nodes Slurm requeues nothing when it loses the first one (22.05: FAILED), of a job of one node all.
    """
    wanted = allocation(asked, folder, _held(folder))
    scaling.remove_course(folder.path)
    _write_plan(asked, wanted, folder)
    lead_s = min(LEAD_S, wanted.time_s // 4)
    record = before = await _submit(backend, wanted, folder, site)
    for _ in range(asked.chain - 1):
        before = await _submit(backend, _after(before, asked, folder, lead_s), folder, site)
    if asked.chain == 1:
        await _spared(backend, record, folder, site)
    return record


async def _spared(backend: Backend, record: Record, folder: ClusterFolder, site: Site) -> None:
    """Where only one job may be submitted, the cluster is worth more than its spare."""
    with contextlib.suppress(SlurmRefused, SlurmError):
        await spare.ensure(backend, folder.path, record, record.site or site)


def _after(before: Record, asked: Asked, folder: ClusterFolder, lead_s: int) -> Allocation:
    return msgspec.structs.replace(
        allocation(asked, folder, _held(folder)),
        predecessor=before.tag,
        predecessor_job=before.job,
        lead_s=lead_s,
    )


def _held(folder: ClusterFolder) -> dict[str, Any]:
    settings = folder.settings()
    if settings is None:
        raise ClusterError(f"{folder.settings_file} is not there: no cluster was started at {folder.path}")
    return settings
