"""A process that runs cells for an evaluation: one JSON line in asks, one JSON line out answers.

It ends with its input, so it never outlives the evaluation, whatever ended that.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from queue import Queue
from threading import Thread

import msgspec

from saga_core.errors import SagaError
from saga_sim.evaluation.cells import run_cell
from saga_sim.evaluation.crew import Answer, Asked
from saga_sim.evaluation.fingerprint import code


def main() -> None:
    """Answer until the input ends. Ctrl-C is the evaluation's business."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    out, sys.stdout = sys.stdout.buffer, sys.stderr
    code()
    for asked in _asked():
        out.write(msgspec.json.encode(_answer(asked)) + b"\n")
        out.flush()


def _asked() -> Iterator[Asked]:
    lines: Queue[bytes] = Queue()
    Thread(target=_read, args=(lines,), daemon=True).start()
    while True:
        yield msgspec.json.decode(lines.get(), type=Asked)


def _read(lines: Queue[bytes]) -> None:
    for line in sys.stdin.buffer:
        lines.put(line)
    os._exit(0)  # also in the middle of a cell: nobody waits for it


def _answer(asked: Asked) -> Answer:
    try:
        result = run_cell(asked.cell, Path(asked.traces) if asked.traces else None, asked.key)
    except SagaError as error:
        return Answer(code=code(), why=str(error))
    except Exception as error:  # noqa: BLE001 - a bug in one profile must not end the evaluation of the others
        return Answer(code=code(), why=f"{type(error).__name__}: {error}")
    return Answer(code=code(), result=result)


if __name__ == "__main__":
    main()
