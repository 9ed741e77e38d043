"""Snapshots in the place of old journals, made beside the head: a process that folds what the head has written.

Rules of this file
  1. A snapshot is what the journals before it come to. The same `Book.apply` makes it that makes the head's own book and
     a recovery, so nothing is copied or encoded where events are handled.
  2. It is there whole or not at all, beside journals that only it makes superfluous: whoever is killed when, a recovery
     reads the newest snapshot and the journals from it on.
  3. It reads journals that have ended and writes a file that has no other maker, so one that outlives its head does
     no harm: it may finish.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import msgspec

from saga_core import snapshot
from saga_core.book import Book
from saga_core.costs import CostTable
from saga_core.errors import ClusterError, SagaError
from saga_head.archive import Torn, book_at, chain, journal_path, prune, read, snapshot_path
from saga_shell import log
from saga_shell.files import write_private

NICE: Final = 10
"""It may wait, the head beside it may not: a tenth of a core that both want (kernel: weight 110 to 1024)."""


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What to fold: all journals of `folder` before journal `number`. profile and costs: as `Journal.recover`."""

    folder: str
    number: int
    profile: str
    costs: CostTable


def fold(order: Order) -> Book:
    """The book as it was when that journal began. Raises `ClusterError` where something is damaged or missing."""
    folder = Path(order.folder)
    base, numbers = chain(folder, below=order.number)
    if len(numbers) < order.number - base:
        raise ClusterError(f"{journal_path(folder, order.number - 1)} is missing")
    book = book_at(folder, base, order.profile, order.costs)
    for number in numbers:
        path = journal_path(folder, number)
        try:
            for _, at, fact in read(path):
                book.apply(fact, at)
        except Torn as torn:
            raise ClusterError(f"{path}: damaged at byte {torn.at}") from None
    return book


def compact(order: Order) -> None:
    """Write the snapshot, and remove what nobody needs any more. Raises `ClusterError`, `OSError`."""
    path = snapshot_path(Path(order.folder), order.number)
    for left in path.parent.glob(".snapshot-*"):  # of one that was killed
        left.unlink(missing_ok=True)
    if not path.exists():
        data = snapshot.encode(fold(order))
        with contextlib.suppress(FileExistsError):  # one that outlived its head was faster
            write_private(path, data, new=True)
    prune(path.parent)


class Compactor:
    """The head's side: one process at a time."""

    def __init__(self, folder: Path, profile: str, costs: CostTable) -> None:
        """Of the journal in `folder`; profile and costs as given to `Journal.recover`."""
        self._folder, self._profile, self._costs = folder, profile, costs
        self._process: subprocess.Popen[bytes] | None = None
        self._closing = False
        self._task: asyncio.Task[None] | None = None

    def begin(self, number: int) -> None:
        """Fold what came before journal `number`, which must have its name. Nothing while the last one is at work."""
        if self._task is not None and not self._task.done():
            log.info("snapshot", waits_for="the one before", journal=number)
            return
        order = Order(folder=str(self._folder), number=number, profile=self._profile, costs=self._costs)
        self._task = asyncio.create_task(self._run(order))

    async def _run(self, order: Order) -> None:
        failed = await asyncio.get_running_loop().run_in_executor(None, self._in_process, order)
        if failed:  # the journals are all there, and the next one tries again
            log.warning("snapshot", problem=failed, journal=order.number)
        else:
            log.info("snapshot", journal=order.number)

    def _in_process(self, order: Order) -> str:
        """In a thread: why there is no snapshot; empty: there is one."""
        command = [sys.executable, "-m", "saga_head.compaction"]
        try:
            self._process = subprocess.Popen(  # noqa: S603 - ourselves
                command, stdin=subprocess.PIPE, stderr=subprocess.PIPE
            )
        except OSError as error:
            return str(error)
        if self._closing:
            self._process.kill()
        _, said = self._process.communicate(msgspec.json.encode(order))
        code = self._process.returncode
        if not code:
            return ""
        return b" ".join(said.splitlines()[-1:]).decode(errors="replace") or f"its process ended with {code}"

    async def idle(self) -> None:
        """Wait until none is at work."""
        if self._task is not None:
            await self._task

    async def close(self) -> None:
        """End it: what is not there yet, the next head makes."""
        self._closing = True
        if self._process is not None:
            self._process.kill()
        await self.idle()


def main() -> int:
    """`python -m saga_head.compaction` with an `Order` as JSON on its standard input: exit code 0 once the snapshot is there."""
    os.nice(NICE)
    os.umask(0o077)
    gc.disable()  # a book has no cycles, and this process ends
    try:
        compact(msgspec.json.decode(sys.stdin.buffer.read(), type=Order))
    except (SagaError, OSError) as error:
        print(f"saga_head.compaction: {error}", file=sys.stderr)  # noqa: T201 - the head logs it
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
