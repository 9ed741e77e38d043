"""The openai SDK: sync, async, streamed, tools, responses with stored state, embeddings, models."""

import asyncio
import json

from openai import AsyncOpenAI, NotFoundError, OpenAI

TOOL = {"type": "function", "function": {"name": "bash", "parameters": {"type": "object", "properties": {}}}}
found: dict[str, object] = {}

client = OpenAI()
found["models"] = [model.id for model in client.models.list()]
messages: list = [{"role": "user", "content": "openai-sdk: list the files"}]
first = client.chat.completions.create(model="m", messages=messages, tools=[TOOL])
call = first.choices[0].message.tool_calls[0]
messages += [
    first.choices[0].message,
    {"role": "tool", "tool_call_id": call.id, "content": "openai-sdk: a.py"},
]
raw = client.chat.completions.with_raw_response.create(model="m", messages=messages, tools=[TOOL])
second = raw.parse()
found["tool"] = [call.function.name, json.loads(call.function.arguments), second.choices[0].message.content]
found["identity"] = raw.headers["x-saga-identity"]
found["cached"] = second.usage.prompt_tokens_details.cached_tokens > 0


async def streamed() -> str:
    async with AsyncOpenAI() as other:
        stream = await other.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "openai-sdk: stream"}], stream=True
        )
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])


found["streamed"] = asyncio.run(streamed())
one = client.responses.create(model="m", input="openai-sdk: remember seven")
with client.responses.stream(
    model="m", input="openai-sdk: which number", previous_response_id=one.id
) as events:
    events.until_done()
    two = events.get_final_response()
found["responses"] = [one.output_text, two.output_text, client.responses.retrieve(one.id).output_text]
found["grown"] = two.usage.input_tokens > one.usage.input_tokens + one.usage.output_tokens
found["embedding"] = len(client.embeddings.create(model="m", input="a text").data[0].embedding)
try:
    client.chat.completions.create(model="other", messages=messages[:1])
except NotFoundError as error:
    found["error"] = error.code
print(json.dumps(found))
