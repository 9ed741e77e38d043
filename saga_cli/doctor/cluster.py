"""The running cluster: its processes, the head, the clock, nodes, workers, the endpoint."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

from saga_cli.doctor.findings import Finding, fail, ok, warn
from saga_cli.folder import ClusterFolder
from saga_cli.local.processes import HEAD, NODE, Daemon, find
from saga_cli.units import duration, plural
from saga_core.errors import ClusterError
from saga_core.states import NodeState, WorkerState

if TYPE_CHECKING:
    from saga_core.access import Access
    from saga_core.views import ClusterView, NodeView, WorkerView

CLOCK_S: Final = 2.0
"""Wall times and deadlines are told in seconds since the epoch by several machines."""
SLOW_S: Final = 0.5
"""The head answers in milliseconds; this is a head, or a machine, that has no time."""
SILENT_S: Final = 5.0
"""Nodes report each second (`head.report_every_s`)."""
RESTART: Final = "`saga up` with the flags of before starts what is missing; logs are in {folder}/log"


def processes(folder: ClusterFolder) -> Iterable[Finding]:
    """Daemons of this folder on this machine, against what access.json says."""
    try:
        access = folder.access() if folder.access_file.exists() else None
    except ClusterError:
        access = None
    return process_findings(find(folder), access, os.uname().nodename)


def process_findings(daemons: list[Daemon], access: Access | None, here: str) -> Iterator[Finding]:
    heads = [d for d in daemons if d.kind == HEAD]
    nodes = [d for d in daemons if d.kind == NODE]
    told = ", ".join(f"{d.name} (pid {d.process.pid})" for d in daemons) or "no daemon of it runs here"
    if access is not None and access.host == here and not heads:
        yield fail(
            "processes",
            f"access.json names a head (pid {access.pid}) that is not there; {told}",
            "`saga up` starts it again, `saga down` clears what is left",
        )
    elif nodes and not heads and (access is None or access.host == here):
        yield warn(
            "processes", f"nodes without a head: {told}", "`saga up` brings a head, `saga down` ends them"
        )
    elif len(heads) > 1:
        yield fail("processes", f"more than one head: {told}", "`saga down`, then `saga up`")
    else:
        yield ok("processes", told)


def orphans(folder: ClusterFolder) -> Iterator[Finding]:
    """Workers and programs of this folder whose node is gone; its guard should have ended them."""
    import psutil

    from saga_cli.local.processes import family

    mine = {process.pid for process in family(find(folder))} | {os.getpid()}
    left = []
    for process in psutil.process_iter(["pid", "ppid", "cmdline"]):
        argv = process.info["cmdline"] or []
        named = any(word in {str(folder.path), f"--cluster-dir={folder.path}"} for word in argv)
        if (
            named
            and process.info["ppid"] == 1
            and process.pid not in mine
            and any("saga_" in word for word in argv)
        ):
            left.append(process.pid)
    if left:
        told = ", ".join(map(str, left))
        yield warn(
            "stale processes",
            f"pid {told}: of this folder, and without a daemon",
            f"kill {' '.join(map(str, left))}",
        )


def live(folder: ClusterFolder, version: str) -> Iterator[Finding]:
    """Everything that a running head tells."""
    from saga_cli.control import Control

    if not folder.access_file.exists():
        yield ok("cluster", "none runs in this folder")
        return
    began = time.time()
    try:
        cluster = Control.of(folder).cluster()
    except ClusterError as error:
        yield fail("head", str(error), RESTART.format(folder=folder.path))
        return
    ended = time.time()
    yield from head_findings(cluster, began, ended, version)
    for node in cluster.nodes:
        yield node_finding(node, folder)
    if not cluster.nodes:
        yield fail("nodes", "none has joined", RESTART.format(folder=folder.path))
    for worker in cluster.workers:
        yield worker_finding(worker, folder)
        yield from capability_findings(worker)
    yield from endpoint(folder, cluster)


def head_findings(cluster: ClusterView, began: float, ended: float, version: str) -> Iterator[Finding]:
    """It answers, soon, in our version, and its clock is ours. `began`, `ended`: around the question."""
    took_s = ended - began
    told = f"{cluster.url} answers in {took_s * 1000:.0f} ms, up {duration(cluster.up_s)}"
    if took_s > SLOW_S:
        yield warn("head", told, "the machine has no time left for it: look at its load, and at head.log")
    else:
        yield ok("head", told)
    if cluster.version != version:
        yield warn(
            "version",
            f"the head is saga {cluster.version}, this command {version}",
            "`saga down`, then `saga up`, when nothing runs",
        )
    if cluster.at:
        off_s = max(began - cluster.at, cluster.at - ended, 0.0)
        if off_s > CLOCK_S:
            yield warn(
                "clock",
                f"the head's differs from this machine's by {duration(off_s)}",
                "let both follow NTP (chronyd, systemd-timesyncd)",
            )
        else:
            yield ok("clock", "the head's and this machine's agree")


def node_finding(node: NodeView, folder: ClusterFolder) -> Finding:
    what, log = f"node {node.id}", folder.node_log(node.id)
    if node.state == NodeState.LEFT:
        return ok(what, "has left on purpose")
    if node.state == NodeState.LOST or node.seen_s > SILENT_S:
        return fail(
            what,
            f"silent for {duration(node.seen_s)} ({node.host})",
            f"see {log}; `saga up` starts it again, or look whether the machine is there",
        )
    return ok(what, f"{node.host}, heard of {duration(node.seen_s)} ago")


def worker_finding(worker: WorkerView, folder: ClusterFolder) -> Finding:
    """Its node probes it each second; what the probes say is its state."""
    what, log = f"worker {worker.id}", folder.worker_log(worker.id)
    if worker.state == WorkerState.READY:
        return ok(what, f"ready with {worker.model}, {plural(worker.running, 'step')} on it")
    if worker.state == WorkerState.STARTING:
        return warn(
            what,
            f"starting{f': {worker.reason}' if worker.reason else ''}",
            f"wait; {log} says how far it is",
        )
    return fail(what, worker.reason or "lost", f"see {log}; its node starts it again with growing pauses")


def capability_findings(worker: WorkerView) -> Iterator[Finding]:
    """What its engine was found not to do."""
    for tried in worker.capabilities:
        if tried.works is False:
            yield warn(
                f"worker {worker.id}",
                f"{tried.name} does not work: {tried.detail}",
                "the scheduler goes on without it; see docs/kv.md",
            )


def endpoint(folder: ClusterFolder, cluster: ClusterView) -> Iterator[Finding]:
    """What an agent would see: the list of models, with the key of the default tenant."""
    from dataclasses import replace

    from saga_cli.control import Control

    access = folder.access()
    control = replace(Control.of(folder), key=access.api_key)
    try:
        status = control.status_of("/v1/models")
    except ClusterError as error:
        yield fail("endpoint", str(error), RESTART.format(folder=folder.path))
        return
    if status != 200:
        yield fail(
            "endpoint", f"{cluster.url}/v1/models answers {status}", "`saga url --key` prints the valid key"
        )
    elif not cluster.models:
        yield warn(
            "endpoint", "no model is served", "wait for a worker to be ready, or see the workers above"
        )
    else:
        yield ok("endpoint", f"{cluster.url}/v1 serves {', '.join(cluster.models)}")
