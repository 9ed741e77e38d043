"""What `saga doctor --slurm` finds, from made-up sites and on a real one; what `saga status` tells of jobs."""

from __future__ import annotations

from pathlib import Path

import pytest
from slurm_rig import Login

from saga_cli.doctor.findings import Verdict
from saga_cli.doctor.place import file_system
from saga_cli.slurm.asking import Asked
from saga_cli.slurm.checks import (
    MANY_NODES,
    STEP_MB,
    partition_finding,
    settings_findings,
    shared_finding,
    steps_finding,
)
from saga_cli.slurm.picture import Phase, Picture, Times, picture, summary
from saga_cli.slurm.status import allocation_view
from saga_core.views import ClusterView, NodeView, Totals, WorkerView
from saga_slurm.allocation import Allocation, Role
from saga_slurm.facts import Job, JobState, Partition
from saga_slurm.jobs import Standing
from saga_slurm.reading import read_settings
from saga_slurm.records import Record

MOUNTS = """overlay / overlay rw 0 0
nas:/home /home nfs4 rw 0 0
tmpfs /home/ann/fast tmpfs rw 0 0
/dev/sdb /with\\040blank ext4 rw 0 0
"""
MAIN = Partition(name="main", default=True, up=True, time_limit_s=86400, nodes=4, gres="gpu:8")
CPU = Partition(name="cpu", default=False, up=False, time_limit_s=None, nodes=9)


def asked(**more) -> Asked:
    return Asked(**{"role": Role.CLUSTER, "settings": {}, **more})


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/home/ann/.saga", "nfs4"),
        ("/home/ann/fast/x", "tmpfs"),
        ("/homes", "overlay"),
        ("/with blank/x", "ext4"),
    ],
)
def test_the_file_system_of_a_path(path: str, kind: str) -> None:
    assert file_system(Path(path), MOUNTS) == kind


def test_a_folder_that_nodes_do_not_see_is_warned_of() -> None:
    assert shared_finding("folder", Path("/home/ann"), MOUNTS, "move it").verdict is Verdict.OK
    found = shared_finding("folder", Path("/tmp/c"), MOUNTS, "move it")
    assert (found.verdict, found.remedy) == (Verdict.WARN, "move it")
    assert "other machines do not see" in found.told


@pytest.mark.parametrize(
    ("more", "wanted", "words"),
    [
        ({"nodes": 4, "gpus_per_node": 8, "time": "8:00:00"}, "", None),
        ({"nodes": 5}, "main", "it has 4 nodes, 5 are wanted"),
        ({"time": "2-00:00:00"}, "main", "its time limit is 24 h"),
        ({}, "gpu", "no partition 'gpu' (have: main, cpu)"),
        ({"gpus_per_node": 1}, "cpu", "it is down; Slurm counts no GPUs there"),
    ],
)
def test_partitions(more: dict, wanted: str, words: str | None) -> None:
    found = partition_finding([MAIN, CPU], asked(**more), wanted, gpus="gres")
    assert found.verdict is (Verdict.OK if words is None else Verdict.FAIL)
    assert words is None or words in found.told


def test_many_nodes_in_one_job_are_warned_of_with_the_figure() -> None:
    assert steps_finding(MANY_NODES).verdict is Verdict.OK
    found = steps_finding(1000)
    assert (found.verdict, "3000 processes" in found.told) == (Verdict.WARN, True)
    assert f"{1000 * STEP_MB:.0f} MB" in found.told
    assert "saga up --join" in found.remedy


def test_settings_of_the_controller() -> None:
    text = "SLURM_VERSION           = 24.11.5\nPreemptMode             = REQUEUE\nJobRequeue = 0\nSlurmctldParameters     = x\n"
    found = {each.what: each for each in settings_findings(read_settings(text), "22.05.8")}
    assert "commands of 22.05.8, controller of 24.11.5" in found["controller"].told
    assert {name for name, each in found.items() if each.verdict is Verdict.WARN} == {
        "controller", "preemption", "requeue",
    }  # fmt: skip
    calm = "SLURM_VERSION = 22.05.8\nPreemptMode = OFF\nJobRequeue = 1\n"
    assert [each.verdict for each in settings_findings(read_settings(calm), "22.05.8")] == [Verdict.OK]


def view(*workers: str, nodes: int) -> ClusterView:
    totals = Totals(
        workflows={}, steps_done=0, steps_refused=0, steps_waiting=0, prompt_tokens=0, cached_tokens=0,
        output_tokens=0, stale_messages=0,
    )  # fmt: skip
    up = [
        NodeView(id=f"7.n{i}", state="up", host="h", incarnation=1, seen_s=0, programs=0)
        for i in range(nodes)
    ]
    there = [
        WorkerView(
            id=f"7.n{i}/0", node=f"7.n{i}", state=state, model="m", incarnation=1, load=0, kv_usage=0,
            resident_tokens=0, capacity_tokens=0, running=0, waiting=0, steps_done=0,
        )
        for i, state in enumerate(workers)
    ]  # fmt: skip
    other = NodeView(id="70.n0", state="up", host="h", incarnation=1, seen_s=0, programs=0)
    return ClusterView(
        name="c", version="1", profile="saga", url="u", up_s=0, models=[], nodes=[*up, other], workers=there,
        totals=totals, workflows=[],
    )  # fmt: skip


def seen(state: JobState, found: ClusterView | None = None, **job) -> Picture:
    at = Job(id="7", state=state, nodelist="n[0-1]", **job)
    return picture(at, nodes=2, workers=2, times=Times(asked_at=100), view=found, now=110)


def test_the_phases_of_a_launch() -> None:
    waits = seen(JobState.PENDING, reason="Resources", starts_at=4000)
    assert waits.phase is Phase.PENDING
    assert waits.told().startswith("pending, Resources, Slurm expects to start it at ")
    assert seen(JobState.CONFIGURING).phase is Phase.PENDING
    assert seen(JobState.RUNNING).told() == "on n[0-1]: starting the head"
    half = seen(JobState.RUNNING, view("ready", "starting", nodes=2))
    assert (half.phase, half.told()) == (Phase.LAUNCHING, "on n[0-1]: 2 of 2 nodes, 1 of 2 workers ready")
    assert half.times.nodes_at == 110
    assert half.times.ready_at is None
    whole = seen(JobState.RUNNING, view("ready", "ready", nodes=2))
    assert (whole.phase, whole.times.ready_at) == (Phase.READY, 110)
    assert seen(JobState.RUNNING, view("ready", nodes=1)).phase is Phase.LAUNCHING
    assert seen(JobState.TIMEOUT).phase is Phase.FAILED


def test_a_launchs_time_adds_up() -> None:
    times = Times(asked_at=100, granted_at=103, began_at=104, head_at=106, nodes_at=107, ready_at=112)
    assert times.parts() == {"slurm_queue": 3, "slurm_start": 1, "head": 2, "nodes": 1, "workers": 5}
    assert times.slurm_s == 4
    assert (
        summary(times) == "ready 12s after it was asked for: Slurm 4.0s, head 2.0s, nodes 1.0s, workers 5.0s"
    )


def test_an_allocation_is_shown_with_the_time_it_has_left() -> None:
    wanted = Allocation(role=Role.JOIN, tag="a", name="c", folder="/f", nodes=2, time_s=600, python="p")
    record = Record(allocation=wanted, asked_at=0, job="7")
    runs = Job(id="7", state=JobState.RUNNING, partition="gpu", nodelist="n[1-2]", ends_at=700)
    shown = allocation_view(Standing(record, runs), now=100)
    assert (shown.role, shown.partition, shown.ends_s) == ("join", "gpu", 600)
    waits = Job(id="7", state=JobState.PENDING, reason="Priority", ends_at=700)
    assert allocation_view(Standing(record, waits), now=100).ends_s is None


@pytest.mark.slurm
def test_on_a_real_login_node(login: Login) -> None:
    found = {
        each["what"]: each for each in login.json("doctor", "--slurm", "--nodes", "2", "--gpus-per-node", "8")
    }
    assert found["controller"]["verdict"] == "ok"
    assert found["partition"]["told"] == "main: 4 nodes gpu:8"
    assert found["script"]["told"].startswith("Job ")
    assert not login.slurm.jobs()
    bad = login("doctor", "--slurm", "--partition", "nosubmit", "--nodes", "9", code=1)
    assert "it has 4 nodes, 9 are wanted" in bad
    assert "denied" in bad


def test_away_from_slurm_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from saga_cli.main import run

    monkeypatch.setenv("PATH", str(tmp_path))
    assert run(["--cluster-dir", str(tmp_path / "c"), "doctor", "--slurm"]) == 1
    assert "sbatch, squeue, scancel, scontrol, sinfo, srun not in PATH" in " ".join(
        capsys.readouterr().out.split()
    )
