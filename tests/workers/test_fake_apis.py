"""The engine double's other APIs, spoken by the SDKs they belong to."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from saga_fake.config import FakeConfig
from saga_fake.server import FakeServer

anthropic = pytest.importorskip("anthropic")
openai = pytest.importorskip("openai")

TOOL = {"name": "bash", "description": "run", "input_schema": {"type": "object", "properties": {}}}
FUNCTION = {"type": "function", "name": "bash", "parameters": {"type": "object", "properties": {}}}
SCRIPT = [
    {"match": "list", "content": "I look.", "tool_calls": [{"name": "bash", "arguments": {"cmd": "ls"}}]},
    {"match": "a.py", "content": "There is a.py."},
]


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[FakeServer]:
    script = tmp_path / "script.jsonl"
    script.write_text("".join(json.dumps(line) + "\n" for line in SCRIPT))
    async with FakeServer(FakeConfig(models=("m",), speed=1000.0, script=script)) as found:
        yield found


@pytest.fixture
async def claude(server: FakeServer) -> AsyncIterator[Any]:
    async with anthropic.AsyncAnthropic(base_url=server.url, api_key="k", max_retries=0) as found:
        yield found


@pytest.fixture
async def gpt(server: FakeServer) -> AsyncIterator[Any]:
    async with openai.AsyncOpenAI(base_url=server.url + "/v1", api_key="k", max_retries=0) as found:
        yield found


@pytest.mark.parametrize("stream", [False, True])
async def test_messages_with_a_tool(claude: Any, stream: bool) -> None:
    asked: dict[str, Any] = {"model": "m", "max_tokens": 200, "tools": [TOOL], "system": "be good"}
    messages: list[Any] = [{"role": "user", "content": "list the files"}]

    async def ask() -> Any:
        if not stream:
            return await claude.messages.create(messages=messages, **asked)
        async with claude.messages.stream(messages=messages, **asked) as found:
            return await found.get_final_message()

    first = await ask()
    assert [block.type for block in first.content] == ["text", "tool_use"]
    assert (first.content[0].text, first.content[1].input) == ("I look.", {"cmd": "ls"})
    assert first.stop_reason == "tool_use"
    result = {"type": "tool_result", "tool_use_id": first.content[1].id, "content": "a.py"}
    messages += [{"role": "assistant", "content": [b.model_dump() for b in first.content]}]
    messages += [{"role": "user", "content": [result]}]
    second = await ask()
    assert (second.content[0].text, second.stop_reason) == ("There is a.py.", "end_turn")
    assert second.usage.cache_read_input_tokens > 0
    total = second.usage.input_tokens + second.usage.cache_read_input_tokens
    assert total == (await claude.messages.count_tokens(
        model="m", messages=messages, tools=[TOOL], system="be good"
    )).input_tokens  # fmt: skip


async def test_messages_errors_are_anthropics(claude: Any) -> None:
    with pytest.raises(anthropic.NotFoundError) as caught:
        await claude.messages.create(model="other", max_tokens=5, messages=[{"role": "user", "content": "x"}])
    assert caught.value.body["type"] == "error"


@pytest.mark.parametrize("stream", [False, True])
async def test_responses_with_a_tool(gpt: Any, stream: bool) -> None:
    items: list[Any] = [{"role": "user", "content": "list the files"}]

    async def ask() -> Any:
        asked: dict[str, Any] = {"model": "m", "input": items, "tools": [FUNCTION], "instructions": "be good"}
        if not stream:
            return await gpt.responses.create(**asked)
        async with gpt.responses.stream(**asked) as events:
            async for _ in events:
                pass
            return await events.get_final_response()

    first = await ask()
    assert [item.type for item in first.output] == ["message", "function_call"]
    assert (first.output_text, json.loads(first.output[1].arguments)) == ("I look.", {"cmd": "ls"})
    items += [item.model_dump(exclude_none=True) for item in first.output]
    items += [{"type": "function_call_output", "call_id": first.output[1].call_id, "output": "a.py"}]
    second = await ask()
    assert (second.output_text, second.status) == ("There is a.py.", "completed")
    assert 0 < second.usage.input_tokens_details.cached_tokens < second.usage.input_tokens


async def test_responses_have_no_store(gpt: Any) -> None:
    with pytest.raises(openai.NotFoundError):
        await gpt.responses.create(model="m", input="x", previous_response_id="resp_1")


async def test_embeddings(gpt: Any) -> None:
    found = await gpt.embeddings.create(model="m", input=["one text", "another", "one text"])
    one, other, again = (item.embedding for item in found.data)
    assert one == again != other
    assert sum(x * x for x in one) == pytest.approx(1.0)
    plain = await gpt.embeddings.create(model="m", input="one text", encoding_format="float")
    assert plain.data[0].embedding == pytest.approx(one)
