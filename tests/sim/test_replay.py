"""Replay over real HTTP: against a scripted server here, against the engine double, never against a mock client."""

import asyncio
import json

import pytest
from aiohttp import web
from trace_makers import chain, step, workflow

from saga_core.errors import UserError
from saga_fake.config import FakeConfig
from saga_fake.server import FakeServer
from saga_sim.client import LONGEST_LINE_BYTES, Patience, _events
from saga_sim.pacing import Pace
from saga_sim.replay import header_name, replay, session_headers
from saga_sim.runs import Endpoint, EventKind, ReplayResult, RunState, StepRun, WorkflowRun, summary
from saga_sim.trace import session_names
from saga_sim.trace.records import Tool
from saga_sim.trace.scale import Scaling, rescale
from saga_sim.trace.synth import synthesise

FAST = Pace(time_scale=0.0)


class Scripted:
    """A completions endpoint that keeps what it was asked, and misbehaves as told: one plan per request, then fine."""

    def __init__(self):
        self.requests = []
        self.plans = []
        self.delay_s = 0.0
        self.live = self.most_live = 0
        self.held = asyncio.Event()
        self.left = asyncio.Event()

    async def __aenter__(self):
        app = web.Application(client_max_size=1 << 26)
        app.router.add_post("/{path:.*}/v1/completions", self.complete)
        self.runner = web.AppRunner(app, handler_cancellation=True)
        await self.runner.setup()
        site = web.TCPSite(self.runner, "127.0.0.1", 0)
        await site.start()
        self.port = site._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_):
        await self.runner.cleanup()

    def endpoint(self, made):
        return Endpoint(
            base_url=f"http://127.0.0.1:{self.port}/s/{made.workflow_id}/v1",
            api_key="key-" + made.workflow_id,
        )

    async def complete(self, request):
        body = await request.json()
        self.requests.append({"path": request.path, "headers": request.headers, **body})
        plan = self.plans.pop(0) if self.plans else "fine"
        self.live += 1
        self.most_live = max(self.most_live, self.live)
        try:
            return await self._answer(request, body, plan)
        except asyncio.CancelledError:
            self.left.set()
            raise
        finally:
            self.live -= 1

    async def _answer(self, request, body, plan):
        if isinstance(plan, tuple):
            status, headers = plan
            return web.json_response({"error": {"message": f"told {status}"}}, status=status, headers=headers)
        if plan == "drop":
            request.transport.close()
            return web.Response()
        if plan == "hold":
            self.held.set()
            await asyncio.Event().wait()
        await asyncio.sleep(self.delay_s)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        count = body["max_tokens"] - (plan == "short")
        ids = [1000 + len(self.requests)] * count
        for part in (ids[:1], ids[1:]):
            await self._send(
                response, choices=[{"index": 0, "text": "x", "token_ids": part, "finish_reason": None}]
            )
            if plan == "break":
                request.transport.close()
                return response
            if plan == "error":
                await response.write(b'data: {"error": {"message": "the worker died", "code": 500}}\n\n')
                return response
        await self._send(
            response, choices=[{"index": 0, "text": "", "token_ids": [], "finish_reason": "length"}]
        )
        if plan != "no usage":
            usage = {"prompt_tokens": len(body["prompt"]), "completion_tokens": count, "total_tokens": 0}
            if plan != "no details":
                usage["prompt_tokens_details"] = {"cached_tokens": 16}
            await self._send(response, choices=[], usage=usage)
        await response.write(b"data: [DONE]\n\n")
        return response

    async def _send(self, response, **chunk):
        told = {"id": "c", "object": "text_completion", "created": 0, "model": "m", **chunk}
        await response.write(b"data: " + json.dumps(told).encode() + b"\n\n")


@pytest.fixture
async def server():
    async with Scripted() as scripted:
        yield scripted


class Caller:
    """The one who starts a replay: gives endpoints, hears ends and events."""

    def __init__(self, server):
        self.server = server
        self.ended = []
        self.events = []

    async def endpoint(self, made):
        return self.server.endpoint(made)

    async def finish(self, made, ok):
        self.ended.append((made.workflow_id, ok))

    async def replay(self, workflows, **options):
        told = {"model": "m", "pace": FAST, "patience": Patience(attempts=3), "on_event": self.events.append}
        return await replay(workflows, endpoint=self.endpoint, finish=self.finish, **(told | options))

    def kinds(self):
        return [event.kind for event in self.events]


@pytest.fixture
def caller(server):
    return Caller(server)


async def test_a_replay_sends_the_traces_counts_and_growing_prefixes(server, caller):
    made = chain(steps=3, first=100, grow=30, output=10)
    result = await caller.replay([made])
    (run,) = result.runs
    assert (run.state, run.why, len(run.steps)) == (RunState.FINISHED, "", 3)
    first, second, third = (request["prompt"] for request in server.requests)
    assert [len(first), len(second), len(third)] == [100, 130, 160]
    assert second[:110] == first + [1001] * 10, "the prompt, then what the server generated"
    assert third[:140] == second + [1002] * 10
    assert [s.mismatches for s in run.steps] == [(), (), ()]
    assert [s.prompt_tokens for s in run.steps] == [100, 130, 160]
    assert [s.output_tokens for s in run.steps] == [10, 10, 10]
    assert [s.regenerated_tokens for s in run.steps] == [0, 109 - 16, 139 - 16]
    assert caller.ended == [("w/1", True)]
    assert all(0 < s.ttft_s <= s.duration_s for s in run.steps)
    assert run.completion_s <= result.wall_s


async def test_a_request_forces_the_length_and_says_who_calls(server, caller):
    await caller.replay([chain(steps=1, output=7)])
    (request,) = server.requests
    asked = {
        k: request[k] for k in ("model", "max_tokens", "min_tokens", "ignore_eos", "temperature", "stream")
    }
    assert asked == {
        "model": "m",
        "max_tokens": 7,
        "min_tokens": 7,
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,
    }
    assert request["return_token_ids"] is True
    assert request["stream_options"] == {"include_usage": True}
    assert request["path"] == "/s/w/1/v1/completions"
    assert request["headers"]["Authorization"] == "Bearer key-w/1"
    assert request["headers"]["X-Saga-Session-Id"] == "main.0"
    assert request["headers"]["X-Saga-Agent-Type"] == "tester"


async def test_events_tell_a_workflow_from_arrival_to_end(caller):
    result = await caller.replay([chain(steps=2)])
    step_kinds = [EventKind.STEP_STARTED, EventKind.FIRST_TOKEN, EventKind.STEP_FINISHED]
    assert caller.kinds() == [EventKind.WORKFLOW_ARRIVED, *step_kinds, *step_kinds, EventKind.WORKFLOW_ENDED]
    assert [event.run for event in caller.events if event.run] == list(result.runs[0].steps)
    assert caller.events[-1].state is RunState.FINISHED
    times = [event.at_s for event in caller.events]
    assert times == sorted(times)


async def test_parallel_sub_agents_run_side_by_side_in_their_own_sessions(server, caller):
    server.delay_s = 0.05
    made = workflow(
        step(0, 50),
        step(1, 40, ctx=None, parents=[0], agent="a"),
        step(2, 40, ctx=None, parents=[0], agent="b"),
        step(3, 70, 20, ctx=0, parents=[0, 1, 2]),
    )
    result = await caller.replay([made])
    assert result.runs[0].state is RunState.FINISHED
    assert server.most_live == 2
    told = [
        (r["headers"]["X-Saga-Session-Id"], r["headers"].get("X-Saga-Parent-Session-Id"))
        for r in server.requests
    ]
    assert sorted(told[1:3]) == [("a.1", "main.0"), ("b.2", "main.0")]
    assert [told[0], told[3]] == [("main.0", None)] * 2


async def test_gaps_and_arrivals_are_waited_for(caller):
    gap_s = 0.08
    later = chain("late", 1, arrival_s=0.1)
    result = await caller.replay([chain("early", 2, gap_s=gap_s, arrival_s=0.0), later], pace=Pace())
    early, late = result.runs
    first, second = early.steps
    assert second.started_s - (first.started_s + first.duration_s) >= gap_s - 0.002
    assert late.arrived_s >= 0.098
    assert late.completion_s < late.ended_s, "completion counts from the arrival"


@pytest.mark.parametrize(
    "plan", ["drop", "break", "error", "no usage", (503, {"Retry-After": "0"}), (429, {}), (502, {})]
)
async def test_what_passes_by_itself_is_retried_and_counted(server, caller, plan):
    server.plans = [plan]
    result = await caller.replay([chain(steps=2)])
    (run,) = result.runs
    assert (run.state, run.retries, len(server.requests)) == (RunState.FINISHED, 1, 3)
    assert [s.attempts for s in run.steps] == [2, 1]
    assert server.requests[0]["prompt"] == server.requests[1]["prompt"]
    assert EventKind.STEP_RETRIED in caller.kinds()
    assert [s.mismatches for s in run.steps] == [(), ()]


async def test_retry_after_is_waited_for(server, caller):
    server.plans = [(503, {"Retry-After": "0.3"})]
    result = await caller.replay([chain(steps=1)])
    assert result.runs[0].steps[0].ttft_s >= 0.3


async def test_retries_are_bounded_by_attempts_and_by_time(server, caller):
    server.plans = [(503, {"Retry-After": "0"})] * 9
    result = await caller.replay([chain(steps=2)])
    assert result.runs[0].state is RunState.FAILED
    assert result.runs[0].why == "step 0: HTTP 503: told 503 (tried 3 times)"
    assert len(server.requests) == 3
    server.plans = [(503, {"Retry-After": "60"})]
    late = await caller.replay([chain(steps=1)], patience=Patience(retry_for_s=5.0))
    assert late.runs[0].why == "step 0: HTTP 503: told 503"


async def test_a_failed_step_fails_its_workflow_and_the_others_go_on(server, caller):
    server.delay_s = 0.02
    server.plans = [(400, {})]
    result = await caller.replay([chain("bad"), chain("good", arrival_s=0.05)], pace=Pace())
    bad, good = result.runs
    assert (bad.state, bad.why, bad.steps) == (RunState.FAILED, "step 0: HTTP 400: told 400", ())
    assert (good.state, len(good.steps)) == (RunState.FINISHED, 3)
    assert caller.ended == [("bad", False), ("good", True)]
    figures = summary(result)
    assert (figures.finished, figures.failed, figures.steps) == (1, 1, 3)


async def test_a_failure_stops_the_workflows_other_steps(server, caller):
    server.plans = ["hold", (400, {})]
    made = workflow(step(0, 50), step(1, 40, ctx=None, agent="b"))
    result = await caller.replay([made])
    assert result.runs[0].state is RunState.FAILED
    await asyncio.wait_for(server.left.wait(), 5)


async def test_no_connection_is_told_with_its_cause(caller):
    async def nowhere(_):
        return Endpoint(base_url="http://127.0.0.1:9/v1", api_key="k")

    caller.endpoint = nowhere
    result = await caller.replay([chain(steps=1)], patience=Patience(attempts=1))
    assert "no connection" in result.runs[0].why


async def test_a_caller_without_an_endpoint_fails_that_workflow_alone(server, caller):
    given = caller.endpoint

    async def some(made):
        if made.workflow_id == "bad":
            raise UserError("the head is not running")
        return await given(made)

    caller.endpoint = some
    result = await caller.replay([chain("bad"), chain("good")])
    assert [run.state for run in result.runs] == [RunState.FAILED, RunState.FINISHED]
    assert "the head is not running" in result.runs[0].why
    assert caller.ended == [("good", True)]


async def test_an_end_that_cannot_be_told_is_said(caller):
    async def broken(made, ok):
        raise OSError("no head")

    caller.finish = broken
    result = await caller.replay([chain(steps=1)])
    assert result.runs[0].state is RunState.FINISHED
    assert "its end could not be told: OSError: no head" in result.runs[0].why


async def test_counts_that_differ_from_the_trace_are_told(server, caller):
    server.plans = ["short"]
    result = await caller.replay([chain(steps=1, output=10)])
    assert result.runs[0].steps[0].mismatches == ("output 9, trace 10", "streamed 9, trace 10")
    assert summary(result).mismatches == 2


async def test_a_server_that_tells_no_cached_tokens_gives_no_share(server, caller):
    server.plans = ["no details"]
    result = await caller.replay([chain(steps=2)])
    assert result.runs[0].steps[0].cached_tokens is None
    figures = summary(result)
    assert (figures.cached_tokens, figures.cached_share, figures.regenerated_tokens) == (None, None, None)


async def test_at_most_so_many_workflows_run_at_once(server, caller):
    server.delay_s = 0.01
    result = await caller.replay([chain(f"w{i}") for i in range(6)], max_live=2)
    assert server.most_live == 2
    assert summary(result).finished == 6
    with pytest.raises(UserError, match="cannot run 0 workflows"):
        await caller.replay([chain()], max_live=0)


async def test_a_cancelled_replay_returns_what_it_has_and_leaves_nothing_running(server, caller):
    server.plans = ["fine", "fine", "hold"]
    running = asyncio.create_task(
        caller.replay([chain("now", 4, arrival_s=0.0), chain("later", arrival_s=900.0)], pace=Pace())
    )
    await asyncio.wait_for(server.held.wait(), 5)
    running.cancel()
    result = await running
    now, later = result.runs
    assert result.interrupted
    assert running.cancelling() == 0, "the cancellation was taken, so that the caller can go on to print"
    assert (now.state, len(now.steps), now.expected_steps) == (RunState.CANCELLED, 2, 4)
    assert (later.state, later.steps) == (RunState.CANCELLED, ())
    assert caller.ended == [("now", False)], "a workflow that never arrived was never opened"
    await asyncio.wait_for(server.left.wait(), 5)
    assert summary(result).cancelled == 2
    assert [t for t in asyncio.all_tasks() if "_Replay" in repr(t)] == []


async def test_an_error_in_the_callers_event_handler_is_not_swallowed(server, caller):
    def broken(event):
        if event.kind is EventKind.STEP_FINISHED:
            raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        await caller.replay([chain("a"), chain("b")], on_event=broken)


async def test_nothing_to_replay_is_an_empty_result(caller):
    result = await caller.replay([])
    assert result.runs == ()
    assert summary(result).tct_mean_s is None


def test_headers_stay_visible_short_and_different():
    made = workflow(step(0, 9, agent="main agent\n"), id="é" * 100)
    headers = session_headers(made, session_names(made), made.steps[0])
    assert headers["X-Saga-Session-Id"] == "main%20agent%0A.0"
    assert len(headers["X-Saga-Workflow-Id"]) == 32
    assert header_name("é" * 100) != header_name("é" * 101)


def test_the_key_stands_in_no_repr():
    assert "secret" not in repr(Endpoint(base_url="http://x", api_key="secret"))


def made_run(name, state, arrived_s, ends):
    steps = tuple(
        StepRun(
            step=i, session="main.0", started_s=end - 1, ttft_s=0.5, duration_s=1.0, prompt_tokens=100,
            cached_tokens=40, output_tokens=5, regenerated_tokens=10, attempts=1,
        )
        for i, end in enumerate(ends)
    )  # fmt: skip
    return WorkflowRun(
        workflow_id=name, agent_type="t", state=state, arrived_s=arrived_s, ended_s=99.0, steps=steps,
        expected_steps=len(ends), retries=1,
    )  # fmt: skip


def test_the_summary_folds_finished_workflows_into_completion_times():
    runs = (
        made_run("a", RunState.FINISHED, 1.0, [2.0, 3.0]),
        made_run("b", RunState.FINISHED, 1.0, [9.0]),
        made_run("c", RunState.FAILED, 0.0, [1000.0]),
    )
    figures = summary(ReplayResult(runs=runs, wall_s=10.0))
    assert figures.tct_mean_s == 5.0
    assert figures.tct_geomean_s == pytest.approx(4.0)
    assert figures.tct_p95_s == pytest.approx(7.7)
    assert (figures.steps, figures.retries, figures.prompt_tokens) == (4, 3, 400)
    assert (figures.cached_share, figures.regenerated_tokens) == (0.4, 40)
    assert (figures.ttft_mean_s, figures.ttft_p95_s) == (0.5, 0.5)


async def test_the_engine_double_serves_a_replay_from_its_cache():
    made = rescale(synthesise("demo", 3, 1), Scaling(tokens=0.25))
    async with FakeServer(FakeConfig(models=("m",), speed=200.0)) as fake:

        async def endpoint(_):
            return Endpoint(base_url=f"{fake.url}/v1", api_key="none")

        async def finish(made, ok):
            assert ok

        result = await replay(made, endpoint=endpoint, finish=finish, model="m", pace=FAST)
    figures = summary(result)
    assert (figures.finished, figures.mismatches, figures.retries) == (3, 0, 0)
    assert figures.prompt_tokens == sum(s.prompt_tokens for w in made for s in w.steps)
    assert figures.cached_share > 0.5
    assert figures.regenerated_tokens <= 32 * figures.steps, "no more than a block's rest per step"


async def test_tool_latencies_stand_in_for_missing_gaps(server, caller):
    tool = Tool(kind="tool", name="x", latency_s=0.1)
    made = workflow(step(0, 50, tool=tool), step(1, 60, 10))
    run = (await caller.replay([made], pace=Pace())).runs[0]
    assert run.steps[1].started_s - run.steps[0].started_s - run.steps[0].duration_s >= 0.098


class Pieces:
    """A body that comes as these reads."""

    def __init__(self, *pieces):
        self.pieces = pieces

    async def iter_any(self):
        for piece in self.pieces:
            yield piece


@pytest.mark.parametrize("cut", range(1, 60, 7))
async def test_events_come_whole_however_the_stream_is_cut(cut):
    sent = b': hello\r\ndata: {"a":1}\r\n\r\nevent: x\ndata:{"b":2}\n\ndata: [DONE]\n\ndata: {"c":3}'
    pieces = [sent[i : i + cut] for i in range(0, len(sent), cut)]
    assert [told async for told in _events(Pieces(*pieces))] == [b'{"a":1}', b'{"b":2}']


async def test_a_line_without_end_breaks_the_stream():
    with pytest.raises(ValueError, match="a line of more than"):
        [told async for told in _events(Pieces(b"data: ", b"x" * (LONGEST_LINE_BYTES + 1)))]
