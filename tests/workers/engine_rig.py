"""A real vLLM CPU worker with session control, started as the node daemon starts it, for live tests."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from random import Random

import aiohttp

from saga_vllm.cleanup import belongings, sweep
from saga_vllm.diagnose import TAIL_BYTES, reason_from_log
from saga_vllm.launch import LaunchSpec, render
from saga_vllm.model import MODEL_SIZES, build_command
from saga_vllm.platform import Platform
from saga_vllm.probe import Ready, wait_ready

KEY = "sk-control-test"
BLOCK = 32
POOL_TOKENS = 8192
START_DEADLINE_S = 120.0
INCARNATION = 1234
KV_BYTES = MODEL_SIZES["nano"].kv_bytes_per_token


@dataclass
class Worker:
    url: str
    scratch: Path
    log: Path
    seeds: Iterator[int]
    process: subprocess.Popen

    def prompt(self, tokens: int) -> list[int]:
        """A prompt that nobody has had before."""
        rng = Random(next(self.seeds))
        return [rng.randrange(16, 4000) for _ in range(tokens)]

    async def step(self, session: str | None, prompt: list[int], tokens: int = 1, **more: object) -> int:
        """One step; how many tokens of its prompt were found."""
        body = {
            "model": "nano",
            "prompt": prompt,
            "max_tokens": tokens,
            "temperature": 0,
            "ignore_eos": True,
            "return_token_ids": True,
        }
        headers = {"Authorization": f"Bearer {KEY}"} | ({"X-Session-ID": session} if session else {})
        async with (
            aiohttp.ClientSession(self.url, headers=headers) as http,
            http.post("/v1/completions", json=body | more) as answer,
        ):
            assert answer.status == 200, await answer.text()
            said = await answer.json()
        self.said = said["choices"][0].get("token_ids")
        return said["usage"]["prompt_tokens_details"]["cached_tokens"] or 0

    async def traffic(self, tokens: int) -> None:
        """Other sessions' steps, one after the other."""
        for _ in range(tokens // 2000):
            await self.step(f"{next(self.seeds)}.other", self.prompt(2000))

    async def reset(self) -> bool:
        async with aiohttp.ClientSession(self.url) as http, http.post("/reset_prefix_cache") as answer:
            return answer.status == 200


@contextlib.contextmanager
def started(folder: Path, **more: object) -> Iterator[Worker]:
    """A worker with a pool of `POOL_TOKENS`; `more` is of its LaunchSpec, and goes before what stands here."""
    model = folder / "nano"
    if not model.exists():
        subprocess.run(build_command(model, "nano"), check=True, capture_output=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = folder / f"worker-{port}.log"
    scratch = Path(tempfile.mkdtemp(prefix="saga-"))
    usual = {
        "max_model_len": 8000, "kv_bytes": (POOL_TOKENS + BLOCK) * KV_BYTES, "block_tokens": BLOCK, "priority": True,
        "control": True, "incarnation": INCARNATION,
        "kv_endpoint": f"ipc://{scratch}/events", "kv_replay_endpoint": f"ipc://{scratch}/replay",
    }  # fmt: skip
    spec = LaunchSpec(
        model=str(model), served_names=("nano",), port=port, key=KEY, cores=(min(os.sched_getaffinity(0)),),
        scratch=str(scratch), **usual | more,
    )  # fmt: skip
    launch = render(spec, Platform.CPU)
    env = launch.environment(os.environ) | {"VLLM_SERVER_DEV_MODE": "1"}  # for /reset_prefix_cache
    with log.open("wb") as out:
        process = subprocess.Popen(
            launch.argv, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
    ours = frozenset()
    try:
        url = f"http://127.0.0.1:{port}"
        answer = asyncio.run(wait_ready(url, KEY, ["nano"], deadline_s=START_DEADLINE_S))
        assert isinstance(answer, Ready), f"{answer}; {reason_from_log(log.read_text()[-TAIL_BYTES:])}"
        ours = belongings(process.pid)
        yield Worker(url, scratch, log, count(1), process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)
        sweep(ours, scratch)
