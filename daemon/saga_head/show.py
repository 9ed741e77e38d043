"""The head's state as the views of `saga_core.views`: read only, built when somebody asks."""

from __future__ import annotations

from collections.abc import Iterable

from saga_core.book import Session, Workflow
from saga_core.fleet import Node, Worker
from saga_core.head import Head
from saga_core.states import SessionState
from saga_core.views import ClusterView, NodeView, SessionView, Totals, WorkerView, WorkflowView

SHOWN = 200
"""Workflows in one snapshot: live ones first, then the latest of the ended."""


def cluster(head: Head, *, version: str, url: str, started_at: float, stale: int, now: float) -> ClusterView:
    """Everything `saga status` and `saga top` show."""
    fleet = head.fleet
    return ClusterView(
        name=head.config.name,
        version=version,
        profile=head.book.profile,
        url=url,
        up_s=now - started_at,
        models=fleet.models(),
        nodes=[node(n, now) for _, n in sorted(fleet.nodes.items())],
        workers=[worker(w) for _, w in sorted(fleet.workers.items())],
        totals=totals(head, stale),
        workflows=[workflow(head, w, sessions=False) for w in recent(head, SHOWN)],
    )


def recent(head: Head, limit: int) -> list[Workflow]:
    """Live workflows, oldest first, then ended ones, latest first; at most `limit`."""
    live = [w for w in head.book.workflows.values() if w.live][:limit]
    ended = [head.book.workflows[n] for n in reversed(head.book.ended[-limit:]) if n in head.book.workflows]
    return live + ended[: limit - len(live)]


def totals(head: Head, stale: int) -> Totals:
    counts = head.book.counts
    workflows = dict(counts.ended)
    for item in head.book.workflows.values():
        if item.live:
            workflows[item.state] = workflows.get(item.state, 0) + 1
    return Totals(
        workflows=workflows,
        steps_done=counts.steps_done,
        steps_refused=counts.steps_refused,
        steps_waiting=len(head.waiting),
        prompt_tokens=counts.prompt_tokens,
        cached_tokens=counts.cached_tokens,
        output_tokens=counts.output_tokens,
        stale_messages=stale,
    )


def node(item: Node, now: float) -> NodeView:
    return NodeView(
        id=item.id,
        state=item.state,
        host=item.host,
        incarnation=item.incarnation,
        seen_s=max(0.0, now - item.seen_at),
        programs=item.programs,
        end_s=None if item.end_at is None else item.end_at - now,
    )


def worker(item: Worker) -> WorkerView:
    return WorkerView(
        id=item.id,
        node=item.node,
        state=item.state,
        model=item.model,
        incarnation=item.incarnation,
        load=item.load,
        kv_usage=item.kv_usage,
        resident_tokens=sum(item.resident.values()),
        capacity_tokens=item.capacity_tokens,
        running=max(item.running, item.placed),
        waiting=item.waiting,
        steps_done=item.done,
        reason=item.reason,
    )


def workflow(head: Head, item: Workflow, *, sessions: bool = True) -> WorkflowView:
    return WorkflowView(
        id=item.id,
        name=item.name,
        tenant=item.tenant,
        agent_type=item.agent_type,
        state=_state(item),
        kind=item.kind,
        submitted_at=item.submitted_at,
        started_at=item.started_at,
        ended_at=item.ended_at,
        steps=item.steps,
        running_steps=len(item.running),
        home=item.home,
        prompt_tokens=item.prompt_tokens,
        cached_tokens=item.cached_tokens,
        output_tokens=item.output_tokens,
        tct_s=None if item.ended_at is None else item.ended_at - item.submitted_at,
        exit_code=item.exit_code,
        reason=item.reason,
        sessions=list(_sessions(head, item)) if sessions else [],
    )


def _state(item: Workflow) -> str:
    """A running workflow says what it does: queued before reasoning before tool."""
    if item.state != "running":
        return item.state
    states = {session.state for session in item.sessions.values()}
    order = (SessionState.QUEUED, SessionState.REASONING, SessionState.TOOL)
    return next((state for state in order if state in states), item.state)


def _sessions(head: Head, item: Workflow) -> Iterable[SessionView]:
    for session in item.sessions.values():
        yield _session(head, session)


def _session(head: Head, item: Session) -> SessionView:
    home = head.fleet.workers.get(item.home) if item.home is not None else None
    return SessionView(
        id=item.id,
        state=item.state,
        home=item.home,
        steps=item.steps,
        context_tokens=item.context_tokens,
        resident_tokens=home.resident.get(item.id, 0) if home is not None else 0,
    )
