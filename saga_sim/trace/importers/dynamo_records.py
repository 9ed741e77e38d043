"""The records of `dynamo.request.trace.v1`, as far as they say counts, times and names.

Field names, units and defaults: github.com/ai-dynamo/dynamo at 04daeb0e, lib/data-gen/src/request_trace/load.rs
and lib/llm/src/request_trace/types.rs. Fields that say nothing to us (workers, hit rates, x_request_id) are passed over.
"""

from typing import Annotated, Literal

import msgspec

EventType = Literal["request_end", "tool_start", "tool_end", "tool_error", "request_payload"]
# The year 33658: what is later, or longer, is no time.
MAX_MS = 10**15
Milliseconds = Annotated[int, msgspec.Meta(ge=0, le=MAX_MS)]
Duration = Annotated[float, msgspec.Meta(ge=0, le=MAX_MS)]
Count = Annotated[int, msgspec.Meta(ge=0)]


class AgentContext(msgspec.Struct, frozen=True):
    session_id: Annotated[str, msgspec.Meta(min_length=1)]
    parent_session_id: str | None = None


class ReplayHashes(msgspec.Struct, frozen=True):
    """`input_sequence_hashes`: rolling, one per `trace_block_size` tokens begun."""

    trace_block_size: Annotated[int, msgspec.Meta(ge=1, le=65536)]
    input_length: int
    input_sequence_hashes: tuple[Annotated[int, msgspec.Meta(ge=0)], ...]


class ToolCall(msgspec.Struct, frozen=True):
    name: str | None = None


class FinishReason(msgspec.Struct, frozen=True):
    finish_reason: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()


class RequestEnd(msgspec.Struct, frozen=True):
    """`request_received_ms` and `output_tokens` are demanded, `replay` too."""

    request_id: str
    request_received_ms: Milliseconds
    output_tokens: Count
    replay: ReplayHashes
    model: str | None = None
    cached_tokens: Count | None = None
    ttft_ms: Duration | None = None
    total_time_ms: Duration | None = None
    finish_reason_metadata: FinishReason | None = None


class ClaudeTool(msgspec.Struct, frozen=True):
    """Which request launched a sub-agent and which one took its result up."""

    source_request_id: str
    execution_mode: Literal["blocking", "background"]
    consumer_request_id: str | None = None
    child_session_id: str | None = None


class ToolEnd(msgspec.Struct, frozen=True):
    tool_call_id: str
    tool_class: str
    started_at_unix_ms: Milliseconds | None = None
    ended_at_unix_ms: Milliseconds | None = None
    duration_ms: Duration | None = None
    claude: ClaudeTool | None = None


class Record(msgspec.Struct, frozen=True):
    """One line, or what stands under `event` in it. `session_id`: tool events as a harness sends them."""

    schema: Literal["dynamo.request.trace.v1"]
    event_type: EventType
    event_time_unix_ms: Milliseconds
    agent_context: AgentContext | None = None
    session_id: str | None = None
    request: RequestEnd | None = None
    tool: ToolEnd | None = None
