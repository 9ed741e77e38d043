"""Log files of workers and programs: private, appended to, bounded when a process starts."""

from __future__ import annotations

import os
from pathlib import Path

from saga_core.errors import ClusterError

LARGEST_BYTES = 8 << 20
"""A log of this size makes way at the next start; one older log is kept beside it. vLLM writes 30 KB at a start."""


class LogFile:
    """An open log; `since` is where this process's own output begins."""

    def __init__(self, path: Path) -> None:
        """Open `path` for appending, made with its folder when missing. ClusterError says why it cannot be."""
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            if path.exists() and path.stat().st_size > LARGEST_BYTES:
                path.replace(path.with_name(path.name + ".1"))
            self.fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ClusterError(f"cannot write the log {path}: {error.strerror or error}") from None
        self.since = os.fstat(self.fd).st_size

    def write(self, text: str) -> None:
        """Write a line of our own. ClusterError: the disk takes none, and would take none of the process's."""
        try:
            os.write(self.fd, text.encode())
        except OSError as error:
            raise ClusterError(f"cannot write the log {self.path}: {error.strerror or error}") from None
        self.since = os.fstat(self.fd).st_size

    def tail(self, most_bytes: int) -> str:
        """The end of what was written since it was opened."""
        try:
            with self.path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(self.since, size - most_bytes))
                return file.read(most_bytes).decode("utf-8", "replace")
        except OSError:
            return ""

    def close(self) -> None:
        os.close(self.fd)
