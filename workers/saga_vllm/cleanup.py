"""What a killed engine leaves behind, and only ours.

Killed with its whole group, vLLM 0.32 leaves: in its scratch folder the sockets between its processes (UUID names),
vllm_dist_* and the KV event sockets; in /dev/shm sem.mp-*, psm_* (tensor-parallel ranks) and vllm_offload_*.mmap
(a KV tier in host memory, gigabytes). Names in /dev/shm do not tell whose they are: so ask while the engine lives
(`belongings`), and remove after its death what nobody maps any more (`sweep`).
"""

import shutil
from collections.abc import Collection, Iterator
from pathlib import Path

from saga_vllm.listener import family

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where the kernel puts it


def belongings(pid: int, shared_memory: Path = SHARED_MEMORY) -> frozenset[Path]:
    """Files in shared memory that the processes of `pid`'s tree or group map now."""
    inodes = {inode for process in family(pid) for inode in _mapped(process.pid, shared_memory)}
    return frozenset(path for path in _files(shared_memory) if _inode(path) in inodes)


def sweep(
    paths: Collection[Path], scratch: Path | None = None, shared_memory: Path = SHARED_MEMORY
) -> list[Path]:
    """Remove `paths` that no living process maps, and the `scratch` folder; return what was removed."""
    in_use = {inode for pid in _pids() for inode in _mapped(pid, shared_memory)} if paths else set()
    removed = [path for path in sorted(paths) if _inode(path) not in in_use and _remove(path)]
    if scratch is not None and scratch.is_dir():
        shutil.rmtree(scratch, ignore_errors=True)
        removed.append(scratch)
    return removed


def _mapped(pid: int, shared_memory: Path) -> Iterator[int]:
    """Inodes below `shared_memory` in the process's memory map (proc(5)); by inode, for semaphores are renamed."""
    try:
        lines = Path(f"/proc/{pid}/maps").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[5].startswith(f"{shared_memory}/"):
            yield int(fields[4])


def _pids() -> Iterator[int]:
    return (int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit())


def _files(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if path.is_file()]
    except OSError:
        return []


def _inode(path: Path) -> int | None:
    try:
        return path.lstat().st_ino
    except OSError:
        return None


def _remove(path: Path) -> bool:
    try:
        path.unlink()
    except OSError:
        return False
    return True
