"""One real vLLM CPU worker, started as the node daemon starts it. Run as a whole: the last test kills it."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import psutil
import pytest

from saga_vllm.cleanup import belongings, sweep
from saga_vllm.diagnose import TAIL_BYTES, reason_from_log
from saga_vllm.kv_events import Batch, BlockStored, KvEvents
from saga_vllm.launch import LaunchSpec, render
from saga_vllm.listener import family, listener_is_ours
from saga_vllm.metrics import EngineLoad, parse_metrics
from saga_vllm.model import MODEL_SIZES, build_command
from saga_vllm.platform import Platform
from saga_vllm.probe import NotReady, Ready, probe, wait_ready

pytestmark = pytest.mark.vllm

KEY = "sk-live-test"
BLOCK = 32
POOL_TOKENS = 8192
CONTEXT_TOKENS = 4096
START_DEADLINE_S = 100.0

FIRST_PROMPT = list(range(20, 220))
SESSION = "wf-1.s-1"


@dataclass
class Worker:
    process: subprocess.Popen
    port: int
    scratch: Path
    log: Path
    ready: Ready
    start_s: float

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def complete(self, prompt: list[int], session: str) -> dict:
        body = {
            "model": "nano",
            "prompt": prompt,
            "max_tokens": 8,
            "temperature": 0,
            "ignore_eos": True,
            "return_token_ids": True,
        }
        headers = {"Authorization": f"Bearer {KEY}", "X-Session-ID": session}
        async with aiohttp.ClientSession(self.url) as http:
            answer = await http.post("/v1/completions", json=body, headers=headers)
            assert answer.status == 200, await answer.text()
            return await answer.json()

    async def load(self) -> EngineLoad:
        async with aiohttp.ClientSession(self.url) as http:
            return parse_metrics(await (await http.get("/metrics")).text())

    def events(self) -> KvEvents:
        return KvEvents(f"ipc://{self.scratch}/events", f"ipc://{self.scratch}/replay", sync_s=0.3)


def free_port() -> int:
    with socket.socket() as probe_socket:
        probe_socket.bind(("127.0.0.1", 0))
        return probe_socket.getsockname()[1]


def spawn(model: Path, port: int, scratch: Path, log: Path) -> subprocess.Popen:
    spec = LaunchSpec(
        model=str(model),
        served_names=("nano", "default"),
        port=port,
        key=KEY,
        max_model_len=CONTEXT_TOKENS,
        kv_bytes=POOL_TOKENS * MODEL_SIZES["nano"].kv_bytes_per_token,
        cores=(min(os.sched_getaffinity(0)),),
        kv_endpoint=f"ipc://{scratch}/events",
        kv_replay_endpoint=f"ipc://{scratch}/replay",
        scratch=str(scratch),
    )
    launch = render(spec, Platform.CPU)
    with log.open("wb") as out:
        return subprocess.Popen(
            launch.argv,
            env=launch.environment(os.environ),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def kill_group(process: subprocess.Popen) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(10)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("models") / "nano"
    subprocess.run(build_command(out, "nano"), check=True, capture_output=True)
    return out


@pytest.fixture
def scratch() -> Iterator[Path]:
    yield from _scratch()


def _scratch() -> Iterator[Path]:
    """A short path: a socket's name takes 107 bytes, and pytest's folders are long."""
    folder = Path(tempfile.mkdtemp(prefix="saga-"))
    yield folder
    sweep((), folder)


@pytest.fixture(scope="module")
def worker(model: Path, tmp_path_factory) -> Iterator[Worker]:
    log = tmp_path_factory.mktemp("log") / "worker.log"
    scratches = _scratch()
    folder, port, started = next(scratches), free_port(), time.monotonic()
    process = spawn(model, port, folder, log)
    try:
        url = f"http://127.0.0.1:{port}"
        answer = asyncio.run(wait_ready(url, KEY, ["nano", "default"], deadline_s=START_DEADLINE_S))
        assert isinstance(answer, Ready), f"{answer}; {reason_from_log(log.read_text()[-TAIL_BYTES:])}"
        yield Worker(process, port, folder, log, answer, time.monotonic() - started)
    finally:
        kill_group(process)
        next(scratches, None)


def test_it_is_ready_and_ours(worker: Worker, record_property) -> None:
    record_property("start_s", worker.start_s)
    print(f"started in {worker.start_s:.1f} s")
    assert worker.ready.max_model_len == CONTEXT_TOKENS
    assert worker.ready.pool.block_tokens == BLOCK
    assert worker.ready.pool.tokens == POOL_TOKENS - BLOCK
    assert listener_is_ours(worker.port, worker.process.pid)


async def test_a_wrong_key_is_refused(worker: Worker) -> None:
    assert await probe(worker.url, "sk-wrong", ["nano"]) == NotReady("GET /v1/models gave 401 and not 200")
    assert await probe(worker.url, KEY, ["gpt"]) == NotReady("serves default, nano and not gpt")


def test_the_key_is_in_no_command_line_and_no_log(worker: Worker) -> None:
    for process in family(worker.process.pid):
        assert KEY not in " ".join(process.cmdline())
    assert KEY not in worker.log.read_text()


async def test_a_sessions_second_step_reuses_its_first(worker: Worker) -> None:
    before = await worker.load()
    first = await worker.complete(FIRST_PROMPT, SESSION)
    assert first["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    longer = [*FIRST_PROMPT, *first["choices"][0]["token_ids"], *range(300, 400)]
    second = await worker.complete(longer, SESSION)
    whole_blocks = len(FIRST_PROMPT) // BLOCK * BLOCK
    assert second["usage"]["prompt_tokens_details"]["cached_tokens"] == whole_blocks

    after = await worker.load()
    assert (after.running, after.waiting, after.kv_usage, after.preemptions) == (0, 0, 0.0, 0)
    assert after.prompt_tokens - before.prompt_tokens == len(FIRST_PROMPT) + len(longer)
    assert after.generation_tokens - before.generation_tokens == 16
    assert after.prefix_hits_tokens - before.prefix_hits_tokens == whole_blocks
    assert after.prefix_queries_tokens - before.prefix_queries_tokens == len(FIRST_PROMPT) + len(longer)


async def test_kv_events_name_the_session_and_cover_its_prompt(worker: Worker) -> None:
    prompt, session = list(range(500, 500 + 5 * BLOCK + 3)), "wf-2.s-1"
    events = worker.events()
    try:
        await worker.complete(prompt, session)
        stored: list[BlockStored] = []
        async with asyncio.timeout(10):
            async for batch in events:
                assert isinstance(batch, Batch)
                stored += [e for e in batch.events if isinstance(e, BlockStored) and e.session_id == session]
                if sum(len(e.block_hashes) for e in stored) >= len(prompt) // BLOCK:
                    break
    finally:
        events.close()
    tokens = [token for event in stored for token in event.token_ids]
    assert tokens[: 5 * BLOCK] == prompt[: 5 * BLOCK]
    assert stored[0].parent_block_hash is None
    assert all(event.block_size == BLOCK for event in stored)


async def test_a_late_subscriber_sees_every_batch_from_the_first(worker: Worker) -> None:
    await worker.complete(list(range(900, 900 + BLOCK)), "wf-3.s-1")
    events = worker.events()
    try:
        async with asyncio.timeout(10):
            first, second = await anext(events), await anext(events)
    finally:
        events.close()
    assert isinstance(first, Batch)
    assert isinstance(second, Batch)
    assert (first.seq, second.seq) == (0, 1)


def test_a_taken_port_ends_the_start_with_a_reason(
    worker: Worker, model: Path, scratch: Path, tmp_path
) -> None:
    second = spawn(model, worker.port, scratch, tmp_path / "second.log")
    try:
        assert second.wait(60) == 1
    finally:
        kill_group(second)
    assert "port was taken" in reason_from_log((tmp_path / "second.log").read_text())
    assert not listener_is_ours(worker.port, second.pid), "the listener there is another worker"


def test_killed_it_leaves_no_process_and_no_file(worker: Worker) -> None:
    members = list(family(worker.process.pid))
    assert len(members) >= 2, "the server and its engine"
    files = belongings(worker.process.pid)
    os.killpg(worker.process.pid, signal.SIGKILL)
    worker.process.wait(10)
    _, alive = psutil.wait_procs(members, timeout=10)
    assert alive == []
    assert list(family(worker.process.pid)) == []
    assert any((worker.scratch).iterdir()), "vLLM's sockets are in the scratch folder, not in /tmp"
    assert set(sweep(files, worker.scratch)) == {*files, worker.scratch}
    assert not worker.scratch.exists()
    assert [path for path in files if path.exists()] == []
