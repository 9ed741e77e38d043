"""The cluster folder: who may read it, where it lies, how fast it is, what stands in it."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from saga_cli.doctor.findings import Finding, fail, ok, warn
from saga_cli.folder import ClusterFolder
from saga_core.access import FILE
from saga_core.errors import ClusterError

PRIVATE: Final = (FILE, "keys.json", "settings.json", "head.lock")
FREE_BYTES: Final = 1 << 30
"""Journal and logs of a busy day."""
FULL_BYTES: Final = 64 << 20
"""Less than four journals: new workflows will soon be refused."""
NETWORK: Final = frozenset({
    "nfs", "nfs4", "lustre", "gpfs", "beegfs", "beegfs_nodev", "cifs", "smb3", "ceph", "fuse.ceph", "fuse.sshfs",
    "fuse.glusterfs", "glusterfs", "afs", "panfs", "wekafs", "9p", "virtiofs",
})  # fmt: skip
SLOW_S: Final = 0.05
"""The acceptance of a workflow waits for one of these."""
REMEDY_MODES: Final = "chmod -R go= {path}"


def modes(folder: ClusterFolder) -> Iterator[Finding]:
    """Keys are for their owner only."""
    path = folder.path
    if not path.exists():
        yield ok("cluster folder", f"{path} is made by `saga up`")
        return
    if path.stat().st_uid != os.getuid():
        yield fail(
            "cluster folder", f"{path} belongs to another user", "use a folder of your own (--cluster-dir)"
        )
        return
    open_ = [item for item in (path, *_private(folder)) if stat.S_IMODE(item.stat().st_mode) & 0o077]
    if open_:
        told = ", ".join(f"{item} is {stat.S_IMODE(item.stat().st_mode):04o}" for item in open_[:4])
        yield fail("permissions", f"others may read: {told}", REMEDY_MODES.format(path=path))
    else:
        yield ok("permissions", f"{path} and its keys are for their owner only")


def _private(folder: ClusterFolder) -> list[Path]:
    named = [folder.path / name for name in PRIVATE]
    return [
        item
        for item in (*named, *folder.path.glob("journal/*"), *folder.path.glob("workflows/*.log"))
        if item.exists()
    ]


def room(folder: ClusterFolder) -> Iterator[Finding]:
    """Whether it can be written, and how much."""
    there = _there(folder.path)
    if not os.access(there, os.W_OK):
        yield fail(
            "writing",
            f"{there} cannot be written",
            "use another folder (--cluster-dir), or mend its permissions",
        )
        return
    usage = shutil.disk_usage(there)
    told = f"{usage.free / 2**30:.1f} GiB free at {there}"
    clear = "make room there: with a full disk no new workflow is accepted"
    if usage.free < FULL_BYTES:
        yield fail("free space", told, clear)
    else:
        yield ok("free space", told) if usage.free >= FREE_BYTES else warn("free space", told, clear)


def storage(folder: ClusterFolder) -> Iterator[Finding]:
    """What kind of file system it is on, and whether it locks and syncs."""
    there = _there(folder.path)
    if not os.access(there, os.W_OK):
        return
    kind = file_system(there.resolve(), Path("/proc/mounts").read_text())
    took_s, locks = _tried(there)
    yield storage_finding(kind, took_s, locks=locks)


def storage_finding(kind: str, took_s: float, *, locks: bool) -> Finding:
    """`took_s`: one write that waits for the disk."""
    told = f"{kind}, a synced write takes {took_s * 1000:.1f} ms"
    if not locks:
        return fail(
            "storage",
            f"{kind} has no file locks: two heads could run at once",
            "use a folder on another file system",
        )
    if took_s > SLOW_S:
        return warn(
            "storage",
            f"{told}: each acceptance waits for one",
            "a folder on a local disk is faster (--cluster-dir)",
        )
    if kind in NETWORK:
        return warn(
            "storage",
            f"{told}; other machines see it",
            "needed in Slurm; on one machine a local disk survives a network's pauses",
        )
    return ok("storage", told)


def _tried(there: Path) -> tuple[float, bool]:
    with tempfile.NamedTemporaryFile(dir=there, prefix=".saga-doctor-") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            locks = True
        except OSError:
            locks = False
        began = time.perf_counter()
        file.write(b"x" * 4096)
        file.flush()
        os.fsync(file.fileno())
        return time.perf_counter() - began, locks


def file_system(path: Path, mounts: str) -> str:
    """The type of the mount that holds `path`; `mounts` as /proc/mounts."""
    best, kind = "", "unknown"
    for line in mounts.splitlines():
        point, found = line.split()[1:3]
        point = point.replace("\\040", " ")
        inside = str(path) == point or str(path).startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, found
    return kind


def _there(path: Path) -> Path:
    """The folder, or what it would be made in."""
    return next(item for item in (path, *path.parents) if item.exists())


def files(folder: ClusterFolder) -> Iterator[Finding]:
    """What stands there can be read."""
    for what, read in (("access.json", folder.access), ("settings.json", folder.settings)):
        if not (folder.path / what).exists():
            continue
        try:
            read()
        except ClusterError as error:
            yield fail(what, str(error), "`saga down` and `saga up` make it anew")
