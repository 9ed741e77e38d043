"""Moves sessions' KV between engines by files: within this node in shared memory, between nodes in the cluster folder.

Rules of this file
  1. Each order is answered once, whatever happens to the engine that was asked.
  2. The files of this node's exports lie in two folders of its own, which go with the daemon: the guard removes them
     after a `kill -9`, the next daemon of this name and the head (`saga_head.leftovers`) after a dead machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from saga_core.access import MOVING
from saga_core.ids import NodeId, WorkerId
from saga_core.kv.commands import Adopt, Command, Export, Moved
from saga_core.node_words import KvMoved, RemoveKv
from saga_core.wire import Half, MoveHalf
from saga_node.processes import Processes
from saga_node.tasks import Tasks
from saga_shell import log
from saga_vllm.control import Control, NoControl, NotYet

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - mkdtemp is safe
LEAST_FREE = 0.1
"""Of shared memory stays free: engines need it to talk to their ranks."""
OLD_S = 300.0
"""A file this old is of an export that was given up long before the engine came to it."""
AGAIN_S = (0.05, 0.1, 0.2)
"""Pauses before an engine that is not ready for an adoption is asked again: few, since it reads the file each time, and
together less than a step waits for its move at least (`migration.patience_s`, 0.5 s)."""


class Mover:
    """Has engines write and read the files."""

    def __init__(
        self,
        node: NodeId,
        cluster: Path,
        processes: Processes,
        control: Callable[[WorkerId, int], Control | None],
        tell: Callable[[KvMoved], None],
    ) -> None:
        """`control`: of one incarnation of a worker, if it has session control and is ready."""
        self._node, self._shared, self._processes = node, cluster / MOVING, processes
        self._control, self._tell = control, tell
        self._own: Path | None = None
        self._tasks = Tasks()
        shutil.rmtree(self._shared / node, ignore_errors=True)  # of a daemon before this one

    def move(self, want: MoveHalf) -> None:
        """Have that half done; `KvMoved` follows."""
        self._tasks.start(self._answer(want), f"{want.half} of move {want.move}")

    def remove(self, order: RemoveKv) -> None:
        """Remove what an export has left."""
        self._tasks.start(asyncio.to_thread(self._remove, order), f"end of move {order.move}")

    async def close(self) -> None:
        """Let go of what is under way; the files go with the folders."""
        self._tasks.cancel()
        await self._tasks.finished()

    async def _answer(self, want: MoveHalf) -> None:
        name = (want.head, want.move, want.half)
        answer = KvMoved(*name, reason=f"the {want.half} was broken off")
        try:
            moved = await (self._export(want) if want.half is Half.EXPORT else self._adopt(want))
            answer = KvMoved(*name, moved.tokens, moved.copied_bytes)
        except (NoControl, OSError) as error:
            answer = KvMoved(*name, reason=str(error))
            log.warning(f"kv-not-{want.half}ed", session=want.session, worker=want.worker, reason=error)
        finally:
            self._tell(answer)

    async def _export(self, want: MoveHalf) -> Moved:
        folder = self._folder(self._node, want.other)
        self._processes.own(folder)
        await asyncio.to_thread(_prepare, folder)
        path = folder / _name(want.head, want.move)
        return await self._ask(want, Export(session=want.session, path=str(path)))

    async def _adopt(self, want: MoveHalf) -> Moved:
        """From an engine that may not be ready for it yet."""
        path = self._folder(want.other, self._node) / _name(want.head, want.move)
        adopt = Adopt(session=want.session, path=str(path))
        for pause_s in AGAIN_S:
            try:
                return await self._ask(want, adopt)
            except NotYet:
                await asyncio.sleep(pause_s)
        return await self._ask(want, adopt)

    async def _ask(self, want: MoveHalf, command: Command) -> Moved:
        control = self._control(want.worker, want.incarnation)
        if control is None:
            raise NoControl(f"{want.worker} incarnation {want.incarnation} is not there")
        answer = await control.ask(command)
        if not isinstance(answer, Moved):
            raise NoControl(f"an answer to another order: {type(answer).__name__}")
        return answer

    # -- files ---------------------------------------------------------------------------

    def _folder(self, source: NodeId, target: NodeId) -> Path:
        if source != target:
            if Path(source).name != source:
                raise OSError(f"{source!r} names no folder")
            return self._shared / source
        if self._own is None:
            base = SHARED_MEMORY if os.access(SHARED_MEMORY, os.W_OK) else self._processes.folder
            self._own = Path(tempfile.mkdtemp(prefix=f"saga-kv-{os.getuid()}-", dir=base))
        return self._own

    def _remove(self, order: RemoveKv) -> None:
        """Also what an engine has begun to write and did not live to finish."""
        name = _name(order.head, order.move)
        for folder in filter(None, (self._own, self._shared / self._node)):
            for path in (folder / name, *folder.glob(f".{name}.*")):
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)


def _prepare(folder: Path) -> None:
    """A folder to write to. OSError: there is none, or no space."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    used = shutil.disk_usage(folder)
    if used.free < LEAST_FREE * used.total:
        raise OSError(f"{folder} is almost full")
    old = time.time() - OLD_S
    for path in folder.iterdir():
        with contextlib.suppress(OSError):
            if path.stat().st_mtime < old:
                path.unlink()


def _name(head: int, move: int) -> str:
    return f"{head}-{move}.kv"
