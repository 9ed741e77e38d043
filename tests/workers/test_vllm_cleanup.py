"""What a killed process leaves in shared memory is removed, and nobody else's."""

import subprocess
import sys
from pathlib import Path

import pytest

from saga_vllm.cleanup import belongings, sweep

HOLDER = """
import mmap, sys
with open(sys.argv[1], "w+b") as file:
    file.truncate(4096)
    held = mmap.mmap(file.fileno(), 4096)
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def shm(tmp_path: Path) -> Path:
    folder = tmp_path / "shm"
    folder.mkdir()
    return folder


def hold(path: Path, shell: str = "exec") -> subprocess.Popen:
    command = ["sh", "-c", f'{shell} "$@"; :', "sh", sys.executable, "-c", HOLDER, str(path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout.readline() == b"held\n"
    return process


def end(process: subprocess.Popen) -> None:
    process.communicate()


def test_only_what_our_family_mapped_and_nobody_maps_any_more(shm: Path) -> None:
    (shm / "strangers-file").write_bytes(b"x")
    stranger = hold(shm / "psm_stranger")
    ours = hold(shm / "vllm_offload_1.mmap", shell="env")  # a child of the process we started
    try:
        found = belongings(ours.pid, shm)
        assert found == {shm / "vllm_offload_1.mmap"}
        assert sweep(found, None, shm) == [], "still in use"
        assert (shm / "vllm_offload_1.mmap").exists()
    finally:
        end(ours)
    try:
        assert sweep(found, None, shm) == [shm / "vllm_offload_1.mmap"]
        assert sorted(path.name for path in shm.iterdir()) == ["psm_stranger", "strangers-file"]
    finally:
        end(stranger)


def test_a_file_linked_to_another_name_is_found(shm: Path) -> None:
    """As Python's semaphores are: the memory map shows a name that is gone."""
    ours = hold(shm / "sem.first")
    try:
        (shm / "sem.mp-second").hardlink_to(shm / "sem.first")
        (shm / "sem.first").unlink()
        assert belongings(ours.pid, shm) == {shm / "sem.mp-second"}
    finally:
        end(ours)


def test_the_scratch_folder_goes_with_its_sockets(tmp_path: Path, shm: Path) -> None:
    scratch = tmp_path / "w0"
    scratch.mkdir()
    (scratch / "events").touch()
    assert sweep((), scratch, shm) == [scratch]
    assert not scratch.exists()
    assert sweep((), scratch, shm) == [], "twice is no error"


def test_a_process_that_is_gone_owns_nothing(shm: Path) -> None:
    gone = hold(shm / "psm_1")
    end(gone)
    assert belongings(gone.pid, shm) == frozenset()
    assert belongings(gone.pid, shm / "no-such-folder") == frozenset()
