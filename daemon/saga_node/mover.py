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
from saga_core.node_words import AdoptKv, ExportKv, KvAdopted, KvExported, RemoveKv
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
        tell: Callable[[KvExported | KvAdopted], None],
    ) -> None:
        """`control`: of one incarnation of a worker, if it has session control and is ready."""
        self._node, self._shared, self._processes = node, cluster / MOVING, processes
        self._control, self._tell = control, tell
        self._own: Path | None = None
        self._tasks = Tasks()
        shutil.rmtree(self._shared / node, ignore_errors=True)  # of a daemon before this one

    def export(self, order: ExportKv) -> None:
        """Have it written; `KvExported` follows."""
        self._tasks.start(self._export(order), f"export {order.move}")

    def adopt(self, order: AdoptKv) -> None:
        """Have it read; `KvAdopted` follows."""
        self._tasks.start(self._adopt(order), f"adoption {order.move}")

    def remove(self, order: RemoveKv) -> None:
        """Remove what an export has left."""
        self._tasks.start(asyncio.to_thread(self._remove, order), f"end of move {order.move}")

    async def close(self) -> None:
        """Let go of what is under way; the files go with the folders."""
        self._tasks.cancel()
        await self._tasks.finished()

    async def _export(self, order: ExportKv) -> None:
        answer = KvExported(order.head, order.move, reason="the export was broken off")
        try:
            folder = self._folder(self._node, order.to)
            self._processes.own(folder)
            await asyncio.to_thread(_prepare, folder)
            path = folder / _name(order.head, order.move)
            moved = await self._ask(
                order.worker, order.incarnation, Export(session=order.session, path=str(path))
            )
            answer = KvExported(order.head, order.move, moved.tokens, moved.copied_bytes)
        except (NoControl, OSError) as error:
            answer = KvExported(order.head, order.move, reason=str(error))
            log.warning("kv-not-exported", session=order.session, worker=order.worker, reason=error)
        finally:
            self._tell(answer)

    async def _adopt(self, order: AdoptKv) -> None:
        answer = KvAdopted(order.head, order.move, reason="the adoption was broken off")
        try:
            path = self._folder(order.source, self._node) / _name(order.head, order.move)
            moved = await self._ask_again(
                order.worker, order.incarnation, Adopt(session=order.session, path=str(path))
            )
            answer = KvAdopted(order.head, order.move, moved.tokens, moved.copied_bytes)
        except (NoControl, OSError) as error:
            answer = KvAdopted(order.head, order.move, reason=str(error))
            log.warning("kv-not-adopted", session=order.session, worker=order.worker, reason=error)
        finally:
            self._tell(answer)

    async def _ask_again(self, worker: WorkerId, incarnation: int, command: Command) -> Moved:
        """As `_ask`, of an engine that may not be ready yet."""
        for pause_s in AGAIN_S:
            try:
                return await self._ask(worker, incarnation, command)
            except NotYet:
                await asyncio.sleep(pause_s)
        return await self._ask(worker, incarnation, command)

    async def _ask(self, worker: WorkerId, incarnation: int, command: Command) -> Moved:
        control = self._control(worker, incarnation)
        if control is None:
            raise NoControl(f"{worker} incarnation {incarnation} is not there")
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
