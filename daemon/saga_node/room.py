"""What programs may ask of this node, and the command that holds them to it where Slurm can."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from typing import Final

import psutil

from saga_core import wire

MIB: Final = 1024 * 1024


def cores() -> int:
    """That this daemon may use: of its job, where it is in one that does not have the whole machine."""
    return len(os.sched_getaffinity(0))


def memory_bytes(environment: Mapping[str, str]) -> int:
    """Of this machine, or what Slurm gives the job here (SLURM_MEM_PER_NODE, in MiB), if that is less."""
    machine = int(psutil.virtual_memory().total)
    told = environment.get("SLURM_MEM_PER_NODE", "")
    return min(machine, int(told) * MIB) if told.isdecimal() and int(told) else machine


def confined(want: wire.RunProgram, environment: Mapping[str, str]) -> list[str]:
    """The command line of a program: within a Slurm job as a step with what it asked for, so that cgroups hold it.

    Elsewhere as it is: then what it asked for is counted only.
    """
    asked = want.cpus or want.memory_bytes
    if not asked or "SLURM_JOB_ID" not in environment or shutil.which("srun") is None:
        return want.argv
    return [
        "srun", "--overlap", "--exact", "--nodes=1", "--ntasks=1", "--gres=none", "--quiet", "--unbuffered",
        f"--nodelist={environment.get('SLURMD_NODENAME', os.uname().nodename)}",
        f"--cpus-per-task={want.cpus or 1}",
        f"--mem={-(-want.memory_bytes // MIB)}M" if want.memory_bytes else "--mem=0",
        f"--chdir={want.cwd}",
        *want.argv,
    ]  # fmt: skip
