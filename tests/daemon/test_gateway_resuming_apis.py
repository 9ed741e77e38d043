"""Streams of Messages and of Responses whose worker is lost in mid-answer: one well-formed stream, whoever sends it."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from gateway_rig import SSE_HEAD, Request, Worker, chunk, until
from resuming_rig import Two, as_the_engine, dies_after, head_and_rest, two_workers, unchunk

from saga_core.events import Outcome

MESSAGES = "/v1/messages"
RESPONSES = "/v1/responses"
APIS = [MESSAGES, RESPONSES]
MOST = {MESSAGES: "max_tokens", RESPONSES: "max_output_tokens"}
TOKENS = 7
TOOL: dict[str, dict[str, Any]] = {
    MESSAGES: {"name": "look", "input_schema": {"type": "object"}},
    RESPONSES: {"type": "function", "name": "look", "parameters": {"type": "object"}},
}
SCRIPT = [
    {"match": "plain", "content": "The sum of two and two is four."},
    {"match": "tool", "content": "I shall look at it.", "tool_calls": [{"name": "look", "arguments": "{}"}]},
]


@pytest.fixture
async def two(tmp_path: Path) -> AsyncIterator[Two]:
    """Each line of a script is said once, and here as often as there are workers to say it."""
    script = tmp_path / "script.jsonl"
    script.write_text("".join(json.dumps(line) + "\n" for line in SCRIPT * 120))
    async with two_workers(script=script) as found:
        yield found


@pytest.fixture
async def second() -> AsyncIterator[Worker]:
    found = Worker()
    await found.start()
    yield found
    await found.stop()


def asked(api: str, words: str = "once upon a time", **more: Any) -> dict[str, Any]:
    message = {"role": "user", "content": words}
    prompt = {"messages": [message], "system": "be brief"} if api == MESSAGES else {"input": [message]}
    return {"model": "m", "stream": True, MOST[api]: TOKENS, **prompt, **more}


def scripted(api: str, words: str, **more: Any) -> dict[str, Any]:
    """One that ends by itself."""
    return asked(api, words, **{MOST[api]: 100}, **more)


def events(body: bytes) -> list[dict[str, Any]]:
    """Whole events, each named by its type."""
    *found, end = body.decode().split("\n\n")
    assert end == "", "an event without its end"
    read = []
    for event in found:
        name, data = event.split("\n")
        read.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {read[-1]['type']}"
    return read


def plain(said: list[dict[str, Any]]) -> str:
    """The events as they are, but for what of the prompt was in a cache; what an engine names by chance is numbered."""
    names: dict[str, str] = {}
    text = json.dumps([uncached(one) for one in said], sort_keys=True)
    return re.sub(
        r"\b[a-z]+_[0-9a-f]{16}\b", lambda found: names.setdefault(found[0], f"name {len(names)}"), text
    )


def uncached(said: Any) -> Any:
    if not isinstance(said, dict):
        return [uncached(one) for one in said] if isinstance(said, list) else said
    found = {name: uncached(value) for name, value in said.items() if name != "cached_tokens"}
    if "cache_read_input_tokens" in found:
        found["input_tokens"] += found.pop("cache_read_input_tokens")
    return found


def words(said: list[dict[str, Any]]) -> str:
    deltas = [one.get("delta") for one in said if one["type"].endswith("delta")]
    return "".join(d if isinstance(d, str) else (d or {}).get("text", "") for d in deltas)


async def undisturbed(
    two: Two, api: str, request: dict[str, Any]
) -> tuple[bytes, bytes, list[dict[str, Any]]]:
    head, rest = head_and_rest(await two.real_bytes(api, request))
    return head, rest, events(await unchunk(rest))


def boundaries(rest: bytes) -> list[int]:
    """Behind each event, and within the next."""
    ends = [found.end() for found in re.finditer(rb"\n\n\r\n", rest)]
    return [at + into for at in ends for into in (0, 41) if at + into < len(rest)]


REQUESTS: dict[str, Callable[[str], dict[str, Any]]] = {
    "as long as it may be": asked,
    "ends by itself": lambda api: scripted(api, "plain"),
    "ends with a tool": lambda api: scripted(api, "tool", tools=[TOOL[api]]),
}


@pytest.mark.parametrize("name", REQUESTS)
@pytest.mark.parametrize("api", APIS)
async def test_the_client_gets_what_an_undisturbed_run_gives(two: Two, api: str, name: str) -> None:
    """Cut behind every event and within each, up to where a tool is asked for."""
    request = REQUESTS[name](api)
    head, rest, whole = await undisturbed(two, api, request)
    tool = re.search(rb"event: [^\n]*\n[^\n]*(tool_use|function_call)", rest)
    cuts = [at for at in boundaries(rest) if tool is None or at < tool.start()]
    assert len(cuts) > TOKENS
    for cut_at in cuts:
        two.targets = [two.engines_target()]
        two.rig.worker.answer = dies_after(head + rest[:cut_at])
        said = events(await two.ask(api, request))
        assert plain(said) == plain(whole), f"cut at {cut_at}: {rest[max(0, cut_at - 300) : cut_at]!r}"
    assert set(two.rig.scheduler.outcomes) == {Outcome.DONE}


@pytest.mark.parametrize("api", APIS)
async def test_nothing_was_said_yet(two: Two, api: str) -> None:
    head, _, whole = await undisturbed(two, api, asked(api))
    for begun in (b"", b"2a\r\nevent: messa"):
        two.targets = [two.engines_target()]
        two.rig.worker.answer = dies_after(head + begun)
        said = events(await two.ask(api, asked(api)))
        assert (words(said), [one["type"] for one in said]) == (words(whole), [one["type"] for one in whole])


@pytest.mark.parametrize("api", APIS)
async def test_the_second_loss_is_made_good_too(two: Two, second: Worker, api: str) -> None:
    request = asked(api, **{MOST[api]: 12})
    head, rest, whole = await undisturbed(two, api, request)

    def half(path: str, body: bytes, reply: bytes) -> bytes:
        return reply[: len(reply) // 2] if path == api else reply

    second.answer = as_the_engine(two, half)
    two.targets = [second.target(worker="w1"), two.engines_target("w2")]
    two.rig.worker.answer = dies_after(head + rest[: len(rest) // 3])
    assert plain(events(await two.ask(api, request))) == plain(whole)
    scheduler = two.rig.scheduler
    assert [worker for _, worker, _ in scheduler.losses] == ["w0", "w1"]
    used = scheduler.results[1].usage
    assert used is not None
    assert used.output_tokens == 12


def closed(api: str, whole: list[dict[str, Any]], upto: int) -> bytes:
    """The stream so far, with its text closed after `upto` events: the lost worker went on to something else."""
    said = whole[:upto]
    text = words(said)
    if api == MESSAGES:
        said = [*said, {"type": "content_block_stop", "index": 0}]
    else:
        about = {"output_index": 0, "item_id": said[2]["item"]["id"], "content_index": 0}
        part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
        item = said[2]["item"] | {"status": "completed", "content": [part]}
        said += [
            {"type": "response.output_text.done", "text": text} | about,
            {"type": "response.content_part.done", "part": part} | about,
            {"type": "response.output_item.done", "output_index": 0, "item": item},
        ]
    return b"".join(named(one | {"sequence_number": number}) for number, one in enumerate(said))


def named(said: dict[str, Any]) -> bytes:
    return chunk(f"event: {said['type']}\ndata: {json.dumps(said)}\n\n".encode())


@pytest.mark.parametrize("api", APIS)
async def test_a_text_that_was_closed_stays_closed(two: Two, second: Worker, api: str) -> None:
    """Another draw may say more: that is a second text, and is gone on with like the first."""
    request = asked(api, **{MOST[api]: 12})
    head, _, whole = await undisturbed(two, api, request)
    text = words(whole)
    two.rig.worker.answer = dies_after(head + closed(api, whole, 7))
    second.answer = as_the_engine(
        two, lambda path, _, reply: reply[: len(reply) // 2] if path == api else reply
    )
    two.targets = [second.target(worker="w1"), two.engines_target("w2")]
    said = events(await two.ask(api, request))
    assert len(two.rig.scheduler.losses) == 2
    assert words(said) == text
    index = "index" if api == MESSAGES else "output_index"
    begun = [
        one[index] for one in said if one["type"] in ("content_block_start", "response.output_item.added")
    ]
    ended = [one[index] for one in said if one["type"] in ("content_block_stop", "response.output_item.done")]
    assert begun == ended == [0, 1]
    if api == RESPONSES:
        assert [one["sequence_number"] for one in said] == list(range(len(said)))
        output = said[-1]["response"]["output"]
        assert [item["id"] for item in output] == [
            one["item"]["id"] for one in said if one["type"] == "response.output_item.added"
        ]
        assert "".join(item["content"][0]["text"] for item in output) == text
        assert said[-1]["response"]["usage"]["output_tokens"] == 12


async def test_the_anthropic_sdk_reads_it(two: Two) -> None:
    anthropic = pytest.importorskip("anthropic")
    request = scripted(MESSAGES, "tool", tools=[TOOL[MESSAGES]])
    head, rest, _ = await undisturbed(two, MESSAGES, request)
    two.targets = [two.engines_target()]
    two.rig.worker.answer = dies_after(head + rest[: boundaries(rest)[6]])
    url = f"http://127.0.0.1:{two.rig.port}"
    request.pop("stream")
    client = anthropic.AsyncAnthropic(base_url=url, api_key="k", max_retries=0)
    async with client, client.messages.stream(**request) as stream:
        pieces = [text async for text in stream.text_stream]
        message = await stream.get_final_message()
    assert two.rig.scheduler.losses
    assert "".join(pieces) == message.content[0].text == "I shall look at it."
    assert (message.content[1].type, message.content[1].name) == ("tool_use", "look")
    assert message.stop_reason == "tool_use"


async def test_the_openai_sdk_reads_it_and_what_is_kept_is_whole(two: Two) -> None:
    openai = pytest.importorskip("openai")
    request = scripted(RESPONSES, "plain")
    head, rest, whole = await undisturbed(two, RESPONSES, request)
    two.targets = [two.engines_target()]
    two.rig.worker.answer = dies_after(head + rest[: len(rest) // 2])
    url = f"http://127.0.0.1:{two.rig.port}/v1"
    async with openai.AsyncOpenAI(base_url=url, api_key="k", max_retries=0) as client:
        said = [event async for event in await client.responses.create(**request)]
    assert two.rig.scheduler.losses
    final = said[-1].response
    assert final.output_text == "The sum of two and two is four."
    assert final.id == whole[0]["response"]["id"]
    assert [event.sequence_number for event in said] == list(range(len(whole)))
    kept = two.rig.gateway.responses.find("t", final.id)
    assert kept is not None
    assert json.loads(kept.reply) == json.loads(final.to_json())
    assert two.rig.scheduler.results[1].response == final.id


@pytest.mark.parametrize("api", APIS)
async def test_all_is_said_but_the_end(two: Two, api: str) -> None:
    """Nobody is asked; the usage is known and the response kept all the same."""
    request = scripted(api, "plain")
    head, rest, whole = await undisturbed(two, api, request)
    missing = rest.rindex(b"event: message_stop") if api == MESSAGES else len(rest) - len(b"0\r\n\r\n")
    two.rig.worker.answer = dies_after(head + rest[:missing])
    assert plain(events(await two.ask(api, request))) == plain(whole)
    assert two.rig.scheduler.losses == []
    used = two.rig.scheduler.results[1].usage
    assert used is not None
    assert used.output_tokens == 10, "nine pieces and the end"
    if api == RESPONSES:
        assert two.rig.gateway.responses.find("t", whole[-1]["response"]["id"]) is not None


async def test_what_is_asked_for(two: Two, second: Worker) -> None:
    """Token ids for Messages, an open message for Responses."""
    for api in APIS:
        request = asked(api)
        head, rest, _ = await undisturbed(two, api, request)
        second.answer = as_the_engine(two, lambda path, body, reply: reply)
        two.targets = [second.target(worker="w1")]
        two.rig.worker.answer = dies_after(head + rest[: len(rest) // 2])
        said = words(events(await two.ask(api, request)))
        sent = json.loads(second.requests[-1].body)
        left = sent[MOST[api]]
        assert 0 < left < TOKENS
        if api == MESSAGES:
            rendered, counted, _ = [json.loads(one.body) for one in second.requests]
            assert rendered == request
            assert said.startswith(counted["prompt"])
            assert sent["messages"] == request["messages"]
            prompt = json.loads(head_and_rest(await two.real_bytes(MESSAGES + "/render", request))[1])[
                "token_ids"
            ]
            assert sent["kv_transfer_params"]["prompt_token_ids"][: len(prompt)] == prompt
            assert len(sent["kv_transfer_params"]["prompt_token_ids"]) == len(prompt) + TOKENS - left
        else:
            *before, last = sent["input"]
            assert before == request["input"]
            assert (last["role"], last["status"]) == ("assistant", "incomplete")
            assert said.startswith(last["content"][0]["text"])


SCHEMA = {"type": "json_schema", "schema": {"type": "object"}}
NOT: list[tuple[str, str, dict[str, Any]]] = [
    (MESSAGES, "output_config.format", {"output_config": {"format": SCHEMA}}),
    (MESSAGES, "tool_choice", {"tools": [TOOL[MESSAGES]], "tool_choice": {"type": "any"}}),
    (MESSAGES, "thinking.disabled", {"thinking": {"type": "disabled"}}),
    (MESSAGES, "kv_transfer_params", {"kv_transfer_params": {}}),
    (RESPONSES, "logprobs", {"include": ["message.output_text.logprobs"]}),
    (RESPONSES, "seed", {"seed": 3}),
    (RESPONSES, "presence_penalty", {"presence_penalty": 0.5}),
    (RESPONSES, "text.format", {"text": {"format": {"type": "json_object"}}}),
    (RESPONSES, "tool_choice", {"tools": [TOOL[RESPONSES]], "tool_choice": "required"}),
    (RESPONSES, "truncation", {"truncation": "auto"}),
    (RESPONSES, "include_reasoning", {"include_reasoning": False}),
    (RESPONSES, "words of the assistant's own", {"input": [{"role": "assistant", "content": "I"}]}),
    (
        RESPONSES,
        "words of the assistant's own",
        {"input": [{"role": "user", "status": "incomplete", "content": ""}]},
    ),
]


@pytest.mark.parametrize(("api", "why", "more"), NOT)
async def test_what_cannot_be_gone_on_with_ends_with_an_error_that_says_why(
    two: Two, api: str, why: str, more: dict[str, Any]
) -> None:
    head, rest, _ = await undisturbed(two, api, asked(api))
    two.rig.worker.answer = dies_after(head + rest[: len(rest) // 2])
    *said, error = events(await two.ask(api, asked(api) | more))
    assert words(said)
    assert error["type"] == "error"
    assert error["error"]["code"] == "worker_lost"
    assert why in error["error"]["message"]
    assert two.rig.scheduler.losses == []
    assert two.rig.scheduler.outcomes == [Outcome.BROKEN]


@pytest.mark.parametrize(
    ("api", "more"),
    [
        (MESSAGES, {"tools": [TOOL[MESSAGES]], "tool_choice": {"type": "auto"}}),
        (MESSAGES, {"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}}),
        (RESPONSES, {"seed": 3, "temperature": 0, "text": {"format": {"type": "text"}}}),
        (RESPONSES, {"input": "once upon a time", "store": False}),
    ],
)
async def test_what_changes_nothing_is_gone_on_with(two: Two, api: str, more: dict[str, Any]) -> None:
    request = asked(api) | more
    head, rest, whole = await undisturbed(two, api, request)
    two.targets = [two.engines_target()]
    two.rig.worker.answer = dies_after(head + rest[: len(rest) // 2])
    assert plain(events(await two.ask(api, request))) == plain(whole)


def message_event(**data: Any) -> bytes:
    return named(data)


START = message_event(
    type="message_start", message={"id": "m", "usage": {"input_tokens": 3, "output_tokens": 0}}
)
BEGUN: list[tuple[str, bytes, str]] = [
    (
        MESSAGES,
        message_event(type="content_block_start", index=0, content_block={"type": "tool_use"}),
        "tool_use",
    ),
    (
        MESSAGES,
        message_event(type="content_block_start", index=0, content_block={"type": "thinking"}),
        "thinking",
    ),
    (
        MESSAGES,
        message_event(
            type="content_block_start", index=0, content_block={"type": "text", "text": "<think>hm"}
        ),
        "thoughts",
    ),
    (RESPONSES, message_event(type="response.output_item.added", item={"type": "reasoning"}), "reasoning"),
    (
        RESPONSES,
        message_event(type="response.output_item.added", item={"type": "function_call"}),
        "function_call",
    ),
    (RESPONSES, message_event(type="response.output_text.delta", delta="a", logprobs=[{}]), "logprobs"),
    (RESPONSES, message_event(type="response.mcp_call.in_progress"), "not known"),
]


@pytest.mark.parametrize(("api", "begun", "why"), BEGUN, ids=[f"{api[4:]}: {why}" for api, _, why in BEGUN])
async def test_what_was_begun_may_not_be_gone_on_with(two: Two, api: str, begun: bytes, why: str) -> None:
    two.rig.worker.answer = dies_after(SSE_HEAD + (START if api == MESSAGES else b"") + begun)
    error = events(await two.ask(api, asked(api)))[-1]
    assert why in error["error"]["message"]


def changed(**fields: Any) -> Callable[[str, bytes, bytes], bytes]:
    """The prompt is rendered with these fields."""

    def change(path: str, body: bytes, reply: bytes) -> bytes:
        if not path.endswith("/render"):
            return reply
        rendered = json.loads(reply) | fields
        return json.dumps(rendered | {"token_ids": rendered["token_ids"] + fields.get("more", [])}).encode()

    return change


PROMPTS: dict[str, Callable[[str, bytes, bytes], bytes]] = {
    "more in it than text": changed(features={"mm_hashes": {}}),
    "a grammar": changed(sampling_params={"structured_outputs": {"json": {}}}),
    "may have thought": changed(reasoning_parser_kwargs={"chat_template_kwargs": {}}, reasoning_ended=False),
    "another prompt of it": changed(more=[5]),
    "--enable-scale-out": lambda path, body, reply: b"{}" if path.endswith("/render") else reply,
    "does not say what tokens": lambda path, body, reply: b"{}" if path == "/tokenize" else reply,
}


@pytest.mark.parametrize("why", PROMPTS)
async def test_a_prompt_that_is_not_its_tokens_is_not_gone_on_with(
    two: Two, second: Worker, why: str
) -> None:
    head, rest, whole = await undisturbed(two, MESSAGES, asked(MESSAGES))
    second.answer = as_the_engine(two, PROMPTS[why])
    two.targets = [second.target(worker="w1")]
    two.rig.worker.answer = dies_after(head + rest[: len(rest) // 2])
    *said, error = events(await two.ask(MESSAGES, asked(MESSAGES)))
    assert words(whole).startswith(words(said))
    assert why in error["error"]["message"]
    assert all(b"kv_transfer_params" not in one.body for one in second.requests), "it was not asked"
    assert two.rig.scheduler.outcomes == [Outcome.BROKEN]


async def test_thoughts_that_are_over_before_the_answer_do_no_harm(two: Two, second: Worker) -> None:
    head, rest, whole = await undisturbed(two, MESSAGES, asked(MESSAGES))
    second.answer = as_the_engine(two, changed(reasoning_parser_kwargs={}, reasoning_ended=True))
    two.targets = [second.target(worker="w1")]
    two.rig.worker.answer = dies_after(head + rest[: len(rest) // 2])
    assert plain(events(await two.ask(MESSAGES, asked(MESSAGES)))) == plain(whole)


async def test_a_worker_that_does_not_look_at_the_ids_is_found_out_at_once(two: Two, second: Worker) -> None:
    """It would answer anew: its first event says how long its prompt was, and the rest is not waited for."""
    head, rest, whole = await undisturbed(two, MESSAGES, asked(MESSAGES))

    async def answer(line: Any, request: Request) -> None:
        if request.line.split()[1].decode() == MESSAGES:
            first = rest.index(b"\n\n\r\n") + 4
            await line.send(SSE_HEAD + rest[: max(first, len(rest) // 2)])
            await line.closed.wait()
        else:
            await as_the_engine(two, lambda path, body, reply: reply)(line, request)

    second.answer = answer
    two.targets = [second.target(worker="w1")]
    two.rig.worker.answer = dies_after(head + rest[: len(rest) // 2])
    *said, error = events(await two.ask(MESSAGES, asked(MESSAGES)))
    assert words(whole).startswith(words(said))
    assert len(words(said)) < len(words(whole))
    assert "did not take the prompt" in error["error"]["message"]
    line = second.lines[-1]
    await until(lambda: line.reader.at_eof() or line.writer.transport.is_closing(), "the worker is let go")


async def test_a_stream_of_another_kind_is_no_sequel(two: Two, second: Worker) -> None:
    head, rest, _ = await undisturbed(two, RESPONSES, asked(RESPONSES))

    def odd(path: str, body: bytes, reply: bytes) -> bytes:
        return message_event(type="response.output_item.added") + reply if path == RESPONSES else reply

    second.answer = as_the_engine(two, odd)
    two.targets = [second.target(worker="w1")]
    two.rig.worker.answer = dies_after(head + rest[: len(rest) // 2])
    error = events(await two.ask(RESPONSES, asked(RESPONSES)))[-1]
    assert "none of this API" in error["error"]["message"]


@pytest.mark.parametrize("api", APIS)
async def test_nobody_counts_tokens(two: Two, second: Worker, api: str) -> None:
    """Responses count events then; Messages need the ids."""
    request = asked(api)
    head, rest, whole = await undisturbed(two, api, request)
    second.answer = as_the_engine(two, lambda path, body, reply: b"{}" if path == "/tokenize" else reply)
    two.targets = [second.target(worker="w1")]
    two.rig.worker.answer = dies_after(head + rest[: len(rest) // 2])
    said = events(await asyncio.wait_for(two.ask(api, request), 10))
    if api == RESPONSES:
        assert plain(said) == plain(whole)
    else:
        assert said[-1]["type"] == "error"


CHAT = "/v1/chat/completions"


@pytest.mark.parametrize("api", [RESPONSES, CHAT])
async def test_a_model_whose_prompts_leave_no_message_open(two: Two, second: Worker, api: str) -> None:
    """Harmony's marks are one token each there."""
    messages = [{"role": "user", "content": "once upon a time"}]
    chat = {"model": "m", "stream": True, "max_tokens": TOKENS, "messages": messages}
    request = chat if api == CHAT else asked(api)
    head, rest = head_and_rest(await two.real_bytes(api, request))

    def harmony(path: str, body: bytes, reply: bytes) -> bytes:
        return b'{"count":1,"tokens":[200005]}' if b'"<|channel|>"' in body else reply

    second.answer = as_the_engine(two, harmony)
    two.targets = [second.target(worker="w1")]
    two.rig.worker.answer = dies_after(head + rest[: len(rest) // 2])
    assert b"Harmony" in await two.ask(api, request)
    assert two.rig.scheduler.outcomes == [Outcome.BROKEN]
