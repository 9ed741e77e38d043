"""The live view: a new frame each interval until q or Ctrl-C, through restarts of the head."""

from __future__ import annotations

import contextlib
import select
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.live import Live

from saga_cli.control import Control
from saga_cli.top.frame import frame
from saga_core.errors import ClusterError
from saga_core.views import ClusterView

if TYPE_CHECKING:
    from saga_cli.folder import ClusterFolder

KEYS: Final = "q quit"
ASK_TIMEOUT_S: Final = 3.0


def watch(folder: ClusterFolder, console: Console, *, interval_s: float) -> None:
    """Show frames until the person leaves. Raises ClusterError when there is no cluster to begin with."""
    cluster, notice = Control.of(folder).cluster(), ""
    with (
        contextlib.suppress(KeyboardInterrupt),
        _keys() as pressed,
        Live(console=console, screen=True, auto_refresh=False) as live,
    ):
        while True:
            width, height = console.size
            picture = frame(cluster, width, height, now=time.time(), notice=notice, keys=KEYS)
            live.update(picture, refresh=True)
            if pressed(interval_s) in {"q", "Q"}:
                return
            cluster, notice = _next(folder, cluster)


def _next(folder: ClusterFolder, last: ClusterView) -> tuple[ClusterView, str]:
    """A fresh snapshot, or the last one with what is wrong."""
    try:
        return Control.of(folder, ASK_TIMEOUT_S).cluster(), ""
    except ClusterError as error:
        return last, f"no answer, the last view stands: {error}"


@contextlib.contextmanager
def _keys() -> Iterator[Callable[[float], str]]:
    """Single keys from the terminal, without echo; its settings come back at the end."""
    if not sys.stdin.isatty():
        yield _no_key
        return
    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)
        yield _key
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _key(wait_s: float) -> str:
    ready, _, _ = select.select([sys.stdin], [], [], wait_s)
    return sys.stdin.read(1) if ready else ""


def _no_key(wait_s: float) -> str:
    time.sleep(wait_s)
    return ""
