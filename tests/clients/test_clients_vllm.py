"""The APIs that vLLM serves itself, on a real CPU worker behind a whole head."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from clients_rig import Cluster, a_head, free_port, serving

from saga_vllm.launch import LaunchSpec, render
from saga_vllm.model import MODEL_SIZES, build_command
from saga_vllm.platform import Platform

openai = pytest.importorskip("openai", reason="the extra `openai` is not installed")
anthropic = pytest.importorskip("anthropic", reason="its package is not installed")

pytestmark = pytest.mark.vllm

POOL_TOKENS = 8192
LONG = "hello there friend " * 60
"""Some 430 tokens: 13 blocks and a rest."""


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("real")
    subprocess.run(build_command(folder / "nano", "nano"), check=True, capture_output=True)
    scratch, port = Path(tempfile.mkdtemp(prefix="saga-")), free_port()
    spec = LaunchSpec(
        model=str(folder / "nano"),
        served_names=("m",),
        port=port,
        key="backend",
        max_model_len=4096,
        kv_bytes=POOL_TOKENS * MODEL_SIZES["nano"].kv_bytes_per_token,
        cores=(min(os.sched_getaffinity(0)),),
        kv_endpoint=f"ipc://{scratch}/events",
        kv_replay_endpoint=f"ipc://{scratch}/replay",
        scratch=str(scratch),
    )
    launch = render(spec, Platform.CPU)
    with (folder / "worker.log").open("wb") as log:
        engine = subprocess.Popen(
            launch.argv, env=launch.environment(os.environ), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
    try:
        serving(f"http://127.0.0.1:{port}/health", engine, 110.0)
        with a_head(folder, port) as cluster:
            yield cluster
    finally:
        os.killpg(engine.pid, signal.SIGKILL)
        engine.wait(20)
        shutil.rmtree(scratch, ignore_errors=True)


@pytest.fixture(scope="module")
def key(real: Cluster) -> str:
    made: str = real.ask("POST", "/saga/v1/tenants", {"name": "physics"})["key"]
    return made


@pytest.fixture
def opened() -> Iterator[contextlib.ExitStack]:
    """What clients keep open is closed after the test."""
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.fixture
def gpt(real: Cluster, opened: contextlib.ExitStack) -> Callable[[str], Any]:
    def client(key: str) -> Any:
        return opened.enter_context(openai.OpenAI(base_url=f"{real.url}/v1", api_key=key, max_retries=0))

    return client


def test_messages(real: Cluster, key: str, opened: contextlib.ExitStack) -> None:
    client = opened.enter_context(anthropic.Anthropic(base_url=real.url, api_key=key, max_retries=0))
    asked: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": LONG}]}
    client.messages.create(max_tokens=8, **asked)
    with client.messages.stream(max_tokens=8, **asked) as stream:
        usage = stream.get_final_message().usage
    counted = client.messages.count_tokens(**asked).input_tokens
    assert usage.input_tokens + usage.cache_read_input_tokens == counted
    assert usage.cache_read_input_tokens > 400
    with pytest.raises(anthropic.BadRequestError) as caught:
        client.messages.create(max_tokens=-1, **asked)
    assert caught.value.body["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("stream", [False, True])
def test_responses_that_continue_others(gpt: Callable[[str], Any], key: str, stream: bool) -> None:
    client = gpt(key)
    first = client.responses.create(model="m", input=LONG, max_output_tokens=8)
    asked: dict[str, Any] = {"model": "m", "input": "and?", "previous_response_id": first.id}
    if stream:
        with client.responses.stream(**asked) as events:
            events.until_done()
            second = events.get_final_response()
    else:
        second = client.responses.create(max_output_tokens=8, **asked)
    assert second.usage.input_tokens > first.usage.input_tokens + first.usage.output_tokens
    assert second.usage.input_tokens_details.cached_tokens > 400


def test_another_tenant_finds_nothing_in_the_cache(
    real: Cluster, gpt: Callable[[str], Any], key: str
) -> None:
    cached = []
    for used in (key, key, real.key, real.key):
        prompt = [{"role": "user", "content": "a prompt of this test alone " * 40}]
        usage = gpt(used).chat.completions.create(model="m", messages=prompt, max_tokens=2).usage
        cached.append(usage.prompt_tokens_details.cached_tokens > 100)
    assert cached == [False, True, False, True]


def test_a_worker_without_an_api_says_so_in_its_shape(real: Cluster, gpt: Callable[[str], Any]) -> None:
    client = gpt(real.key)
    started = time.monotonic()
    with pytest.raises(openai.NotFoundError) as caught:
        client.embeddings.create(model="m", input="x")
    assert caught.value.code == "worker_error"
    assert time.monotonic() - started < 10
