"""A cluster of fake engines on this machine, by the command line alone, from `up` to `down`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

AGENT = """
import json, os, urllib.request
for words in (40, 80, 120):
    body = {"model": os.environ["MODEL"], "prompt": "word " * words, "max_tokens": 4}
    headers = {"Authorization": "Bearer " + os.environ["OPENAI_API_KEY"], "Content-Type": "application/json"}
    request = urllib.request.Request(os.environ["OPENAI_BASE_URL"] + "/completions", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request) as answer:
        print("step", json.load(answer)["usage"]["completion_tokens"], flush=True)
"""
UP = ("up", "--local", "--engine", "fake", "--workers", "2", "--timeout", "60")


@dataclass
class Shell:
    """`saga` in processes of its own, as a person runs it."""

    folder: Path

    def environment(self) -> dict[str, str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("SAGA_")}
        home = str(self.folder.parent)
        return clean | {
            "SAGA_CLUSTER_DIR": str(self.folder),
            "HOME": home,
            "XDG_CACHE_HOME": home,
            "COLUMNS": "80",
        }

    def popen(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "saga_cli", *arguments],
            env=self.environment(),
            cwd=self.folder.parent,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def __call__(self, *arguments: str, code: int = 0) -> str:
        with self.popen(*arguments) as process:
            out, err = process.communicate(timeout=90)
        assert process.returncode == code, f"saga {' '.join(arguments)}: {process.returncode}\n{out}\n{err}"
        return out if code == 0 else out + err

    def json(self, *arguments: str, code: int = 0):
        return json.loads(self("--output", "json", *arguments, code=code))

    def members(self) -> list[psutil.Process]:
        """Every process that has the cluster's folder on its command line or in its environment."""
        mine = os.getpid()
        return [p for p in psutil.process_iter() if p.pid != mine and _names(p, str(self.folder))]


def _names(process: psutil.Process, folder: str) -> bool:
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return any(folder in word for word in (*process.cmdline(), *process.environ().values()))
    except psutil.Error:
        return False


def until(fact: Callable[[], object], within_s: float = 20.0) -> None:
    """Poll until `fact` holds."""
    deadline = time.monotonic() + within_s
    while not fact():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.05)


@pytest.fixture
def shell(tmp_path):
    """A shell with an empty cluster folder; whatever a failed test leaves there is killed."""
    saga = Shell(tmp_path / "c")
    yield saga
    left = saga.members()
    for process in left:
        process.kill()
    psutil.wait_procs(left, timeout=10)


def head_pid(saga: Shell) -> int:
    return json.loads((saga.folder / "access.json").read_text())["pid"]


def test_from_up_to_down(shell, tmp_path):
    cluster = shell.json(*UP)
    assert [worker["state"] for worker in cluster["workers"]] == ["ready", "ready"]
    assert (shell.folder.stat().st_mode & 0o777, (shell.folder / "access.json").stat().st_mode & 0o777) == (
        0o700,
        0o600,
    )
    model = cluster["models"][0]
    assert shell("url", "--output", "quiet") == f"{cluster['url']}/v1\n"

    # Again with the same settings: nothing happens. With others: refused.
    pid = head_pid(shell)
    assert shell("--output", "quiet", *UP) == f"{cluster['url']}/v1\n"
    assert head_pid(shell) == pid
    assert "workers.count is 2, not 3" in shell("up", "--local", "--workers", "3", code=2)

    # A program finds its endpoint in its environment.
    (tmp_path / "agent.py").write_text(AGENT)
    ended = shell.json("submit", "--wait", "--env", f"MODEL={model}", "--", sys.executable, "agent.py")
    assert [(w["name"], w["state"], w["steps"], w["exit_code"]) for w in ended] == [
        ("agent.py", "done", 3, 0)
    ]
    assert shell("logs", "last") == "step 4\n" * 3
    assert shell.json("inspect", "last")["sessions"][0]["steps"] == 3

    # One that fails, and one that is cancelled.
    assert shell.json("submit", "--wait", "--", "sh", "-c", "exit 3", code=1)[0]["exit_code"] == 3
    number = shell("--output", "quiet", "submit", "--", "sleep", "1000").strip()
    until(lambda: shell.json("inspect", number)["state"] == "running")
    assert f"live ({number})" in shell("down", code=1)
    shell("cancel", "last")
    assert shell.json("wait", number, code=1)[0]["state"] == "cancelled"
    assert shell("--output", "quiet", "ps") == ""
    assert shell("--output", "quiet", "ps", "--all").split() == ["1", "2", number]

    # A workload, replayed with an ordinary client: every count is the trace's.
    options = ("--synth", "demo", "--workflows", "2", "--scale-tokens", "0.1", "--scale-time", "0")
    report = shell.json("submit", *options)
    assert [w["state"] for w in report["workflows"]] == ["finished", "finished"]
    assert [w["steps"] for w in report["workflows"]] == [w["expected_steps"] for w in report["workflows"]]
    assert report["summary"]["mismatches"] == 0
    replayed = shell.json("ps", str(report["workflows"][0]["id"]))[0]
    assert (replayed["state"], replayed["kind"]) == ("done", "replay")
    assert replayed["steps"] == report["workflows"][0]["steps"]

    frame = shell("top", "--once")
    assert "local/0" in frame
    assert "cancelled" in frame

    shell("down")
    until(lambda: not shell.members())
    assert "no cluster is running" in shell("status", code=1)
    assert "no cluster is running" in shell("down")


def test_a_dead_head_is_started_again_beside_the_living_node(shell):
    shell(*UP, "--set", "workers.count=1")
    number = shell("--output", "quiet", "submit", "--", "sleep", "1000").strip()
    until(lambda: shell.json("inspect", number)["state"] == "running")
    url, workers = shell("url"), {p.pid for p in shell.members()} - {head_pid(shell)}
    os.kill(head_pid(shell), signal.SIGKILL)
    assert "connection refused" in shell("ps", code=1)

    shell("up", "--local")
    assert shell("url") == url
    assert workers <= {p.pid for p in shell.members()}, "the node and its worker are the same processes"
    assert shell.json("inspect", number)["state"] == "running"

    shell("down", "--force")
    until(lambda: not shell.members())


def test_what_was_left_behind_is_cleared_by_down(shell):
    shell(*UP, "--set", "workers.count=1")
    os.kill(head_pid(shell), signal.SIGKILL)
    assert "stopped 1 daemon" in shell("down")
    until(lambda: not shell.members())


def test_a_worker_that_fails_at_its_start_is_explained_and_nothing_stays(shell):
    said = shell(*UP, "--set", "workers.extra_args=--no-such-option", code=1)
    assert "worker local/" in said
    assert "failed at its start" in said
    assert "--no-such-option" in said
    assert str(shell.folder / "log" / "worker-local-") in said
    until(lambda: not shell.members())


def test_a_port_that_is_taken_is_named(shell):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = shell(*UP, "--port", str(port), code=1)
    assert f"127.0.0.1:{port}" in said
    assert "Address already in use" in said
    assert "Traceback" not in said
    until(lambda: not shell.members())


def test_interrupting_up_takes_down_what_it_started(shell):
    process = shell.popen(
        "up",
        "--local",
        "--engine",
        "fake",
        "--workers",
        "2",
        "--set",
        "workers.extra_args=--fault slow_start=60",
    )
    with process:
        until((shell.folder / "access.json").exists)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 130
    until(lambda: not shell.members())


def test_an_interrupt_between_a_daemons_start_and_the_note_of_it_leaves_nothing(shell, monkeypatch):
    from saga_cli.config import resolve
    from saga_cli.folder import ClusterFolder
    from saga_cli.local import up
    from saga_cli.progress import Silent

    noted, children = up._daemon, []

    def interrupted(kind, node, child):
        children.append(child)
        if kind == up.NODE:
            raise KeyboardInterrupt
        return noted(kind, node, child)

    monkeypatch.setattr(up, "_daemon", interrupted)
    wanted = resolve({"workers.engine": "fake", "workers.count": 1}, environment={})
    with pytest.raises(KeyboardInterrupt):
        up.bring_up(ClusterFolder(shell.folder), wanted, show=Silent(), timeout_s=30)
    until(lambda: not shell.members())
    assert [child.wait(5) is not None for child in children] == [True, True]
