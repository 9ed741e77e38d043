"""`dynamo.request.trace.v1`: sessions by name, sub-agents by parent session, gaps by the tools' own records.

The order of a session and where a sub-agent leaves and joins its parent follow Dynamo's own lowering
(agentic.rs), with one difference: a request that had not ended when another began is no cause of it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import msgspec

from saga_core.errors import UserError
from saga_sim.trace.importers.blocks import BlockIds
from saga_sim.trace.importers.containment import sessions as by_containment
from saga_sim.trace.importers.dynamo_records import ClaudeTool, Record, RequestEnd
from saga_sim.trace.importers.lines import decoded, lines
from saga_sim.trace.importers.options import Imported, ImportOptions
from saga_sim.trace.importers.requests import Request, check_counts, ordered, steps
from saga_sim.trace.importers.subagents import Session, join
from saga_sim.trace.importers.tools import Spans, ToolSpan, describe
from saga_sim.trace.records import Workflow

VALID = 'records with "schema": "dynamo.request.trace.v1" and "event_type": "request_end" or "tool_end"'
PAYLOAD = "request_payload"


class _Envelope(msgspec.Struct, frozen=True):
    """Only enough to pass over payloads without looking into them."""

    event_type: str | None = None
    event: msgspec.Raw = msgspec.Raw()


_envelope = msgspec.json.Decoder(_Envelope)
_decoder = msgspec.json.Decoder(Record)


@dataclass(slots=True)
class _Trace:
    """What the shards of one recording say."""

    block_size: int = 0
    sessions: dict[str, Session] = field(default_factory=dict)
    loose: list[Request] = field(default_factory=list)
    by_id: dict[str, Request] = field(default_factory=dict)
    told: dict[int, RequestEnd] = field(default_factory=dict)
    spans: dict[str, Spans] = field(default_factory=dict)
    launches: dict[str, tuple[str, ClaudeTool]] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)


def read_request_trace(files: Sequence[Path], options: ImportOptions) -> Imported:
    """All shards of one recording. Raises UserError at a fault."""
    trace, ids = _Trace(), BlockIds()
    for path in files:
        for where, line in lines(path):
            record = _record(line, where)
            if record is None or record.event_type in {"tool_start", PAYLOAD}:
                continue
            if record.event_type == "request_end":
                _take_request(trace, record, where, ids)
            else:
                _take_tool(trace, record, where)
    if not trace.by_id:
        raise UserError(f"{', '.join(map(str, files))}: no request_end record (valid: {VALID})")
    if trace.sessions and trace.loose:
        raise UserError(
            f"{trace.loose[0].where}: a request without agent_context among requests with one "
            "(valid: all of a recording or none)"
        )
    return _imported(trace, options, files[0].name.partition(".")[0])


def _record(line: bytes, where: str) -> Record | None:
    envelope = decoded(_envelope, line, where, VALID)
    if envelope.event_type == PAYLOAD:
        return None
    inner = bytes(envelope.event)
    if inner in {b"", b"null"}:
        return decoded(_decoder, line, where, VALID)
    if decoded(_envelope, inner, where, VALID).event_type == PAYLOAD:
        return None
    return decoded(_decoder, inner, where, VALID)


def _take_request(trace: _Trace, record: Record, where: str, ids: BlockIds) -> None:
    told = record.request
    if told is None:
        raise UserError(f"{where}: a request_end record without 'request' (valid: {VALID})")
    if told.request_id in trace.by_id:
        first = trace.by_id[told.request_id].where
        raise UserError(f"{where}: request_id {told.request_id!r} stands at {first} already")
    if told.output_tokens == 0:  # cancelled before its first token
        trace.left_out["requests without output"] = trace.left_out.get("requests without output", 0) + 1
        return
    request = _request(trace, record, told, where, ids)
    trace.by_id[told.request_id] = request
    trace.told[id(request)] = told
    if record.agent_context is None:
        trace.loose.append(request)
        return
    context = record.agent_context
    session = trace.sessions.setdefault(context.session_id, Session(context.session_id))
    session.requests.append(request)
    if context.parent_session_id and session.parent not in {None, context.parent_session_id}:
        raise UserError(
            f"{where}: session {context.session_id!r} has parents {session.parent!r} and "
            f"{context.parent_session_id!r} (valid: one)"
        )
    session.parent = context.parent_session_id or session.parent


def _request(trace: _Trace, record: Record, told: RequestEnd, where: str, ids: BlockIds) -> Request:
    replay = told.replay
    trace.block_size = trace.block_size or replay.trace_block_size
    if replay.trace_block_size != trace.block_size:
        raise UserError(
            f"{where}: trace_block_size {replay.trace_block_size} after {trace.block_size} "
            "(valid: one for all shards)"
        )
    hashes = replay.input_sequence_hashes
    check_counts(where, replay.input_length, told.output_tokens, len(hashes), trace.block_size)
    start_ms = told.request_received_ms
    lasted_ms = told.total_time_ms
    end_ms = start_ms + lasted_ms if lasted_ms is not None else max(start_ms, record.event_time_unix_ms)
    return Request(
        where=where,
        prompt_tokens=replay.input_length,
        output_tokens=told.output_tokens,
        ids=ids.of(hashes),
        start_s=start_ms / 1000,
        end_s=end_ms / 1000,
        ttft_s=None if told.ttft_ms is None else round(told.ttft_ms / 1000, 6),
        cached_tokens=told.cached_tokens,
        model=told.model and told.model[:256],
    )


def _take_tool(trace: _Trace, record: Record, where: str) -> None:
    tool = record.tool
    session = record.agent_context.session_id if record.agent_context else record.session_id
    if tool is None or session is None:
        raise UserError(f"{where}: a {record.event_type} record without 'tool' or session (valid: both)")
    end_ms = float(record.event_time_unix_ms if tool.ended_at_unix_ms is None else tool.ended_at_unix_ms)
    start_ms = end_ms - (tool.duration_ms or 0.0)
    if tool.started_at_unix_ms is not None:
        start_ms = tool.started_at_unix_ms
    if start_ms > end_ms:
        raise UserError(f"{where}: tool {tool.tool_call_id!r} ends before it starts")
    claude = tool.claude
    span = ToolSpan(tool.tool_class, start_ms / 1000, end_ms / 1000)
    spans = trace.spans.setdefault(session, Spans())
    if claude is None:
        spans.by_end.append(span)
    elif claude.consumer_request_id is not None:
        spans.by_consumer.setdefault(claude.consumer_request_id, []).append(span)
    elif claude.execution_mode == "blocking":
        spans.by_end.append(span)
    if claude is not None and claude.child_session_id is not None:
        if claude.child_session_id in trace.launches:
            raise UserError(
                f"{where}: session {claude.child_session_id!r} was launched by another tool already"
            )
        trace.launches[claude.child_session_id] = (where, claude)


def _imported(trace: _Trace, options: ImportOptions, stem: str) -> Imported:
    groups = list(_agents(trace)) if trace.sessions else list(_chats(trace))
    groups.sort(key=lambda group: group[0].start_s or 0.0)
    first_s = groups[0][0].start_s or 0.0
    made = [_workflow(trace, options, stem, n, group, first_s) for n, group in enumerate(groups)]
    return Imported(workflows=made, left_out=trace.left_out)


def _workflow(
    trace: _Trace, options: ImportOptions, stem: str, number: int, group: list[Request], first_s: float
) -> Workflow:
    started_s = group[0].start_s or 0.0
    return options.workflow(
        workflow_id=f"{stem}/{number:05d}",
        source=stem,
        workload="coding-agent" if trace.sessions else "prod-chat",
        harness="dynamo",
        arrival_s=round(started_s - first_s, 6),
        block_size=trace.block_size,
        timing="measured",
        steps=steps(group, trace.block_size, started_s),
    )


def _chats(trace: _Trace) -> Iterator[list[Request]]:
    """Requests that say nothing about sessions: rebuilt as for Mooncake."""
    trace.loose.sort(key=lambda request: request.start_s or 0.0)
    for row in by_containment(trace.loose, trace.block_size):
        _describe(trace, row, Spans())
        yield row


def _agents(trace: _Trace) -> Iterator[list[Request]]:
    """One workflow per root session, with all sessions below it."""
    for session in trace.sessions.values():
        session.chain()
    for family in join(trace.sessions, trace.launches, trace.by_id).values():
        for number, session in enumerate(family):
            for request in session.requests:
                request.agent = f"agent-{number}" if number else "main"
        for session in family:
            spans = trace.spans.get(session.name, Spans())
            spans.sort()
            _describe(trace, session.requests, spans)
        yield ordered([r for s in family for r in s.requests], lambda request: request.start_s or 0.0)


def _describe(trace: _Trace, row: Sequence[Request], spans: Spans) -> None:
    """What happened between the requests of one session."""
    for request, following in pairwise(row):
        reason = trace.told[id(request)].finish_reason_metadata
        seen = spans.before(following, trace.told[id(following)].request_id, request.start_s or 0.0)
        request.tool = describe(request, following, seen, reason)
