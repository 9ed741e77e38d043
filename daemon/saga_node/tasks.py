"""Background work that is not lost sight of."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine


class Tasks:
    """Running tasks of one owner. One that fails is a bug, and goes to the loop's exception handler at once."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[None, None, None], name: str) -> asyncio.Task[None]:
        """Run `work`, known as `name`."""
        task = asyncio.create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(self._on_done)
        return task

    async def finished(self) -> None:
        """Wait until none runs, those included that are started meanwhile."""
        while self._running:
            await asyncio.wait(self._running)

    def cancel(self) -> None:
        """Cancel all."""
        for task in self._running:
            task.cancel()

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            context = {"message": f"{task.get_name()} failed", "exception": error}
            task.get_loop().call_exception_handler(context)
