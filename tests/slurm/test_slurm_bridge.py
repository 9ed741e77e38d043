"""The pyslurm bridge as a process, with a stub in the module's place: what it answers, and that it may die or hang."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from saga_slurm.backends import backend_for
from saga_slurm.bridged import Pyslurm, fits
from saga_slurm.facts import JobState, SlurmAway, SlurmError, SlurmRefused, Version
from saga_slurm.site import SlurmSite

STUB = Path(__file__).with_name("stub_pyslurm.py")


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts the stub where the bridge's interpreter finds it, with a mode."""
    shutil.copy(STUB, tmp_path / "pyslurm.py")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def use(mode: str = "") -> None:
        monkeypatch.setenv("STUB_PYSLURM", mode)

    use()
    return use


@pytest.fixture
async def bridge(stub) -> AsyncIterator[Pyslurm]:
    made = Pyslurm(timeout_s=10)
    yield made
    await made.close()


async def test_facts_are_those_of_the_commands(bridge: Pyslurm) -> None:
    await bridge.probe()
    jobs = await bridge.jobs(["1", "2", "3", "9"])
    assert sorted(jobs) == ["1", "2", "3"]
    assert (jobs["1"].state, jobs["1"].reason, jobs["1"].nodelist) == (JobState.RUNNING, "", "node[1-2]")
    assert (jobs["1"].starts_at, jobs["1"].ends_at, jobs["1"].batch_host) == (1010, 4610, "node1")
    assert (jobs["2"].waiting, jobs["2"].reason, jobs["2"].starts_at) == (True, "Resources", None)
    assert jobs["3"].state is JobState.CANCELLED
    (node,) = await bridge.nodes()
    assert (node.name, node.state, node.cpus, node.gres) == ("node1", "idle+drain", 16, "gpu:8")
    main, short = await bridge.partitions()
    assert (main.default, main.up, main.time_limit_s) == (True, True, None)
    assert (short.default, short.up, short.time_limit_s) == (False, False, 3600.0)


async def test_commands_reach_the_job(bridge: Pyslurm) -> None:
    assert await bridge.find("a" * 32, job_name="saga-one") == "1"
    assert await bridge.find("a" * 32, job_name="another") is None
    await bridge.signal("1", "USR1", batch=True)
    assert (await bridge.jobs(["1"]))["1"].comment == "SIGUSR1 batch"
    await bridge.requeue("1")
    assert (await bridge.jobs(["1"]))["1"].waiting
    await bridge.cancel(["1", "999"])  # one that is not there is no error
    assert (await bridge.jobs(["1"]))["1"].over


async def test_refusals_and_bugs_have_their_own_errors(bridge: Pyslurm) -> None:
    with pytest.raises(SlurmRefused, match="permission denied"):
        await bridge.hold("1")
    with pytest.raises(SlurmError, match="something of its own"):
        await bridge.release("1")
    with pytest.raises(SlurmError, match="Invalid job id"):
        await bridge.requeue("999")
    assert await bridge.jobs(["2"])  # and it goes on


async def test_a_hanging_bridge_is_killed_and_the_next_call_has_a_new_one(stub, monkeypatch) -> None:
    stub("hang")
    bridge = Pyslurm(timeout_s=1)
    try:
        began = time.monotonic()
        with pytest.raises(SlurmAway, match="did not answer 'jobs' in time"):
            await bridge.jobs(["1"])
        assert time.monotonic() - began < 5
        stub("")
        bridge._timeout_s = 10
        assert await bridge.jobs(["1"])
    finally:
        await bridge.close()


async def test_a_killed_bridge_is_started_again(bridge: Pyslurm) -> None:
    await bridge.jobs(["1"])
    assert bridge._process is not None
    bridge._process.kill()
    await bridge._process.wait()
    with pytest.raises(SlurmAway, match="ended"):
        await bridge.jobs(["1"])
    assert await bridge.jobs(["1"])


@pytest.mark.parametrize("mode", ["hang", "exit", "away", "old"])
async def test_auto_takes_the_commands_where_the_probe_fails(stub, mode: str) -> None:
    stub(mode)
    python = os.path.realpath(shutil.which("python3") or "")
    began = time.monotonic()
    async with backend_for(SlurmSite(backend="auto", pyslurm_python=python)) as backend:
        assert backend.name == "cli"
    assert time.monotonic() - began < 10
    with pytest.raises(SlurmError):
        async with backend_for(SlurmSite(backend="pyslurm", pyslurm_python=python)):
            pass


async def test_auto_takes_pyslurm_where_the_probe_passes(stub) -> None:
    python = os.path.realpath(shutil.which("python3") or "")
    async with backend_for(SlurmSite(backend="auto", pyslurm_python=python)) as backend:
        assert backend.name == "pyslurm"
    async with backend_for(SlurmSite(backend="cli", pyslurm_python=python)) as backend:
        assert backend.name == "cli"


@pytest.mark.parametrize(
    ("client", "controller", "speaks"),
    [
        ((25, 11, 2), (25, 11, 7), True),
        ((25, 11, 2), (26, 5, 5), True),
        ((25, 11, 2), (24, 11, 5), False),
        ((25, 11, 2), (25, 5, 0), False),
        ((24, 11, 0), (26, 5, 0), True),
        ((24, 5, 0), (26, 5, 0), False),
    ],
)
def test_who_speaks_to_whom(client, controller, speaks: bool) -> None:
    assert fits(Version(*client), Version(*controller)) is speaks
