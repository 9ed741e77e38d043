"""Real vLLM engines and priorities: who goes first, and what an engine does that was not started for them."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from saga_vllm.cleanup import belongings, sweep
from saga_vllm.launch import LaunchSpec, render
from saga_vllm.model import MODEL_SIZES, build_command
from saga_vllm.platform import Platform
from saga_vllm.probe import Ready, wait_ready

pytestmark = pytest.mark.vllm

KEY = "sk-priority-test"
START_DEADLINE_S = 120.0


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("models") / "nano"
    subprocess.run(build_command(out, "nano"), check=True, capture_output=True)
    return out


@contextlib.contextmanager
def worker(model: Path, folder: Path, *, priority: bool) -> Iterator[str]:
    """An engine that runs one request at a time; its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="saga-") as scratch:
        spec = LaunchSpec(
            model=str(model), served_names=("nano",), port=port, key=KEY, max_model_len=2048,
            kv_bytes=4096 * MODEL_SIZES["nano"].kv_bytes_per_token, max_num_seqs=1, priority=priority,
            cores=(min(os.sched_getaffinity(0)),), scratch=scratch,
        )  # fmt: skip
        launch = render(spec, Platform.CPU)
        with (folder / "worker.log").open("wb") as log:
            process = subprocess.Popen(
                launch.argv, env=launch.environment(os.environ), stdin=subprocess.DEVNULL,
                stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        ours = frozenset()
        try:
            url = f"http://127.0.0.1:{port}"
            answer = asyncio.run(wait_ready(url, KEY, ["nano"], deadline_s=START_DEADLINE_S))
            assert isinstance(answer, Ready), answer
            ours = belongings(process.pid)
            yield url
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)
            sweep(ours)


async def served(url: str, priorities: list[int]) -> list[int]:
    """In which order requests with these priorities are answered that come one after the other and have to wait."""
    order: list[int] = []
    async with aiohttp.ClientSession(url, headers={"Authorization": f"Bearer {KEY}"}) as http:

        async def ask(priority: int, tokens: int) -> None:
            body = {
                "model": "nano", "prompt": [20, 21, 22], "max_tokens": tokens, "ignore_eos": True,
                "temperature": 0, "priority": priority,
            }  # fmt: skip
            async with http.post("/v1/completions", json=body) as answer:
                assert answer.status == 200, await answer.text()
                await answer.read()
            order.append(priority)

        first = asyncio.create_task(ask(0, 1500))
        await waiting(http, "running", 1)
        others = []
        for number, priority in enumerate(priorities, start=1):
            others.append(asyncio.create_task(ask(priority, 4)))
            await waiting(http, "waiting", number)
        await asyncio.gather(first, *others)
    assert order[0] == 0, "the first one ran alone"
    return order[1:]


async def waiting(http: aiohttp.ClientSession, what: str, count: int) -> None:
    deadline = time.monotonic() + 20
    name = f"vllm:num_requests_{what}{{"
    while True:
        text = await (await http.get("/metrics")).text()
        found = [line for line in text.splitlines() if line.startswith(name)]
        if found and sum(float(line.rpartition(" ")[2]) for line in found) >= count:
            return
        assert time.monotonic() < deadline, found


ARRIVAL = [30, 1_700_000_000_123, -5, 10]
"""Whole milliseconds since 1970 are what a key of arrival comes to."""


def test_the_smallest_priority_goes_first(model, tmp_path) -> None:
    with worker(model, tmp_path, priority=True) as url:
        assert asyncio.run(served(url, ARRIVAL)) == sorted(ARRIVAL)


def test_an_engine_without_them_takes_and_ignores_them(model, tmp_path) -> None:
    """Its documentation says that it refuses them; vLLM 0.32 does not. So only a worker's own word tells."""
    with worker(model, tmp_path, priority=False) as url:
        assert asyncio.run(served(url, ARRIVAL)) == ARRIVAL
