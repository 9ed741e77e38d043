"""The head's machine is lost while others of the cluster live: who serves then. Fake engines, real Slurm."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from slurm_rig import UP, Login, until

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(240)]


@contextmanager
def without(login: Login, node: str) -> Iterator[None]:
    """The machine is down, and comes back."""
    login.slurm.ask("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
    try:
        yield
    finally:
        login.slurm.ask("scontrol", "update", f"nodename={node}", "state=resume")


def head_of(login: Login) -> tuple[str, int]:
    """The job of the head, and its restarts; nobody's where there is none."""
    file = login.folder / "access.json"
    access = json.loads(file.read_text()) if file.exists() else {"job": "", "restarts": -1}
    return access["job"], access["restarts"]


def test_of_several_nodes_the_heads_is_lost_and_the_spare_job_takes_over(login: Login) -> None:
    login(*UP, "--nodes", "3", "--workers", "1")
    accepted = login.json("submit", "--", "sh", "-c", "exit 0")["id"]
    before = login.access()
    spare = next(a["job"] for a in login.json("status")["allocations"] if a["job"] != before["job"])
    assert login.slurm.state(spare) == "PENDING"
    with without(login, before["job_node"]):
        until(lambda: login.slurm.state(before["job"]) not in {"RUNNING", "COMPLETING"}, 30, "its end")
        until(lambda: head_of(login)[0] == spare, 60, "the new head")
        until(lambda: login.ready() == 3, 60, "its workers")
        assert login.access()["api_key"] == before["api_key"]
        assert accepted in {w["id"] for w in login.json("ps", "--all")}
    login("down")
    assert login.slurm.state(spare) == "COMPLETED", login.logs()
