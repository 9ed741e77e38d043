"""`python -m saga_slurm.succession …`: make room for a successor, as its batch script asks.

Waits until the successor's nodes serve, then has those of the predecessor drained and removed, and its head hand over.
Ends with 0 where that is so, with 4 where the head does not answer. Asks the running head, whoever that is, over HTTP with the key in the cluster's
folder.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Final

from saga_core.states import NodeState, WorkerState
from saga_core.views import ClusterView
from saga_shell import cluster
from saga_slurm import head

LOOK_S: Final = 0.5
DRAIN_S: Final = 300.0
"""For steps that compute and sessions in a tool to come to their end on the old nodes."""
ANSWERS_S: Final = 300.0
"""For the predecessor's head to read to their ends the answers that it has begun; the next head does not wait for it."""
NO_HEAD_EXIT: Final = 4
LEAVE_S: Final = 30.0
"""For the emptied nodes' daemons to end."""


def serves(view: ClusterView, job: str, *, nodes: int, workers_per_node: int) -> bool:
    """Whether so many nodes of `job` are up with all their workers ready. Pure."""
    mine = {node.id for node in view.nodes if node.id.startswith(f"{job}.") and node.state == NodeState.UP}
    ready = sum(worker.node in mine and worker.state == WorkerState.READY for worker in view.workers)
    return len(mine) >= nodes and ready >= nodes * workers_per_node


def left(view: ClusterView, job: str) -> list[str]:
    """The nodes of `job` that are there. Pure."""
    return [node.id for node in view.nodes if node.id.startswith(f"{job}.") and node.state == NodeState.UP]


def succeed(folder: Path, job: str, predecessor: str, *, nodes: int, within_s: float) -> None:
    """Returns when the nodes of `job` serve and those of `predecessor` are gone, or have had their time."""
    config = cluster.read_config(folder)
    workers = config.workers.count if config is not None else 1
    while (view := head.look(folder)) is None or not serves(view, job, nodes=nodes, workers_per_node=workers):
        time.sleep(LOOK_S)
    end = time.monotonic() + within_s + LEAVE_S
    for node in left(view, predecessor):
        head.remove(folder, node, reason="a successor has taken over", within_s=within_s)
    while time.monotonic() < end and ((view := head.look(folder)) is None or left(view, predecessor)):
        time.sleep(LOOK_S)


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m saga_slurm.succession", description=__doc__)
    parser.add_argument("--cluster-dir", type=Path, required=True)
    parser.add_argument("--job", required=True)
    parser.add_argument("--nodes", type=int, required=True, help="of the job")
    parser.add_argument("--predecessor", required=True, help="the job that leaves")
    parser.add_argument("--within", type=float, default=DRAIN_S, help="seconds for its sessions to move on")
    options = parser.parse_args()
    folder: Path = options.cluster_dir
    succeed(folder, options.job, options.predecessor, nodes=options.nodes, within_s=options.within)
    access = cluster.read_access(folder)
    if access is None or access.job != options.predecessor:  # it has gone by itself
        return 0
    return 0 if head.hand_over(folder, within_s=ANSWERS_S) else NO_HEAD_EXIT


if __name__ == "__main__":
    sys.exit(main())
