"""Cells run by processes of their own, as many at a time as asked for; answers come as they are ready."""

from __future__ import annotations

import selectors
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Self, cast

import msgspec

from saga_core.errors import ClusterError
from saga_sim.evaluation.cells import CellResult
from saga_sim.evaluation.fingerprint import code
from saga_sim.evaluation.plan import Cell

DYING_S = 5.0
"""So long may a process take to end once it has closed its output: then its own status is told."""
COMMAND = (sys.executable, "-m", "saga_sim.evaluation")


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """A cell to run and the name for its result; traces: the folder of the recordings."""

    key: str
    cell: Cell
    traces: str | None


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """A result, or why there is none; code: digest of the code that gave it."""

    code: str
    result: CellResult | None = None
    why: str = ""


class Crew:
    """Use it as a context: leaving it ends its processes."""

    def __init__(self, size: int, traces: Path | None) -> None:
        self._size, self._traces = size, traces
        self._at_work: dict[subprocess.Popen[bytes], Asked] = {}
        self._resting: list[subprocess.Popen[bytes]] = []
        self._ready = selectors.DefaultSelector()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in [*self._at_work, *self._resting]:
            self._end(process)
        self._ready.close()

    def run(self, cells: Iterable[tuple[str, Cell]]) -> Iterator[tuple[Cell, Answer]]:
        """Each cell with its answer, in the order in which they end. Raises ClusterError when the code changes meanwhile."""
        traces = None if self._traces is None else str(self._traces)
        waiting = deque(Asked(key=key, cell=cell, traces=traces) for key, cell in cells)
        while waiting or self._at_work:
            while waiting and len(self._at_work) < self._size:
                self._give(waiting.popleft())
            for chosen, _ in self._ready.select():
                yield self._take(cast("subprocess.Popen[bytes]", chosen.data))

    def _give(self, asked: Asked) -> None:
        process = self._resting.pop() if self._resting else self._start()
        self._at_work[process] = asked
        with suppress(BrokenPipeError):  # it died: its output ends, and that is the answer
            _pipe(process.stdin).write(msgspec.json.encode(asked) + b"\n")
            _pipe(process.stdin).flush()

    def _start(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # noqa: S603 - ours
        self._ready.register(_pipe(process.stdout), selectors.EVENT_READ, process)
        return process

    def _take(self, process: subprocess.Popen[bytes]) -> tuple[Cell, Answer]:
        """The one line that a process sends for each that it got."""
        asked = self._at_work.pop(process)
        line = _pipe(process.stdout).readline()
        if not line.endswith(b"\n"):
            with suppress(subprocess.TimeoutExpired):
                process.wait(DYING_S)
            ended = self._end(process)
            return asked.cell, Answer(code=code(), why=f"its process ended with {ended}")
        self._resting.append(process)
        answer = msgspec.json.decode(line, type=Answer)
        if answer.code != code():
            raise ClusterError("the code of saga was changed while the evaluation ran: start it again")
        return asked.cell, answer

    def _end(self, process: subprocess.Popen[bytes]) -> int:
        self._ready.unregister(_pipe(process.stdout))
        with suppress(BrokenPipeError):
            _pipe(process.stdin).close()
        process.terminate()
        status = process.wait()
        _pipe(process.stdout).close()
        return status


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None, "started with pipes"
    return stream
