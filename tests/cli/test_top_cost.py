"""What `saga top` costs while 1,000 workflows change: the last result stands in docs/top.md."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import sys
import termios
import time
from pathlib import Path

import msgspec
import psutil
import pytest
from top_rig import busy

COUNT, SIZE = 1000, (40, 150)
WARM_S, MEASURED_S = 12.0, 30.0
MOST_SHARE = 0.02
"""Of one core, at one refresh per second (issue: at most 2 %)."""


def _changing(stub) -> None:
    """Each answer differs from the one before, as a busy cluster's do."""
    views = [busy(COUNT, at=time.time() + number) for number in range(10)]
    for number, view in enumerate(views):
        flows = [msgspec.structs.replace(w, steps=w.steps + number * (w.id % 3)) for w in view.workflows]
        views[number] = msgspec.structs.replace(view, workflows=flows)
    given = {"n": 0}

    def answer(method: str, path: str, body: object) -> tuple[int, object]:
        given["n"] += 1
        return 200, views[given["n"] % len(views)]

    stub.answer = answer
    stub.given = given


def _spawn(folder: Path) -> tuple[int, int]:
    pid, screen = pty.fork()
    if pid == 0:
        os.environ |= {"SAGA_CLUSTER_DIR": str(folder), "TERM": "xterm-256color"}
        os.execv(sys.executable, [sys.executable, "-m", "saga_cli", "top"])
    fcntl.ioctl(screen, termios.TIOCSWINSZ, struct.pack("HHHH", *SIZE, 0, 0))
    return pid, screen


def _drain(screen: int, seconds: float) -> int:
    """Read what it draws, as a terminal does; how many bytes."""
    until, drawn = time.monotonic() + seconds, 0
    while (left := until - time.monotonic()) > 0:
        if select.select([screen], [], [], left)[0]:
            drawn += len(os.read(screen, 65536))
    return drawn


@pytest.mark.nightly
def test_the_live_view_costs_little(folder, stub, capsys):
    _changing(stub)
    pid, screen = _spawn(folder)
    try:
        assert _drain(screen, WARM_S) > 1000, "it draws"
        process = psutil.Process(pid)
        before, asked = sum(process.cpu_times()[:2]), stub.given["n"]
        drawn = _drain(screen, MEASURED_S)
        share = (sum(process.cpu_times()[:2]) - before) / MEASURED_S
        frames = stub.given["n"] - asked
    finally:
        os.write(screen, b"q")
        os.waitpid(pid, 0)
        os.close(screen)
    with capsys.disabled():
        print(
            f"\n{share * 100:.2f} % of a core, {frames} snapshots in {MEASURED_S:g} s, {drawn / frames:.0f} bytes drawn for each"
        )
    assert frames > MEASURED_S / 2
    assert share <= MOST_SHARE
