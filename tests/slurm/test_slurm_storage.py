"""A cluster folder on storage that is too small, full or read-only: said with its place, and nothing is lost."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm_rig import UP, Caller, Login, until

from saga_core.errors import ClusterError

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(240)]


class Disk:
    """A file system of its own below a cluster's folder."""

    def __init__(self, at: Path) -> None:
        self.at = at

    def mount(self, options: str) -> None:
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "saga-test", self.at], check=True)

    def again(self, options: str) -> None:
        self.mount(f"remount,{options}")

    def fill(self) -> None:
        with (self.at / "ballast").open("wb", 0) as file, contextlib.suppress(OSError):
            while file.write(b"x" * 4096):
                pass

    def clear(self) -> None:
        (self.at / "ballast").unlink()


@pytest.fixture
def disk(login: Login) -> Iterator[Disk]:
    login.folder.mkdir(mode=0o700)
    found = Disk(login.folder)
    try:
        found.mount("size=8k,mode=700")
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"nothing can be mounted here: {error}")
    yield found
    login.slurm.quiet()
    login.gone()
    subprocess.run(["umount", "--lazy", found.at], check=True)


def test_a_cluster_outlives_a_full_folder(login: Login, disk: Disk, tmp_path: Path) -> None:
    told = login(*UP, "--nodes", "1", code=1)
    assert f"{login.folder}/" in told
    assert "cannot be written: No space left on device" in told
    assert not login.slurm.jobs()

    disk.again("size=8m")
    login(*UP, "--nodes", "1", "--workers", "1")
    caller = Caller(login, tmp_path)
    disk.fill()
    told = login("submit", "--", "true", code=1)
    assert "No space left on device" in told
    assert f"{login.folder}/journal/" in told
    caller.goes_on()
    assert login.json("status")["allocations"][0]["state"] == "RUNNING"
    disk.clear()
    until(lambda: accepts(login), 20, "workflows are accepted again")
    assert caller.failures() == 0
    assert caller.number in login.known()

    disk.fill()
    assert "stopped" in login("down", "--force")
    assert not login.slurm.jobs()
    disk.clear()
    disk.again("ro")
    told = login(*UP, "--nodes", "1", code=1)
    assert f"{login.folder}: cannot be made a cluster folder: Read-only file system" in told
    assert not login.slurm.jobs()


def accepts(login: Login) -> bool:
    try:
        return login.submit("true") > 0
    except ClusterError:
        return False
