"""The journal: every fact, on local disk, in order.

Rules of this file
  1. A record is `length, crc32, msgpack [seconds, fact]`. A torn last record is cut off at
     recovery; damage in the middle is an error that names the file and the place.
  2. `append` only fills a buffer. `flush` writes it (group commit), `sync` also waits for the
     disk: only the acceptance of a workflow waits.
  3. When a journal is long enough, the next one begins, at once. Facts alone change a book, so the snapshot that takes
     the place of the journals before is what they come to, whoever folds them: another process (`saga_head.compaction`),
     for as long as it takes. Until it is there, recovery reads the journals. The last few old ones stay, for
     `saga trace export` and for looking back.
  4. A journal has its name only once the one before it is on the disk; until then it is `journal-N.after-BYTES`, and
     continues that one only if it is so long. So a loss of power leaves no hole: what was written into the new one
     before the old one was safe, was promised to nobody.
  5. A head that takes over from one that may live begins a new journal behind a snapshot: what the old one still
     writes, stopped in the middle of it, is in a file that nobody goes on with (`saga_head.claim`).
  6. A full disk stops nothing that runs: facts stay in the buffer, within a bound, and new
     submissions are refused until a write succeeds.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from saga_core import snapshot
from saga_core.book import Book
from saga_core.costs import CostTable
from saga_core.errors import ClusterError
from saga_core.events import Fact
from saga_head.archive import (
    HEADER,
    KEEP,
    MAGIC,
    Torn,
    book_at,
    chain,
    journal_path,
    prune,
    read,
    snapshot_path,
)
from saga_shell.files import sync_folder, write_private

__all__ = ["KEEP", "MAX_BUFFER_BYTES", "Journal", "Torn", "read"]

MAX_BUFFER_BYTES: Final = 64 * 1024 * 1024
"""Facts held in memory while the disk refuses them; beyond it the oldest behaviour is to stop."""

_encoder = msgspec.msgpack.Encoder()


class Journal:
    """The one writer of a cluster's journal folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.number = 0
        self.size = 0
        self.problem = ""
        """Why the last write failed; empty when all is well."""
        self.last_at = 0.0
        self.may_write: Callable[[], None] = lambda: None
        """Called before anything is written; it does not return where this head may not (any more)."""
        self._fds: tuple[int, ...] = ()
        """The current journal, last; before it the one that ended, until it is on the disk."""
        self._unnamed = Path()
        """The current journal, as long as there are two."""
        self._buffer = bytearray()
        self._disk = threading.Lock()
        self._written = 0
        self._synced = 0
        """Bytes of this process: of so many of those written it is known that they are on the disk."""

    # -- recovery ------------------------------------------------------------------------

    def recover(self, profile: str, costs: CostTable | None = None) -> Book:
        """The book as of the last record, and this journal open for more.

        `costs`: by which work is weighed. Raises `ClusterError` for a damaged folder or one that cannot be written.
        """
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            base, numbers = chain(self.folder)
            book = book_at(self.folder, base, profile, costs)
            last = max([base, *numbers])
            for number in numbers:
                self._replay(number, book, last=number == last)
            self._open(self._adopted(last, book))
        except OSError as error:
            raise ClusterError(f"journal in {self.folder}: {error.strerror or error}") from error
        return book

    def _replay(self, number: int, book: Book, *, last: bool) -> None:
        """Apply what is there. The `last` one may be torn, and is cut there."""
        path = journal_path(self.folder, number)
        good = len(MAGIC)
        try:
            for end, at, fact in read(path):
                book.apply(fact, at)
                self.last_at, good = max(self.last_at, at), end
        except Torn as torn:
            if not last:
                raise ClusterError(f"{path}: damaged at byte {torn.at}, and newer journals follow") from None
            os.truncate(path, good if torn.at >= len(MAGIC) else 0)

    def _adopted(self, last: int, book: Book) -> int:
        """Go on with a journal that has no name yet where it continues the `last` one; the number of what is last now."""
        for path in sorted(self.folder.glob("journal-*.after-*")):
            before = journal_path(self.folder, last)
            if before.exists() and path == self._nameless(last + 1, before.stat().st_size):
                _sync_file(before)
                last += 1
                path.rename(journal_path(self.folder, last))
                self._replay(last, book, last=True)
            else:
                path.unlink()
        return last

    def _open(self, number: int, more: int = 0) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | more
        opened = os.open(journal_path(self.folder, number), flags, 0o600)
        for old in self._fds:
            os.close(old)
        self.number, self._fds = number, (opened,)
        self.size = os.fstat(opened).st_size
        if self.size == 0:
            self._buffer[:0] = MAGIC
            sync_folder(self.folder)

    def _nameless(self, number: int, after_bytes: int) -> Path:
        return journal_path(self.folder, number).with_suffix(f".after-{after_bytes}")

    # -- writing -------------------------------------------------------------------------

    def append(self, fact: Fact, at: float) -> None:
        """Keep `fact`; it reaches the disk with the next `flush`."""
        data = _encoder.encode((at, fact))
        self._buffer += HEADER.pack(len(data), zlib.crc32(data))
        self._buffer += data

    def flush(self) -> None:
        """Write what was appended. A failure is kept in `problem` and tried again next time."""
        if not self._buffer:
            return
        self.may_write()
        path = journal_path(self.folder, self.number)
        try:
            written = os.write(self._fds[-1], self._buffer)
        except OSError as error:
            self.problem = f"{path}: {error.strerror or error}"
            if len(self._buffer) > MAX_BUFFER_BYTES:
                raise ClusterError(f"{self.problem}; {len(self._buffer)} bytes are waiting") from error
            return
        self.size += written
        self._written += written
        del self._buffer[:written]
        self.problem = "" if not self._buffer else f"{path}: disk full"

    def _flush_all(self) -> None:
        self.flush()
        if self._buffer:
            raise OSError(self.problem)

    async def sync(self) -> None:
        """Wait until everything appended so far is on the disk. Raises `OSError` when it is not."""
        self._flush_all()
        await asyncio.get_running_loop().run_in_executor(None, self._to_disk, self._written)

    def _to_disk(self, written: int) -> None:
        """In a thread: wait for the disk, for all who wait at once. A journal that ended comes first (rule 4)."""
        with self._disk:
            if self._synced >= written and len(self._fds) == 1:
                return
            written = self._written  # before the files: what is written later may be in a later one
            *ended, current = self._fds
            for old in ended:
                os.fsync(old)
                self._name()
                self._fds = (current,)
                os.close(old)
            os.fsync(current)
            self._synced = written

    def _name(self) -> None:
        """The journal before is on the disk. Raises `FileExistsError` where another head has made one of that name."""
        named = journal_path(self.folder, self.number)
        try:
            os.link(self._unnamed, named)
        except FileExistsError:
            if not named.samefile(self._unnamed):  # else the disk failed just behind it
                raise
        sync_folder(self.folder)
        self._unnamed.unlink()

    def turn(self) -> None:
        """Begin the next journal, at once. It has its name after the next `sync`, and the one that ended is final.

        Raises `OSError`; then the old journal simply goes on. No file of that name may be there: another head would
        have made it, and this one has been paused.
        """
        self._flush_all()
        if len(self._fds) > 1:
            return
        number = self.number + 1
        named = journal_path(self.folder, number)
        if named.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(named))
        self.may_write()
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_EXCL
        self._unnamed = self._nameless(number, self.size)
        opened = os.open(self._unnamed, flags, 0o600)
        self.number, self.size, self._fds = number, 0, (*self._fds, opened)
        self._buffer += MAGIC
        self.flush()

    def rotate(self, book: Book) -> None:
        """Put a snapshot of `book` in the place of the journal so far, and begin the next one: of a head that takes over.

        Raises `OSError`; then the old journal simply goes on. Neither file may be there: another head would have made
        it, and this one has been paused.
        """
        self._flush_all()
        number = self.number + 1
        self.may_write()
        write_private(snapshot_path(self.folder, number), snapshot.encode(book), new=True)
        self._open(number, os.O_EXCL)
        self.flush()
        prune(self.folder)

    def close(self) -> None:
        """Write what is left and close; nothing is lost but what the disk refused."""
        if self._fds:
            self.flush()
            with contextlib.suppress(OSError):
                self._to_disk(self._written)
            for fd in self._fds:
                os.close(fd)
            self._fds = ()


def _sync_file(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
