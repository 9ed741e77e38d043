"""A launch as it is shown: one value per moment, a line of it for a pipe, a panel of it for a terminal."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from saga_cli.units import duration, plural
from saga_core.states import NodeState, WorkerState
from saga_core.views import ClusterView
from saga_slurm.facts import Job

if TYPE_CHECKING:
    from rich.console import RenderableType


class Phase(StrEnum):
    PENDING = "PENDING"
    LAUNCHING = "LAUNCHING"
    READY = "READY"
    FAILED = "FAILED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """When what happened, in seconds since the epoch; None: not yet."""

    asked_at: float
    granted_at: float | None = None
    """Slurm gave the machines."""
    began_at: float | None = None
    """The script ran its first line."""
    head_at: float | None = None
    """The head served."""
    nodes_at: float | None = None
    """All node daemons were there (as seen from here)."""
    ready_at: float | None = None

    def parts(self) -> dict[str, float]:
        """What took how long, in order, as far as it has come."""
        marks = {
            "slurm_queue": self.granted_at, "slurm_start": self.began_at, "head": self.head_at,
            "nodes": self.nodes_at, "workers": self.ready_at,
        }  # fmt: skip
        found, last = {}, self.asked_at
        for name, at in marks.items():
            if at is not None:
                found[name] = max(0.0, at - last)
                last = max(last, at)
        return found

    @property
    def slurm_s(self) -> float:
        """Slurm's own share."""
        parts = self.parts()
        return parts.get("slurm_queue", 0.0) + parts.get("slurm_start", 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """One moment of a launch."""

    phase: Phase
    job: Job
    nodes: int
    times: Times
    nodes_up: int = 0
    workers: int = 0
    workers_ready: int = 0
    answers: bool = False
    """Whether the cluster's head does."""
    now: float = 0.0

    def line(self) -> str:
        """All that matters but the passing of time."""
        return f"{self.phase}  job {self.job.id}  {self.told()}".rstrip()

    def told(self) -> str:
        """What it waits for, or has."""
        match self.phase:
            case Phase.PENDING:
                return ", ".join(filter(None, (self.job.state.lower(), self.job.reason, self._estimate())))
            case Phase.LAUNCHING if not self.answers:
                return f"on {self.job.nodelist}: starting the head"
            case _:
                nodes = f"{self.nodes_up} of {plural(self.nodes, 'node')}"
                return f"on {self.job.nodelist}: {nodes}, {self.workers_ready} of {plural(self.workers, 'worker')} ready"

    def _estimate(self) -> str:
        at = self.job.starts_at
        if at is None or at <= self.now:
            return ""
        day = "%H:%M" if at - self.now < 12 * 3600 else "%a %d %b %H:%M"
        return f"Slurm expects to start it at {time.strftime(day, time.localtime(at))}"


def picture(
    job: Job, *, nodes: int, workers: int, times: Times, view: ClusterView | None, now: float
) -> Picture:
    """What is known of a launch, seen together. Pure.

    `nodes` and `workers` are those wanted of this job; `view` is what the head says, once it answers.
    """
    seen = Picture(phase=_phase(job), job=job, nodes=nodes, workers=workers, times=times, now=now)
    if view is None or seen.phase is not Phase.LAUNCHING:
        return seen
    up = {n.id for n in view.nodes if n.id.startswith(f"{job.id}.") and n.state == NodeState.UP}
    ready = sum(w.node in up and w.state == WorkerState.READY for w in view.workers)
    there, done = len(up) >= nodes, len(up) >= nodes and ready >= workers
    times = replace(
        times,
        nodes_at=times.nodes_at or (now if there else None),
        ready_at=times.ready_at or (now if done else None),
    )
    phase = Phase.READY if done else Phase.LAUNCHING
    return replace(seen, phase=phase, times=times, nodes_up=len(up), workers_ready=ready, answers=True)


def _phase(job: Job) -> Phase:
    if job.over:
        return Phase.FAILED
    return Phase.PENDING if job.waiting else Phase.LAUNCHING


def summary(times: Times) -> str:
    """`ready 6.1s after it was asked for: Slurm 1.2s, head 0.9s, nodes 1.5s, workers 2.5s`"""
    parts = times.parts()
    rest = ", ".join(
        f"{name} {duration(parts[name])}" for name in ("head", "nodes", "workers") if name in parts
    )
    return f"ready {duration(sum(parts.values()))} after it was asked for: Slurm {duration(times.slurm_s)}, {rest}"


def panel(seen: Picture) -> RenderableType:
    """For a terminal: the phases, the running one with its facts."""
    from rich.table import Table
    from rich.text import Text

    styles = {Phase.PENDING: "yellow", Phase.LAUNCHING: "cyan", Phase.READY: "green", Phase.FAILED: "red"}
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_row(
        Text(seen.phase, style=f"bold {styles[seen.phase]}"),
        f"job {seen.job.id}",
        duration(seen.now - seen.times.asked_at),
        seen.told(),
    )
    for name, took_s in seen.times.parts().items():
        table.add_row("", Text(name.replace("_", " "), style="dim"), Text(duration(took_s), style="dim"), "")
    return table
