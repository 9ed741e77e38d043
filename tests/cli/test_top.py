"""Frames of `saga top` at fixed sizes: never wider or higher than asked, whatever is in the cluster."""

from __future__ import annotations

import io

import msgspec
import pytest
from canned import CLUSTER, EMPTY, GATED, NODES, NOW, WORKERS, workflow
from rich.console import Console
from test_golden import _compare

from saga_cli.top.choice import Choice
from saga_cli.top.columns import gauge
from saga_cli.top.frame import frame

BUSY = msgspec.structs.replace(
    CLUSTER,
    nodes=[msgspec.structs.replace(NODES[0], id=f"gpu{i:03}") for i in range(9)],
    workers=[msgspec.structs.replace(WORKERS[0], id=f"gpu{i:03}/0", load=i / 30) for i in range(30)],
    workflows=[
        workflow(i, "running" if i % 3 else "done", ended_at=None if i % 3 else NOW - i) for i in range(60)
    ],
)
CLUSTERS = {"busy": BUSY, "plain": CLUSTER, "gated": GATED, "empty": EMPTY}
SIZES = [(80, 24), (140, 40)]


def lines(cluster, width, height, **words) -> list[str]:
    console = Console(file=io.StringIO(), width=width, height=height, color_system=None)
    with console.capture() as got:
        console.print(frame(cluster, width, height, now=NOW, **words))
    return [line.rstrip() for line in got.get().splitlines()]


@pytest.mark.parametrize("name", CLUSTERS)
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_frames(name, width, height):
    shown = lines(CLUSTERS[name], width, height)
    assert len(shown) <= height
    assert max(map(len, shown)) <= width
    _compare(f"frame-{name}-{width}x{height}", "\n".join(shown) + "\n")


@pytest.mark.parametrize("height", range(12, 60, 7))
def test_a_frame_never_outgrows_the_terminal(height):
    for width in (60, 80, 99, 100, 220):
        shown = lines(BUSY, width, height)
        assert len(shown) <= max(height, 14), (width, height)
        assert max(map(len, shown)) <= width


def test_what_is_not_shown_is_counted():
    shown = "\n".join(lines(BUSY, 80, 24))
    drawn = sum("gpu0" in line[:12] for line in shown.splitlines())
    assert f"… and {39 - drawn} more" in shown


def test_live_workflows_come_first():
    shown = [line for line in lines(CLUSTER, 80, 24) if line[:5].strip().isdigit()]
    assert [int(line[:5]) for line in shown] == [1, 4, 3, 2]


def test_a_frame_shows_what_was_asked_for():
    choice = Choice(words="state:done", sort="AGE")
    shown = [line for line in lines(BUSY, 80, 30, choice=choice) if line[:5].strip().isdigit()]
    assert shown
    assert all(" done " in line for line in shown)


@pytest.mark.parametrize(
    ("solid", "whole", "shown"),
    [
        (0.0, 0.0, "··········   0%"),
        (0.5, 0.8, "█████▒▒▒··  80%"),
        (1.0, 1.0, "██████████ 100%"),
        (0.7, 0.2, "███████···  20%"),
        (9.0, 9.0, "██████████ 100%"),
        (-1.0, -1.0, "··········   0%"),
    ],
)
def test_gauges(solid, whole, shown):
    assert gauge([(solid, "█"), (whole, "▒")], whole, 10).plain == shown
