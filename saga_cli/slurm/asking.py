"""What a person asks for, made into allocations: flags over the site's file over defaults."""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from saga_cli.config import Resolved, resolve
from saga_cli.folder import ClusterFolder
from saga_cli.units import seconds
from saga_core.errors import UserError
from saga_slurm.allocation import Allocation, Role, wall_time
from saga_slurm.elastic import Limits
from saga_slurm.plan import Plan
from saga_slurm.site import Site, read_site

SITE_VARIABLE: Final = "SAGA_SITE"
SITE_FILES: Final = ("~/.config/saga/site.toml", "/etc/saga/site.toml")
DEFAULT_TIME: Final = "1:00:00"
LEAD_S: Final = 600
"""By how much two allocations of a chain overlap: the successor's workers load their weights in that time."""
OF_THE_CLUSTER: Final = ("profile", "name", "head.")
"""Settings that are the head's: an allocation that joins has no say in them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The flags of one `saga up --slurm`."""

    role: Role
    nodes: int = 1
    gpus_per_node: int = 0
    workers: int | None = None
    tp: int | None = None
    time: str = DEFAULT_TIME
    partition: str = ""
    account: str = ""
    qos: str = ""
    site: Path | None = None
    chain: int = 1
    min_nodes: int | None = None
    max_nodes: int | None = None
    idle_timeout: str = ""
    settings: Mapping[str, Any]
    """Everything else, by dotted name."""
    config: Path | None = None

    def resolved(self) -> Resolved:
        """The cluster's settings as they would be, were it new."""
        return resolve(self._per_node() | dict(self.settings), file=self.config)

    @property
    def elastic(self) -> bool:
        """Whether the cluster is to grow, shrink or end by itself."""
        return self.min_nodes is not None or self.max_nodes is not None or bool(self.idle_timeout)

    def limits(self, nodes: int) -> Limits:
        """For a cluster that is started with so many nodes, which leave last and together."""
        if self.min_nodes is not None and self.min_nodes < nodes:
            raise UserError(
                f"--min-nodes {self.min_nodes} with --nodes {nodes}: nodes leave by allocations, and the first one "
                f"last (valid: at least {nodes}, or fewer --nodes)"
            )
        least = nodes if self.min_nodes is None else self.min_nodes
        timeout_s = seconds(self.idle_timeout, "--idle-timeout") if self.idle_timeout else None
        most = max(least, nodes) if self.max_nodes is None else self.max_nodes
        return Limits(min_nodes=least, max_nodes=most, idle_timeout_s=timeout_s)

    def _per_node(self) -> dict[str, Any]:
        """Settings that follow from the machines. UserError where they do not add up."""
        tp = self.tp or 1
        if self.gpus_per_node and self.gpus_per_node % tp:
            fit = [n for n in range(1, self.gpus_per_node + 1) if self.gpus_per_node % n == 0]
            raise UserError(
                f"--tp {tp} does not divide the {self.gpus_per_node} GPUs of a node "
                f"(valid: {', '.join(map(str, fit))})"
            )
        count = self.workers if self.workers is not None else max(1, self.gpus_per_node // tp)
        # Open to the cluster's network, where the nodes are; each connection is asked for its key.
        per_node: dict[str, Any] = {"head.host": "0.0.0.0", "workers.count": count}  # noqa: S104
        return per_node | ({"workers.tp": tp} if self.tp is not None else {})


def site_for(asked: Asked, environment: Mapping[str, str] = os.environ) -> Site:
    """The site file that is named, or the usual one."""
    return read_site(asked.site.expanduser()) if asked.site else usual_site(environment)


def usual_site(environment: Mapping[str, str] = os.environ) -> Site:
    """The site file that the environment names, or that lies where one is looked for."""
    if named := environment.get(SITE_VARIABLE):
        return read_site(Path(named).expanduser())
    usual = (Path(name).expanduser() for name in SITE_FILES)
    return next((read_site(path) for path in usual if path.is_file()), Site())


def allocation(asked: Asked, folder: ClusterFolder, settings: Mapping[str, Any]) -> Allocation:
    """The allocation asked for; `settings`: those the cluster in `folder` has or will have."""
    return Allocation(
        role=asked.role,
        tag=uuid.uuid4().hex,
        name=str(settings["name"]),
        folder=str(folder.path),
        nodes=asked.nodes,
        gpus_per_node=0 if asked.role is Role.TOOLS else asked.gpus_per_node,
        time_s=wall_time(asked.time),
        python=sys.executable,
        settings=overrides(asked, settings),
        partition=asked.partition,
        account=asked.account,
        qos=asked.qos,
        elastic=asked.elastic and asked.role is Role.CLUSTER,
    )


def plan(asked: Asked, first: Allocation, settings: Mapping[str, Any]) -> Plan:
    """How a cluster that began with `first` may grow and shrink: by nodes like its own, one at a time."""
    count = {"workers.count": str(settings["workers.count"])}
    join = msgspec.structs.replace(
        first,
        role=Role.JOIN,
        nodes=1,
        settings=count,
        elastic=False,
        predecessor="",
        predecessor_job="",
        lead_s=0,
    )
    return Plan(limits=asked.limits(first.nodes), join=join, site=site_for(asked))


def overrides(asked: Asked, settings: Mapping[str, Any]) -> dict[str, str]:
    """What an allocation's node daemons do otherwise than the cluster's settings say."""
    match asked.role:
        case Role.CLUSTER:
            return {}
        case Role.TOOLS:
            return {"workers.count": "0"}
        case Role.JOIN:
            wanted = asked.resolved().asked
            mine = {n: v for n, v in wanted.items() if not n.startswith(OF_THE_CLUSTER)}
            return {n: _text(v) for n, v in mine.items() if _text(v) != _text(settings.get(n))}


def _text(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
