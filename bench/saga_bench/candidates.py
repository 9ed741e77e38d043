"""What is measured: the head, a router beside it, or nothing at all between the load and the backend."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from signal import SIGKILL, SIGTERM

from saga_bench.bodies import chat_body
from saga_bench.native import built
from saga_bench.procfs import tree
from saga_core.errors import ClusterError, UserError, choose

CANDIDATES = ("direct", "saga", "saga-asyncio", "vllm-router")
START_S = 60.0
STOP_S = 10.0
POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class Running:
    """A candidate that answers. `pid` is None for `direct`: there is nothing whose cost could be told."""

    name: str
    port: int
    key: str = "none"
    pid: int | None = None


@dataclass(frozen=True, slots=True)
class Cores:
    """Where things run: the gateway has one to itself, backend and load share another."""

    gateway: int
    rest: int


def choose_cores() -> Cores:
    """The first two processors this process may use; the same one twice where there is only one."""
    allowed = sorted(os.sched_getaffinity(0))
    return Cores(allowed[0], allowed[min(1, len(allowed) - 1)])


@contextmanager
def pinned(core: int) -> Iterator[None]:
    """Processes started in here run on `core`."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def find_router(given: Path | None) -> Path | None:
    """The `vllm-router` to measure against; None where there is none. Raises `UserError` for a wrong path."""
    if given is not None and not os.access(given, os.X_OK):
        raise UserError(f"--vllm-router {given}: no such program (pip install vllm-router has one)")
    found = given or shutil.which("vllm-router")
    return Path(found) if found else None


def default_candidates(router: Path | None) -> tuple[str, ...]:
    """What is measured when nothing is said; `saga-asyncio` (without uvloop) has to be asked for."""
    return ("direct", "saga") if router is None else ("direct", "saga", "vllm-router")


def _has_uvloop() -> bool:
    return importlib.util.find_spec("uvloop") is not None


@contextmanager
def backend(core: int) -> Iterator[int]:
    """The C backend; yields its port."""
    with pinned(core):
        process = subprocess.Popen([built("backend"), "0"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@contextmanager
def running(
    name: str, backend_port: int, folder: Path, core: int, router: Path | None = None
) -> Iterator[Running]:
    """Start candidate `name` before the backend on `core`, with its files in `folder`; stop it at the end.

    Raises `ClusterError` with the end of its log where it does not answer.
    """
    if name == "direct":
        yield Running(name, backend_port)
        return
    folder.mkdir(mode=0o700, parents=True)
    port = free_port()
    command = _command(name, backend_port, folder, port, router)
    with (folder / "log").open("wb") as log, pinned(core):
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        found = _wait(name, process, folder, port)
        _wait_for_answer(found, process, folder)
        yield found
    finally:
        _stop(process)


def _command(name: str, backend_port: int, folder: Path, port: int, router: Path | None) -> Sequence[str]:
    match name:
        case "saga" | "saga-asyncio":
            loop = "uvloop" if name == "saga" and _has_uvloop() else "asyncio"
            return [sys.executable, "-m", "saga_bench.serve", str(folder), str(backend_port), "--loop", loop]
        case "vllm-router" if router is not None:
            worker = f"http://127.0.0.1:{backend_port}"
            ours = ["--host", "127.0.0.1", "--port", str(port), "--prometheus-port", str(free_port())]
            policy = ["--policy", "round_robin", "--log-level", "error"]
            return [str(router), "--worker-urls", worker, *policy, *ours]
        case "vllm-router":
            raise UserError("no vllm-router found on PATH; say where one is with --vllm-router")
        case _:
            raise choose("candidate", name, list(CANDIDATES))


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def _wait(name: str, process: subprocess.Popen[bytes], folder: Path, port: int) -> Running:
    """Where it listens: the head says so itself, a router was told."""
    if not name.startswith("saga"):
        return Running(name, port, pid=process.pid)
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError, ValueError):
            ready = json.loads((folder / "ready.json").read_bytes())
            return Running(name, ready["port"], ready["key"], process.pid)
        time.sleep(POLL_S)
    raise _not_up(name, folder)


def _wait_for_answer(candidate: Running, process: subprocess.Popen[bytes], folder: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError, urllib.error.URLError):
            ask(candidate)
            return
        time.sleep(0.1)
    raise _not_up(candidate.name, folder)


def ask(candidate: Running) -> bytes:
    """One small request. Raises `OSError` where it is not answered with 200."""
    url = f"http://127.0.0.1:{candidate.port}/v1/chat/completions"
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {candidate.key}"}
    with urllib.request.urlopen(urllib.request.Request(url, chat_body(1024), headers), timeout=3) as reply:
        answer: bytes = reply.read()
        return answer


def _not_up(name: str, folder: Path) -> ClusterError:
    tail = (folder / "log").read_bytes()[-800:].decode(errors="replace").strip()
    return ClusterError(f"{name} did not answer within {START_S:g} s; its log ends: {tail or '(empty)'}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    below = tree(process.pid)
    with suppress(OSError):
        process.send_signal(SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_S)
    for pid in below:
        with suppress(OSError):
            os.kill(pid, SIGKILL)
    process.wait()
