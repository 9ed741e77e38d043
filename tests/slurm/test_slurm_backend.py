"""Backends against a real controller: the same tests for each that is there; and what a lost answer leads to."""

from __future__ import annotations

import asyncio
import os
import stat
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from slurm_rig import Slurm

from saga_slurm import commands
from saga_slurm.backend import Backend, inside
from saga_slurm.bridged import Pyslurm
from saga_slurm.calls import call, environment
from saga_slurm.commands import Commands
from saga_slurm.facts import JobState, SlurmAway, SlurmError, SlurmRefused

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(120)]
TAG = "0123456789abcdef" * 2


@pytest.fixture(params=["cli", "pyslurm"])
async def backend(
    request: pytest.FixtureRequest, slurm: Slurm, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Backend]:
    monkeypatch.setenv("SLURM_CONF", str(slurm.conf))
    if request.param == "cli":
        yield Commands(timeout_s=20)
    else:
        made = Pyslurm(timeout_s=20)
        if not made.may_be_there():
            pytest.skip("no pyslurm in this environment: it is built for Slurm 25.11 alone")
        try:
            await made.probe()
        except SlurmError as error:
            pytest.skip(f"pyslurm does not fit this Slurm: {error}")
        else:
            yield made
        await made.close()
    slurm.quiet()


def script(folder: Path, *directives: str, body: str = "sleep 60", tag: str = TAG) -> Path:
    path = folder / "job.sh"
    words = ["--job-name=saga-t", f"--comment=saga:{tag}", "--output=/dev/null", "--time=5", *directives]
    path.write_text("\n".join(["#!/bin/bash", *(f"#SBATCH {word}" for word in words), body, ""]))
    return path


async def until(backend: Backend, job: str, *states: JobState) -> None:
    for _ in range(200):
        found = (await backend.jobs([job])).get(job)
        if found is not None and found.state in states:
            return
        await asyncio.sleep(0.1)
    pytest.fail(f"job {job} never was {states}")


async def test_a_jobs_life(backend: Backend, tmp_path: Path) -> None:
    job = await backend.submit(script(tmp_path, "--nodes=2"), tag=TAG, job_name="saga-t")
    await until(backend, job, JobState.RUNNING)
    facts = (await backend.jobs([job, "999999"]))[job]
    assert (facts.name, facts.comment, facts.node_count, facts.partition) == (
        "saga-t",
        f"saga:{TAG}",
        2,
        "main",
    )
    assert facts.ends_at is not None
    assert facts.ends_at - facts.starts_at == 300
    assert await backend.find(TAG, job_name="saga-t") == job
    assert await backend.find("f" * 32, job_name="saga-t") is None
    await backend.requeue(job)
    await until(backend, job, JobState.PENDING)
    await backend.cancel([job, "999999"])
    await until(backend, job, JobState.CANCELLED)


async def test_hold_and_release(backend: Backend, tmp_path: Path) -> None:
    job = await backend.submit(script(tmp_path, "--hold", body="true"), tag=TAG, job_name="saga-t")
    await backend.hold(job)
    assert (await backend.jobs([job]))[job].reason.startswith("JobHeld")
    await backend.release(job)
    await until(backend, job, JobState.COMPLETED)


async def test_signals_to_the_script_and_to_its_steps(backend: Backend, tmp_path: Path) -> None:
    told = tmp_path / "told"
    body = f"trap 'echo batch >> {told}; exit' USR1\nsrun -J inner bash -c 'trap \"echo step >> {told}; exit\" USR1; while :; do sleep 0.1; done' &\nwhile :; do sleep 0.1; done"
    job = await backend.submit(script(tmp_path, body=body), tag=TAG, job_name="saga-t")
    await until(backend, job, JobState.RUNNING)
    while [step.name for step in await backend.steps(job)] != ["inner"]:
        await asyncio.sleep(0.1)
    await asyncio.sleep(0.5)  # the trap inside is set a moment after the step is known
    await backend.signal(job, "USR1")
    await _reads(told, "step\n")
    await backend.signal(job, "USR1", batch=True)
    await _reads(told, "step\nbatch\n")


async def _reads(path: Path, text: str) -> None:
    for _ in range(100):
        if path.exists() and path.read_text() == text:
            return
        await asyncio.sleep(0.1)
    pytest.fail(path.read_text() if path.exists() else "nothing was written")


async def test_what_there_is(backend: Backend) -> None:
    await backend.ping()
    assert (await backend.version()).year >= 22
    nodes = {node.name: node for node in await backend.nodes()}
    assert sorted(nodes) == ["node1", "node2", "node3", "node4"]
    assert (nodes["node1"].cpus, nodes["node1"].gres) == (16, "gpu:8")
    partitions = {partition.name: partition for partition in await backend.partitions()}
    assert [name for name, partition in partitions.items() if partition.default] == ["main"]


async def test_refusals_have_slurms_words(backend: Backend, tmp_path: Path) -> None:
    with pytest.raises(SlurmRefused, match="nowhere"):
        await backend.submit(script(tmp_path, "--partition=nowhere"), tag=TAG, job_name="saga-t")
    with pytest.raises(SlurmRefused, match="not available"):
        await backend.submit(script(tmp_path, "--gres=gpu:9"), tag=TAG, job_name="saga-t")


async def test_a_submission_whose_answer_is_lost_happens_once(
    slurm: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An sbatch that submits and then says nothing, as when the controller is overrun."""
    monkeypatch.setenv("SLURM_CONF", str(slurm.conf))
    (real,) = [p for d in os.environ["PATH"].split(":") if (p := Path(d) / "sbatch").exists()][:1]
    shim = tmp_path / "bin" / "sbatch"
    shim.parent.mkdir()
    shim.write_text(
        f"#!/bin/sh\n{real} \"$@\" > /dev/null\necho 'sbatch: error: Batch job submission failed: Socket timed out on send/recv operation' >&2\nexit 1\n"
    )
    shim.chmod(shim.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{shim.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(commands, "PAUSE_S", 0.1)
    tag = "f00d" * 8
    job = await Commands(20).submit(script(tmp_path, tag=tag), tag=tag, job_name="saga-t")
    assert slurm.jobs() == [job]
    slurm.quiet()


async def test_a_command_that_hangs_is_killed_with_all_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shim = tmp_path / "squeue"
    shim.write_text("#!/bin/sh\nsleep 4711 &\nsleep 4711\n")
    shim.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    began = time.monotonic()
    with pytest.raises(SlurmAway, match="squeue did not answer within"):
        await call(["squeue"], timeout_s=0.5)
    assert time.monotonic() - began < 5
    assert "sleep\x004711" not in [_cmdline(p) for p in Path("/proc").glob("[0-9]*")]


def _cmdline(process: Path) -> str:
    try:
        return (process / "cmdline").read_text().rstrip("\0")
    except OSError:
        return ""


async def test_without_slurm_the_error_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SlurmError, match="there is no sbatch here: this is not a login node"):
        await Commands().version()


def test_an_outer_jobs_variables_do_not_leak() -> None:
    outer = {"SLURM_JOB_ID": "1", "SLURM_CONF": "/c", "SBATCH_ACCOUNT": "a", "HOME": "/h", "LC_ALL": "de_DE"}
    found = environment(outer)
    assert "SLURM_JOB_ID" not in found
    assert (found["SLURM_CONF"], found["SBATCH_ACCOUNT"], found["LC_ALL"]) == ("/c", "a", "C")


def test_a_way_into_a_job_names_its_width() -> None:
    argv = inside("12", "node1", ["true"])
    assert argv[:3] == ["srun", "--jobid=12", "--overlap"]
    assert {"--nodes=1", "--ntasks=1", "--nodelist=node1"} <= set(argv)
    assert argv[-1] == "true"
