"""The batch script on another node of the head's job, run by bash with doubles of Slurm and of the daemons."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from slurm_rig import until

from saga_slurm.allocation import Allocation, Role
from saga_slurm.rendering import render
from saga_slurm.site import JobSite, Site

TAG = "0123456789abcdef" * 2
DOUBLES = {
    "scancel": 'echo "scancel $*" >> "$SAID"',
    "scontrol": "echo node2",
    "squeue": "exit 1",
    "srun": "exit 1",  # nobody answers for the first machine: nothing may hang on Slurm
    # A standby that finds the head lost, and heads that do as `heads` says, one line each.
    "python": """
case "$*" in
    *saga_slurm.standby*) echo "standby $*" >> "$SAID"; [ -e "$PLACE/lost" ] || exec sleep 60; exit 0 ;;
esac
read -r does < "$PLACE/heads"; sed -i 1d "$PLACE/heads"
echo "head $does $*" >> "$SAID"
case $does in
    serves) trap 'echo "head ends in peace" >> "$SAID"; exit 0' TERM; rm "$PLACE/lost"; while :; do sleep 0.1; done ;;
    *) exit "$does" ;;
esac
""",
}


@dataclass
class Place:
    """A cluster's folder, and what was done to its deputy."""

    folder: Path
    process: subprocess.Popen[bytes]

    def said(self) -> str:
        return (self.folder / "said").read_text() if (self.folder / "said").exists() else ""

    def log(self) -> str:
        return (self.folder / "log" / "slurm-7.out").read_text()

    def ended(self) -> int:
        return self.process.wait(timeout=20)


@pytest.fixture
def deputy(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Place]:
    """One whose head is lost at once; the parameter: what the heads do that it begins."""
    commands = tmp_path / "bin"
    for folder in (commands, tmp_path / "slurm", tmp_path / "log"):
        folder.mkdir()
    for name, body in DOUBLES.items():
        (commands / name).write_text(f"#!/bin/bash\n{body}\n")
        (commands / name).chmod(0o700)
    (tmp_path / "heads").write_text(request.param)
    (tmp_path / "lost").touch()
    script = tmp_path / "slurm" / f"{TAG}.sbatch"
    script.write_text(render(
        Allocation(role=Role.CLUSTER, tag=TAG, name="c", folder=str(tmp_path), nodes=3, time_s=600, python=str(commands / "python")),
        Site(job=JobSite(silent_s=4)), version="1",
    ))  # fmt: skip
    environment = {
        "PATH": f"{commands}:{os.environ['PATH']}", "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "node[1-3]",
        "SLURM_CPUS_ON_NODE": "8", "SAID": str(tmp_path / "said"), "PLACE": str(tmp_path),
    }  # fmt: skip
    with subprocess.Popen(
        ["bash", script, "6", "node2"], env=environment, start_new_session=True, stdin=subprocess.DEVNULL
    ) as process:
        try:
            yield Place(tmp_path, process)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize("deputy", ["3\n1\n0\n"], indirect=True)
def test_it_begins_heads_until_one_ends_in_peace_and_then_ends_the_job(deputy: Place) -> None:
    assert deputy.ended() == 0
    words = [" ".join(line.split()[:2]) for line in deputy.said().splitlines()]
    # Another had the head after the first one; the second was started again.
    assert words == ["standby -m", "head 3", "standby -m", "head 1", "head 0", "scancel 7"]
    assert "--deputy" in deputy.said()
    assert "--silent 6" in deputy.said()
    assert "--take-over --address" not in deputy.said()  # the double of scontrol says none
    assert (deputy.folder / "slurm" / f"{TAG}.left").exists()
    assert "another has the head again" in deputy.log()
    assert not (deputy.folder / "slurm" / f"{TAG}.began").exists()  # of the script on the first machine


@pytest.mark.parametrize("deputy", ["serves\n"], indirect=True)
def test_told_to_end_it_outlives_its_head_and_leaves_the_job_to_slurm(deputy: Place) -> None:
    """A requeued job hears TERM as well: who cancelled it then would end the cluster."""
    until(lambda: "head serves" in deputy.said(), 20, "the head")
    until(lambda: not (deputy.folder / "lost").exists(), 20, "the head's trap")
    os.killpg(deputy.process.pid, signal.SIGTERM)
    assert deputy.ended() == 0
    assert "head ends in peace" in deputy.said()
    assert "scancel" not in deputy.said()
