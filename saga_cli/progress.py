"""How long work shows itself: a bar on a terminal, one line per step in a pipe, nothing in other modes.

All of it goes to stderr: stdout belongs to the answer.
"""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from saga_cli.output import Output, Renderer

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID


class Progress(Protocol):
    """A piece of work in phases, each perhaps with a known size."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def phase(self, text: str, total: int | None = None) -> None:
        """Begin a phase; the one before it is over."""

    def tick(self, done: int) -> None:
        """`done` of the phase's total: moves a bar, and is not worth a line."""

    def advance(self, done: int, note: str = "") -> None:
        """`done` of the phase's total, and what happened last."""

    def say(self, text: str) -> None:
        """A line that stays."""


def progress(renderer: Renderer) -> Progress:
    """The one that suits the renderer's mode and the terminal."""
    if renderer.mode not in (Output.TABLE, Output.HTML):
        return Silent()
    return Bar(renderer) if sys.stderr.isatty() else Lines()


class _Closing:
    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(whole=error is None)

    def close(self, *, whole: bool) -> None:
        """The end; `whole` unless an error cut the running phase short."""


class Silent(_Closing):
    def phase(self, text: str, total: int | None = None) -> None:
        pass

    def tick(self, done: int) -> None:
        pass

    def advance(self, done: int, note: str = "") -> None:
        pass

    def say(self, text: str) -> None:
        pass


class Lines(_Closing):
    """For pipes and logs: each phase and each advance is one line."""

    def __init__(self) -> None:
        self._total: int | None = None

    def phase(self, text: str, total: int | None = None) -> None:
        self._total = total
        self.say(text)

    def tick(self, done: int) -> None:
        pass

    def advance(self, done: int, note: str = "") -> None:
        of = f"/{self._total}" if self._total is not None else ""
        self.say(f"  {done}{of} {note}".rstrip())

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)


class Bar(_Closing):
    """For terminals: a spinner and a bar for the running phase, a tick for each one that is over."""

    def __init__(self, renderer: Renderer) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as RichProgress

        self._bar: RichProgress = RichProgress(
            SpinnerColumn(finished_text="✓"),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=renderer.console(stderr=True),
        )
        self._task: TaskID | None = None
        self._sized = False
        self._bar.start()

    def phase(self, text: str, total: int | None = None) -> None:
        self._finish()
        self._sized = total is not None
        self._task = self._bar.add_task(text, total=total)

    def tick(self, done: int) -> None:
        if self._task is not None:
            self._bar.update(self._task, completed=done)

    def advance(self, done: int, note: str = "") -> None:
        self.tick(done)
        if note:
            self.say(f"  {note}")

    def say(self, text: str) -> None:
        self._bar.console.print(text)

    def close(self, *, whole: bool) -> None:
        if whole:
            self._finish()
        self._bar.stop()

    def _finish(self) -> None:
        """A phase without a size counts as one; one with a size stays at what it reached."""
        if self._task is not None and not self._sized:
            self._bar.update(self._task, total=1, completed=1)
