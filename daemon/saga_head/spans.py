"""Spans of steps and workflows by OpenTelemetry's GenAI conventions, from the facts as they are recorded.

Rules of this file
  1. Imported only where traces are on (`saga_head.tracing`): the SDK is an extra.
  2. Names are those of semantic conventions 1.41.0 (`SCHEMA`); what they have no name for stands under `saga.`.
     Nothing of a prompt or an answer ever becomes an attribute.
  3. The ids of a workflow's root span follow from the workflow: its steps are the root's children from the first on,
     and a restarted head goes on with the same trace. The root is written when the workflow ends.
  4. A step whose client sent `traceparent` is a child of the client's span, and linked to its workflow's root.
  5. A tool call is what lies between a step and its session's next one (`saga_head.tool_calls`); its span is the
     root's child, linked to the step that asked for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

import msgspec
from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from saga_core.aeg import UNKNOWN
from saga_core.aeg.words import ANSWER
from saga_core.book import Book, Workflow
from saga_core.events import (
    Fact,
    Outcome,
    StepArrived,
    StepFinished,
    StepLost,
    StepPlaced,
    WorkflowEnded,
)
from saga_core.ids import StepId, WorkflowId, session_id
from saga_core.states import WorkflowState
from saga_head.gateway.port import Call
from saga_head.tool_calls import ToolCall, ToolCalls

SCHEMA: Final = "https://opentelemetry.io/schemas/1.41.0"
"""The last release of the semantic conventions before GenAI's moved to a repository of their own."""
OPERATIONS: Final = {
    "/v1/chat/completions": "chat",
    "/v1/messages": "chat",
    "/v1/responses": "chat",
    "/v1/completions": "text_completion",
    "/v1/embeddings": "embeddings",
    "/v1/messages/count_tokens": "count_tokens",
}
"""`gen_ai.operation.name` by API; the last is our own word, the conventions have none."""
PROVIDER: Final = "saga"
NS: Final = 1_000_000_000
NO_CONTEXT: Final = Context()
_W3C: Final = TraceContextTextMapPropagator()

Attributes = dict[str, AttributeValue]


class Ids(RandomIdGenerator):
    """Random ids, but for the one span whose ids are `coming`."""

    def __init__(self) -> None:
        self.coming: tuple[int, int] | None = None

    def generate_trace_id(self) -> int:
        return super().generate_trace_id() if self.coming is None else self.coming[0]

    def generate_span_id(self) -> int:
        return super().generate_span_id() if self.coming is None else self.coming[1]


class _Asked(msgspec.Struct, frozen=True):
    """What a step's request says and its facts do not."""

    api: str
    traceparent: str
    tracestate: str


@dataclass(slots=True)
class _Live:
    """A step in flight."""

    span: Span
    arrived_at: float
    came: StepArrived
    losses: int = 0


class Spans:
    """Folds facts into spans, all on the event loop; the provider's processor sends them in a thread of its own."""

    def __init__(self, provider: TracerProvider, ids: Ids, book: Book, *, cluster: str, version: str) -> None:
        self._provider, self._ids, self._book, self._cluster = provider, ids, book, cluster
        self._tracer = provider.get_tracer("saga", version, schema_url=SCHEMA)
        self._asked: dict[StepId, _Asked] = {}
        self._live: dict[StepId, _Live] = {}
        self._tools: ToolCalls[SpanContext] = ToolCalls(book)

    # -- what the shell says ---------------------------------------------------------------

    def opened(self, step: StepId, call: Call) -> None:
        """A step will arrive, unless the head refuses it."""
        parent, state = call.headers.get(b"traceparent", b""), call.headers.get(b"tracestate", b"")
        self._asked[step] = _Asked(call.api, parent.decode("latin-1"), state.decode("latin-1"))

    def left(self, step: StepId) -> None:
        """The gateway has done with `step`."""
        self._asked.pop(step, None)

    def sent(self, step: StepId) -> bytes:
        """Header lines that make a worker's spans children of this step's; empty: nobody traces it."""
        live = self._live.get(step)
        if live is None:
            return b""
        carrier: dict[str, str] = {}
        _W3C.inject(carrier, set_span_in_context(live.span, NO_CONTEXT))
        return b"".join(b"%b: %b\r\n" % (n.encode(), v.encode("latin-1")) for n, v in carrier.items())

    def fold(self, fact: Fact, at: float) -> None:
        """Let a fact, which the head applied at `at` seconds, be seen."""
        match fact:
            case StepArrived():
                self._arrived(fact, at)
            case StepPlaced():
                self._placed(fact, at)
            case StepFinished():
                self._finished(fact, at)
            case StepLost():
                if (live := self._live.get(fact.step)) is not None:
                    live.losses += 1
            case WorkflowEnded():
                self._tools.ended(fact)
                workflow = self._book.workflows.get(fact.workflow)
                if workflow is not None:
                    self._root(workflow, fact, at)
            case _:
                pass

    def close(self) -> None:
        """Send what is left; blocks for as long as the collector takes."""
        self._provider.shutdown()

    # -- steps -----------------------------------------------------------------------------

    def _arrived(self, fact: StepArrived, at: float) -> None:
        root = self._root_context(fact.workflow)
        call = self._tools.arrived(fact, at)
        if call is not None and root is not None:
            self._tool(call, fact, root)
        asked = self._asked.pop(fact.step, None)
        if asked is None:
            return
        operation = OPERATIONS.get(asked.api, "chat")
        context = self._clients(asked)
        links = [Link(root)] if root is not None and context is not None else []
        if context is None:
            context = NO_CONTEXT if root is None else set_span_in_context(NonRecordingSpan(root), NO_CONTEXT)
        span = self._tracer.start_span(
            f"{operation} {fact.adapter or fact.model}",
            context,
            SpanKind.CLIENT,
            _of_arrival(fact, operation),
            links,
            int(at * NS),
        )
        self._live[fact.step] = _Live(span, at, fact)

    def _clients(self, asked: _Asked) -> Context | None:
        """The client's own span as the parent; None: it sent none, or none that reads as one."""
        if not asked.traceparent:
            return None
        carrier = {"traceparent": asked.traceparent, "tracestate": asked.tracestate}
        context = _W3C.extract(carrier, NO_CONTEXT)
        return context if get_current_span(context).get_span_context().is_valid else None

    def _placed(self, fact: StepPlaced, at: float) -> None:
        live = self._live.get(fact.step)
        if live is not None:
            live.span.set_attributes(
                {
                    "saga.worker": fact.worker,
                    "saga.reason": fact.why,
                    "saga.queue_wait_s": round(at - live.arrived_at, 6),
                }
            )

    def _finished(self, fact: StepFinished, at: float) -> None:
        live = self._live.pop(fact.step, None)
        if live is None:
            return
        live.span.set_attributes(_of_end(fact, live))
        if fact.outcome is not Outcome.DONE:
            # 499 is no status of ours: what the client was sent, or what became of the step.
            refused = fact.outcome is Outcome.REFUSED
            kind = str(fact.status) if refused else fact.outcome.value
            live.span.set_attribute("error.type", kind)
            live.span.set_status(Status(StatusCode.ERROR, kind))
        live.span.end(int(at * NS))
        self._tools.finished(fact, live.came, live.span.get_span_context(), at)

    def _tool(self, call: ToolCall[SpanContext], fact: StepArrived, root: SpanContext) -> None:
        """The tool call that `fact` ends: over already when it is known."""
        span = self._tracer.start_span(
            f"execute_tool {call.name}",
            set_span_in_context(NonRecordingSpan(root), NO_CONTEXT),
            SpanKind.INTERNAL,
            _of_tool(call, fact),
            [Link(call.by)],
            int(call.begin * NS),
        )
        span.end(int(call.end * NS))

    # -- workflows -------------------------------------------------------------------------

    def _ids_of(self, workflow: Workflow) -> tuple[int, int]:
        what = f"{self._cluster}/{workflow.id}/{workflow.submitted_at!r}"
        digest = blake2b(what.encode(), digest_size=24).digest()
        return int.from_bytes(digest[:16]), int.from_bytes(digest[16:])

    def _root_context(self, number: WorkflowId | None) -> SpanContext | None:
        """Of the root span of a workflow, which is written when it ends."""
        workflow = self._book.workflows.get(number) if number is not None else None
        if workflow is None:
            return None
        trace, span = self._ids_of(workflow)
        sampling = self._provider.sampler.should_sample(None, trace, _named(workflow))
        flags = TraceFlags(int(sampling.decision is Decision.RECORD_AND_SAMPLE))
        return SpanContext(trace, span, is_remote=False, trace_flags=flags)

    def _root(self, workflow: Workflow, fact: WorkflowEnded, at: float) -> None:
        self._ids.coming = self._ids_of(workflow)
        span = self._tracer.start_span(
            _named(workflow),
            NO_CONTEXT,
            SpanKind.INTERNAL,
            _of_workflow(workflow),
            (),
            int(workflow.submitted_at * NS),
        )
        self._ids.coming = None
        if fact.state is not WorkflowState.DONE:
            span.set_attribute("error.type", fact.state.value)
            span.set_status(Status(StatusCode.ERROR, fact.state.value))
        span.end(int(at * NS))


def _named(workflow: Workflow) -> str:
    name = workflow.name or workflow.agent_type
    return f"invoke_workflow {name}" if name else "invoke_workflow"


def _of_workflow(workflow: Workflow) -> Attributes:
    made: Attributes = {
        "gen_ai.operation.name": "invoke_workflow",
        "saga.workflow": workflow.id,
        "saga.tenant": workflow.tenant,
        "saga.kind": workflow.kind,
        "saga.state": workflow.state.value,
        "saga.steps": workflow.steps,
        "gen_ai.usage.input_tokens": workflow.prompt_tokens,
        "gen_ai.usage.cache_read.input_tokens": workflow.cached_tokens,
        "gen_ai.usage.output_tokens": workflow.output_tokens,
    }
    if name := workflow.name or workflow.agent_type:
        made["gen_ai.workflow.name"] = name
    if workflow.agent_type:
        made["gen_ai.agent.name"] = workflow.agent_type
    return made


def _of_arrival(fact: StepArrived, operation: str) -> Attributes:
    made: Attributes = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": PROVIDER,
        "gen_ai.request.model": fact.adapter or fact.model,
        "saga.step": fact.step,
        "saga.tenant": fact.tenant,
        "saga.identity": fact.rule,
    }
    if fact.stream:
        made["gen_ai.request.stream"] = True
    if fact.workflow is not None:
        made["gen_ai.conversation.id"] = made["saga.session"] = session_id(fact.workflow, fact.session)
        made["saga.workflow"] = fact.workflow
    if fact.agent_type:
        made["gen_ai.agent.name"] = fact.agent_type
    return made


def _of_tool(call: ToolCall[SpanContext], fact: StepArrived) -> Attributes:
    made: Attributes = {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": call.name,
        "saga.step": call.step,
        "saga.tenant": fact.tenant,
    }
    if call.asked:  # what a model asks for by name and its client runs
        made["gen_ai.tool.type"] = "function"
    if fact.workflow is not None:
        made["gen_ai.conversation.id"] = made["saga.session"] = session_id(fact.workflow, fact.session)
        made["saga.workflow"] = fact.workflow
    if fact.agent_type:
        made["gen_ai.agent.name"] = fact.agent_type
    return made


def _of_end(fact: StepFinished, live: _Live) -> Attributes:
    made: Attributes = {"saga.outcome": fact.outcome.value}
    if fact.prompt_tokens is not None:
        made["gen_ai.usage.input_tokens"] = fact.prompt_tokens
        made["gen_ai.usage.cache_read.input_tokens"] = fact.cached_tokens or 0
        made["gen_ai.usage.output_tokens"] = fact.output_tokens or 0
        made["saga.cached_tokens"] = fact.cached_tokens or 0
    if live.came.stream and fact.ttft_s is not None:
        made["gen_ai.response.time_to_first_chunk"] = fact.ttft_s
    if fact.tool not in (UNKNOWN, ANSWER):
        made["saga.tool"] = fact.tool
    if live.losses:
        made["saga.losses"] = live.losses
    return made
