"""A cluster for all tests here, and a way to run programs of the clients' environment against it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from clients_rig import CLIENTS, PROGRAMS, Cluster, Run, a_head, free_port, made_since, serving


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if not CLIENTS.exists():
        pytest.skip("no .venv-clients: build it by scripts/clients.sh")
    folder = tmp_path_factory.mktemp("cluster")
    script = folder / "script.jsonl"
    script.write_text("".join(path.read_text() for path in sorted(PROGRAMS.glob("*.jsonl"))))
    engine_port = free_port()
    environment = os.environ | {"VLLM_API_KEY": "backend"}
    engine = subprocess.Popen(
        [sys.executable, "-m", "saga_fake", "--port", str(engine_port), "--served-model-name", "m",
         "--speed", "200", "--reply-tokens", "12", "--script", str(script)],
        env=environment, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        serving(f"http://127.0.0.1:{engine_port}/health", engine)
        with a_head(folder, engine_port) as cluster:
            yield cluster
    finally:
        engine.send_signal(signal.SIGTERM)
        engine.wait(20)


@pytest.fixture
def run(cluster: Cluster) -> Run:
    """Run a client program; what it printed last as JSON, and the steps by rule that it made."""

    def run(name: str, *, base: str = "", key: str = "") -> tuple[Any, dict[str, int]]:
        before = cluster.rules()
        printed = cluster.run([str(CLIENTS), str(PROGRAMS / f"{name}.py")], cluster.environment(base, key))
        return json.loads(printed.strip().splitlines()[-1]), made_since(before, cluster)

    return run
