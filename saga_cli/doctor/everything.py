"""All checks in their order: to add one, write a small function and name it here."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from saga_cli.doctor import cluster, machine, place
from saga_cli.doctor.findings import Check, Finding, examined
from saga_cli.folder import ClusterFolder


def look(folder: ClusterFolder) -> list[Finding]:
    """What is right and wrong with this machine, the cluster folder, and the cluster that runs in it."""
    return examined(_checks(folder))


def _checks(folder: ClusterFolder) -> Iterator[tuple[str, Check]]:
    yield "python", machine.python
    yield "packages", machine.packages
    yield "vllm", machine.engines
    yield "memory", machine.memory
    yield "open files", machine.open_files
    yield "model cache", machine.models
    yield "proxy", machine.proxies
    yield "settings", machine.settings
    yield "port", partial(machine.port, running=folder.access_file.exists())
    yield "permissions", partial(place.modes, folder)
    yield "free space", partial(place.room, folder)
    yield "storage", partial(place.storage, folder)
    yield "files", partial(place.files, folder)
    yield "processes", partial(cluster.processes, folder)
    yield "stale processes", partial(cluster.orphans, folder)
    yield "cluster", partial(cluster.live, folder, _version())


def _version() -> str:
    from saga_head.app import saga_version

    return saga_version()
