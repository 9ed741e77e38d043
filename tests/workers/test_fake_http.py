"""The HTTP surface through the OpenAI client, against a real process."""

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import aiohttp
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

from saga_fake.config import FakeConfig
from saga_fake.engine import EngineShape
from saga_fake.server import FakeServer

KEY = "secret-of-the-test"
SCRIPT = [
    {
        "match": "weather",
        "content": "one moment",
        "tool_calls": [{"name": "get_weather", "arguments": {"city": "Ulm"}}],
    },
    {"match": "ladder", "content": "up, down, stop here and on"},
    {"match": "brief", "content": "yes"},
]


@pytest.fixture(scope="module")
def process(tmp_path_factory):
    """The process and its base URL."""
    script = tmp_path_factory.mktemp("script") / "script.jsonl"
    script.write_text("".join(json.dumps(line) + "\n" for line in SCRIPT * 2))
    with started(
        "--script", str(script), "--max-model-len", "2048", "--served-model-name", "m", "alias"
    ) as running:
        yield running


@contextlib.contextmanager
def started(*flags, speed="50"):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "saga_fake", "--port", str(port), "--speed", speed, *flags]
    environment = os.environ | {"VLLM_API_KEY": KEY}
    child = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        line = child.stderr.readline()
        assert "http://" in line, line + child.stderr.read()
        yield child, f"http://127.0.0.1:{port}"
    finally:
        child.terminate()
        child.wait(5)
        child.stderr.close()


@pytest.fixture(scope="module")
def client(process):
    with openai.OpenAI(base_url=process[1] + "/v1", api_key=KEY, max_retries=0, timeout=10) as client:
        yield client


def user(text):
    return [{"role": "user", "content": text}]


def test_chat_and_its_second_turn(client):
    messages = user("tell me about paging " * 40)
    first = client.chat.completions.create(
        model="m", messages=messages, max_tokens=40, extra_headers={"X-Request-Id": "abc"}
    )
    assert first.id == "chatcmpl-abc"
    assert first.choices[0].finish_reason == "length"
    assert first.usage.completion_tokens == 40
    assert first.usage.prompt_tokens_details.cached_tokens == 0
    messages += [{"role": "assistant", "content": first.choices[0].message.content}, *user("go on")]
    second = client.chat.completions.create(model="alias", messages=messages, max_completion_tokens=4)
    computed = first.usage.total_tokens - 1
    assert second.usage.prompt_tokens_details.cached_tokens == computed // 32 * 32
    assert second.model == "alias"


def test_same_seed_same_words(client):
    say = [client.chat.completions.create(model="m", messages=user("hi"), max_tokens=9) for _ in range(2)]
    assert say[0].choices[0].message.content == say[1].choices[0].message.content


def test_stream_has_one_event_per_token_and_usage(client):
    stream = client.chat.completions.create(
        model="m", messages=user("count"), max_tokens=7, stream=True, stream_options={"include_usage": True}
    )
    *chunks, usage = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert len(chunks) == 1 + 7
    assert [c.choices[0].finish_reason for c in chunks] == [None] * 7 + ["length"]
    assert usage.choices == []
    assert usage.usage.completion_tokens == 7
    whole = client.chat.completions.create(model="m", messages=user("count"), max_tokens=7)
    assert "".join(c.choices[0].delta.content for c in chunks) == whole.choices[0].message.content


def test_continuous_usage_counts_up(client):
    options = {"include_usage": True, "continuous_usage_stats": True}
    stream = client.completions.create(
        model="m", prompt="x", max_tokens=3, stream=True, stream_options=options
    )
    assert [c.usage.completion_tokens for c in stream] == [1, 2, 3, 3]


@pytest.mark.parametrize("stream", [False, True])
def test_scripted_tool_call(client, stream):
    tools = [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}]
    ask = {"model": "m", "messages": user("the weather?"), "tools": tools}
    if stream:
        with client.chat.completions.stream(**ask) as events:
            (choice,) = events.get_final_completion().choices
    else:
        (choice,) = client.chat.completions.create(**ask).choices
    (call,) = choice.message.tool_calls
    assert (choice.message.content, choice.finish_reason) == ("one moment", "tool_calls")
    assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"city": "Ulm"})


def test_stop_string_ends_the_reply(client):
    reply = client.chat.completions.create(model="m", messages=user("a ladder"), stop=["stop", "never"])
    (choice,) = reply.choices
    assert (choice.message.content, choice.finish_reason, choice.stop_reason) == (
        "up, down, ",
        "stop",
        "stop",
    )


def test_a_scripted_reply_ends_by_itself_or_goes_on(client):
    plain = client.chat.completions.create(model="m", messages=user("be brief"), max_tokens=30)
    assert (plain.choices[0].message.content, plain.choices[0].finish_reason) == ("yes", "stop")
    longer = client.chat.completions.create(
        model="m", messages=user("be brief"), max_tokens=30, extra_body={"ignore_eos": True}
    )
    assert longer.usage.completion_tokens == 30
    assert longer.choices[0].message.content.startswith("yes")


def test_completion_by_token_ids(client):
    reply = client.completions.create(
        model="m", prompt=[5, 6, 7], max_tokens=4, extra_body={"return_token_ids": True, "unknown_field": 1}
    )
    assert reply.id.startswith("cmpl-")
    assert reply.usage.prompt_tokens == 3
    assert reply.choices[0].prompt_token_ids == [5, 6, 7]
    assert len(reply.choices[0].token_ids) == 4


@pytest.mark.parametrize(
    ("ask", "status", "kind", "says"),
    [
        (
            {"model": "other", "prompt": "x"},
            404,
            "NotFoundError",
            "The model `other` does not exist. Valid aliases: m, alias.",
        ),
        ({"prompt": [1, 4096]}, 400, "BadRequestError", "Token id 4096 is out of vocabulary"),
        ({"prompt": [-1]}, 400, "BadRequestError", "Token id -1 is out of vocabulary"),
        ({"prompt": ["a", "b"]}, 400, "BadRequestError", "not several prompts"),
        (
            {"prompt": [7] * 2049},
            400,
            "BadRequestError",
            "maximum context length is 2048 tokens. However, your prompt contains 2049",
        ),
        (
            {"prompt": "x", "max_tokens": 4000},
            400,
            "BadRequestError",
            "max_tokens=4000 cannot be greater than max_model_len=2048",
        ),
        ({"prompt": "x", "max_tokens": 0}, 400, "BadRequestError", "max_tokens must be at least 1, got 0"),
        ({"prompt": "x", "n": 2}, 400, "BadRequestError", "n must be 1"),
        ({"prompt": "x", "max_tokens": "many"}, 400, "Bad Request", "1 validation error"),
        (
            {"prompt": "x", "stream_options": {"include_usage": True}},
            400,
            "BadRequestError",
            "Stream options",
        ),
    ],
)
def test_refusals_have_vllms_shape(client, ask, status, kind, says):
    with pytest.raises(openai.APIStatusError) as caught:
        client.post("/completions", body={"model": "m", **ask}, cast_to=object)
    assert caught.value.status_code == status
    error = caught.value.body
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["code"]) == (kind, status)
    assert says in error["message"]


def test_bad_json_is_a_400(process):
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    request = urllib.request.Request(process[1] + "/v1/completions", data=b"{", headers=headers)
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request)
    with caught.value as answer:
        assert answer.code == 400
        assert json.load(answer)["error"]["type"] == "Bad Request"


def test_without_the_key_only_the_open_paths_answer(process):
    with openai.OpenAI(base_url=process[1] + "/v1", api_key="wrong", max_retries=0) as stranger:
        with pytest.raises(openai.AuthenticationError) as caught:
            stranger.models.list()
        assert caught.value.response.json() == {"error": "Unauthorized"}
        with pytest.raises(openai.AuthenticationError):
            stranger.post("/../fake/mode", body={"mode": "crash"}, cast_to=object)
    assert process[0].poll() is None


async def test_open_paths_and_metrics(process, client):
    assert [card.id for card in client.models.list()] == ["m", "alias"]
    async with aiohttp.ClientSession(process[1]) as http:
        for path in ("/health", "/version", "/load", "/metrics"):
            async with http.get(path) as answer:
                assert answer.status == 200, path
                body = await answer.text()
    samples = {s.name: s for family in text_string_to_metric_families(body) for s in family.samples}
    wanted = "num_requests_running num_requests_waiting kv_cache_usage_perc prefix_cache_queries_total prefix_cache_hits_total"
    for name in (*wanted.split(), "num_preemptions_total", "prompt_tokens_total", "generation_tokens_total"):
        assert samples[f"vllm:{name}"].labels == {"engine": "0", "model_name": "m"}
    assert samples["vllm:generation_tokens_total"].value > 0
    info = samples["vllm:cache_config_info"].labels
    assert (info["num_gpu_blocks"], info["block_size"]) == ("1025", "32")


async def test_disconnect_frees_the_kv():
    async with (
        FakeServer(FakeConfig(shape=EngineShape(blocks=1025))) as server,
        aiohttp.ClientSession(server.url) as http,
    ):
        body = {"prompt": [7] * 300, "max_tokens": 20000, "stream": True}
        for stream in (True, False):
            answer = http.post("/v1/completions", json=body | {"stream": stream})
            if stream:
                response = await answer
                await response.content.readline()
                response.close()
            else:
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(answer, 0.3)
            await until(lambda: server.engine.is_idle)
            assert server.engine.pool.usage == 0
        assert server.engine.totals.finished["abort"] == 2


async def until(fact, limit_s=5.0):
    end = time.monotonic() + limit_s
    while not fact():
        assert time.monotonic() < end, "waited too long"
        await asyncio.sleep(0.01)
