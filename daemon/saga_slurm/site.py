"""A site: how one Slurm installation wants to be asked. Every directive of a rendered script can be switched here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from saga_core.errors import UserError, choose
from saga_slurm.elastic import Pace

GPU_WAYS: Final = ("gpus-per-node", "gres", "none")
CONTAINERS: Final = ("none", "apptainer", "pyxis")
BACKENDS: Final = ("auto", "cli", "pyslurm")


class JobSite(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the allocation asks for; an empty word leaves the directive out. Flags of `saga up` win."""

    partition: str = ""
    account: str = ""
    qos: str = ""
    constraint: str = ""
    reservation: str = ""
    gpus: str = "gres"
    """`gres`, `gpus-per-node`, or `none` where GPUs are not counted by Slurm. `gres` is what every version knows."""
    gpu_type: str = ""
    exclusive: bool = True
    """Whole nodes: nobody else's process can hold a port or see a file of ours."""
    cpus_per_node: int = 0
    """0: what Slurm gives; of an exclusive node that is all."""
    mem: str = "0"
    """`0`: all of the node; empty leaves it to the partition."""
    requeue: bool = True
    no_kill: bool = True
    """A job of several nodes goes on without one of them."""
    silent_s: int = 20
    """Silence of the head after which another node of its job begins one. A head that dies is back on its own machine
    within some 10 s, or given up."""
    deputies: int = 3
    """How many of the job's other nodes look at the head for that case. When its machine is gone, Slurm calls the job
    running for as long as it has others."""
    spare: bool = True
    """Where the script is ended and its machine is not gone (a node set down), the job fails, and is not requeued: for
    that case a second one waits, which begins when the first one has failed."""
    signal_s: int = 120
    """How long before its end, or its preemption, the job is told (Slurm may be a minute early)."""
    extra: list[str] = []
    """Further directives as they are, each `--name=value`."""


class SoftwareSite(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How saga and its engines are found on a compute node."""

    module_init: str = ""
    """A file to source where `module` is not known to batch scripts."""
    modules: list[str] = []
    venv: str = ""
    python: str = ""
    """Interpreter on the nodes; empty: that of the venv, else the one `saga up` runs with."""
    env: dict[str, str] = {}
    """`$NAME` and `${NAME}` in a value stand for what the node's environment has."""
    container: str = "none"
    image: str = ""
    mounts: list[str] = []
    """`source` or `source:target`; the cluster's folder is always mounted."""
    container_args: list[str] = []


class NetworkSite(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    interface: str = ""
    """Whose IPv4 address the head publishes; empty: the address at which Slurm itself reaches the node."""


class SlurmSite(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    backend: str = "auto"
    """`cli`, `pyslurm`, or `auto`: pyslurm where its probe passes."""
    pyslurm_python: str = ""
    """An interpreter that has pyslurm; empty: SAGA_PYSLURM_PYTHON, else our own."""
    timeout_s: float = 30.0
    """For one answer of Slurm."""
    srun_args: list[str] = []
    """Further options of every step."""


class Site(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    job: JobSite = JobSite()
    software: SoftwareSite = SoftwareSite()
    network: NetworkSite = NetworkSite()
    slurm: SlurmSite = SlurmSite()
    scaling: Pace = Pace()

    def __post_init__(self) -> None:
        _one_of("job.gpus", self.job.gpus, GPU_WAYS)
        _one_of("software.container", self.software.container, CONTAINERS)
        _one_of("slurm.backend", self.slurm.backend, BACKENDS)
        if self.software.container != "none" and not self.software.image:
            raise UserError(f'software.container = "{self.software.container}" needs software.image')
        for name, value, least in (("silent_s", self.job.silent_s, 1), ("deputies", self.job.deputies, 0)):
            if value < least:
                raise UserError(f"job.{name} = {value}: at least {least} is valid")
        for directive in self.job.extra:
            if not re.fullmatch(r"--[a-z][a-z-]*(=.*)?", directive):
                raise UserError(
                    f"job.extra: {directive!r} is not a directive (valid: --name or --name=value)"
                )
        for name in self.software.env:
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
                raise UserError(f"software.env: {name!r} is not a name of a variable")


def _one_of(name: str, value: str, valid: tuple[str, ...]) -> None:
    if value not in valid:
        raise choose(name, value, valid)


def site_of(tables: Mapping[str, Any], where: str) -> Site:
    """A site from TOML's tables. UserError says what in `where` is wrong, and what is valid."""
    _check_names(tables, where)
    try:
        return msgspec.convert(dict(tables), Site)
    except msgspec.ValidationError as error:
        raise UserError(f"{where}: {error}") from None
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def _check_names(tables: Mapping[str, Any], where: str) -> None:
    sections = {field.name: field.type for field in msgspec.structs.fields(Site)}
    for section, values in tables.items():
        if section not in sections:
            raise choose("section", section, list(sections), where)
        if not isinstance(values, Mapping):
            raise UserError(
                f"{where}: {section} is a value, not a section ([{section}] with values below it)"
            )
        valid = [field.name for field in msgspec.structs.fields(sections[section])]
        for name in values:
            if name not in valid:
                raise choose(f"name in [{section}]", name, valid, where)


def read_site(path: Path) -> Site:
    """The site in a TOML file. UserError for a file that cannot be read or says what cannot be."""
    import tomllib

    try:
        return site_of(tomllib.loads(path.read_text()), str(path))
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid TOML: {error}") from None
