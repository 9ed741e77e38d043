"""A real Slurm of four nodes with eight pretended GPUs each, on this machine, and `saga` as run on its login node."""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from saga_cli.control import Control
from saga_cli.folder import ClusterFolder
from saga_core.views import ClusterView, ProgramSpec, SubmitRequest

SCRIPT = Path(__file__).parents[2] / "scripts" / "slurm-dev"
DAEMONS = ("slurmctld", "slurmd", "munged", "sbatch")
UP_S, CLEAN_S = 60.0, 60.0


def missing() -> list[str]:
    """Which programs of Slurm are not here."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    return [name for name in DAEMONS if shutil.which(name, path=path) is None]


def until(fact: Callable[[], object], within_s: float = 30.0, what: str = "it") -> None:
    """Poll until `fact` holds."""
    deadline = time.monotonic() + within_s
    while not fact():
        assert time.monotonic() < deadline, f"{what} did not come true within {within_s} s"
        time.sleep(0.1)


@dataclass
class Slurm:
    """One test cluster of Slurm."""

    folder: Path
    port: int

    @property
    def conf(self) -> Path:
        return self.folder / "etc" / "slurm.conf"

    def environment(self) -> dict[str, str]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("SAGA_", "SLURM_", "SBATCH_"))}
        return clean | {
            "SLURM_CONF": str(self.conf),
            "SLURM_DEV_DIR": str(self.folder),
            "PORT": str(self.port),
        }

    def dev(self, *words: str) -> None:
        """`scripts/slurm-dev` on this cluster."""
        subprocess.run(
            [SCRIPT, *words], env=self.environment(), check=True, timeout=UP_S, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=sys.stderr,
        )  # fmt: skip

    def ask(self, *words: str, code: int | None = 0) -> str:
        """A Slurm command; its output."""
        done = subprocess.run(
            words, env=self.environment(), capture_output=True, text=True, timeout=60, check=False
        )
        assert code is None or done.returncode == code, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def state(self, job: str) -> str:
        return self.ask("squeue", "-h", "-t", "all", "-j", job, "-o", "%T", code=None)

    def jobs(self) -> list[str]:
        """Those that are not over."""
        return self.ask("squeue", "-h", "-o", "%i").split()

    def quiet(self, but: frozenset[str] = frozenset()) -> None:
        """Cancel all but these and wait until it is gone."""
        for job in set(self.jobs()) - but:
            self.ask("scancel", job, code=None)
        until(lambda: not set(self.jobs()) - but, 60, "the end of all jobs")


def _free_base() -> int:
    """A run of ports below those that the system gives out by itself."""
    for _ in range(50):
        base = random.randrange(15000, 32000, 20)
        if all(_is_free(base + i) for i in (0, 11, 12, 13, 14)):
            return base
    pytest.fail("no free ports for a test cluster")


def _is_free(port: int) -> bool:
    with closing(socket.socket()) as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def start_slurm() -> Slurm:
    """A new cluster; skips, saying so, where Slurm is not installed."""
    if absent := missing():
        pytest.skip(
            f"no {', '.join(absent)} here (Debian: apt-get install slurmctld slurmd slurm-client munge)"
        )
    # Not pytest's folder: a socket's path must be short.
    slurm = Slurm(Path(tempfile.mkdtemp(prefix="saga-slurm-")), _free_base())
    slurm.dev("up")
    return slurm


def stop_slurm(slurm: Slurm) -> None:
    slurm.dev("clean")
    assert not slurm.folder.exists()


@dataclass
class Login:
    """`saga` as a person on the login node runs it, on one cluster folder."""

    slurm: Slurm
    folder: Path
    others: frozenset[str] = frozenset()
    """Jobs that were there before."""

    def jobs(self) -> set[str]:
        """Those since then that are not over."""
        return set(self.slurm.jobs()) - self.others

    def environment(self) -> dict[str, str]:
        home = str(self.folder.parent)
        return self.slurm.environment() | {
            "SAGA_CLUSTER_DIR": str(self.folder), "HOME": home, "COLUMNS": "120",
        }  # fmt: skip

    def run(self, *words: str, within_s: float = 110.0, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "saga_cli", *words], env=self.environment() | env, cwd=self.folder.parent,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=within_s, check=False,
        )  # fmt: skip

    def __call__(self, *words: str, code: int = 0, **env: str) -> str:
        done = self.run(*words, **env)
        told = f"saga {' '.join(words)}: {done.returncode}\n{done.stdout}\n{done.stderr}\n{self.logs()}"
        assert done.returncode == code, told
        return done.stdout if code == 0 else done.stdout + done.stderr

    def json(self, *words: str, **env: str):
        return json.loads(self("--output", "json", *words, **env))

    def view(self) -> ClusterView:
        """What the head says, asked directly: a command takes its time to start."""
        return self.control.cluster()

    @property
    def control(self) -> Control:
        """Its head, asked without a command, which takes seconds to start on a busy machine."""
        return Control.of(ClusterFolder(self.folder))

    def submit(self, *argv: str) -> int:
        """A program of these words; its workflow's number."""
        program = ProgramSpec(argv=list(argv), cwd=str(self.folder.parent), env={"PATH": os.environ["PATH"]})
        return self.control.submit(SubmitRequest(program=program)).id

    def done(self, number: int, within_s: float = 30.0) -> None:
        """It ends well."""
        until(
            lambda: self.control.workflow(number).state == "done", within_s, f"the end of workflow {number}"
        )

    def known(self) -> set[int]:
        """Workflows of its life."""
        return {workflow.id for workflow in self.control.workflows()}

    def nodes_up(self) -> set[str]:
        return {node.id for node in self.view().nodes if node.state == "up"}

    def ready(self) -> int:
        """Its workers that serve."""
        return sum(worker.state == "ready" for worker in self.view().workers)

    def access(self) -> dict:
        return json.loads((self.folder / "access.json").read_text())

    def records(self) -> list[dict]:
        """Of the allocations that were asked for, but for a spare."""
        found = [json.loads(path.read_text()) for path in (self.folder / "slurm").glob("*.json")]
        return [
            each for each in found if not each["allocation"]["predecessor"] or each["allocation"]["lead_s"]
        ]

    def spare_of(self, job: str) -> str:
        """The newest job that waits for this one to fail; empty: none that is known yet."""
        found = (json.loads(path.read_text()) for path in (self.folder / "slurm").glob("*.json"))
        of_it = [each for each in found if each["allocation"]["predecessor_job"] == job]
        newest = max(of_it, key=lambda each: each["asked_at"], default={"job": ""})
        return str(newest["job"])

    def logs(self) -> str:
        paths = sorted((self.folder / "log").glob("*")) if self.folder.exists() else []
        return "\n".join(f"--- {p.name}\n{p.read_text(errors='replace')[-1500:]}" for p in paths)

    def members(self) -> list[psutil.Process]:
        """Every process that names this folder on its command line."""
        return [p for p in psutil.process_iter() if p.pid != os.getpid() and _names(p, str(self.folder))]

    def gone(self) -> None:
        """Nothing of the cluster runs."""
        until(lambda: not self.members(), 30, f"the end of {self.members()}")


def _names(process: psutil.Process, folder: str) -> bool:
    try:
        running = process.status() != psutil.STATUS_ZOMBIE
        return running and any(folder in word for word in process.cmdline())
    except psutil.Error:
        return False


UP = ("up", "--slurm", "--engine", "fake", "--model", "nano", "--time", "30", "--timeout", "100")
AGENT = """
import json, os, urllib.request
for words in (40, 80):
    body = {"model": "nano", "prompt": "word " * words, "max_tokens": 4}
    headers = {"Authorization": "Bearer " + os.environ["OPENAI_API_KEY"], "Content-Type": "application/json"}
    request = urllib.request.Request(os.environ["OPENAI_BASE_URL"] + "/completions", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        print("step", json.load(answer)["usage"]["completion_tokens"], flush=True)
"""
CALLER = """
import http.client, json, os, pathlib, sys, time, urllib.parse
url, calls, failed, longest_s = urllib.parse.urlsplit(os.environ["OPENAI_BASE_URL"]), 0, 0, 0.0
kept = http.client.HTTPConnection(url.netloc, timeout=60)
headers = {"Authorization": "Bearer " + os.environ["OPENAI_API_KEY"], "Content-Type": "application/json"}
body = json.dumps({"model": "nano", "prompt": "word " * 40, "max_tokens": 4})
while not pathlib.Path(sys.argv[1]).exists():
    for connection in (kept, http.client.HTTPConnection(url.netloc, timeout=60)):
        began = time.monotonic()
        try:
            connection.request("POST", url.path + "/completions", body, headers)
            answer = connection.getresponse()
            good = json.load(answer)["usage"]["completion_tokens"] == 4
        except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
            print(repr(error), flush=True)
            good = False
        calls, failed, longest_s = calls + 1, failed + (not good), max(longest_s, time.monotonic() - began)
        if connection is not kept:
            connection.close()
    pathlib.Path(sys.argv[1] + ".new").write_text(str(calls))
    os.replace(sys.argv[1] + ".new", sys.argv[1] + ".calls")
print(json.dumps({"failed": failed, "longest_s": longest_s}))
"""
"""Calls until the file in its argument exists, by one connection and by new ones; counts in `<file>.calls`."""


class Caller:
    """A program that calls all the while."""

    def __init__(self, here: Login, folder: Path) -> None:
        self._here, self._enough = here, folder / "enough"
        (folder / "caller.py").write_text(CALLER)
        self.number = here.submit(sys.executable, str(folder / "caller.py"), str(self._enough))
        until(self._counted.exists, 30, "calls")

    @property
    def node(self) -> str:
        """Where it was started."""
        logs = (self._here.folder / "log").glob("node-*.log")
        words = f"program-started workflow={self.number} "
        return next(log.stem.removeprefix("node-") for log in logs if words in log.read_text())

    @property
    def _counted(self) -> Path:
        return self._enough.with_suffix(".calls")

    def goes_on(self) -> None:
        """It calls."""
        before = int(self._counted.read_text())
        until(lambda: int(self._counted.read_text()) > before + 10, 30, "further calls")

    def failures(self) -> int:
        """How many of its calls failed, once it has been told to end."""
        self.goes_on()
        self._enough.touch()
        self._here.done(self.number)
        told = (self._here.folder / "workflows" / f"{self.number}.log").read_text()
        print(told)
        return int(json.loads(told.splitlines()[-1])["failed"])
