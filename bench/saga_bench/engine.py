"""One real vLLM CPU worker, started and ended by a benchmark as the node daemon does it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
import socket
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from saga_core.errors import ClusterError
from saga_vllm import cleanup, platform
from saga_vllm.diagnose import TAIL_BYTES, reason_from_log
from saga_vllm.launch import LaunchSpec, render
from saga_vllm.model import MODEL_SIZES, build_command
from saga_vllm.probe import Ready, wait_ready

HOST = "127.0.0.1"
NAME = "bench"
START_S = 300.0
INCARNATION = 1


@dataclass(frozen=True, slots=True)
class Running:
    """A ready one; the key is its own."""

    url: str
    key: str
    pid: int
    folder: Path
    """Its scratch folder: its log is there, and with `events` its sockets."""


async def build(size: str, folder: Path) -> Path:
    """A demo model of that size in `folder`. ClusterError says why not."""
    made = folder / size
    process = await asyncio.create_subprocess_exec(
        *build_command(made, size), stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    _, errors = await process.communicate()
    if process.returncode:
        raise ClusterError(f"cannot make the model {size}: {errors[-300:].decode('utf-8', 'replace')}")
    return made


@contextlib.asynccontextmanager
async def running(
    model: Path,
    *,
    pool_tokens: int,
    max_model_len: int,
    host_tokens: int,
    control: bool,
    incarnation: int = INCARNATION,
    events: bool = False,
) -> AsyncIterator[Running]:
    """A worker on one core with that pool; nothing of it is left afterwards.

    `events`: it publishes KV events at `events` and `replay` in its folder, and lets its prefix cache be reset.
    """
    folder = Path(tempfile.mkdtemp(prefix="sb-"))
    ours: frozenset[Path] = frozenset()
    size = MODEL_SIZES[model.name].kv_bytes_per_token
    with socket.socket() as found:
        found.bind((HOST, 0))
        port = found.getsockname()[1]
    block = platform.CPU_BLOCK_TOKENS
    spec = LaunchSpec(
        model=str(model), served_names=(NAME,), port=port, key=secrets.token_urlsafe(), host=HOST,
        max_model_len=max_model_len, kv_bytes=(pool_tokens + block) * size, block_tokens=block,
        cores=(min(os.sched_getaffinity(0)),), scratch=str(folder), control=control, incarnation=incarnation,
        host_bytes=host_tokens * size,
        kv_endpoint=f"ipc://{folder}/events" if events else None,
        kv_replay_endpoint=f"ipc://{folder}/replay" if events else None,
    )  # fmt: skip
    launch = render(spec, platform.Platform.CPU)
    environment = launch.environment(os.environ) | ({"VLLM_SERVER_DEV_MODE": "1"} if events else {})
    log = folder / "worker.log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *launch.argv, env=environment, stdin=asyncio.subprocess.DEVNULL,
            stdout=output, stderr=asyncio.subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        answer = await wait_ready(f"http://{HOST}:{port}", spec.key, [NAME], deadline_s=START_S)
        if not isinstance(answer, Ready):
            tail = log.read_bytes()[-TAIL_BYTES:].decode("utf-8", "replace")
            raise ClusterError(f"the worker did not start: {reason_from_log(tail)} ({answer.reason})")
        ours = await asyncio.to_thread(cleanup.belongings, process.pid)
        yield Running(f"http://{HOST}:{port}", spec.key, process.pid, folder)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        await asyncio.to_thread(cleanup.sweep, ours, folder)
        shutil.rmtree(folder, ignore_errors=True)
