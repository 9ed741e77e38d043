"""The batch script of an allocation, from a template of `job_templates/`. Pure, but for reading the templates.

Rules of this file
  1. `{{name}}` stands for a value of ours, already quoted for where it stands; `{{> part.sh}}` for another file.
  2. A placeholder without a value, and a value without a placeholder in any template, is a mistake, not a blank.
  3. Nothing secret is rendered: the script is stored by Slurm and shown by `scontrol`.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Final

from saga_core.errors import UserError
from saga_slurm.allocation import Allocation, Role, slurm_time
from saga_slurm.site import Site

_INCLUDE: Final = re.compile(r"^\{\{> *([\w.-]+) *\}\}\n", re.MULTILINE)
_VALUE: Final = re.compile(r"\{\{([a-z_]+)\}\}")
_VARIABLE: Final = re.compile(r"\$(?:\{([A-Za-z_]\w*)\}|([A-Za-z_]\w*))")

Templates = Callable[[str], str]


def shipped(name: str) -> str:
    """A file of `job_templates/` as installed."""
    return (files("saga_slurm") / "job_templates" / name).read_text()


def render(allocation: Allocation, site: Site, *, version: str, templates: Templates = shipped) -> str:
    """The whole script, ready for sbatch. UserError for what cannot stand in one."""
    text = _included(templates(f"{allocation.role}.sbatch"), templates)
    return _filled(text, _values(allocation, site, version))


def _included(text: str, templates: Templates) -> str:
    return _INCLUDE.sub(lambda found: templates(found[1]), text)


def _filled(text: str, values: Mapping[str, str]) -> str:
    def value(found: re.Match[str]) -> str:
        if found[1] not in values:
            raise UserError(
                f"unknown placeholder {found[0]} in a job template (have: {', '.join(sorted(values))})"
            )
        return values[found[1]]

    return _VALUE.sub(value, text)


def _values(allocation: Allocation, site: Site, version: str) -> dict[str, str]:
    return {
        "directives": "\n".join(f"#SBATCH {directive}" for directive in directives(allocation, site)),
        "version": version,
        "name": shlex.quote(allocation.name),
        "folder": shlex.quote(allocation.folder),
        "tag": allocation.tag,
        "environment": environment(site),
        "node_options": _words([w for n, v in allocation.settings.items() for w in ("--set", f"{n}={v}")]),
        "step_options": _words([*_container_step(allocation, site), *site.slurm.srun_args]),
        "gpu_option": _gpu_option(allocation, site),
        "command": _words(_command(allocation, site)),
        "interface": shlex.quote(site.network.interface),
        "silent_s": str(site.job.silent_s),
        "deputies": str(site.job.deputies),
        "spare": "1" if allocation.spare else "''",
        "elastic": "1" if allocation.elastic else "''",
        "predecessor": shlex.quote(allocation.predecessor),
        "predecessor_job": shlex.quote(allocation.predecessor_job),
    }


def _words(words: list[str]) -> str:
    return " ".join(map(shlex.quote, words))


def directives(allocation: Allocation, site: Site) -> list[str]:
    """What stands behind #SBATCH, in order."""
    job = site.job
    found = [
        f"--job-name={allocation.job_name}",
        f"--comment={allocation.comment}",
        f"--nodes={allocation.nodes}",
        "--ntasks-per-node=1",
        f"--time={slurm_time(allocation.time_s)}",
        f'--output="{allocation.folder}/log/slurm-%j.out"',
        "--open-mode=append",
        f"--signal=B:USR1@{job.signal_s}",
    ]
    named = {
        "partition": allocation.partition or job.partition,
        "account": allocation.account or job.account,
        "qos": allocation.qos or job.qos,
        "constraint": job.constraint,
        "reservation": job.reservation,
    }
    found += [f"--{name}={_plain(name, value)}" for name, value in named.items() if value]
    found += _gpus(allocation, site)
    # Programs need cores and memory of their own, not whole machines.
    whole = job.exclusive and allocation.role is not Role.TOOLS
    found += ["--exclusive"] if whole else []
    found += [f"--cpus-per-task={job.cpus_per_node}"] if job.cpus_per_node else []
    found += [f"--mem={_plain('mem', job.mem)}"] if job.mem and (whole or job.mem != "0") else []
    found += ["--requeue" if job.requeue else "--no-requeue"]
    found += ["--no-kill"] if job.no_kill else []
    if allocation.predecessor_job:
        found += [f"--dependency={dependency(allocation)}"]
        found += [] if allocation.lead_s else ["--kill-on-invalid-dep=yes"]
    return found + [_line(directive) for directive in job.extra]


def dependency(allocation: Allocation) -> str:
    """Begin so long after the predecessor began that both overlap by the lead, or when it has failed.

    Without a lead: only when it has failed.
    """
    failed = f"afternotok:{allocation.predecessor_job}"
    if not allocation.lead_s:
        return failed
    minutes = max(1, (allocation.time_s - allocation.lead_s) // 60)
    return f"after:{allocation.predecessor_job}+{minutes}?{failed}"


def _gpus(allocation: Allocation, site: Site) -> list[str]:
    if not allocation.gpus_per_node or site.job.gpus == "none":
        return []
    kind = f"{_plain('gpu_type', site.job.gpu_type)}:" if site.job.gpu_type else ""
    gres = "gres=gpu:" if site.job.gpus == "gres" else "gpus-per-node="
    return [f"--{gres}{kind}{allocation.gpus_per_node}"]


def _gpu_option(allocation: Allocation, site: Site) -> str:
    """For a step that has a node's GPUs all to itself: not --gpus-per-task, which hides them from each other."""
    if not allocation.gpus_per_node or site.job.gpus == "none":
        return ""
    kind = f"{site.job.gpu_type}:" if site.job.gpu_type else ""
    return shlex.quote(f"--gres=gpu:{kind}{allocation.gpus_per_node}")


def environment(site: Site) -> str:
    """Shell lines that make the site's software known."""
    software = site.software
    lines = [f"source {shlex.quote(software.module_init)}"] if software.module_init else []
    lines += [f"module load {shlex.quote(module)}" for module in software.modules]
    lines += [f"source {shlex.quote(software.venv + '/bin/activate')}"] if software.venv else []
    lines += [f"export {name}={_expanding(value)}" for name, value in software.env.items()]
    return "\n".join(lines) or ": # the site file asks for nothing"


def _expanding(value: str) -> str:
    """Double-quoted: variables are what the node has, everything else is as it stands."""
    parts, at = [], 0
    for found in _VARIABLE.finditer(value):
        parts += [_escaped(value[at : found.start()]), "${" + (found[1] or found[2]) + ":-}"]
        at = found.end()
    return '"' + "".join(parts) + _escaped(value[at:]) + '"'


def _escaped(text: str) -> str:
    return re.sub(r'([\\"$`])', r"\\\1", text)


def _command(allocation: Allocation, site: Site) -> list[str]:
    """What runs a module of ours on a node."""
    software = site.software
    python = software.python or (f"{software.venv}/bin/python" if software.venv else "")
    if software.container == "none":
        return [python or allocation.python]
    if software.container == "pyxis":
        return [python or "python3"]
    binds = [word for mount in (allocation.folder, *software.mounts) for word in ("--bind", mount)]
    gpu = ["--nv"] if allocation.gpus_per_node else []
    return [
        "apptainer", "exec", *gpu, *binds, *software.container_args, software.image, python or "python3",
    ]  # fmt: skip


def _container_step(allocation: Allocation, site: Site) -> list[str]:
    """Pyxis makes the container by options of srun."""
    software = site.software
    if software.container != "pyxis":
        return []
    mounts = [
        mount if ":" in mount else f"{mount}:{mount}" for mount in (allocation.folder, *software.mounts)
    ]
    return [
        f"--container-image={software.image}",
        f"--container-mounts={','.join(mounts)}",
        *software.container_args,
    ]


def _plain(name: str, value: str) -> str:
    if not re.fullmatch(r"[\w.,:@+&|()\[\]*=/-]+", value):
        raise UserError(f"--{name}={value!r}: not a word that can stand in a directive")
    return value


def _line(directive: str) -> str:
    if re.search(r"[\n\r]", directive):
        raise UserError(f"job.extra: {directive!r} has a line end")
    return directive
