"""The cluster folder on disk, as the CLI sees it: where things lie, who may read them."""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from saga_core.access import FILE, SETTINGS, Access, decode
from saga_core.errors import ClusterError
from saga_shell.files import write_private

DEFAULT: Final = "~/.saga/default"
TAIL_LINES: Final = 12
"""Of a daemon's log, shown beside its failure: a traceback's end fits."""
MAX_TAIL_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class ClusterFolder:
    """Paths of one cluster. `log/` and `workflows/` are made by `make`."""

    path: Path

    @property
    def access_file(self) -> Path:
        return self.path / FILE

    @property
    def settings_file(self) -> Path:
        return self.path / SETTINGS

    @property
    def head_log(self) -> Path:
        return self.path / "log" / "head.log"

    def node_log(self, node: str) -> Path:
        return self.path / "log" / f"node-{node}.log"

    def worker_log(self, worker: str) -> Path:
        """`worker` is an id such as `local/0`."""
        node, _, index = worker.rpartition("/")
        return self.path / "log" / f"worker-{node}-{index}.log"

    def workflow_log(self, workflow: int) -> Path:
        return self.path / "workflows" / f"{workflow}.log"

    def make(self) -> None:
        """Create the folder for its owner only. Raises ClusterError where that is impossible."""
        try:
            for part in (self.path, self.path / "log", self.path / "workflows"):
                part.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.path.chmod(0o700)
        except OSError as error:
            raise ClusterError(f"{self.path}: cannot be made a cluster folder: {error.strerror}") from None

    def access(self) -> Access:
        """How to reach the cluster. Raises ClusterError when none was started here."""
        try:
            data = self.access_file.read_bytes()
        except FileNotFoundError:
            raise self.not_running() from None
        except OSError as error:
            raise ClusterError(f"{self.access_file}: cannot be read: {error.strerror}") from None
        return decode(data, str(self.access_file))

    def not_running(self) -> ClusterError:
        """The error for a folder without a cluster."""
        return ClusterError(
            f"no cluster is running at {self.path}; start one with `saga up --local`, or name another "
            "folder with --cluster-dir or SAGA_CLUSTER_DIR"
        )

    def settings(self) -> dict[str, Any] | None:
        """What the cluster was started with, by dotted name; None where nothing stands."""
        try:
            held = json.loads(self.settings_file.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise ClusterError(
                f"{self.settings_file} is damaged ({error}); `saga up` writes it anew once it is gone"
            ) from None
        if not isinstance(held, dict):
            raise ClusterError(
                f"{self.settings_file} is damaged (not an object); `saga up` writes it anew once it is gone"
            )
        return held

    def write_settings(self, values: Mapping[str, Any]) -> None:
        """Replace `settings.json` in one step, mode 0600. Raises ClusterError where that is impossible."""
        text = json.dumps(values, indent=2, default=list) + "\n"
        try:
            write_private(self.settings_file, text.encode())
        except OSError as error:
            raise ClusterError(f"{self.settings_file}: cannot be written: {error.strerror}") from None


def tail(path: Path, lines: int = TAIL_LINES) -> list[str]:
    """The last lines of a log, none if it cannot be read."""
    try:
        with path.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(0, size - MAX_TAIL_BYTES))
            return list(deque(log.read().decode(errors="replace").splitlines(), maxlen=lines))
    except OSError:
        return []
