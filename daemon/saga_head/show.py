"""The head's state as the views of `saga_core.views`: read only, built when somebody asks."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf

from saga_core.book import Session, Workflow
from saga_core.fleet import Node, Worker
from saga_core.gate import Gate
from saga_core.head import Head
from saga_core.ids import TenantId
from saga_core.reasons import why
from saga_core.rooms import Claim, Room
from saga_core.states import SessionState
from saga_core.tallies import Tallies
from saga_core.views import ClusterView, NodeView, SessionView, Totals, WorkerView, WorkflowView
from saga_head.usage_view import backlog

SHOWN = 200
"""Workflows in one snapshot: live ones first, then the latest of the ended."""


def cluster(
    head: Head,
    *,
    version: str,
    url: str,
    started_at: float,
    stale: int,
    now: float,
    tallies: Tallies,
    shown: int = SHOWN,
) -> ClusterView:
    """Everything `saga status` and `saga top` show; at most `shown` workflows."""
    fleet = head.fleet
    return ClusterView(
        name=head.config.name,
        version=version,
        profile=head.book.profile,
        url=url,
        up_s=now - started_at,
        models=fleet.models(),
        nodes=[node(head, n, now) for _, n in sorted(fleet.nodes.items())],
        workers=[worker(w, _room(head, w), now) for _, w in sorted(fleet.workers.items())],
        totals=totals(head, stale),
        idle_s=head.idle_s,
        backlog=backlog(head),
        workflows=[workflow(head, w, now, sessions=False) for w in recent(head, shown)],
        tenants=tallies.views(_waiting(head)),
        at=now,
    )


def _waiting(head: Head) -> Iterator[TenantId]:
    """The tenant of each workflow with a session at a gate."""
    numbers = {
        claim.account.workflow
        for gate in head.gates.values()
        for claim in gate.claims.values()
        if claim.waiting
    }
    for number in numbers:
        item = head.book.workflows.get(number)
        if item is not None:
            yield item.tenant


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
    counted = [gate.counts() for gate in head.gates.values()]
    return Totals(
        workflows=workflows,
        steps_done=counts.steps_done,
        steps_refused=counts.steps_refused,
        steps_waiting=len(head.waiting),
        prompt_tokens=counts.prompt_tokens,
        cached_tokens=counts.cached_tokens,
        output_tokens=counts.output_tokens,
        stale_messages=stale,
        steps_held=sum(gate.waiting for gate in head.gates.values()),
        sessions_held=sum(held for held, _ in counted),
        sessions_paused=sum(paused for _, paused in counted),
        decisions=head.decisions.totals,
    )


def node(head: Head, item: Node, now: float) -> NodeView:
    drain = head.book.drains.get(item.id)
    until = drain.until if drain is not None else None
    return NodeView(
        id=item.id,
        state=item.state,
        host=item.host,
        incarnation=item.incarnation,
        seen_s=max(0.0, now - item.seen_at),
        programs=item.programs,
        end_s=None if item.ends_at is None else item.ends_at - now,
        duty=head.book.duty(item.id),
        why=drain.reason if drain is not None else "",
        until_s=None if until is None else max(0.0, until - now),
        steps=sum(worker.placed for worker in item.workers.values()),
        removed=drain is not None and drain.remove,
    )


def _room(head: Head, item: Worker) -> Room | None:
    gate = head.gates.get(item.model)
    return gate.rooms.get(item.id) if gate is not None else None


def worker(item: Worker, room: Room | None, now: float) -> WorkerView:
    """`room`: what the gate knows of its memory."""
    limit = room.room(1.0) if room is not None else inf
    kept = _kept(item, room)
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
        need_tokens=round(room.need(now)) if room is not None else None,
        limit_tokens=round(limit) if limit < inf else None,
        factor=room.factor if room is not None else None,
        live_sessions=len(room.live) if room is not None else 0,
        held_sessions=len(room.paused) if room is not None else 0,
        retained_tokens=kept[0],
        evictable_tokens=kept[1],
        prompt_tokens=item.prompt_tokens,
        cached_tokens=item.cached_tokens,
        capabilities=item.capabilities,
        holes=item.holes,
        healed=item.healed,
    )


def _kept(item: Worker, room: Room | None) -> tuple[int, int]:
    """Resident tokens that are kept though no step uses them, and those of sessions that were not let in."""
    paused = sum(n for name, n in item.resident.items() if name not in room.live) if room is not None else 0
    pinned = round(item.kv_usage * item.capacity_tokens)
    return max(0, sum(item.resident.values()) - paused - pinned), paused


def workflow(head: Head, item: Workflow, now: float, *, sessions: bool = True) -> WorkflowView:
    """`now` in seconds since the epoch."""
    live = item.live
    claims = [claim_of(head, session) for session in item.sessions.values()] if head.gates and live else []
    held_s = max((s for claim in claims if (s := waits_s(claim, now)) is not None), default=None)
    paused = sum(standing(claim) == "paused" for claim in claims)
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
        sessions=[_session(head, session, now) for session in item.sessions.values()] if sessions else [],
        held_s=held_s,
        paused=paused,
        resident_tokens=sum(_resident(head, session) for session in item.sessions.values()) if live else 0,
        priority=item.priority,
        slack_s=item.submitted_at + item.deadline_s - now if live and item.deadline_s else None,
        eta_s=_eta_s(head, item, now) if live else None,
        why=_why(head, item) if held_s is not None or paused else "",
    )


def _eta_s(head: Head, item: Workflow, now: float) -> float | None:
    """What is still expected of its work, at the pace that it has had since it came."""
    account = head.accounts.of(item.id)
    if account is None or not account.attained_s:
        return None
    left_s = max(0.0, account.expected_s - account.attained_s)
    return left_s * max(0.0, now - account.arrived_at) / account.attained_s


def _why(head: Head, item: Workflow) -> str:
    made = head.decisions.latest(item.id)
    return why(made) if made is not None else ""


Found = tuple[Gate, Claim] | None


def claim_of(head: Head, session: Session) -> Found:
    """What `session` claims of some workers' memory, and at which gate."""
    for gate in head.gates.values():
        claim = gate.claims.get(session.id)
        if claim is not None:
            return gate, claim
    return None


def standing(found: Found) -> str:
    """`in`, `held` or `paused`; empty where no gate knows it."""
    if found is None:
        return ""
    claim = found[1]
    return "in" if claim.live else "held" if claim.worker is None else "paused"


def waits_s(found: Found, now: float) -> float | None:
    """How long it has waited at the gate with a step."""
    return max(0.0, now - found[1].since) if found is not None and found[1].waiting else None


def _state(item: Workflow) -> str:
    """A running workflow says what it does: queued before reasoning before tool."""
    if item.state != "running":
        return item.state
    states = {session.state for session in item.sessions.values()}
    order = (SessionState.QUEUED, SessionState.REASONING, SessionState.TOOL)
    return next((state for state in order if state in states), item.state)


def _resident(head: Head, item: Session) -> int:
    """Tokens in the memory of its home."""
    home = head.fleet.workers.get(item.home) if item.home is not None else None
    return home.resident.get(item.id, 0) if home is not None else 0


def _session(head: Head, item: Session, now: float) -> SessionView:
    found = claim_of(head, item)
    return SessionView(
        id=item.id,
        state=item.state,
        home=item.home,
        steps=item.steps,
        context_tokens=item.context_tokens,
        resident_tokens=_resident(head, item),
        gate=standing(found),
        waits_s=waits_s(found, now),
        rule=item.rule,
        confidence=item.confidence,
    )
