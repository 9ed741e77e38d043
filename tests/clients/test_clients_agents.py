"""Agent programs as their users start them: the address in the environment, the rest as it comes."""

from __future__ import annotations

from pathlib import Path

import pytest
from clients_rig import CLIENTS, Cluster, made_since, npm_program


def test_mini_swe_agent_fixes_a_bug_as_a_workflow(cluster: Cluster, tmp_path: Path) -> None:
    mini = CLIENTS.with_name("mini")
    if not mini.exists():
        pytest.skip("no .venv-clients: build it by scripts/clients.sh")
    (tmp_path / "calc.py").write_text("def add(a, b):\n    return a - b\n")
    accepted = cluster.ask("POST", "/saga/v1/workflows", {"kind": "replay", "name": "mini"})
    environment = cluster.environment(accepted["base_url"], accepted["api_key"]) | {
        "MSWEA_CONFIGURED": "true",
        "MSWEA_COST_TRACKING": "ignore_errors",
    }
    before = cluster.rules()
    command = [
        str(mini),
        "-m",
        "openai/m",
        "-t",
        "mini-swe: add is wrong, fix calc.py",
        "-y",
        "--exit-immediately",
    ]
    cluster.run([*command, "-o", str(tmp_path / "trajectory.json")], environment, tmp_path)
    assert (tmp_path / "calc.py").read_text() == "def add(a, b):\n    return a + b\n"
    assert made_since(before, cluster) == {"token+content": 3}
    view = cluster.ask("GET", f"/saga/v1/workflows/{accepted['id']}")
    assert view["steps"] == 3
    assert [session["id"] for session in view["sessions"]] == [f"{accepted['id']}.main"]
    assert view["cached_tokens"] > 0


def test_claude_code_writes_a_file(cluster: Cluster, tmp_path: Path) -> None:
    claude = npm_program("claude")
    environment = cluster.environment() | {
        "ANTHROPIC_MODEL": "m",
        "ANTHROPIC_SMALL_FAST_MODEL": "m",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    }
    before = cluster.rules()
    printed = cluster.run(
        [claude, "-p", "claude-code: make hello.txt", "--allowedTools", "Bash"], environment, tmp_path
    )
    assert printed.strip() == "The file is there."
    assert (tmp_path / "hello.txt").read_text() == "hello\n"
    assert made_since(before, cluster).keys() == {"claude-code"}


def test_codex_writes_a_file(cluster: Cluster, tmp_path: Path) -> None:
    codex = npm_program("codex")
    provider = f'{{name="saga",base_url="{cluster.url}/v1",env_key="OPENAI_API_KEY",wire_api="responses"}}'
    settings = ["-c", 'model_provider="saga"', "-c", f"model_providers.saga={provider}", "-m", "m"]
    before = cluster.rules()
    command = [codex, "exec", "--skip-git-repo-check", "-s", "danger-full-access", *settings]
    printed = cluster.run([*command, "codex: make hello.txt"], cluster.environment(), tmp_path)
    assert printed.strip() == "The file is there."
    assert (tmp_path / "hello.txt").read_text() == "hello\n"
    assert made_since(before, cluster) == {"codex": 2}
