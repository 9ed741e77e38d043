"""What the head says, what Slurm says and what the cluster itself has asked for, seen together. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from saga_core.states import NodeState, WorkerState
from saga_core.views import ClusterView
from saga_slurm.allocation import Role
from saga_slurm.elastic import Joined, Phase, Scene
from saga_slurm.jobs import Standing


@dataclass(frozen=True, slots=True, kw_only=True)
class Own:
    """What the process that scales knows of itself."""

    job: str
    """Slurm's number of the head's job."""
    workers_per_node: int
    """Of the cluster, where an allocation does not say otherwise."""
    serves_since: float | None = None
    """When it first saw a worker ready."""
    ends_at: float | None = None
    """Of the head's job; None: it does not end, or another one comes in its place."""


def scene_of(
    view: ClusterView, standings: Sequence[Standing], phases: Mapping[str, Phase], own: Own, now: float
) -> Scene:
    """The scene at `now`; `phases`: by tag, as they were."""
    live = [each for each in standings if each.live]
    grown = [each for each in live if each.record.allocation.grown]
    joined = [joined_of(view, each, phases.get(each.record.tag), own.workers_per_node) for each in grown]
    coming = {each.record.job for each, seen in zip(grown, joined, strict=True) if seen.phase is Phase.COMING}
    return Scene(
        now=now,
        ready=sum(model.ready for model in view.backlog),
        starting=_starting(view, coming),
        idle_s=view.idle_s,
        serves_s=None if own.serves_since is None else now - own.serves_since,
        ends_s=None if own.ends_at is None else own.ends_at - now,
        base_nodes=_base_nodes(live, own.job),
        joined=joined,
        workers_per_node=own.workers_per_node,
    )


def wanted(view: ClusterView) -> int:
    """Workers, of all models together: those that join serve the cluster's."""
    return sum(model.wanted for model in view.backlog)


def joined_of(view: ClusterView, standing: Standing, was: Phase | None, workers_per_node: int) -> Joined:
    """One allocation that the cluster asked for and that is not over."""
    asked, job = standing.record.allocation, standing.job
    assert job is not None
    up = {node.id for node in view.nodes if node.id.startswith(f"{job.id}.") and node.state == NodeState.UP}
    mine = [worker for worker in view.workers if worker.node in up]
    workers = asked.nodes * int(asked.settings.get("workers.count", workers_per_node))
    ready = sum(worker.state == WorkerState.READY for worker in mine)
    waits = job.waiting and not up  # Slurm is asked less often than the head
    phase = _phase(was, waits=waits, serves=len(up) >= asked.nodes and ready >= workers)
    return Joined(
        tag=standing.record.tag,
        phase=phase,
        nodes=asked.nodes,
        workers=workers,
        unready=max(0, workers - ready) if phase is Phase.COMING else 0,
        steps=sum(worker.running + worker.waiting for worker in mine),
        began_at=None if job.waiting else job.starts_at,
        asked_at=standing.record.asked_at,
    )


def _phase(was: Phase | None, *, waits: bool, serves: bool) -> Phase:
    if was is Phase.LEAVING:
        return was
    if waits:  # a preempted one comes again
        return Phase.COMING
    return Phase.SERVING if serves or was is Phase.SERVING else Phase.COMING


def _starting(view: ClusterView, coming: set[str]) -> int:
    there = {node.id for node in view.nodes if node.state == NodeState.UP and node.duty == "active"}
    return sum(
        worker.state == WorkerState.STARTING
        and worker.node in there
        and worker.node.partition(".")[0] not in coming
        for worker in view.workers
    )


def _base_nodes(live: Sequence[Standing], job: str) -> int:
    """A successor in a chain comes in the place of the head's job, not beside it."""
    return sum(
        each.record.allocation.nodes
        for each in live
        if each.record.job == job
        or (each.record.allocation.role is Role.JOIN and not each.record.allocation.grown)
    )
