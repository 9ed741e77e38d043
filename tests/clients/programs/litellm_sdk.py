"""LiteLLM: OpenAI's and Anthropic's APIs behind one call, streamed and not, and its session header."""

import asyncio
import json

import litellm

found: dict[str, object] = {}
messages: list = [{"role": "user", "content": "litellm: one"}]
first = litellm.completion(model="openai/m", messages=messages)
messages += [first.choices[0].message.model_dump(), {"role": "user", "content": "litellm: two"}]
stream = litellm.completion(model="openai/m", messages=messages, stream=True)
found["openai"] = [
    first.choices[0].message.content,
    "".join(part.choices[0].delta.content or "" for part in stream),
]
headers = {"x-litellm-session-id": "conversation-7"}


async def claude() -> str:
    reply = await litellm.acompletion(
        model="anthropic/m",
        messages=[{"role": "user", "content": "litellm: three"}],
        extra_headers=headers,
        max_tokens=50,
    )
    return reply.choices[0].message.content


found["anthropic"] = asyncio.run(claude())
print(json.dumps(found))
