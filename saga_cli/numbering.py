"""Numbers that consistent hashing shares out evenly.

A cluster that just started gives its workflows the numbers 1, 2, 3 ..., and `sticky` hashes these to workers: of the
first 48 one of two workers gets 33, every time. Luck that never changes is no comparison, so a bench leaves numbers out
until those that come are shared out as evenly as they can be: the best that `sticky` can do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from saga_cli.control import Control
from saga_core.fleet import Pool, Worker
from saga_core.ids import NodeId, WorkerId
from saga_core.views import FinishRequest, SubmitRequest

SEARCHED: Final = 2000
"""Starts that are looked at; of 48 numbers and two workers every tenth one is even."""


def even_start(first: int, count: int, workers: Sequence[str], turn: int) -> int:
    """The first of `count` numbers, at least `first`, of which each worker gets as many as any other, give or take one.

    turn: which of such starts, from 1; the evenest one where there are not so many.
    """
    pool = Pool()
    for name in workers:
        pool.add(Worker(WorkerId(name), NodeId(""), ""))
    # As the head names a workflow to the ring (`saga_core.steps`).
    owners = [pool.hashed(f"workflow {number}").id for number in range(first, first + SEARCHED + count)]
    uneven = []
    for at in range(SEARCHED):
        held = [owners[at : at + count].count(WorkerId(name)) for name in workers]
        uneven.append((max(held) - min(held), at))
    even = [at for off, at in uneven if off <= 1]
    return first + (even[turn - 1] if len(even) >= turn else min(uneven)[1])


def number_evenly(control: Control, count: int, turn: int) -> int:
    """Leave numbers out of the running cluster so that the next `count` are even; the number that comes next."""
    first = 1 + max((workflow.id for workflow in control.workflows()), default=0)
    workers = sorted(worker.id for worker in control.cluster().workers if worker.state == "ready")
    start = even_start(first, count, workers, turn)
    for _ in range(first, start):
        left_out = control.submit(SubmitRequest(name="left out", kind="replay"))
        control.finish(left_out.id, FinishRequest(state="cancelled", reason="its number is left out"))
    return start
