"""A cluster of one's own, in a folder that goes when it does: for what measures and must not meddle."""

from __future__ import annotations

import shutil
import signal
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from saga_cli.config import resolve
from saga_cli.folder import ClusterFolder
from saga_cli.local.down import take_down
from saga_cli.local.up import bring_up
from saga_cli.progress import Progress

START_S: Final = 300.0
"""For all workers to be ready: 20 s in practice, more where a model is built first."""
STOP_S: Final = 30.0


@contextmanager
def private_cluster(
    name: str, settings: Mapping[str, Any], show: Progress, *, keep: bool = False
) -> Iterator[ClusterFolder]:
    """A running cluster in a new folder; gone afterwards, whatever happens. `keep`: but for the folder."""
    folder = ClusterFolder(Path(tempfile.mkdtemp(prefix=f"saga-{name}-")))
    try:
        try:
            wanted = resolve({"name": name, **settings}, environment={})
            bring_up(folder, wanted, show=show, timeout_s=START_S)
            yield folder
        finally:
            show.phase("taking the cluster down")
            take_down(folder, timeout_s=STOP_S)
    finally:
        if keep:
            show.say(f"kept: {folder.path}")
        else:
            shutil.rmtree(folder.path, ignore_errors=True)


@contextmanager
def ends_at_term() -> Iterator[None]:
    """TERM and HUP end what runs inside as Ctrl-C does: what it started is taken down."""
    before = {
        number: signal.signal(number, signal.default_int_handler)
        for number in (signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
