"""What machines that died have left in the cluster folder: KV of sessions that were on their way (`saga_node.mover`)."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import Callable, Collection
from pathlib import Path

from saga_core.access import MOVING
from saga_shell import log

EVERY_S = 60.0
"""Longer than a node needs to come back to a head that was started anew."""


async def sweep(folder: Path, up: Callable[[], Collection[str]], every_s: float = EVERY_S) -> None:
    """From time to time, remove what nodes that are not `up` have left in the cluster folder."""
    while True:
        await asyncio.sleep(every_s)
        await asyncio.to_thread(remove, folder / MOVING, frozenset(up()))


def remove(moving: Path, up: Collection[str]) -> None:
    """Remove the folders of all others than `up`; what cannot be removed is tried again next time."""
    with contextlib.suppress(OSError):
        for left in moving.iterdir():
            if left.name not in up:
                shutil.rmtree(left, ignore_errors=True)
                log.info("leftovers-removed", node=left.name)
