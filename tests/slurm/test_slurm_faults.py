"""What Slurm does to a cluster: successors, preemption, a controller that is away. Fake engines, real Slurm."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import pytest
from slurm_rig import UP, Caller, Login, until

from saga_slurm.commands import Commands
from saga_slurm.facts import SlurmAway

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(240)]


def restarts(login: Login) -> int:
    file = login.folder / "access.json"
    return json.loads(file.read_text())["restarts"] if file.exists() else -1


def no_sbatch_on_nodes(login: Login) -> Path:
    """A site whose nodes may not submit; the file that such an attempt would leave."""
    folder = login.folder.parent / "refusing"
    folder.mkdir()
    asked = folder / "asked"
    said = "sbatch: error: Batch job submission failed: Access/permission denied"
    (folder / "sbatch").write_text(f"#!/bin/sh\necho \"$*\" >> '{asked}'\necho '{said}' >&2\nexit 1\n")
    (folder / "sbatch").chmod(0o700)
    site = f'[software.env]\nPATH = "{folder}:$PATH"\n'
    login.folder.parent.joinpath("site.toml").write_text(site)
    return asked


def test_a_successor_takes_nodes_head_and_work_over_and_no_call_fails(login: Login, tmp_path: Path) -> None:
    asked = no_sbatch_on_nodes(login)
    login(*UP, "--nodes", "1", "--workers", "1", "--chain", "2", "--site", "site.toml")
    login("up", "--tools", "--nodes", "1", "--time", "20")
    first, second, _ = (record["job"] for record in sorted(login.records(), key=lambda r: r["asked_at"]))
    accepted = login.submit("sleep", "8")  # takes the first node: the next one goes to the tools
    until(lambda: "program-started" in login.logs(), 30, "the program on the first node")
    caller = Caller(login, tmp_path)
    assert not caller.node.startswith(f"{first}.")
    assert login.access()["job"] == first
    assert f"after:{first}" in login.slurm.ask("scontrol", "show", "job", second)
    login.slurm.ask(
        "scontrol", "update", f"jobid={second}", "dependency="
    )  # now, not in a quarter of an hour
    until(lambda: login.slurm.state(first) == "COMPLETED", 90, "the predecessor's end")
    until(lambda: login.access()["job"] == second, 30, "the new head")
    until(lambda: login.ready() == 1, 30, "its worker")
    assert caller.failures() == 0
    assert not asked.exists(), "a chain is submitted from the login node: nodes may not be allowed to"
    assert first not in {node.split(".")[0] for node in login.nodes_up()}
    assert {accepted, caller.number} <= login.known()
    login("down")
    assert login.slurm.state(second) == "COMPLETED", login.logs()


def test_preempted_it_comes_back_under_its_job(login: Login) -> None:
    login(*UP, "--nodes", "4", "--workers", "1", "--partition", "main")
    before = login.access()
    urgent = login.slurm.ask(
        "sbatch", "--parsable", "-p", "high", "-N1", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 3"
    )
    until(lambda: "the end is near" in login.logs(), 60, "the notice")
    until(lambda: login.slurm.state(urgent) in {"RUNNING", "COMPLETED"}, 90, "the preemptor's start")
    until(lambda: restarts(login) == 1, 90, "the new head")
    until(lambda: login.ready() == 4, 60, "its workers")
    after = login.access()
    assert (after["job"], after["api_key"]) == (before["job"], before["api_key"])


def test_a_cluster_goes_on_while_slurms_controller_is_away(login: Login) -> None:
    login(*UP, "--nodes", "1", "--workers", "1")
    login.slurm.dev("stop-ctld")
    try:
        login.done(login.submit("true"))
        began = time.monotonic()
        with pytest.raises(SlurmAway, match="controller"):
            asyncio.run(asked(login))
        assert time.monotonic() - began < 60
    finally:
        login.slurm.dev("start-ctld")
    login("down")
    assert not login.slurm.jobs()


async def asked(login: Login) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(login.slurm.conf))
        await Commands(timeout_s=15).ping()


def test_a_node_set_down_leaves_the_others_serving(login: Login) -> None:
    login(*UP, "--nodes", "3", "--workers", "1")
    head = login.access()["job_node"]
    lost = max(node.split(".")[1] for node in login.nodes_up() if not node.endswith(f".{head}"))
    login.slurm.ask("scontrol", "update", f"nodename={lost}", "state=down", "reason=test")
    try:
        until(lambda: len(login.nodes_up()) == 2, 20, "the loss of a node")
        login.done(login.submit("true"))
        assert login.slurm.state(login.access()["job"]) == "RUNNING"
        assert login.ready() == 2
    finally:
        login.slurm.ask("scontrol", "update", f"nodename={lost}", "state=resume")


def test_the_heads_own_node_set_down_moves_the_job_and_its_head(login: Login) -> None:
    login(*UP, "--nodes", "1", "--workers", "1")
    accepted = login.submit("true")
    before = login.access()
    lost = before["job_node"]
    login.slurm.ask("scontrol", "update", f"nodename={lost}", "state=down", "reason=test")
    try:
        until(lambda: restarts(login) == 1, 90, "the new head")
        until(lambda: login.ready() == 1, 60, "its worker")
        after = login.access()
        assert (after["job"], after["api_key"]) == (before["job"], before["api_key"])
        assert after["job_node"] != lost
        assert accepted in login.known()
    finally:
        login.slurm.ask("scontrol", "update", f"nodename={lost}", "state=resume")


def test_a_folder_that_cannot_be_one_is_said_at_once(login: Login) -> None:
    login.folder.write_text("a file")
    told = login(*UP, "--nodes", "1", code=1)
    assert "cannot be" in told
    assert not login.slurm.jobs()
    login.folder.unlink()
