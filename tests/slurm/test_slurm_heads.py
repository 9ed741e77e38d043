"""The head's machine is lost while others of the cluster live: who serves then. Fake engines, real Slurm."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from slurm_rig import UP, Login, until

from saga_core.access import FILE, Access, encode
from saga_slurm import standby
from saga_slurm.commands import Commands
from saga_slurm.facts import Job, JobState
from saga_slurm.standby import SILENT_S, Deputy, Signs, Watch, lost

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(240)]


def signs(state: JobState | None, silent_s: float, *, left: bool = False) -> Signs:
    return Signs(silent_s=silent_s, job=None if state is None else Job(id="1", state=state), left=left)


@pytest.mark.parametrize(
    ("state", "after_s"),
    [
        (JobState.PENDING, 10),
        (JobState.FAILED, 10),
        (JobState.NODE_FAIL, 10),
        (JobState.RUNNING, 30),  # a machine that is gone, and Slurm has not noticed
        (None, 30),
    ],
)
def test_when_a_head_is_lost(state: JobState | None, after_s: float) -> None:
    assert not lost(signs(state, after_s - 1))
    assert lost(signs(state, after_s))
    assert not lost(signs(state, after_s), 2 * SILENT_S)
    assert lost(signs(state, after_s, left=True)) == (
        state is JobState.PENDING
    )  # preempted: it ended for now


def test_a_deputy_comes_before_other_jobs_and_after_the_heads_own_script() -> None:
    assert not lost(signs(None, 19), deputy=True)
    assert lost(signs(None, 20), deputy=True)
    assert not lost(signs(None, 99, left=True), deputy=True)


@pytest.mark.parametrize(
    ("job", "restarts", "is_lost"),
    [("7", 1, True), ("7", 0, False), ("8", 1, False)],  # its own; an earlier run's; another job's
)
async def test_a_deputy_counts_the_silence_of_its_own_head_alone(
    job: str, restarts: int, is_lost: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, answers = 0.0, True
    monkeypatch.setattr(standby.head, "answers", lambda _: answers)
    access = Access(
        name="c", pid=1, host="h", started_at=0.0, url="http://h:1", api_key="k", admin_key="k", control="tcp://h:2",
        head_public="p", node_public="p", node_secret="s", job=job, restarts=restarts,
    )  # fmt: skip
    (tmp_path / FILE).write_bytes(encode(access))
    (tmp_path / FILE).chmod(0o600)
    mine = Deputy(job="7", restarts=1)
    watch = Watch(tmp_path, Commands(), patience_s=20, deputy=mine, clock=lambda: now)
    now = 100.0
    assert not await watch.step()  # however long this process has slept: it has answered just now
    answers, now = False, 119.0
    assert not await watch.step()
    now = 120.0
    assert await watch.step() == is_lost


@contextmanager
def down(login: Login, node: str) -> Iterator[None]:
    """The node is set down, while its machine and slurmd live, and resumed."""
    set_down(login, node)
    try:
        yield
    finally:
        login.slurm.ask("scontrol", "update", f"nodename={node}", "state=resume")


def set_down(login: Login, node: str) -> None:
    login.slurm.ask("scontrol", "update", f"nodename={node}", "state=down", "reason=test")


@contextmanager
def gone(login: Login, node: str, *, noticed: bool = True) -> Iterator[None]:
    """The machine is gone with all that ran on it, and comes back empty; `noticed`: Slurm knows at once.

    With a slurmd that lives on, what it says of a job's old run when the node is resumed can end the new one (seen with
    22.05): a machine that is gone says nothing.
    """
    number = node.removeprefix("node")
    login.slurm.dev("kill-node", number)
    _kill_all_on(node, login)
    if noticed:
        set_down(login, node)
    try:
        yield
    finally:
        set_down(login, node)
        login.slurm.dev("start-node", number)
        login.slurm.ask("scontrol", "update", f"nodename={node}", "state=resume")


def _kill_all_on(node: str, login: Login) -> None:
    """Jobs' processes of that node, and the slurmstepds above them, which would tell of their end.

    Below each srun is a shepherd that would cancel its step on another node. So all stand still before the first one
    ends, and children end first: orphans that stand still would be woken.
    """
    ours, depths = str(login.slurm.folder), {}
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            environ = process.environ()
            if environ.get("SLURMD_NODENAME") == node and ours in environ.get("SLURM_CONF", ""):
                above = process.parents()
                depths |= {p: 0 for p in above if p.name().startswith("slurmstepd")} | {process: len(above)}
    for deed in (psutil.Process.suspend, psutil.Process.kill):
        for process in sorted(depths, key=lambda each: -depths[each]):
            with suppress(psutil.Error):
                deed(process)


def head_of(login: Login) -> tuple[str, int]:
    """The job of the head, and its restarts; nobody's where there is none."""
    file = login.folder / "access.json"
    access = json.loads(file.read_text()) if file.exists() else {"job": "", "restarts": -1}
    return access["job"], access["restarts"]


def head_node(login: Login) -> str:
    """Slurm's name of the head's machine."""
    return str(login.access()["job_node"])


def deputies(login: Login) -> int:
    """How many look at the head from other nodes of its job."""
    return sum("--deputy" in process.cmdline() for process in login.members())


def test_other_nodes_of_the_heads_job_have_it_one_after_the_other_when_machines_are_gone(
    login: Login,
) -> None:
    """Slurm calls the job running, before it notices and after: nobody is requeued, and no spare begins."""
    login.folder.parent.joinpath("site.toml").write_text("[job]\nsilent_s = 4\n")
    login(*UP, "--nodes", "3", "--workers", "1", "--site", "site.toml")
    accepted, before = login.submit("true"), login.access()
    job, spare = before["job"], login.spare_of(before["job"])
    until(lambda: deputies(login) == 2, 30, "the deputies")
    with gone(login, before["job_node"], noticed=False):
        until(lambda: head_node(login) != before["job_node"], 30, "a head on another node")
        until(lambda: login.ready() == 2, 30, "the workers that are left")
        after = login.access()
        assert (after["job"], after["restarts"], after["api_key"]) == (job, 0, before["api_key"])
        login.done(login.submit("true"))
        set_down(login, before["job_node"])
        with gone(login, after["job_node"]):
            until(lambda: head_node(login) != after["job_node"], 30, "a head on the last node")
            until(lambda: login.ready() == 1, 30, "the last worker")
            assert accepted in login.known()
            assert (login.slurm.state(job), login.slurm.state(spare)) == ("RUNNING", "PENDING")
            login("wait", "all")  # what was begun where machines are gone is begun again
            login("down")
            assert "nobody else would end the job" in login.logs()
            assert not login.jobs()


def test_a_job_that_slurm_ends_has_a_spare_and_that_one_has_the_next(login: Login) -> None:
    """Its first node is set down while its slurmd lives: the script is ended (22.05), or cannot begin a head (26.05)."""
    login.folder.parent.joinpath("site.toml").write_text("[job]\nsilent_s = 2\ndeputies = 0\n")
    login(*UP, "--nodes", "2", "--workers", "1", "--site", "site.toml")
    accepted, before = login.submit("true"), login.access()
    spare = login.spare_of(before["job"])
    assert login.slurm.state(spare) == "PENDING"
    with down(login, before["job_node"]):
        serves_in(login, spare)
        until(lambda: login.spare_of(spare), 30, "the next spare")
        login.slurm.ask("scancel", login.spare_of(spare))
        login(*UP, "--nodes", "2", "--workers", "1")  # as where a node may submit none
        last = login.spare_of(spare)
        assert login.slurm.state(last) == "PENDING"
        with down(login, head_node(login)):
            serves_in(login, last)
            assert login.access()["api_key"] == before["api_key"]
            assert accepted in login.known()
            login("wait", "all")  # what was begun where machines are gone is begun again
            login("down")
    assert login.slurm.state(last) == "COMPLETED", login.logs()
    assert not login.jobs()


def serves_in(login: Login, job: str) -> None:
    """That job has the head, and all its workers serve."""
    until(lambda: head_of(login)[0] == job, 60, f"the head in job {job}")
    until(lambda: login.ready() == 2, 60, "its workers")


def test_a_job_that_joined_has_the_head_while_the_heads_own_job_waits(login: Login) -> None:
    login.folder.parent.joinpath("site.toml").write_text("[job]\nsilent_s = 6\n")
    site = ("--site", "site.toml")
    login(*UP, "--nodes", "1", "--workers", "1", *site)
    login("up", "--join", "--nodes", "1", "--workers", "1", "--time", "20", *site)
    accepted, before = login.submit("true"), login.access()
    job, join = before["job"], next(r["job"] for r in login.records() if r["allocation"]["role"] == "join")
    with gone(login, before["job_node"]):
        login.slurm.ask("scontrol", "hold", job)
        until(lambda: head_of(login)[0] == join, 60, "the head of the other job")
        until(lambda: login.ready() == 1, 30, "the worker there")
        assert login.access()["api_key"] == before["api_key"]
        found = login.submit("true")
        login.done(found)
        login.slurm.ask("scontrol", "release", job)
        until(lambda: head_of(login) == (job, 1), 60, "the return of the head to its own job")
    until(lambda: login.ready() == 2, 90, "all workers")
    assert {accepted, found} <= login.known()
    assert "another has the head again" in login.logs()
    login("down")
    assert {login.slurm.state(job), login.slurm.state(join)} == {"COMPLETED"}, login.logs()
