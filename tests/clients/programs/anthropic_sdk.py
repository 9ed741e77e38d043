"""The anthropic SDK: sync, async, streamed, tools, count_tokens, models."""

import asyncio
import json

from anthropic import Anthropic, AsyncAnthropic, NotFoundError

TOOL = {"name": "bash", "description": "run a command", "input_schema": {"type": "object", "properties": {}}}
found: dict[str, object] = {}

client = Anthropic()
found["models"] = [model.id for model in client.models.list()]
messages: list = [{"role": "user", "content": "anthropic-sdk: list the files"}]
first = client.messages.create(model="m", max_tokens=100, messages=messages, tools=[TOOL])
use = next(block for block in first.content if block.type == "tool_use")
result = {"type": "tool_result", "tool_use_id": use.id, "content": "anthropic-sdk: a.py"}
messages += [{"role": "assistant", "content": first.content}, {"role": "user", "content": [result]}]
found["counted"] = client.messages.count_tokens(model="m", messages=messages, tools=[TOOL]).input_tokens


async def streamed() -> None:
    other = AsyncAnthropic()
    async with other.messages.stream(model="m", max_tokens=100, messages=messages, tools=[TOOL]) as stream:
        found["streamed"] = "".join([text async for text in stream.text_stream])
        message = await stream.get_final_message()
        found["identity"] = stream.response.headers["x-saga-identity"]
    await other.close()
    usage = message.usage
    found["usage"] = [usage.input_tokens + usage.cache_read_input_tokens, usage.cache_read_input_tokens > 0]


asyncio.run(streamed())
found["tool"] = [use.name, use.input, first.stop_reason]
try:
    client.messages.create(model="other", max_tokens=9, messages=messages[:1])
except NotFoundError as error:
    found["error"] = error.body["error"]["type"]
print(json.dumps(found))
