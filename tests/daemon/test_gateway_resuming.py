"""Streams whose worker is lost in mid-answer: what another goes on with, and what is not gone on with."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from gateway_rig import (
    SSE_END,
    SSE_HEAD,
    Line,
    Request,
    Worker,
    chunk,
    event,
    gateway_rig,
    post,
    until,
)
from resuming_rig import Two, as_the_engine, dies_after, head_and_rest, two_workers, unchunk

from saga_core.events import Outcome
from saga_head.gateway.limits import Limits
from saga_head.gateway.port import Refusal, Usage

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
HELLO = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}]


@pytest.fixture
async def two() -> AsyncIterator[Two]:
    async with two_workers() as found:
        yield found


def asked(api: str = CHAT, **more: Any) -> dict[str, Any]:
    prompt = {"messages": HELLO} if api == CHAT else {"prompt": "once upon a time"}
    return {"model": "m", "stream": True, "max_tokens": 12, **prompt, **more}


def events(body: bytes) -> list[dict[str, Any]]:
    *lines, end = body.decode().split("\n\n")
    assert end == "", "an event without its end"
    assert lines.count("data: [DONE]") <= 1
    assert lines[-1] == "data: [DONE]" or '"error"' in lines[-1], lines[-1]
    return [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]


def words(said: list[dict[str, Any]]) -> str:
    choices = [choice for one in said for choice in one.get("choices", [])]
    return "".join(c.get("text") or c.get("delta", {}).get("content") or "" for c in choices)


USAGES: dict[str, Any] = {
    "none": None,
    "usage": {"include_usage": True},
    "continuous": {"include_usage": True, "continuous_usage_stats": True},
}


@pytest.mark.parametrize("options", USAGES)
@pytest.mark.parametrize("api", [CHAT, TEXT])
async def test_the_client_gets_what_an_undisturbed_run_gives(two: Two, api: str, options: str) -> None:
    """Cut at every 37th byte: within heads of chunks, events, words and at all their seams."""
    request = asked(api, **({"stream_options": USAGES[options]} if USAGES[options] else {}))
    head, rest = head_and_rest(await two.real_bytes(api, request))
    whole = events(await unchunk(rest))
    for cut_at in range(0, len(rest), 37):
        two.targets = [two.engines_target()]
        two.rig.worker.answer = dies_after(head + rest[:cut_at])
        said = events(await two.ask(api, request))
        assert words(said) == words(whole), f"cut at {cut_at}"
        assert shapes(said) == shapes(whole), f"cut at {cut_at}"
        assert len({one["id"] for one in said}) == 1, "one stream, one id"
        assert [usage(one) for one in said] == [usage(one) for one in whole], f"cut at {cut_at}"
    assert set(two.rig.scheduler.outcomes) == {Outcome.DONE}


def usage(one: dict[str, Any]) -> Any:
    found = one.get("usage")
    return found and {name: found[name] for name in ("prompt_tokens", "completion_tokens", "total_tokens")}


def shapes(said: list[dict[str, Any]]) -> list[Any]:
    """All of the events but ids and times."""
    return [[one["object"], one["model"], one["choices"]] for one in said]


@pytest.mark.parametrize("at", range(4))
async def test_a_cut_within_a_character(two: Two, at: int) -> None:
    """The worker sends text as it is, not as ASCII: a read may end in the midst of a letter."""
    said = event("naïve ").replace(b"\\u00ef", "ï".encode())
    said = chunk(said[said.index(b"data") : -2]) if b"\\u" not in said else said
    piece = b'data: {"id":"c","choices":[{"index":0,"delta":{"content":" \xf0\x9f\x98\x80"},"finish_reason":null}]}\n\n'
    torn = chunk(piece)
    inside = torn.index(b"\xf0") + at
    two.targets = [two.engines_target()]
    first = b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"na\xc3\xafve"},"finish_reason":null}]}\n\n'
    two.rig.worker.answer = dies_after(SSE_HEAD + chunk(first) + torn[:inside])
    got = events(await two.ask(CHAT, asked(ignore_eos=True)))
    begun = [*HELLO, {"role": "assistant", "content": "naïve"}]
    more = {
        "messages": begun,
        "continue_final_message": True,
        "add_generation_prompt": False,
        "max_tokens": 11,
    }
    _, rest = head_and_rest(await two.real_bytes(CHAT, asked() | more))
    assert words(got) == "naïve" + words(events(await unchunk(rest)))


async def test_usage_reaches_the_scheduler_and_the_second_loss_is_made_good_too(two: Two) -> None:
    request = asked()
    head, rest = head_and_rest(await two.real_bytes(CHAT, request))
    whole = events(await unchunk(rest))
    second = Worker()
    await second.start()

    async def answer(line: Line, again: Request) -> None:
        if again.line.split()[1] == b"/tokenize":
            await count(line, again)
            return
        head, rest = head_and_rest(await two.real_bytes(CHAT, json.loads(again.body)))
        await dies_after(head + rest[: len(rest) // 2])(line, again)

    async def count(line: Line, again: Request) -> None:
        url = f"{two.engine.url}/tokenize"
        async with (
            aiohttp.ClientSession() as http,
            http.post(url, json=json.loads(again.body), headers={"Authorization": "Bearer k"}) as reply,
        ):
            body = await reply.read()
        await line.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))

    second.answer = answer
    two.targets = [second.target(worker="w1"), two.engines_target("w2")]
    two.rig.worker.answer = dies_after(head + rest[: len(rest) // 3])
    said = events(await two.ask(CHAT, request))
    assert (words(said), shapes(said)) == (words(whole), shapes(whole))
    scheduler = two.rig.scheduler
    assert [worker for _, worker, _ in scheduler.losses] == ["w0", "w1"]
    assert scheduler.begun == [True, True]
    unstreamed = json.loads(head_and_rest(await two.real_bytes(CHAT, request | {"stream": False}))[1])[
        "usage"
    ]
    used = scheduler.results[1].usage
    assert isinstance(used, Usage)
    assert (used.prompt_tokens, used.output_tokens) == (
        unstreamed["prompt_tokens"],
        unstreamed["completion_tokens"],
    )
    await second.stop()


async def test_the_second_worker_is_lost_behind_its_last_event(two: Two) -> None:
    """Nobody else is asked, and nothing is said twice."""
    request = asked(stream_options=USAGES["usage"])
    head, rest = head_and_rest(await two.real_bytes(CHAT, request))
    second = Worker()
    await second.start()
    second.answer = as_the_engine(two, lambda path, _, reply: reply[:-5] if path == CHAT else reply)
    two.targets = [second.target(worker="w1")]
    two.rig.worker.answer = dies_after(head + rest[: len(rest) // 2])
    said = await two.ask(CHAT, request)
    assert plain(said) == plain(await unchunk(rest))
    assert [worker for _, worker, _ in two.rig.scheduler.losses] == ["w0"]
    assert two.rig.scheduler.outcomes == [Outcome.DONE]
    await second.stop()


def plain(body: bytes) -> list[Any]:
    said = events(body)
    return [words(said), shapes(said), [usage(one) for one in said], body.count(b"[DONE]")]


TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
NOT: dict[str, dict[str, Any]] = {
    "logprobs": {"logprobs": True},
    "seed": {"seed": 3},
    "frequency_penalty": {"frequency_penalty": 0.5},
    "response_format": {"response_format": {"type": "json_object"}},
    "tool_choice": {"tools": TOOLS, "tool_choice": "required"},
    "bad_words": {"bad_words": ["no"]},
    "`n`": {"n": 2},
}


@pytest.mark.parametrize("name", NOT)
async def test_what_cannot_be_gone_on_with_ends_with_an_error_that_says_why(two: Two, name: str) -> None:
    two.rig.worker.answer = dies_after(SSE_HEAD + event("a") + event("b"))
    *said, error = events(await two.ask(CHAT, asked(**NOT[name])))
    assert words(said) == "ab"
    assert error["error"]["code"] == "worker_lost"
    assert name in error["error"]["message"]
    assert two.rig.scheduler.losses == []
    assert two.rig.scheduler.outcomes == [Outcome.BROKEN]


@pytest.mark.parametrize(
    "more", [{"seed": 3, "temperature": 0}, {"tools": TOOLS}, {"response_format": {"type": "text"}}]
)
async def test_what_changes_nothing_is_gone_on_with(two: Two, more: dict[str, Any]) -> None:
    request = asked(**more)
    head, rest = head_and_rest(await two.real_bytes(CHAT, request))
    two.targets = [two.engines_target()]
    two.rig.worker.answer = dies_after(head + rest[: len(rest) // 2])
    assert words(events(await two.ask(CHAT, request))) == words(events(await unchunk(rest)))


@pytest.mark.parametrize(
    ("delta", "why"),
    [
        ({"tool_calls": [{"index": 0, "function": {"name": "look"}}]}, "tool_calls"),
        ({"reasoning": "hm"}, "reasoning"),
        ({"content": "<think>hm"}, "thoughts"),
    ],
)
async def test_what_was_begun_may_not_be_gone_on_with(two: Two, delta: dict[str, Any], why: str) -> None:
    piece = {"id": "c", "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
    two.rig.worker.answer = dies_after(SSE_HEAD + chunk(b"data: " + json.dumps(piece).encode() + b"\n\n"))
    assert why in events(await two.ask(CHAT, asked(tools=TOOLS)))[-1]["error"]["message"]


async def test_token_ids_are_gone_on_with_exactly(two: Two) -> None:
    request = asked(TEXT, prompt=[20, 30, 40], return_token_ids=True)
    head, rest = head_and_rest(await two.real_bytes(TEXT, request))
    whole = events(await unchunk(rest))
    for cut_at in range(0, len(rest), 211):
        two.targets = [two.engines_target()]
        two.rig.worker.answer = dies_after(head + rest[:cut_at])
        said = events(await two.ask(TEXT, request))
        ids = [[choice["token_ids"] for choice in one["choices"]] for one in said]
        assert ids == [[choice["token_ids"] for choice in one["choices"]] for one in whole]
    request.pop("return_token_ids")
    head, rest = head_and_rest(await two.real_bytes(TEXT, request))
    two.rig.worker.answer = dies_after(head + rest[:600])
    assert "return_token_ids" in events(await two.ask(TEXT, request))[-1]["error"]["message"]


async def test_all_is_said_but_the_end(two: Two) -> None:
    """Its last event, or its usage as well, is not there: without a client that wants it nobody is asked."""
    request = asked()
    head, rest = head_and_rest(await two.real_bytes(CHAT, request))
    two.rig.worker.answer = dies_after(head + rest[: rest.index(b"[DONE]") - 6])
    assert words(events(await two.ask(CHAT, request))) == words(events(await unchunk(rest)))
    assert two.rig.scheduler.losses == []


async def test_nobody_can_go_on(two: Two) -> None:
    two.rig.scheduler.on_lost = None
    two.rig.worker.answer = dies_after(SSE_HEAD + event("a"))
    said = events(await two.ask(CHAT, asked()))
    assert said[-1]["error"]["code"] == "worker_lost"
    two.rig.scheduler.on_lost = lambda exchange, _: (
        exchange.refuse(Refusal(503, "x", "no_worker", "z", 1)) is None
    )
    said = events(await two.ask(CHAT, asked()))
    assert (words(said), said[-1]["error"]["code"]) == ("a", "no_worker")
    assert two.rig.scheduler.outcomes == [Outcome.BROKEN] * 2


async def test_the_next_worker_refuses(two: Two) -> None:
    two.targets = [two.rig.worker.target(worker="w1")]

    async def answer(line: Line, request: Request) -> None:
        if b"continue_final_message" in request.body:
            await line.send(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 2\r\n\r\nno")
        elif b"/tokenize" in request.line:
            await line.send(b"HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\nno")
        else:
            await dies_after(SSE_HEAD + event("a"))(line, request)

    two.rig.worker.answer = answer
    said = events(await two.ask(CHAT, asked()))
    assert "answered 400" in said[-1]["error"]["message"]
    sent = json.loads(two.rig.worker.requests[-1].body)
    assert sent["messages"] == [*HELLO, {"role": "assistant", "content": "a"}]
    assert sent["max_tokens"] == 11, "counted by events where the worker does not count"


async def test_the_client_hears_comments_until_somebody_goes_on() -> None:
    limits = Limits(held_stream_s=0.05, held_json_s=0.05, held_beat_s=0.05, sweep_s=0.01)
    async with gateway_rig(limits) as rig:
        rig.worker.answer = dies_after(SSE_HEAD + event("a"))
        rig.scheduler.on_lost = lambda exchange, _: True
        reader, writer = await rig.connect()
        writer.write(post(json.dumps(asked()).encode()))
        for _ in range(2):
            await asyncio.wait_for(reader.readuntil(b": waiting for its turn\n\n\r\n"), 5)
        rig.scheduler.exchanges[0].abort()
        assert b"workflow_cancelled" in await asyncio.wait_for(reader.readuntil(b"0\r\n\r\n"), 5)


async def test_the_client_leaves_while_somebody_is_asked(two: Two) -> None:
    asked_twice = asyncio.Event()

    async def answer(line: Line, request: Request) -> None:
        if b"/tokenize" in request.line:
            asked_twice.set()
            await line.closed.wait()
        await dies_after(SSE_HEAD + event("a"))(line, request)

    two.targets = [two.rig.worker.target(worker="w1")]
    two.rig.worker.answer = answer
    _, writer = await two.rig.connect()
    writer.write(post(json.dumps(asked()).encode()))
    await asyncio.wait_for(asked_twice.wait(), 5)
    writer.close()
    await until(lambda: two.rig.scheduler.results)
    assert two.rig.scheduler.outcomes == [Outcome.CLIENT_GONE]
    with contextlib.suppress(ConnectionError):
        await until(two.rig.worker.lines[-1].reader.at_eof)


@pytest.mark.parametrize(
    "limits",
    [Limits(resume_bytes=70_000), Limits(resumes_bytes=70_000)],
    ids=["of one stream", "of all"],
)
async def test_what_is_kept_is_bounded(limits: Limits) -> None:
    async with gateway_rig(limits) as rig:
        rig.worker.answer = dies_after(SSE_HEAD + event("x" * 300) * 300)
        body = (await rig.ask(post(json.dumps(asked()).encode())))[2]
        assert "longer than what is kept" in events(body)[-1]["error"]["message"]
        assert rig.gateway.stats().spoken_bytes == 0


@pytest.mark.parametrize("resumes_bytes", [400_000, 3_000_000], ids=["of all", "of one"])
async def test_of_a_long_stream_the_words_are_kept(two: Two, resumes_bytes: int) -> None:
    """More than fits as it came, of all streams or of one."""
    gateway = two.rig.gateway
    gateway.spoken.limit_bytes = resumes_bytes
    sent, counts = b"".join(event(f" {n}") for n in range(9000)), []
    head_and_rest = SSE_HEAD + sent

    async def answer(line: Line, request: Request) -> None:
        for at in range(0, len(head_and_rest), 50_000):
            await line.send(head_and_rest[at : at + 50_000])
            await asyncio.sleep(0.001)  # the gateway reads in the same loop
            counts.append(gateway.stats().spoken_bytes)
        line.writer.write_eof()
        await line.closed.wait()

    two.rig.worker.answer = answer
    two.targets = [two.engines_target()]
    request = asked(max_tokens=9012, messages=HELLO)
    said = events(await two.ask(CHAT, request))
    expected = "".join(f" {n}" for n in range(9000))
    assert words(said).startswith(expected)
    assert len(words(said)) > len(expected), "another went on"
    assert len(sent) > 1_400_000
    assert 0 < max(counts) <= min(resumes_bytes, 1_600_000)


async def test_an_event_without_end_is_passed_on_as_it_comes() -> None:
    large = event("x" * 3_000_000)

    async def answer(line: Line, request: Request) -> None:
        await line.send(SSE_HEAD + large[:2_500_000])
        await line.send(large[2_500_000:] + SSE_END)

    async with gateway_rig() as rig:
        rig.worker.answer = answer
        assert words(events((await rig.ask(post()))[2])) == "x" * 3_000_000
