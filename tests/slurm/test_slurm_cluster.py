"""A cluster of fake engines in real Slurm, by the command line alone, from `up` to nothing left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from slurm_rig import AGENT, UP, Caller, Login, Slurm, until

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def there(slurm: Slurm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Login]:
    """A running cluster of two nodes, which the tests of this file share; they run in order."""
    here = Login(slurm, tmp_path_factory.mktemp("home") / "c")
    try:
        here.told = here.run(
            *UP, "--nodes", "2", "--gpus-per-node", "8", "--tp", "4", "--set", "head.drain_before_end_s=40"
        )  # type: ignore[attr-defined]
        yield here
    finally:
        slurm.quiet()
        here.gone()


def daemon_of(here: Login, node: str) -> psutil.Process:
    return next(p for p in here.members() if p.cmdline()[1:3] == ["-m", "saga_node"] and node in p.cmdline())


def test_up_is_followed_until_it_serves(there: Login) -> None:
    done = there.told  # type: ignore[attr-defined]
    assert done.returncode == 0, done.stderr + there.logs()
    lines = done.stderr.splitlines()
    assert lines[0].startswith(("PENDING  job ", "LAUNCHING  job "))  # it may have started by now
    assert any(line.startswith("READY") and "2 of 2 nodes, 4 of 4 workers ready" in line for line in lines)
    assert "after it was asked for: Slurm " in done.stderr
    assert "ssh -N" not in done.stderr
    assert f"{there.access()['url']}/v1" in done.stdout
    view = there.json("status")
    assert len(view["workers"]) == 4
    assert all(1500 < node["end_s"] <= 1800 for node in view["nodes"])  # the wall time, as Slurm said it


def test_a_second_up_submits_nothing(there: Login) -> None:
    told = there.run(*UP, "--nodes", "2", "--gpus-per-node", "8", "--tp", "4", SAGA_WAY="srun")
    assert told.returncode == 0, told.stderr
    assert "already there" in told.stderr
    assert f"ssh -N -L 8000:{there.access()['url'].removeprefix('http://')} " in told.stderr
    assert len(there.records()) == 1
    other = there.run(*UP, "--nodes", "2", "--gpus-per-node", "8", "--tp", "2")
    assert other.returncode == 2
    assert "workers.tp is 4, not 2" in other.stderr


@pytest.mark.parametrize("way", ["direct", "srun"])
def test_programs_run_from_the_login_node_by_either_way(there: Login, way: str, tmp_path: Path) -> None:
    program = tmp_path / "agent.py"
    program.write_text(AGENT)
    found = there.json("submit", "--wait", "--", sys.executable, str(program), SAGA_WAY=way)
    assert [w["state"] for w in found] == ["done"]
    assert there("logs", str(found[0]["id"]), SAGA_WAY=way).splitlines() == ["step 4", "step 4"]
    listed = there.json("ps", "--all", SAGA_WAY=way)
    assert {w["id"] for w in listed} >= {found[0]["id"]}


def test_a_program_that_asks_for_cores_is_a_step_that_has_them(there: Login) -> None:
    words = "import os; print(os.environ['SLURM_CPUS_PER_TASK'], os.environ['SLURM_STEP_ID'].isdecimal(), os.getcwd())"
    asked = ("submit", "--cpus", "1", "--mem", "50M", "--workdir", "/tmp", "--wait", "--")
    found = there.json(*asked, sys.executable, "-c", words)
    assert [w["state"] for w in found] == ["done"], there("logs", str(found[0]["id"]))
    assert there("logs", str(found[0]["id"])).split() == ["1", "True", "/tmp"]
    failed = there.run(*asked, sys.executable, "-c", "raise SystemExit(3)")
    assert failed.returncode == 1
    (last,) = (w for w in there.json("ps", "--all") if w["id"] == found[0]["id"] + 1)
    assert (last["state"], last["exit_code"]) == ("failed", 3)
    huge = there.run("submit", "--cpus", "60000", "--", "true")
    assert huge.returncode == 2
    assert "no node has both" in huge.stderr


def test_such_a_program_ends_when_it_is_cancelled_and_leaves_nothing(there: Login) -> None:
    words = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('on', flush=True); time.sleep(4711)"
    number = there.json("submit", "--cpus", "1", "--", sys.executable, "-c", words)["id"]
    until(lambda: "on" in there("logs", str(number)), 30, "its first word")
    assert _running("time.sleep(4711)")
    there("cancel", str(number))
    until(lambda: not _running("time.sleep(4711)"), 40, "its end")
    until(lambda: number not in {w["id"] for w in there.json("ps")}, 20, "the end of its workflow")


def _running(word: str) -> list[psutil.Process]:
    return [p for p in psutil.process_iter(["cmdline"]) if any(word in w for w in p.info["cmdline"] or ())]


def test_a_way_that_is_closed_says_so_in_slurms_words(there: Login) -> None:
    job = there.access()["job"]
    access = there.access()
    file = there.folder / "access.json"
    try:
        file.write_text(json.dumps(access | {"job": "99999"}))
        told = there("status", code=1, SAGA_WAY="srun")
    finally:
        file.write_text(json.dumps(access | {"job": job}))
    assert "Invalid job id" in told


def test_further_allocations_join_and_leave(there: Login) -> None:
    first = there.nodes_up()
    joined = there.run("up", "--join", "--nodes", "1", "--gpus-per-node", "8", "--tp", "2", "--time", "1")
    assert joined.returncode == 0, joined.stderr + there.logs()
    there.began = time.monotonic()  # type: ignore[attr-defined]
    tools = there.run("up", "--tools", "--nodes", "1", "--time", "20")
    assert tools.returncode == 0, tools.stderr + there.logs()
    view = there.json("status")
    new = [node["id"] for node in view["nodes"] if node["id"] not in first]
    assert len(new) == 2
    assert len([w for w in view["workers"] if w["node"] in new]) == 4  # the joined one's, of two GPUs each
    job = next(r["job"] for r in there.records() if r["allocation"]["role"] == "tools")
    there.slurm.ask("scancel", job)
    until(lambda: not any(n.startswith(f"{job}.") for n in there.nodes_up()), 40, "the leaving")
    assert there.nodes_up() >= first


def test_programs_call_while_nodes_come_and_go(
    there: Login, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Begun here; the tests below do their worst, and the one of the wall time counts."""
    there.caller = Caller(there, tmp_path_factory.mktemp("caller"))  # type: ignore[attr-defined]
    assert there.caller.node.startswith(f"{there.access()['job']}.")  # type: ignore[attr-defined]


def test_slurms_own_daemon_killed_on_a_node_changes_nothing(there: Login) -> None:
    caller: Caller = there.caller  # type: ignore[attr-defined]
    number = caller.node.removeprefix(f"{there.access()['job']}.node")
    before = there.nodes_up()
    there.slurm.dev("kill-node", number)
    try:
        caller.goes_on()
        assert there.nodes_up() == before
    finally:
        there.slurm.dev("start-node", number)
    assert there.slurm.state(there.access()["job"]) == "RUNNING"


def test_a_killed_node_daemon_takes_its_identity_over(there: Login) -> None:
    caller: Caller = there.caller  # type: ignore[attr-defined]
    job = there.access()["job"]
    node = next(n for n in there.nodes_up() if n.startswith(f"{job}.") and n != caller.node)
    before = {n.id: n.incarnation for n in there.view().nodes}
    daemon_of(there, node).kill()

    def back() -> bool:
        now = {n.id: n for n in there.view().nodes}
        return now[node].incarnation > before[node] and now[node].state == "up"

    until(back, 40, "the daemon's return")
    until(lambda: there.ready() >= 4, 40, "its workers")


def test_a_killed_head_with_its_step_begins_again_beside_its_nodes(there: Login) -> None:
    before = there.access()
    nodes = {node for node in there.nodes_up() if node.startswith(f"{before['job']}.")}
    words = {
        "saga_head",
        "--take-over",
    }  # of the head, the srun of its step and its shepherd, which ends with that
    for process in [each for each in there.members() if words <= set(each.cmdline())]:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    until(lambda: there.access()["epoch"] > before["epoch"], 40, "the new head")
    until(lambda: there.nodes_up() >= nodes and there.ready() >= 4, 40, "its nodes")
    after = there.access()
    assert (after["job"], after["api_key"]) == (before["job"], before["api_key"])


def test_a_launch_that_fails_says_why_and_is_cancelled(login: Login) -> None:
    login.folder.parent.joinpath("site.toml").write_text('[software]\npython = "/nowhere/python"\n')
    told = login(*UP, "--nodes", "1", "--site", "site.toml", code=1)
    assert "ended before the cluster served: FAILED" in told
    assert "/nowhere/python" in told
    assert not login.jobs()


def test_what_slurm_refuses_is_said_before_anything_waits(login: Login) -> None:
    told = login(*UP, "--nodes", "1", "--partition", "nowhere", code=2)
    assert "Slurm refuses: " in told
    assert "nowhere" in told
    assert "Slurm refuses: " in login(*UP, "--nodes", "1", "--partition", "nosubmit", code=2)
    assert not login.jobs()


STRANGER = """
import socket, sys, time
probe = socket.socket()
probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
while True:
    try:
        probe.bind(("0.0.0.0", int(sys.argv[1])))
        break
    except OSError:
        time.sleep(0.01)
probe.listen()
time.sleep(200)
"""


@contextmanager
def strangers_port(url: str) -> Iterator[None]:
    """Another user's process takes the port, as soon as it is free; where we may not be another, our own does."""
    root = os.getuid() == 0
    python = "/usr/bin/python3" if root else sys.executable  # ours may lie where others do not look
    other = {"user": "nobody", "group": "nogroup", "extra_groups": ()} if root else {}
    found = subprocess.Popen([python, "-c", STRANGER, url.rpartition(":")[2]], cwd="/", **other)
    try:
        yield
    finally:
        found.kill()
        found.wait()


def test_a_requeued_cluster_keeps_its_name_keys_and_job_and_yields_a_taken_port(login: Login) -> None:
    login(*UP, "--nodes", "1", "--workers", "1")
    before = login.access()
    with strangers_port(before["url"]):
        comes_back(login, before)
    assert login.access()["url"] != before["url"]
    login("down")


def comes_back(login: Login, before: dict) -> None:
    login.slurm.ask("scontrol", "requeue", before["job"])

    def back() -> bool:
        file = login.folder / "access.json"
        return file.exists() and json.loads(file.read_text())["restarts"] == 1

    until(back, 60, "the new head")
    until(lambda: login.ready() == 1, 60, "its worker")
    after = login.access()
    assert (after["job"], after["api_key"], after["name"]) == (
        before["job"],
        before["api_key"],
        before["name"],
    )


def test_dry_run_prints_the_script_and_does_nothing(login: Login) -> None:
    script = login(*UP, "--nodes", "4", "--gpus-per-node", "8", "--account", "a1", "--dry-run")
    assert script.startswith("#!/bin/bash\n#SBATCH --job-name=saga-")
    assert "#SBATCH --account=a1" in script
    assert not login.folder.exists()
    assert os.path.exists(login.slurm.conf)


def test_an_allocation_at_its_wall_time_empties_and_no_call_fails(there: Login) -> None:
    job = next(r["job"] for r in there.records() if r["allocation"]["role"] == "join")
    left = 60 + 45 - (time.monotonic() - there.began)  # type: ignore[attr-defined]
    until(lambda: not any(n.startswith(f"{job}.") for n in there.nodes_up()), left, "the node's end")
    assert there.caller.failures() == 0  # type: ignore[attr-defined]
    assert "drain" in (there.folder / "log" / "head.log").read_text()
    until(
        lambda: there.slurm.state(job) in {"TIMEOUT", "COMPLETED", "CANCELLED", "FAILED"}, 60, "the job's end"
    )


def test_down_leaves_nothing(there: Login) -> None:
    assert "stopped" in there("down")
    assert not there.slurm.jobs()
    assert not (there.folder / "access.json").exists()
    there.gone()
    job = next(r["job"] for r in there.records() if r["allocation"]["role"] == "cluster")
    assert there.slurm.state(job) == "COMPLETED", there.logs()
    assert all(record["over"] for record in there.records())


def test_a_waiting_job_tells_its_reason_and_goes_with_down(login: Login) -> None:
    blocker = login.slurm.ask(
        "sbatch", "--parsable", "-N4", "--exclusive", "-t", "10", "-o", "/dev/null", "--wrap", "sleep 300"
    )
    until(lambda: login.slurm.state(blocker) == "RUNNING")
    login(*UP, "--nodes", "1", "--no-wait")
    job = login.records()[0]["job"]
    (shown,) = login.json("status")["allocations"]
    assert (shown["job"], shown["state"]) == (job, "PENDING")
    until(lambda: "Resources" in login.slurm.ask("squeue", "-h", "-j", job, "-o", "%r"), 30)
    assert "PENDING" in login.slurm.state(job)
    assert "stopped 1 Slurm jobs" in login("down")
    assert login.slurm.state(job) in {"CANCELLED", ""}


def test_two_clusters_of_one_person_side_by_side(login: Login, tmp_path: Path) -> None:
    other = Login(login.slurm, tmp_path / "d")
    login(*UP, "--nodes", "1", "--workers", "1", "--name", "one")
    other(*UP, "--nodes", "1", "--workers", "1", "--name", "two")
    assert login.view().name == "one"
    login("down")
    assert other.view().name == "two"
    assert other.ready() == 1
    other("down")
    other.gone()
