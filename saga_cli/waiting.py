"""Waiting for workflows to end."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

from saga_cli.control import Control
from saga_cli.progress import Progress
from saga_cli.selection import ranges
from saga_cli.units import plural
from saga_core.errors import ClusterError
from saga_core.states import ENDED
from saga_core.views import WorkflowView

ASK_EVERY_S: Final = 0.5


def await_ended(
    control: Control, ids: Sequence[int], *, show: Progress, timeout_s: float | None = None
) -> list[WorkflowView]:
    """The workflows once all have ended. Raises ClusterError when that takes longer than `timeout_s`."""
    deadline = time.monotonic() + timeout_s if timeout_s is not None else None
    show.phase(f"waiting for {plural(len(ids), 'workflow')}", len(ids))
    known: set[int] = set()
    while True:
        found = _of(control, ids)
        over = [w for w in found if w.state in ENDED]
        for done, workflow in enumerate([w for w in over if w.id not in known], len(known) + 1):
            show.advance(done, f"workflow {workflow.id} {workflow.state}")
        known = {w.id for w in over}
        if len(over) == len(found):
            return found
        if deadline is not None and time.monotonic() > deadline:
            live = ranges([w.id for w in found if w.id not in known])
            raise ClusterError(f"not ended after {timeout_s:g} s: workflow {live} (they go on)")
        time.sleep(ASK_EVERY_S)


def _of(control: Control, ids: Sequence[int]) -> list[WorkflowView]:
    if len(ids) == 1:
        return [control.workflow(ids[0])]
    wanted = set(ids)
    return [w for w in control.workflows() if w.id in wanted]
