"""What will not work on this login node, and why, before any job is submitted."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Awaitable, Iterator, Mapping
from pathlib import Path
from typing import Final

from saga_cli.doctor.findings import Finding, Verdict, fail, ok, warn
from saga_cli.doctor.place import file_system
from saga_cli.folder import ClusterFolder
from saga_cli.slurm.asking import Asked, site_for
from saga_cli.slurm.up import script
from saga_cli.units import plural
from saga_core.errors import SagaError
from saga_slurm.allocation import wall_time
from saga_slurm.backends import chosen
from saga_slurm.commands import Commands
from saga_slurm.facts import Partition
from saga_slurm.reading import read_version

COMMANDS: Final = ("sbatch", "squeue", "scancel", "scontrol", "sinfo", "srun")
LOCAL_DISKS: Final = frozenset(
    {"tmpfs", "ramfs", "overlay", "ext2", "ext3", "ext4", "btrfs", "squashfs", "devtmpfs"}
)
"""File systems that other machines do not see. xfs and zfs may be served by somebody: nobody knows from here."""
STEP_MB: Final = 4.0
STEP_PROCESSES: Final = 3
"""What one node's step costs on the first machine of its job: an srun, its shepherd and the shell above them, idle (PSS
of 60 such steps, Slurm 22.05; 12 MB of RSS)."""
MANY_NODES: Final = 200


async def look(asked: Asked, folder: ClusterFolder) -> list[Finding]:
    """Everything that matters to `saga up --slurm` with these flags; a failed call is a finding, not an end."""
    found = _commands()
    if found.verdict is Verdict.FAIL:
        return [found]
    commands = Commands(site_for(asked).slurm.timeout_s)
    parts: list[tuple[str, Awaitable[list[Finding]], str]] = [
        ("controller", _controller(commands), "ask again when slurmctld answers (`scontrol ping`)"),
        ("backend", _backend(asked), 'slurm.backend = "cli" in the site file does without pyslurm'),
        ("partition", _partition(commands, asked), "see the message"),
        ("script", _script(commands, asked, folder), "see `saga up --slurm --dry-run`"),
    ]
    steps = steps_finding(asked.nodes)
    return [found, *[each for part in parts for each in await _examined(*part)], steps, *_storage(folder)]


async def _examined(what: str, part: Awaitable[list[Finding]], remedy: str) -> list[Finding]:
    try:
        return await part
    except SagaError as error:
        return [fail(what, str(error), remedy)]


def _commands() -> Finding:
    missing = [name for name in COMMANDS if shutil.which(name) is None]
    if missing:
        told = f"{', '.join(missing)} not in PATH: is this a login node?"
        return fail("commands", told, "log in to a node of the Slurm cluster, or load its module")
    return ok("commands", str(Path(shutil.which("sbatch") or "").parent))


async def _controller(commands: Commands) -> list[Finding]:
    await commands.ping()
    return [*settings_findings(await commands.settings(), str(await commands.version()))]


def settings_findings(settings: Mapping[str, str], client: str) -> Iterator[Finding]:
    """What the controller's settings mean for a cluster. Pure."""
    theirs = settings.get("SLURM_VERSION", "")
    if theirs and read_version(theirs) == read_version(client):
        yield ok("controller", f"Slurm {theirs} here and there")
    else:
        told = f"commands of {client}, controller of {theirs or '?'}"
        yield warn("controller", told, "use the commands of the controller's release, if there are some")
    preempts = settings.get("PreemptMode", "OFF") not in {"OFF", "(null)"}
    if preempts and "preempt_send_user_signal" not in settings.get("SlurmctldParameters", ""):
        told = "jobs are preempted without our notice (preempt_send_user_signal)"
        yield warn("preemption", told, "ask for it, or for a partition that is not preempted")
    if settings.get("JobRequeue") == "0":
        yield warn(
            "requeue", "jobs are not requeued (JobRequeue=0)", "after a loss say `saga up --slurm` again"
        )


async def _backend(asked: Asked) -> list[Finding]:
    site = site_for(asked).slurm
    backend = await chosen(site)
    await backend.close()
    return [ok("backend", f"{backend.name} (slurm.backend = {site.backend})")]


async def _partition(commands: Commands, asked: Asked) -> list[Finding]:
    site = site_for(asked).job
    wanted = asked.partition or site.partition
    return [partition_finding(await commands.partitions(), asked, wanted, gpus=site.gpus)]


def partition_finding(known: list[Partition], asked: Asked, wanted: str, *, gpus: str) -> Finding:
    """Whether the partition can have what is asked for. Pure."""
    found = next((p for p in known if (p.name == wanted if wanted else p.default)), None)
    names = ", ".join(p.name for p in known) or "none"
    if found is None:
        told = f"no partition {wanted!r}" if wanted else "no default partition"
        return fail("partition", f"{told} (have: {names})", "name one of them (--partition)")
    problems = [] if found.up else ["it is down"]
    if found.nodes < asked.nodes:
        problems.append(f"it has {plural(found.nodes, 'node')}, {asked.nodes} are wanted")
    if asked.gpus_per_node and gpus != "none" and "gpu" not in found.gres:
        problems.append('Slurm counts no GPUs there (job.gpus = "none" in the site file goes on without)')
    if found.time_limit_s is not None and wall_time(asked.time) > found.time_limit_s:
        problems.append(f"its time limit is {found.time_limit_s / 3600:g} h")
    if problems:
        told = f"{found.name}: {'; '.join(problems)}"
        return fail("partition", told, f"ask for less, or for another partition (have: {names})")
    return ok("partition", f"{found.name}: {plural(found.nodes, 'node')} {found.gres}".rstrip())


async def _script(commands: Commands, asked: Asked, folder: ClusterFolder) -> list[Finding]:
    """Slurm's own word on the very script that would be submitted."""
    with tempfile.NamedTemporaryFile("w", suffix=".sbatch") as file:
        file.write(script(asked, folder))
        file.flush()
        return [ok("script", await commands.would_start(Path(file.name)))]


def steps_finding(nodes: int) -> Finding:
    """What so many nodes in one job cost its first machine. Pure."""
    told = (
        f"{plural(nodes, 'node')} in one job: {nodes * STEP_PROCESSES} processes and {nodes * STEP_MB:.0f} MB on its "
        "first machine for their steps"
    )
    if nodes <= MANY_NODES:
        return ok("steps", told)
    rest = (
        f"--nodes {MANY_NODES}, and `saga up --join` for the others: each job has a first machine of its own"
    )
    return warn("steps", told, rest)


def _storage(folder: ClusterFolder) -> Iterator[Finding]:
    """What the nodes need to see."""
    mounts = Path("/proc/mounts").read_text()
    yield shared_finding(
        "shared folder", folder.path, mounts, "use a folder on storage that the nodes share (--cluster-dir)"
    )
    yield shared_finding(
        "shared python",
        Path(sys.executable),
        mounts,
        "the nodes need one too: a venv on shared storage, or a container (site file)",
    )


def shared_finding(what: str, path: Path, mounts: str, remedy: str) -> Finding:
    """Whether the nodes are likely to see `path`, by the file system it is on. Pure; `mounts` as /proc/mounts."""
    kind = file_system(path, mounts)
    if kind in LOCAL_DISKS:
        return warn(what, f"{path} is on {kind}, which other machines do not see", remedy)
    return ok(what, f"{path} ({kind})")
