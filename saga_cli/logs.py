"""A program's output, read from the cluster folder while it grows."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import BinaryIO, Final

from saga_cli.control import Control
from saga_cli.folder import ClusterFolder
from saga_core.errors import UserError
from saga_core.states import ENDED
from saga_core.views import WorkflowView

CHUNK_BYTES: Final = 64 * 1024
LOOK_EVERY_S: Final = 0.1
ASK_EVERY_S: Final = 1.0
"""How often the head is asked whether the workflow has ended."""


def chunks(folder: ClusterFolder, control: Control, id_: int, *, follow: bool) -> Iterator[bytes]:
    """What the program of workflow `id_` wrote; with `follow` until the workflow has ended.

    Raises UserError for a workflow that has no program.
    """
    workflow = control.workflow(id_)
    if workflow.kind != "program":
        raise UserError(f"workflow {id_} has no log: saga did not start its program (kind {workflow.kind!r})")
    path = folder.workflow_log(id_)
    while follow and not path.exists() and not _ended(workflow):
        time.sleep(ASK_EVERY_S)
        workflow = control.workflow(id_)
    if path.exists():
        with path.open("rb") as log:
            yield from _follow(log, control, id_) if follow else _rest(log)


def _follow(log: BinaryIO, control: Control, id_: int) -> Iterator[bytes]:
    over, next_ask = False, 0.0
    while not over:
        now = time.monotonic()
        if now >= next_ask:
            # Asked before the rest is read: what is written until the end is not missed.
            over, next_ask = _ended(control.workflow(id_)), now + ASK_EVERY_S
        yield from _rest(log)
        if not over:
            time.sleep(LOOK_EVERY_S)


def _rest(log: BinaryIO) -> Iterator[bytes]:
    while chunk := log.read(CHUNK_BYTES):
        yield chunk


def _ended(workflow: WorkflowView) -> bool:
    return workflow.state in ENDED
