"""A cluster that grows, shrinks and ends by itself, in real Slurm with fake engines."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace
from slurm_rig import UP, Login, Slurm, until

from saga_slurm.allocation import Allocation, Role
from saga_slurm.elastic import Limits
from saga_slurm.plan import Plan
from saga_slurm.scaling import problem
from saga_slurm.site import Site

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(240)]

SMALL = (
    "--set",
    "workers.kv_tokens=4096",
    "--set",
    "workers.max_model_len=2048",
    "--set",
    "workers.extra_args=--speed 0.2",
)
"""Engines that hold a few sessions, each of which takes its time."""
SITE = "[scaling]\ngrow_after_s = 2\nspare_s = 4\n"


@contextmanager
def load(login: Login, clients: int) -> Iterator[None]:
    """So many clients with a step each, again and again, until the end."""
    over = threading.Event()
    access = login.access()

    def client(number: int) -> None:
        body = {"model": "nano", "prompt": f"client {number} " * 300, "max_tokens": 80, "user": str(number)}
        headers = {"Authorization": f"Bearer {access['api_key']}", "Content-Type": "application/json"}
        request = urllib.request.Request(
            f"{access['url']}/v1/completions", json.dumps(body).encode(), headers
        )
        while not over.is_set():
            try:
                urllib.request.urlopen(request, timeout=60).close()
            except (urllib.error.URLError, OSError):
                over.wait(0.5)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def scaled(login: Login) -> list[dict]:
    """The allocations that the cluster asked for itself."""
    return [record for record in login.records() if record["allocation"]["grown"]]


async def test_where_slurm_takes_no_job_from_is_found_out_before_one_is_needed(
    slurm: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_CONF", str(slurm.conf))
    (tmp_path / "slurm").mkdir()
    join = Allocation(
        role=Role.JOIN, tag="0" * 32, name="c", folder=str(tmp_path), nodes=1, time_s=600, python="python"
    )
    limits = Limits(min_nodes=1, max_nodes=2)
    assert await problem(tmp_path, Plan(limits=limits, join=join, site=Site())) == ""
    closed = replace(join, partition="nosubmit")
    assert "Slurm refuses: " in await problem(tmp_path, Plan(limits=limits, join=closed, site=Site()))
    assert not list((tmp_path / "slurm").iterdir())


def test_backlog_brings_a_node_and_idleness_ends_it_all(login: Login) -> None:
    login.folder.parent.joinpath("site.toml").write_text(SITE)
    login(*UP, *SMALL, "--nodes", "1", "--workers", "1", "--max-nodes", "2", "--idle-timeout", "8s",
          "--site", "site.toml")  # fmt: skip
    (first,) = login.records()
    with load(login, 12):
        until(lambda: scaled(login), 30, "a job for a further node")
        until(lambda: login.ready() == 2, 40, "its worker")
        status = login.json("status")["scaling"]
        assert (status["max_nodes"], status["failures"], status["problem"]) == (2, 0, "")
    (join,) = scaled(login)
    assert join["allocation"]["time_s"] <= first["allocation"]["time_s"]
    until(lambda: login.slurm.state(join["job"]) == "COMPLETED", 60, "its leaving")
    until(lambda: not login.slurm.jobs(), 60, "the end of the cluster")
    assert login.slurm.state(first["job"]) == "COMPLETED"
    assert len(login.records()) == 2  # nothing swung
    assert "in a row" not in login.logs()  # nor did a daemon fail
    login.gone()
    assert not (login.folder / "access.json").exists()
    assert "--idle-timeout" in login("status", code=1)


@pytest.mark.nightly  # 24 s; the same decisions and the refusal of sbatch are tested without it
def test_where_compute_nodes_may_not_submit_the_login_node_asks(login: Login, tmp_path: Path) -> None:
    closed = tmp_path / "bin" / "sbatch"
    closed.parent.mkdir()
    closed.write_text('#!/bin/sh\necho "sbatch: error: Access/permission denied" >&2\nexit 1\n')
    closed.chmod(0o755)
    site = f'{SITE}[software.env]\nPATH = "{closed.parent}:$PATH"\n'
    tmp_path.joinpath("site.toml").write_text(site)
    told = login.run(*UP, *SMALL, "--nodes", "1", "--workers", "1", "--max-nodes", "2", "--site", "site.toml")
    assert told.returncode == 0, told.stderr
    until(lambda: "Access/permission denied" in login.json("status")["scaling"]["problem"], 20, "the finding")
    asking = subprocess.Popen(
        [sys.executable, "-m", "saga_cli", "node", "grow"], env=login.environment(), stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        with load(login, 12):
            until(lambda: scaled(login), 40, "a job for a further node")
            until(lambda: login.ready() == 2, 40, "its worker")
        login("down", "--force")
        assert asking.wait(30) == 0  # with the cluster
    finally:
        asking.kill()
        asking.wait()
    assert not login.slurm.jobs()
