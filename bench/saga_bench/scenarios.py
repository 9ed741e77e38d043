"""What is done to a candidate, and which figures come of it. Each function returns figure -> value."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from saga_bench.bodies import chat_body
from saga_bench.candidates import Running, pinned
from saga_bench.native import built
from saga_bench.procfs import cpu_ns, pss_mb, rss_mb
from saga_core.errors import ClusterError

Figures = dict[str, float]
ENDLESS = 1_000_000
POLL_S = 0.002
QUIET_S = 15.0
SETTLE_S = 0.1
SETTLED_SHARE = 0.1
"""Of a core: what an idle head needs for its ticks and its journal is a tenth of that."""
CONNECT_US = 500
"""Between the first requests of two clients of a closed loop: nobody's accept queue has to take them all."""


@dataclass(frozen=True, slots=True)
class Bench:
    """Where scenarios run: the backend's port, a folder for bodies, the core of the load."""

    backend_port: int
    folder: Path
    core: int

    def body(self, name: str, content: bytes) -> Path:
        path = self.folder / f"{name}.json"
        path.write_bytes(content)
        return path


@dataclass(frozen=True, slots=True)
class Load:
    """Arguments of `native/load.c`."""

    clients: int
    body: Path
    seconds: float
    warm_s: float = 0.3
    stream: bool = False
    rate: float = 0.0
    stagger_us: int = 0


def start_load(bench: Bench, candidate: Running, load: Load) -> subprocess.Popen[str]:
    """Begin to ask; the caller waits. The key travels in the environment."""
    command = [
        str(built("load")), str(candidate.port), str(load.clients), str(load.seconds), str(load.warm_s),
        str(load.body), str(int(load.stream)), str(load.rate), str(load.stagger_us),
    ]  # fmt: skip
    with pinned(bench.core):
        return subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={"LOAD_KEY": candidate.key, "PATH": os.environ.get("PATH", "")},
        )


def finish_load(process: subprocess.Popen[str], candidate: Running) -> Figures:
    """Wait for its figures. Raises `ClusterError` where nothing good came back."""
    out, err = process.communicate()
    if process.returncode != 0:
        raise ClusterError(f"the load generator failed: {err.strip()[-400:]}")
    found: Figures = json.loads(out)
    if found["bad"] > 0:
        raise ClusterError(f"{candidate.name} answered {found['bad']:g} requests with an error: {err[:400]}")
    return found


def settle(candidate: Running) -> None:
    """Wait until the candidate has dealt with what the last scenario left behind: it is nobody's latency."""
    if candidate.pid is None:
        return
    deadline = time.monotonic() + QUIET_S
    before = cpu_ns(candidate.pid)
    while time.monotonic() < deadline:
        time.sleep(SETTLE_S)
        now = cpu_ns(candidate.pid)
        if now - before < SETTLE_S * 1e9 * SETTLED_SHARE:
            return
        before = now


def _run(bench: Bench, candidate: Running, load: Load) -> tuple[Figures, float]:
    """Its figures, and the microseconds of processor the candidate took meanwhile."""
    settle(candidate)
    before = cpu_ns(candidate.pid) if candidate.pid is not None else 0
    found = finish_load(start_load(bench, candidate, load), candidate)
    used_ns = cpu_ns(candidate.pid) - before if candidate.pid is not None else 0
    return found, used_ns / 1e3


def requests(
    bench: Bench, candidate: Running, *, size_bytes: int, clients: int, rate: float, seconds: float
) -> Figures:
    """Closed loop for requests/s and CPU; latency at a fixed rate, where a queue would hide it otherwise."""
    body = bench.body(f"plain-{size_bytes}", chat_body(size_bytes))
    warm_s = 0.3 + clients * CONNECT_US / 1e6
    closed, cpu_us = _run(bench, candidate, Load(clients, body, seconds, warm_s, stagger_us=CONNECT_US))
    paced = closed
    if clients > 1:
        paced, _ = _run(bench, candidate, Load(clients, body, seconds, rate=rate))
    figures = {
        "per_s": closed["per_s"],
        "latency_p50_us": paced["latency_p50_us"],
        "latency_p99_us": paced["latency_p99_us"],
        "errors": closed["errors"] + paced["errors"],
    }
    if candidate.pid is not None:
        figures["cpu_us_per_request"] = round(cpu_us / max(1.0, closed["all_requests"]), 1)
    return figures


def streams(bench: Bench, candidate: Running, *, clients: int, seconds: float) -> Figures:
    """`clients` streams of 20 events per second: the CPU each event costs, and how long it is on its way."""
    body = bench.body("stream", chat_body(1024, stream=True, events=200, gap_us=50_000))
    warm_s = 0.5 + clients / 512  # a stream starts per millisecond
    load = Load(clients, body, seconds, warm_s=warm_s, stream=True, stagger_us=1000)
    found, cpu_us = _run(bench, candidate, load)
    figures = {
        "events_per_s": found["events_s"],
        "transit_p50_us": found["transit_p50_us"],
        "transit_p99_us": found["transit_p99_us"],
        "errors": found["errors"],
    }
    if candidate.pid is not None:
        figures["cpu_us_per_event"] = round(cpu_us / max(1.0, found["all_events"]), 2)
    return figures


def first_bytes(bench: Bench, candidate: Running, *, seconds: float) -> Figures:
    """200 short streams a second over 64 clients: time from the request to the first event."""
    body = bench.body("short", chat_body(1024, stream=True, events=10, gap_us=20_000))
    found, _ = _run(bench, candidate, Load(64, body, seconds, stream=True, rate=200.0))
    return {"ttfb_p50_us": found["ttfb_p50_us"], "ttfb_p99_us": found["ttfb_p99_us"]}


def memory(bench: Bench, candidate: Running, *, count: int, seconds: float) -> Figures:
    """What `count` open streams cost, each of a client (for saga: a live workflow) of its own."""
    assert candidate.pid is not None
    idle_mb = pss_mb(candidate.pid)
    body = bench.body("slow", chat_body(1024, stream=True, events=ENDLESS, gap_us=500_000))
    process = start_load(bench, candidate, Load(count, body, seconds, stream=True, stagger_us=500))
    deadline = time.monotonic() + seconds + 5
    while backend_stats(bench)["active"] < count and time.monotonic() < deadline:
        time.sleep(0.05)
    active = backend_stats(bench)["active"]
    open_mb, resident_mb = pss_mb(candidate.pid), rss_mb(candidate.pid)
    finish_load(process, candidate)
    if active < count:
        raise ClusterError(f"{candidate.name}: {active} of {count} streams were open after {seconds:g} s")
    return {
        "pss_idle_mb": round(idle_mb, 1),
        "pss_open_mb": round(open_mb, 1),
        "kb_per_stream": round((open_mb - idle_mb) * 1024 / count, 1),
        "rss_open_mb": round(resident_mb, 1),
    }


def leaving(bench: Bench, candidate: Running, *, silence_ms: int, times: int) -> Figures:
    """A client that goes while its worker is silent: milliseconds until the worker's end sees it, at worst."""
    figures: Figures = {}
    for name, stream in (("stream_ms", True), ("plain_ms", False)):
        body = chat_body(1024, stream=stream, events=ENDLESS, gap_us=20_000, silence_ms=silence_ms)
        figures[name] = max(_leave(bench, candidate, body, silence_ms) for _ in range(times))
    return figures


def _leave(bench: Bench, candidate: Running, body: bytes, silence_ms: int) -> float:
    _await(bench, "active", 0, QUIET_S)  # streams of earlier scenarios
    before = backend_stats(bench)
    client = _post(candidate, body)
    if not _await(bench, "active", 1, silence_ms / 1e3):
        raise ClusterError(f"{candidate.name}: the request did not reach the backend")
    left_ns = time.monotonic_ns()
    client.close()
    if not _await(bench, "aborted", before["aborted"] + 1, 2 * silence_ms / 1e3 + 2):
        return 2.0 * silence_ms  # never seen: a plain reply was written to nobody
    return round((backend_stats(bench)["last_abort_ns"] - left_ns) / 1e6, 2)


def stalled(candidate: Running, *, readers: int = 4, seconds: float) -> Figures:
    """Clients that read nothing of a flood: how the candidate's memory grows."""
    assert candidate.pid is not None
    body = chat_body(1024, stream=True, events=ENDLESS)
    before = rss_mb(candidate.pid)
    with ExitStack() as stack:
        for _ in range(readers):
            stack.enter_context(_post(candidate, body))
        time.sleep(seconds / 2)
        half = rss_mb(candidate.pid)
        time.sleep(seconds / 2)
        whole = rss_mb(candidate.pid)
    return {"growth_mb": round(whole - before, 2), "second_half_mb": round(whole - half, 2)}


def _post(candidate: Running, body: bytes) -> socket.socket:
    """Send a request and do not read."""
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{candidate.port}\r\n"
        f"Content-Type: application/json\r\nAuthorization: Bearer {candidate.key}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    client = socket.create_connection(("127.0.0.1", candidate.port), timeout=10)
    client.sendall(head.encode() + body)
    return client


def backend_stats(bench: Bench) -> dict[str, int]:
    """What the backend has seen."""
    connection = http.client.HTTPConnection("127.0.0.1", bench.backend_port, timeout=10)
    try:
        connection.request("GET", "/stats")
        found: dict[str, int] = json.loads(connection.getresponse().read())
        return found
    finally:
        connection.close()


def _await(bench: Bench, name: str, value: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = backend_stats(bench)[name]
        if found == value if name == "active" else found >= value:
            return True
        time.sleep(POLL_S)
    return False
