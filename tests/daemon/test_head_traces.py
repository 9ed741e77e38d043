"""Spans of a real head at a small OTLP receiver: whose children they are, what they say, and what they never say."""

import contextlib
import re
import time
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web
from head_rig import node, running_head, until, workflow
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="the extra `otel` is not installed")
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes
from opentelemetry.semconv.schemas import Schemas

from saga_core.book import Book
from saga_core.events import Outcome, StepArrived, StepFinished, WorkflowEnded, WorkflowSubmitted
from saga_core.states import WorkflowState
from saga_head.gateway.head import parse_head
from saga_head.gateway.limits import Limits
from saga_head.gateway.port import Call, Caller, Fields, Refusal
from saga_head.spans import SCHEMA, Ids, Spans
from saga_head.tool_calls import ToolCall, ToolCalls

KNOWN = {v for k, v in vars(gen_ai_attributes).items() if k.startswith("GEN_AI_") and isinstance(v, str)}
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SECRET = "what-was-asked-4711"


class Collector:
    """Takes OTLP over HTTP."""

    def __init__(self) -> None:
        self.requests: list[ExportTraceServiceRequest] = []
        self.paths: list[str] = []

    async def take(self, request: web.Request) -> web.Response:
        self.paths.append(request.path)
        self.requests.append(ExportTraceServiceRequest.FromString(await request.read()))
        return web.Response(content_type="application/x-protobuf")

    @property
    def scopes(self):
        return [s for r in self.requests for rs in r.resource_spans for s in rs.scope_spans]

    @property
    def spans(self):
        return {span.name: span for span in self.all}

    @property
    def all(self):
        return [span for scope in self.scopes for span in scope.spans]


def said(span) -> dict:
    return {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in span.attributes}


@contextlib.asynccontextmanager
async def served(*routes) -> AsyncIterator[str]:
    app = web.Application()
    app.add_routes(routes)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"
    finally:
        await runner.cleanup()


TOOLS = [{"type": "function", "function": {"name": "bash", "description": SECRET, "parameters": {}}}]


async def post(base: str, key: str, model: str = "m", *, tools: bool = False, **headers: str) -> int:
    body = {"model": model, "messages": [{"role": "user", "content": SECRET}]}
    body |= {"tools": TOOLS} if tools else {}
    auth = {"authorization": f"Bearer {key}"} | headers
    async with (
        aiohttp.ClientSession() as http,
        http.post(f"{base}/chat/completions", json=body, headers=auth) as r,
    ):
        await r.read()
        return r.status


async def test_steps_are_spans_of_their_workflow_or_of_their_client(tmp_path, monkeypatch):
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    collector, seen = Collector(), []

    async def answer(request: web.Request) -> web.Response:
        seen.append(request.headers.copy())
        usage = {"prompt_tokens": 10, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 4}}
        return web.json_response({"choices": [], "usage": usage})

    async with (
        served(web.post("/v1/traces", collector.take)) as to,
        served(web.post("/v1/chat/completions", answer)) as worker,
        running_head(tmp_path, {"head.otlp_endpoint": to}) as head,
        node(head, worker),
    ):
        given = await workflow(head, name="fix-42", agent_type="coder")
        base, key = given["base_url"], given["api_key"]
        assert await post(base, key) == 200
        await until(lambda: len(collector.spans) == 1, "the step's span")
        own = collector.spans["chat m"]
        collector.requests.clear()
        assert await post(base, key, traceparent=f"00-{TRACE}-{SPAN}-01", tracestate="v=1") == 200
        await until(lambda: collector.spans, "the second step's span")
        theirs = collector.spans["chat m"]
        status, _ = await head.call("POST", f"/saga/v1/workflows/{given['id']}/cancel")
        assert status == 200
        await until(lambda: "invoke_workflow fix-42" in collector.spans, "the workflow's span")
        root = collector.spans["invoke_workflow fix-42"]

    assert (root.parent_span_id, root.kind) == (b"", root.SPAN_KIND_INTERNAL)
    assert (own.trace_id, own.parent_span_id) == (root.trace_id, root.span_id)
    assert own.kind == own.SPAN_KIND_CLIENT
    assert (theirs.trace_id.hex(), theirs.parent_span_id.hex()) == (TRACE, SPAN)
    assert [(link.trace_id, link.span_id) for link in theirs.links] == [(root.trace_id, root.span_id)]
    assert root.start_time_unix_nano <= own.start_time_unix_nano <= own.end_time_unix_nano
    assert abs(own.end_time_unix_nano / 1e9 - time.time()) < 60

    # The worker's spans will be children of the step's.
    parents = [f"00-{s.trace_id.hex()}-{s.span_id.hex()}-01" for s in (own, theirs)]
    assert [headers["traceparent"] for headers in seen] == parents
    assert [headers.get("tracestate") for headers in seen] == [None, "v=1"]

    step = said(own)
    session = f"{given['id']}.main"
    assert step.pop("saga.queue_wait_s") >= 0
    assert step.pop("saga.reason")
    assert step == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "saga",
        "gen_ai.request.model": "m",
        "gen_ai.conversation.id": session,
        "gen_ai.usage.input_tokens": 10,
        "gen_ai.usage.output_tokens": 5,
        "gen_ai.usage.cache_read.input_tokens": 4,
        "saga.cached_tokens": 4,
        "saga.session": session,
        "saga.step": 1,
        "saga.workflow": given["id"],
        "saga.tenant": "default",
        "saga.identity": "token",
        "saga.worker": "n1/0",
        "saga.outcome": "done",
    }
    whole = said(root)
    assert whole["gen_ai.operation.name"] == "invoke_workflow"
    assert (whole["gen_ai.workflow.name"], whole["gen_ai.agent.name"]) == ("fix-42", "coder")
    assert (whole["gen_ai.usage.input_tokens"], whole["saga.steps"]) == (20, 2)
    assert (whole["saga.state"], whole["error.type"], root.status.code) == ("cancelled", "cancelled", 2)
    names = {name for span in (own, theirs, root) for name in said(span)}
    assert {name for name in names if name.startswith("gen_ai.")} <= KNOWN
    assert all(name.startswith(("gen_ai.", "saga.")) or name == "error.type" for name in names)
    assert Schemas.V1_41_0.value == SCHEMA
    assert {scope.schema_url for scope in collector.scopes} == {SCHEMA}
    assert not any(SECRET.encode() in r.SerializeToString() for r in collector.requests)
    assert set(collector.paths) == {"/v1/traces"}


def asks_for(tool: str) -> dict:
    called = {"id": "c1", "type": "function", "function": {"name": tool, "arguments": f'{{"x":"{SECRET}"}}'}}
    message = {"role": "assistant", "content": None, "tool_calls": [called]}
    return {"choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]}


ANSWERED = {
    "choices": [{"index": 0, "message": {"role": "assistant", "content": SECRET}, "finish_reason": "stop"}]
}


async def test_a_tool_call_is_a_span_between_the_step_that_asked_and_the_next(tmp_path, monkeypatch):
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    collector = Collector()
    answers = [asks_for("bash"), ANSWERED, ANSWERED, asks_for("never-run")]

    async def answer(request: web.Request) -> web.Response:
        return web.json_response(answers.pop(0) | {"usage": {"prompt_tokens": 9, "completion_tokens": 1}})

    async with (
        served(web.post("/v1/traces", collector.take)) as to,
        served(web.post("/v1/chat/completions", answer)) as worker,
        running_head(tmp_path, {"head.otlp_endpoint": to}) as head,
        node(head, worker),
    ):
        given = await workflow(head, name="fix-42", agent_type="coder")
        base, key = given["base_url"], given["api_key"]
        for more in (
            {"traceparent": f"00-{TRACE}-{SPAN}-01"},
            {},  # it brings what bash has said
            {"x-saga-tool": "pytest"},
            {},  # a person has spoken: no tool is known
        ):
            assert await post(base, key, tools=True, **{"x-saga-session-id": "main"} | more) == 200
        status, _ = await head.call("POST", f"/saga/v1/workflows/{given['id']}/cancel")
        assert status == 200
        await until(lambda: len(collector.all) == 7, "four steps, two tool calls and the workflow")
        spans = collector.all

    root = collector.spans["invoke_workflow fix-42"]
    steps = {said(span)["saga.step"]: span for span in spans if span.name == "chat m"}
    bash, pytest_ = (collector.spans[f"execute_tool {name}"] for name in ("bash", "pytest"))
    session = f"{given['id']}.main"
    common = {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.conversation.id": session,
        "saga.session": session,
        "saga.workflow": given["id"],
        "saga.tenant": "default",
    }
    asked = {"gen_ai.tool.name": "bash", "gen_ai.tool.type": "function", "saga.step": 1}
    assert said(bash) == common | asked
    assert said(pytest_) == common | {"gen_ai.tool.name": "pytest", "saga.step": 2}
    for span, before, after in ((bash, 1, 2), (pytest_, 2, 3)):
        assert (span.trace_id, span.parent_span_id) == (root.trace_id, root.span_id)
        assert span.kind == span.SPAN_KIND_INTERNAL
        assert [(link.trace_id, link.span_id) for link in span.links] == [
            (steps[before].trace_id, steps[before].span_id)
        ]
        assert span.start_time_unix_nano == steps[before].end_time_unix_nano
        assert span.end_time_unix_nano == steps[after].start_time_unix_nano
        assert {name for name in said(span) if name.startswith("gen_ai.")} <= KNOWN
    assert steps[1].trace_id.hex() == TRACE, "a step of the client's own trace"
    assert not any(SECRET.encode() in r.SerializeToString() for r in collector.requests)


class Facts:
    """A book, and who follows the tool calls in it."""

    def __init__(self) -> None:
        self.book = Book("saga")
        self.calls: ToolCalls[str] = ToolCalls(self.book)
        self.at, self.came = 1000.0, {}
        self.book.apply(WorkflowSubmitted(workflow=1, tenant="t", token="s", kind="replay"), self.at)

    def arrive(self, step: int, session: str = "main", tool: str = ""):
        self.at += 1.0
        fact = StepArrived(step=step, tenant="t", model="m", workflow=1, session=session, tool=tool)
        self.book.apply(fact, self.at)
        self.came[step] = fact
        return self.calls.arrived(fact, self.at)

    def finish(self, step: int, tool: str = "bash", outcome: Outcome = Outcome.DONE) -> None:
        self.at += 1.0
        fact = StepFinished(step=step, outcome=outcome, tool=tool)
        self.book.apply(fact, self.at)
        self.calls.finished(fact, self.came[step], f"kept {step}", self.at)


def test_a_session_with_several_steps_at_once_is_in_no_tool_between_two_of_them():
    facts = Facts()
    assert facts.arrive(1) is facts.arrive(2) is None
    facts.finish(1)
    assert facts.arrive(3) is None, "2 is there still"
    facts.finish(2)
    facts.finish(3, tool="edit")
    assert facts.arrive(4, "other") is None
    assert facts.arrive(5) == ToolCall("edit", True, 3, "kept 3", facts.at - 2.0, facts.at)
    facts.finish(5, outcome=Outcome.BROKEN)
    assert facts.arrive(6) is None, "what it asked for is not known"


def test_of_a_workflow_that_is_over_nothing_is_kept():
    facts = Facts()
    facts.arrive(1)
    facts.finish(1)
    over = WorkflowEnded(workflow=1, state=WorkflowState.DONE)
    facts.book.apply(over, facts.at)
    facts.calls.ended(over)
    assert not facts.calls._resting


LINE = st.binary(max_size=80).map(lambda data: bytes(byte for byte in data if 32 <= byte != 127 or byte == 9))
IDS = Ids()
PROVIDER = TracerProvider(id_generator=IDS, shutdown_on_exit=False)
GOOD = st.from_regex(rb"00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]", fullmatch=True)


@settings(max_examples=100, deadline=None)
@given(parent=GOOD | LINE, state=LINE | st.from_regex(rb"[a-z]{1,4}=[!-+]{1,6}", fullmatch=True))
def test_whatever_a_client_sends_as_its_trace_is_a_parent_or_nothing(parent: bytes, state: bytes):
    lines = b"traceparent:%b\r\ntracestate:%b\r\n" % (parent, state)
    head = parse_head(b"POST /v1/x HTTP/1.1\r\nhost: h\r\n" + lines + b"\r\n", Limits())
    assert not isinstance(head, Refusal)
    spans = Spans(PROVIDER, IDS, Book("saga"), cluster="c", version="1")
    spans.opened(1, Call(1, Caller("t", None), "/v1/embeddings", Fields(model="m"), head.identity, 0))
    spans.fold(StepArrived(step=1, tenant="t", model="m"), 1000.0)
    sent = spans.sent(1)
    assert sent.startswith(b"traceparent: 00-")
    assert set(re.findall(rb"([a-z]+): [^\r\n]*\r\n", sent)) <= {b"traceparent", b"tracestate"}
    assert sent.count(b"\n") == sent.count(b"\r\n") == len(sent.splitlines())
    if re.fullmatch(rb"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-0[01]", parent):
        assert parent[3:35] in sent
    spans.fold(StepFinished(step=1, outcome=Outcome.DONE), 1001.0)
    assert not spans._live
    assert spans.sent(1) == b""


async def test_a_step_that_fails_says_so_and_a_collector_that_is_away_holds_nothing_up(tmp_path, monkeypatch):
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    collector = Collector()

    async def refuse(request: web.Request) -> web.Response:
        return web.json_response({"error": {"message": "no"}}, status=400)

    async with (
        served(web.post("/v1/traces", collector.take)) as to,
        served(web.post("/v1/chat/completions", refuse)) as worker,
        running_head(tmp_path, {"head.otlp_endpoint": to}) as head,
        node(head, worker),
    ):
        assert await post(head.access.url + "/v1", head.access.api_key) == 400
        await until(lambda: collector.spans, "its span")
        span = collector.spans["chat m"]
        assert (said(span)["error.type"], span.status.code) == ("400", 2)
        assert span.parent_span_id == b"" and not span.links  # noqa: PT018

    gone = tmp_path / "gone"
    gone.mkdir()
    async with (
        served(web.post("/v1/chat/completions", refuse)) as worker,
        running_head(gone, {"head.otlp_endpoint": to}) as head,
        node(head, worker),
    ):
        assert await post(head.access.url + "/v1", head.access.api_key) == 400
        await until(lambda: any("traces said=" in line for line in head.lines), "a line about the collector")
        began = time.monotonic()
        assert await head.kill(15) == 0
        assert time.monotonic() - began < 15
