"""A source of snapshots that a test moves, and screenshots that can be compared."""

from __future__ import annotations

import os
import re
from pathlib import Path

import msgspec
from canned import CLUSTER, EXPLANATION, GATED, NODES, NOW, WORKERS, workflow

from saga_core.errors import ClusterError
from saga_core.explanation import Explanation
from saga_core.views import ClusterView, EventView, TenantView

SNAPSHOTS = Path(__file__).parent / "snapshots"
TENANTS = [
    TenantView(
        id="lab-a", weight=1, live=9, held=3, attained_s=100.0, share=0.25, ended=12, slowdown=1.74, promised=12, kept=11
    ),
    TenantView(id="lab-b", weight=2.5, live=4, held=0, attained_s=300.0, share=0.75, ended=2, slowdown=1.1),
]  # fmt: skip
STATES = ("reasoning", "tool", "queued", "accepted", "done")
WHY = "needs 2,785 tokens, local/1 has 1,165 of 6,400 left below 0.9; 1 smaller key before it"


def flow(number: int, **changes):
    state = STATES[number % 5]
    values = {
        "name": f"django__django-{11_000 + number}", "tenant": ("lab-a", "lab-b")[number % 2],
        "ended_at": NOW - number if state == "done" else None, "tct_s": 33.0 if state == "done" else None,
        "resident_tokens": 0 if state == "done" else 37 * number % 9000, "steps": number % 17,
        "eta_s": None if state == "done" else 5.0 * number, "slack_s": 60.0 - 3.0 * number if number % 3 == 0 else None,
        "held_s": 12.0 if state == "queued" else None, "why": WHY if state == "queued" else "",
        "priority": {3: 5, 7: -2, 12: 1}.get(number, 0), "submitted_at": NOW - 10 * number, "running_steps": int(state == "reasoning"),
    } | changes  # fmt: skip
    return workflow(number, state, **values)


def busy(count: int = 30, *, at: float = NOW) -> ClusterView:
    """Two nodes with three workers each, two tenants, `count` workflows."""
    names = [(f"gpu{a:02}", b) for a in range(2) for b in range(3)]
    workers = [
        msgspec.structs.replace(
            WORKERS[0], id=f"{node}/{b}", node=node, load=(i * 0.17) % 1, kv_usage=(i * 0.11) % 0.6,
            retained_tokens=9000, evictable_tokens=4000, prompt_tokens=1000, cached_tokens=150 * i, need_tokens=30_000,
            limit_tokens=37_000, factor=1.15, held_sessions=i % 3,
        )
        for i, (node, b) in enumerate(names)
    ]  # fmt: skip
    nodes = [msgspec.structs.replace(NODES[0], id=f"gpu{a:02}", end_s=300.0 + 5400.0 * a) for a in range(2)]
    return msgspec.structs.replace(
        GATED, workers=workers, nodes=nodes, tenants=TENANTS, workflows=[flow(n) for n in range(1, count + 1)], at=at
    )  # fmt: skip


def told(number: int = 1) -> list[EventView]:
    """Steps of one workflow with two sessions, one of which was paused."""
    events: list[EventView] = []
    at = NOW - 100.0

    def event(kind: str, session: str, step: int | None = None, /, **facts) -> None:
        events.append(
            EventView(
                seq=len(events) + 1,
                at=at,
                kind=kind,
                workflow=number,
                session=session,
                step=step,
                facts=facts,
            )
        )

    event("WorkflowSubmitted", "")
    for step in range(1, 8):
        session = "reviewer" if step == 4 else "main"
        event("StepArrived", session, step)
        at += 1.0
        event("StepPlaced", session, step, worker="local/0", why="home")
        at += 6.0
        figures = {
            "prompt_tokens": 9000,
            "cached_tokens": 8000,
            "output_tokens": 120,
            "ttft_s": 0.3,
            "tool": "bash",
        }
        event("StepFinished", session, step, outcome="done", **figures)
        at += 4.0
        if step == 5:
            event("SessionPaused", session, worker="local/0", why="full")
            at += 10.0
    return events


class Source:
    """Snapshots in a row, the last one again and again; None is a head that does not answer."""

    def __init__(self, *snapshots: ClusterView | None) -> None:
        self.snapshots = list(snapshots) or [CLUSTER]
        self.asked = 0

    def words(self) -> str:
        return ""

    def now(self) -> float:
        return NOW

    def cluster(self) -> ClusterView:
        found = self.snapshots[min(self.asked, len(self.snapshots) - 1)]
        self.asked += 1
        if found is None:
            raise ClusterError("the head is not there (connection refused)")
        return found

    def explanation(self, workflow: int) -> Explanation:
        return EXPLANATION

    def events(self, workflow: int) -> list[EventView]:
        return told(workflow)


def compare(name: str, svg: str) -> None:
    """With the kept screenshot. SAGA_UPDATE_GOLDEN=1 writes it anew."""
    svg = re.sub(r"terminal-\d+-", "terminal-", svg)
    path = SNAPSHOTS / f"{name}.svg"
    if os.environ.get("SAGA_UPDATE_GOLDEN") == "1":
        path.write_text(svg)
    assert _shown(svg) == _shown(path.read_text()), (
        f"differs from {path.name}; SAGA_UPDATE_GOLDEN=1 writes it anew"
    )


def _shown(svg: str) -> list[str]:
    """Text, places and colours; what another release of textual says of its own page is left out."""
    return re.findall(r"<(?:text|rect)[^>]*>(?:[^<]*</text>)?|\.terminal-r\d+ \{[^}]*\}", svg)
