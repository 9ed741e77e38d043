"""Bringing a cluster up on this machine, and saying why where that fails.

Rules of this file
  1. What already runs is kept: a second `up` starts only what is missing.
  2. What this call started and could not finish, it takes down again (error, Ctrl-C).
"""

from __future__ import annotations

import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from saga_cli.config import Resolved
from saga_cli.control import Control
from saga_cli.folder import ClusterFolder, tail
from saga_cli.local import processes
from saga_cli.local.down import take_down
from saga_cli.local.processes import HEAD, LOCAL_NODE, NODE, POLL_S, Daemon
from saga_cli.progress import Progress
from saga_cli.settling import settle
from saga_cli.units import plural
from saga_core.access import decode
from saga_core.config import Config
from saga_core.errors import ClusterError, SagaError
from saga_core.states import WorkerState
from saga_core.views import ClusterView, WorkerView

HEAD_START_S: Final = 30.0
"""Until access.json: a second in practice, more on a loaded machine's first import."""
UNDO_S: Final = 20.0
"""For taking down what was started, after a failure."""
ASK_EVERY_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class Started:
    """The outcome of `bring_up`."""

    cluster: ClusterView
    already: bool
    """Everything ran before: nothing was started."""


@dataclass(slots=True)
class _Undo:
    started: list[Daemon] = field(default_factory=list)
    since: float = field(default_factory=time.time)
    """What logs hold from before is of other runs."""


def bring_up(
    folder: ClusterFolder, wanted: Resolved, *, show: Progress, timeout_s: float, wait: bool = True
) -> Started:
    """Start the head and the node of a local cluster, and wait until its workers are ready.

    Raises UserError when a cluster with other settings runs in the folder, ClusterError (with the
    end of the log) when something does not come up.
    """
    folder.make()
    running = {daemon.kind: daemon for daemon in processes.find(folder)}
    config = settle(folder, wanted, running=bool(running))
    undo = _Undo()
    try:
        if HEAD not in running:
            _start_head(folder, undo, show)
        if NODE not in running:
            _start_node(folder, undo)
        cluster = (
            _await_workers(folder, config, undo, show, timeout_s) if wait else Control.of(folder).cluster()
        )
    except (SagaError, KeyboardInterrupt):
        # Not `undo.started`: Ctrl-C may come between a daemon's start and its place in there.
        if started := [daemon for daemon in processes.find(folder) if daemon.kind not in running]:
            show.say("taking down what was started")
            take_down(folder, only=started, timeout_s=UNDO_S)
        raise
    return Started(cluster, already=not undo.started)


def _start_head(folder: ClusterFolder, undo: _Undo, show: Progress) -> None:
    show.phase("starting the head")
    child = processes.start(processes.head_command(folder), folder.head_log)
    undo.started.append(_daemon(HEAD, "", child))
    deadline = time.monotonic() + HEAD_START_S
    while not _listens(folder, child.pid):
        if child.poll() is not None:
            raise _died("the head", child.returncode, folder.head_log)
        if time.monotonic() > deadline:
            raise ClusterError(
                f"the head does not listen after {HEAD_START_S:g} s; its log: {folder.head_log}"
            )
        time.sleep(POLL_S)


def _listens(folder: ClusterFolder, pid: int) -> bool:
    """The head writes access.json once it listens; an older file has another pid."""
    try:
        return decode(folder.access_file.read_bytes(), str(folder.access_file)).pid == pid
    except (OSError, ClusterError):
        return False


def _start_node(folder: ClusterFolder, undo: _Undo) -> None:
    child = processes.start(processes.node_command(folder, LOCAL_NODE), folder.node_log(LOCAL_NODE))
    undo.started.append(_daemon(NODE, LOCAL_NODE, child))


def _daemon(kind: str, node: str, child: subprocess.Popen[bytes]) -> Daemon:
    import psutil

    return Daemon(kind, node, psutil.Process(child.pid))


def _died(who: str, code: int, log: Path) -> ClusterError:
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    return ClusterError(
        "\n".join([f"{who} ended at its start ({how}); its log {log} ends with:", *_quoted(log)])
    )


def _quoted(log: Path) -> list[str]:
    return [f"  | {line}" for line in tail(log)] or ["  | (nothing)"]


def _await_workers(
    folder: ClusterFolder, config: Config, undo: _Undo, show: Progress, timeout_s: float
) -> ClusterView:
    count = config.workers.count
    if undo.started:
        _announce_model(config, show)
        show.phase(f"starting {plural(count, f'{config.workers.engine} worker')}", count)
    control, deadline = Control.of(folder), time.monotonic() + timeout_s
    known: set[str] = set()
    while True:
        cluster = control.cluster()
        now_ready = [worker.id for worker in cluster.workers if worker.state == WorkerState.READY]
        for id_ in sorted(set(now_ready) - known) if undo.started else ():
            known.add(id_)
            show.advance(len(known), f"{id_} is ready")
        if len(now_ready) >= count:
            return cluster
        _look_for_failure(folder, cluster, undo)
        if time.monotonic() > deadline:
            raise _too_late(folder, cluster, count, timeout_s)
        time.sleep(ASK_EVERY_S)


def _announce_model(config: Config, show: Progress) -> None:
    """A demo model that is not there yet is built before the first worker starts."""
    from saga_node.models import cache
    from saga_vllm.model import MODEL_SIZES, is_built

    name = config.workers.model
    if config.workers.engine == "vllm" and name in MODEL_SIZES and not is_built(cache() / name, name):
        show.say(f"building the model {name} first: random weights, nothing is fetched")


def _look_for_failure(folder: ClusterFolder, cluster: ClusterView, undo: _Undo) -> None:
    for worker in cluster.workers:
        if worker.state == WorkerState.LOST:
            raise _failed(folder, worker, undo)
    for daemon in undo.started:
        if not processes.alive(daemon.process):
            log = folder.head_log if daemon.kind == HEAD else folder.node_log(daemon.node)
            raise ClusterError(
                "\n".join([f"the {daemon.name} ended at its start; its log {log} ends with:", *_quoted(log)])
            )


def _failed(folder: ClusterFolder, worker: WorkerView, undo: _Undo) -> ClusterError:
    log = folder.worker_log(worker.id)
    why = [f"worker {worker.id} failed at its start: {worker.reason or 'no reason given'}"]
    if log.exists() and log.stat().st_mtime >= undo.since:
        why += [f"its log {log} ends with:", *_quoted(log)]
    else:
        why += [f"it wrote nothing; the node's log: {folder.node_log(LOCAL_NODE)}"]
    return ClusterError("\n".join(why))


def _too_late(folder: ClusterFolder, cluster: ClusterView, count: int, timeout_s: float) -> ClusterError:
    states = ", ".join(f"{worker.id} {worker.state}" for worker in cluster.workers) or "no worker was seen"
    return ClusterError(
        f"{plural(count, 'worker')} wanted, not all ready after {timeout_s:g} s ({states}); "
        f"logs: {folder.path / 'log'}. --timeout allows more time"
    )
