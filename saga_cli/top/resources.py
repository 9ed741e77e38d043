"""Nodes with their workers below them, as rows of one table: a node's row is the sum of its workers'."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from saga_core.views import ClusterView, NodeView, WorkerView


@dataclass(frozen=True, slots=True)
class Resource:
    """A node, or a worker of it."""

    id: str
    node: bool
    state: str
    host: str
    """Of a node; of a worker its model."""
    reason: str
    workers: int
    load: float
    """[0, 1]; of a node the mean."""
    capacity_tokens: int
    pinned_tokens: int
    retained_tokens: int
    evictable_tokens: int
    prompt_tokens: int
    cached_tokens: int
    running: int
    waiting: int
    held: int
    steps: int
    need_tokens: int
    limit_tokens: int
    factor: float | None
    programs: int | None
    left_s: float | None
    """Until its wall time ends."""


def resources(cluster: ClusterView) -> list[Resource]:
    """Every node by name, each followed by its workers; workers of no known node come last."""
    by_node: dict[str, list[WorkerView]] = {}
    for worker in cluster.workers:
        by_node.setdefault(worker.node, []).append(worker)
    rows: list[Resource] = []
    for node in cluster.nodes:
        mine = [_worker(w, node.end_s) for w in by_node.pop(node.id, [])]
        rows += [_node(node, mine), *mine]
    return rows + [_worker(w, None) for strays in by_node.values() for w in strays]


def _worker(w: WorkerView, left_s: float | None) -> Resource:
    return Resource(
        id=w.id, node=False, state=w.state, host=w.model, reason=w.reason, workers=1, load=w.load,
        capacity_tokens=w.capacity_tokens, pinned_tokens=round(w.kv_usage * w.capacity_tokens),
        retained_tokens=w.retained_tokens, evictable_tokens=w.evictable_tokens, prompt_tokens=w.prompt_tokens,
        cached_tokens=w.cached_tokens, running=w.running, waiting=w.waiting, held=w.held_sessions,
        steps=w.steps_done, need_tokens=w.need_tokens or 0, limit_tokens=w.limit_tokens or 0, factor=w.factor,
        programs=None, left_s=left_s,
    )  # fmt: skip


def _node(n: NodeView, mine: Sequence[Resource]) -> Resource:
    return Resource(
        id=n.id, node=True, state=n.standing, host=n.host, reason="", workers=len(mine),
        load=sum(r.load for r in mine) / max(1, len(mine)),
        capacity_tokens=sum(r.capacity_tokens for r in mine), pinned_tokens=sum(r.pinned_tokens for r in mine),
        retained_tokens=sum(r.retained_tokens for r in mine),
        evictable_tokens=sum(r.evictable_tokens for r in mine),
        prompt_tokens=sum(r.prompt_tokens for r in mine), cached_tokens=sum(r.cached_tokens for r in mine),
        running=sum(r.running for r in mine), waiting=sum(r.waiting for r in mine),
        held=sum(r.held for r in mine), steps=sum(r.steps for r in mine),
        need_tokens=sum(r.need_tokens for r in mine), limit_tokens=sum(r.limit_tokens for r in mine),
        factor=None, programs=n.programs, left_s=n.end_s,
    )  # fmt: skip
