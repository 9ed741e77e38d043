"""Waiting for nodes to be empty."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

from saga_cli.control import Control
from saga_cli.progress import Progress
from saga_cli.units import plural
from saga_core.states import DutyState, NodeState
from saga_core.views import NodeView

ASK_EVERY_S: Final = 0.5


def await_empty(
    control: Control, nodes: Sequence[str], *, show: Progress, gone: bool = False
) -> list[NodeView]:
    """The nodes once nothing of the cluster is left on any; `gone`: once their daemons have ended."""
    show.phase(f"emptying {plural(len(nodes), 'node')}", len(nodes))
    known: set[str] = set()
    while True:
        found = [view for view in control.cluster().nodes if view.id in nodes]
        done = {view.id for view in found if _is_done(view, gone=gone)} | set(nodes) - {v.id for v in found}
        for name in sorted(done - known):
            known.add(name)
            show.advance(len(known), f"{name} is {'gone' if gone else 'empty'}")
        if len(done) == len(nodes):
            return found
        time.sleep(ASK_EVERY_S)


def _is_done(view: NodeView, *, gone: bool) -> bool:
    """A lost node has nothing left; one that has left neither."""
    return view.state != NodeState.UP or (not gone and view.duty != DutyState.DRAINING)
