"""A whole head with one scripted engine double, and client programs run as their users run them."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PROGRAMS = Path(__file__).parent / "programs"
CLIENTS = ROOT / ".venv-clients" / "bin" / "python"
"""Built by `scripts/clients.sh`; its packages are no part of saga's own environment."""
START_S = 60.0
RUN_S = 110.0


@dataclass
class Cluster:
    """Where it is, and what it says of those who called."""

    folder: Path
    url: str
    key: str

    def rules(self) -> dict[str, int]:
        """Steps so far by identity rule."""
        with urllib.request.urlopen(f"{self.url}/metrics") as reply:
            text = reply.read().decode()
        found = re.findall(r'saga_steps_identified_total\{rule="([^"]+)"\} (\S+)', text)
        return {rule: int(float(count)) for rule, count in found}

    def ask(self, method: str, path: str, body: object = None) -> Any:
        """The control API."""
        admin = json.loads((self.folder / "access.json").read_bytes())["admin_key"]
        request = urllib.request.Request(
            self.url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {admin}"},
        )
        with urllib.request.urlopen(request) as reply:
            return json.load(reply)

    def run(self, command: list[str], environment: dict[str, str], cwd: Path | None = None) -> str:
        """Run a program to its end, which has to be a good one; what it printed."""
        done = subprocess.run(
            command, env=environment, cwd=cwd or self.folder, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=RUN_S, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        return done.stdout

    def environment(self, base: str = "", key: str = "") -> dict[str, str]:
        """All that a program is told: where, and with which key."""
        root = base.removesuffix("/v1") or self.url
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "OPENAI_BASE_URL": f"{root}/v1",
            "OPENAI_API_KEY": key or self.key,
            "ANTHROPIC_BASE_URL": root,
            "ANTHROPIC_API_KEY": key or self.key,
        }


def npm_program(name: str) -> str:
    """A command-line program of the clients' environment; without it the test skips."""
    path = ROOT / ".venv-clients" / "npm" / "node_modules" / ".bin" / name
    if not path.exists():
        pytest.skip(f"no {name} in .venv-clients: scripts/clients.sh installs it where npm is")
    return str(path)


def made_since(before: dict[str, int], cluster: Cluster) -> dict[str, int]:
    """Steps by rule that were not there before."""
    counts = {rule: count - before.get(rule, 0) for rule, count in cluster.rules().items()}
    return {rule: count for rule, count in counts.items() if count}


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


@contextlib.contextmanager
def a_head(folder: Path, engine_port: int) -> Iterator[Cluster]:
    """A whole head in its own process, with the engine at that port as its one worker `m`."""
    head = subprocess.Popen([sys.executable, "-m", "saga_bench.serve", str(folder), str(engine_port)])
    try:
        ready = folder / "ready.json"
        deadline = time.monotonic() + START_S
        while not ready.exists():
            assert head.poll() is None, "the head has ended"
            assert time.monotonic() < deadline, "the head does not start"
            time.sleep(0.05)
        found = json.loads(ready.read_bytes())
        cluster = Cluster(folder, f"http://127.0.0.1:{found['port']}", found["key"])
        serving(f"{cluster.url}/health", head)
        yield cluster
    finally:
        head.send_signal(signal.SIGTERM)
        head.wait(20)


def serving(url: str, process: subprocess.Popen[bytes], deadline_s: float = START_S) -> None:
    """Wait until `process` answers at `url`."""
    deadline = time.monotonic() + deadline_s
    while True:
        assert process.poll() is None, f"{url}: its process ended"
        try:
            urllib.request.urlopen(url).close()
        except OSError:
            assert time.monotonic() < deadline, f"{url} does not answer"
            time.sleep(0.05)
        else:
            return


Run = Callable[..., tuple[Any, dict[str, int]]]
