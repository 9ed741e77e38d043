"""What `saga --help` may import: the start of every command stays light (under 300 ms)."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {
    "aiohttp", "asyncio", "http.client", "openai", "psutil", "rich", "saga_bench", "saga_fake", "saga_head",
    "saga_node", "saga_sim", "saga_vllm", "ssl", "torch", "vllm", "zmq",
}  # fmt: skip
PROGRAM = """
import sys
from saga_cli.main import run
code = run(sys.argv[1:])
print(*sorted(sys.modules), file=sys.stderr)
sys.exit(code)
"""


@pytest.mark.parametrize("command", [["--help"], ["--version"], ["up", "--help"], ["trace", "--help"]])
def test_help_imports_nothing_heavy(command):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *command], capture_output=True, text=True, check=True
    )
    assert done.stdout
    loaded = set(done.stderr.split())
    assert "saga_cli.main" in loaded, "the list is the one we look for"
    assert not loaded & HEAVY


COMMANDS = (
    "up", "down", "status", "url", "profile", "submit", "ps", "inspect", "logs", "wait", "cancel", "top", "demo",
    "trace", "config", "bench", "doctor", "events", "completion", "explain",
)  # fmt: skip


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_in_the_help_and_takes_the_common_options(name, saga):
    assert f"\n  {name} " in saga("--help").out
    assert "--cluster-dir" in saga(name, "--help").out
