"""Showing a launch while it goes on: live on a terminal, a line per change in a pipe, nothing for machines."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from saga_cli.output import Output, Renderer
from saga_cli.slurm.picture import Picture, panel


class Show(Protocol):
    def __call__(self, seen: Picture) -> None: ...


@contextmanager
def showing(renderer: Renderer) -> Iterator[Show]:
    """What to call with each picture; stdout stays free for the answer."""
    if renderer.mode is not Output.TABLE:
        yield lambda _seen: None
    elif sys.stderr.isatty():
        from rich.live import Live

        with Live(console=renderer.console(stderr=True), refresh_per_second=4) as live:
            yield lambda seen: live.update(panel(seen))
    else:
        yield _Lines(renderer)


class _Lines:
    def __init__(self, renderer: Renderer) -> None:
        self._renderer, self._last = renderer, ""

    def __call__(self, seen: Picture) -> None:
        if (line := seen.line()) != self._last:
            self._last = line
            self._renderer.note(line)
