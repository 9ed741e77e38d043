"""What will not work on this login node, and why, before any job is submitted."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from saga_cli.folder import ClusterFolder
from saga_cli.slurm.asking import Asked, site_for
from saga_cli.slurm.up import script
from saga_cli.units import plural
from saga_core.errors import SagaError
from saga_slurm.allocation import wall_time
from saga_slurm.backends import chosen
from saga_slurm.commands import Commands
from saga_slurm.facts import Partition, SlurmError
from saga_slurm.reading import read_version

COMMANDS: Final = ("sbatch", "squeue", "scancel", "scontrol", "sinfo", "srun")
LOCAL_DISKS: Final = frozenset(
    {"tmpfs", "ramfs", "overlay", "ext2", "ext3", "ext4", "btrfs", "squashfs", "devtmpfs"}
)
"""File systems that other machines do not see. xfs and zfs may be served by somebody: nobody knows from here."""
FREE_BYTES: Final = 1 << 30
"""Journal and logs of a busy day."""


class Verdict(StrEnum):
    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    what: str
    verdict: Verdict
    told: str


async def look(asked: Asked, folder: ClusterFolder) -> list[Finding]:
    """Everything that matters to `saga up --slurm` with these flags; a failed call is a finding, not an end."""
    found = [_commands()]
    if found[0].verdict is Verdict.FAIL:
        return found
    commands = Commands(site_for(asked).slurm.timeout_s)
    parts: list[tuple[str, Callable[[], Awaitable[list[Finding]]]]] = [
        ("controller", lambda: _controller(commands)),
        ("backend", lambda: _backend(asked)),
        ("partition", lambda: _partition(commands, asked)),
        ("script", lambda: _script(commands, asked, folder)),
    ]
    for what, part in parts:
        try:
            found += await part()
        except SagaError as error:
            found.append(Finding(what, Verdict.FAIL, str(error)))
    return [*found, *_storage(folder), _folder(folder)]


def _commands() -> Finding:
    missing = [name for name in COMMANDS if shutil.which(name) is None]
    if missing:
        return Finding("commands", Verdict.FAIL, f"{', '.join(missing)} not in PATH: is this a login node?")
    return Finding("commands", Verdict.OK, str(Path(shutil.which("sbatch") or "").parent))


async def _controller(commands: Commands) -> list[Finding]:
    await commands.ping()
    return [*settings_findings(await commands.settings(), str(await commands.version()))]


def settings_findings(settings: Mapping[str, str], client: str) -> list[Finding]:
    """What the controller's settings mean for a cluster. Pure."""
    theirs = settings.get("SLURM_VERSION", "")
    same = theirs != "" and read_version(theirs) == read_version(client)
    versions = (
        f"Slurm {theirs} here and there" if same else f"commands of {client}, controller of {theirs or '?'}"
    )
    found = [Finding("controller", Verdict.OK if same else Verdict.WARN, versions)]
    preempts = settings.get("PreemptMode", "OFF") not in {"OFF", "(null)"}
    if preempts and "preempt_send_user_signal" not in settings.get("SlurmctldParameters", ""):
        found.append(
            Finding(
                "preemption", Verdict.WARN, "jobs are preempted without our notice (preempt_send_user_signal)"
            )
        )
    if settings.get("JobRequeue") == "0":
        found.append(
            Finding("requeue", Verdict.WARN, "jobs are not requeued (JobRequeue=0): say `saga up` again")
        )
    return found


async def _backend(asked: Asked) -> list[Finding]:
    site = site_for(asked).slurm
    try:
        backend = await chosen(site)
    except SlurmError as error:
        return [Finding("backend", Verdict.FAIL, f"slurm.backend = {site.backend}: {error}")]
    await backend.close()
    return [Finding("backend", Verdict.OK, f"{backend.name} (slurm.backend = {site.backend})")]


async def _partition(commands: Commands, asked: Asked) -> list[Finding]:
    site = site_for(asked).job
    return [
        partition_finding(
            await commands.partitions(), asked, asked.partition or site.partition, gpus=site.gpus
        )
    ]


def partition_finding(known: list[Partition], asked: Asked, wanted: str, *, gpus: str) -> Finding:
    """Whether the partition can have what is asked for. Pure."""
    found = next((p for p in known if (p.name == wanted if wanted else p.default)), None)
    names = ", ".join(p.name for p in known) or "none"
    if found is None:
        told = f"no partition {wanted!r}" if wanted else "no default partition: say --partition"
        return Finding("partition", Verdict.FAIL, f"{told} (have: {names})")
    problems = [] if found.up else ["it is down"]
    if found.nodes < asked.nodes:
        problems.append(f"it has {plural(found.nodes, 'node')}, {asked.nodes} are wanted")
    if asked.gpus_per_node and gpus != "none" and "gpu" not in found.gres:
        problems.append('Slurm counts no GPUs there (job.gpus = "none" in the site file goes on without)')
    if found.time_limit_s is not None and wall_time(asked.time) > found.time_limit_s:
        problems.append(f"its time limit is {found.time_limit_s / 3600:g} h")
    if problems:
        return Finding("partition", Verdict.FAIL, f"{found.name}: {'; '.join(problems)}")
    return Finding(
        "partition", Verdict.OK, f"{found.name}: {plural(found.nodes, 'node')} {found.gres}".rstrip()
    )


async def _script(commands: Commands, asked: Asked, folder: ClusterFolder) -> list[Finding]:
    """Slurm's own word on the very script that would be submitted."""
    with tempfile.NamedTemporaryFile("w", suffix=".sbatch") as file:
        file.write(script(asked, folder))
        file.flush()
        return [Finding("script", Verdict.OK, await commands.would_start(Path(file.name)))]


def _storage(folder: ClusterFolder) -> list[Finding]:
    mounts = Path("/proc/mounts").read_text()
    paths = {"cluster folder": folder.path, "python": Path(sys.executable)}
    return [storage_finding(what, path, mounts) for what, path in paths.items()]


def storage_finding(what: str, path: Path, mounts: str) -> Finding:
    """Whether the nodes are likely to see `path`, by the file system it is on. Pure; `mounts` as /proc/mounts."""
    kind = file_system(path, mounts)
    if kind in LOCAL_DISKS:
        advice = (
            "use a folder on storage that the nodes share (--cluster-dir)"
            if "folder" in what
            else ("the nodes need one too: a venv on shared storage, or a container (site file)")
        )
        return Finding(what, Verdict.WARN, f"{path} is on {kind}, which other machines do not see: {advice}")
    return Finding(what, Verdict.OK, f"{path} ({kind})")


def file_system(path: Path, mounts: str) -> str:
    """The type of the mount that holds `path`."""
    best, kind = "", "unknown"
    for line in mounts.splitlines():
        point, found = line.split()[1:3]
        point = point.replace("\\040", " ")
        if (str(path) == point or str(path).startswith(point.rstrip("/") + "/")) and len(point) >= len(best):
            best, kind = point, found
    return kind


def _folder(folder: ClusterFolder) -> Finding:
    there = next(p for p in (folder.path, *folder.path.parents) if p.exists())
    if not os.access(there, os.W_OK):
        return Finding("writing", Verdict.FAIL, f"{there} cannot be written")
    free = shutil.disk_usage(there).free
    verdict = Verdict.OK if free >= FREE_BYTES else Verdict.WARN
    return Finding("writing", verdict, f"{free / 2**30:.1f} GiB free at {there}")
