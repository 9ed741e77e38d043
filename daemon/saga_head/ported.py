"""The gateway's words for a step as the head's events, and the head's decision as the gateway's target."""

from __future__ import annotations

from saga_core import actions as act
from saga_core import events
from saga_core.asides import Aside
from saga_core.fleet import Worker
from saga_core.identity import Identity
from saga_core.ids import StepId, TenantId, WorkflowId
from saga_head.gateway.port import Call, Result, Target
from saga_head.recognition import SESSIONLESS


def said(who: Identity) -> bytes:
    """How the caller was recognised, in a reply's header."""
    rule = who.rule if who.confidence == 1.0 else f"{who.rule}; confidence={who.confidence:.2f}"
    return rule.encode("ascii")


def target(
    worker: Worker, action: act.Dispatch, rule: bytes, salt: bytes | None, trace: bytes = b""
) -> Target:
    reply = [
        (b"x-saga-identity", rule),
        (b"x-saga-worker", worker.id.encode("ascii", "replace")),
        (b"x-saga-decision", action.why.encode("ascii", "replace")),
    ]
    if action.session is not None:
        reply.append((b"x-saga-session-id", action.session.encode("ascii", "replace")))
    return Target(
        worker=worker.id,
        host=worker.host,
        port=worker.port,
        key=worker.key,
        session=action.session,
        reply_headers=tuple(reply),
        priority=action.priority,
        cache_salt=salt,
        trace=trace,
    )


def step_arrived(
    step: StepId, call: Call, who: Identity, prefix: str, said: Aside, weight: float
) -> events.StepArrived:
    workflow = call.caller.workflow
    if call.api in SESSIONLESS:
        return events.StepArrived(step=step, tenant=TenantId(call.caller.tenant), model=call.fields.model)
    return events.StepArrived(
        step=step,
        tenant=TenantId(call.caller.tenant),
        model=call.fields.model,
        workflow=None if workflow is None else WorkflowId(workflow),
        key=who.workflow,
        session=who.session,
        rule=who.rule,
        confidence=who.confidence,
        agent_type=who.agent_type,
        stream=bool(call.fields.stream),
        body_bytes=call.body_bytes,
        tool=who.tool,
        parent=who.parent,
        prefix=prefix,
        told=said.told,
        expected_tokens=said.expected_tokens,
        weight=weight,
    )


def finished(step: StepId, result: Result) -> events.StepFinished:
    usage = result.usage
    return events.StepFinished(
        step=step,
        outcome=result.outcome,
        status=result.status,
        prompt_tokens=usage.prompt_tokens if usage is not None else None,
        cached_tokens=usage.cached_tokens if usage is not None else None,
        output_tokens=usage.output_tokens if usage is not None else None,
        ttft_s=result.ttft_s,
        duration_s=result.duration_s,
        tool=result.tool,
        detail=result.detail,
    )
