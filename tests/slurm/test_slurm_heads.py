"""The head's machine is lost while others of the cluster live: who serves then. Fake engines, real Slurm."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from slurm_rig import UP, Login, until

from saga_slurm.facts import Job, JobState
from saga_slurm.standby import LOST_S, SILENT_S, Signs, lost

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(240)]


def signs(state: JobState | None, silent_s: float, *, left: bool = False) -> Signs:
    return Signs(silent_s=silent_s, job=None if state is None else Job(id="1", state=state), left=left)


@pytest.mark.parametrize(
    ("state", "after_s"),
    [
        (JobState.PENDING, LOST_S),
        (JobState.FAILED, LOST_S),
        (JobState.NODE_FAIL, LOST_S),
        (JobState.RUNNING, SILENT_S),  # a machine that is gone, and Slurm has not noticed
        (None, SILENT_S),
    ],
)
def test_when_a_head_is_lost(state: JobState | None, after_s: float) -> None:
    assert not lost(signs(state, after_s - 1))
    assert lost(signs(state, after_s))
    assert lost(signs(state, after_s, left=True)) == (
        state is JobState.PENDING
    )  # preempted: it ended for now


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
    login(*UP, "--nodes", "2", "--workers", "1")
    accepted = login.json("submit", "--", "sh", "-c", "exit 0")["id"]
    before = login.access()
    spare = next(a["job"] for a in login.json("status")["allocations"] if a["job"] != before["job"])
    assert login.slurm.state(spare) == "PENDING"
    with without(login, before["job_node"]):
        until(lambda: login.slurm.state(before["job"]) not in {"RUNNING", "COMPLETING"}, 30, "its end")
        until(lambda: head_of(login)[0] == spare, 60, "the new head")
        until(lambda: login.ready() == 2, 60, "its workers")
        assert login.access()["api_key"] == before["api_key"]
        assert accepted in {w["id"] for w in login.json("ps", "--all")}
    login("down")
    assert login.slurm.state(spare) == "COMPLETED", login.logs()


@pytest.mark.nightly  # when the lost node is back, Slurm 22.05 may end the job's new run as well: docs/slurm.md
def test_a_job_that_joined_has_the_head_while_the_heads_own_job_waits(login: Login) -> None:
    login(*UP, "--nodes", "1", "--workers", "1")
    login("up", "--join", "--nodes", "1", "--workers", "1", "--time", "20")
    accepted = login.json("submit", "--", "sh", "-c", "exit 0")["id"]
    before = login.access()
    job, join = before["job"], next(r["job"] for r in login.records() if r["allocation"]["role"] == "join")
    with without(login, before["job_node"]):
        login.slurm.ask("scontrol", "hold", job)
        until(lambda: head_of(login)[0] == join, 60, "the head of the other job")
        until(lambda: login.ready() == 1, 30, "the worker there")
        assert login.access()["api_key"] == before["api_key"]
        found = login.json("submit", "--wait", "--", "sh", "-c", "exit 0")
        assert [w["state"] for w in found] == ["done"]
        login.slurm.ask("scontrol", "release", job)
        until(lambda: head_of(login) == (job, 1), 60, "the return of the head to its own job")
    until(lambda: login.ready() == 2, 90, "all workers")
    assert {accepted, found[0]["id"]} <= {w["id"] for w in login.json("ps", "--all")}
    assert "another job has the head again" in login.logs()
    login("down")
    assert {login.slurm.state(job), login.slurm.state(join)} == {"COMPLETED"}, login.logs()
