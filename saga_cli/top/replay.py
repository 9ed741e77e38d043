"""`saga top --replay`: a journal played again through the head's own book, folds and views.

Rules of this file
  1. What is not in a journal is not shown: loads and memory are reports of nodes, which nobody keeps.
  2. Each snapshot moves the time on by `interval_s * speed`; going back starts again from the beginning.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from saga_cli.units import duration
from saga_core.errors import ClusterError, UserError
from saga_core.events import (
    NodeJoined,
    NodeLost,
    SessionPaused,
    StepFinished,
    StepLost,
    StepPlaced,
    WorkerLost,
    WorkerReady,
)
from saga_core.explanation import DecisionView, Explanation
from saga_core.states import NodeState, WorkerState
from saga_core.views import ClusterView, EventView, WorkflowView

if TYPE_CHECKING:
    from saga_core.events import Fact
    from saga_core.fleet import Worker
    from saga_core.head import Head
    from saga_core.ids import SessionId
    from saga_head.feed import Feed
    from saga_head.metrics import Metrics

SKIP_SHARE: Final = 0.05
"""Of the whole, that one press of an arrow moves."""
SLOWEST: Final = 1 / 64
FASTEST: Final = 65536.0
DECISIONS: Final = 16
SHOWN: Final = 5_000


class World:
    """A head as the facts so far have made it."""

    def __init__(self, snapshot: Path | None) -> None:
        from saga_core import snapshot as snapshots
        from saga_core.config import Config
        from saga_core.head import Head
        from saga_head.feed import Feed
        from saga_head.metrics import Metrics

        config = Config()
        book = (
            snapshots.decode(snapshot.read_bytes(), str(snapshot), config.costs)
            if snapshot is not None
            else None
        )
        self.head: Head = Head(config, book=book)
        self.metrics: Metrics = Metrics(self.head)
        self.feed: Feed = Feed()
        self.paused: dict[SessionId, tuple[float, str]] = {}

    def apply(self, fact: Fact, at: float) -> None:
        """Let `fact` have happened."""
        self._mirror(fact, at)
        self.head.book.apply(fact, at)
        self.metrics.fold(fact, at)
        self.feed.add(fact, at)

    def _mirror(self, fact: Fact, at: float) -> None:
        """What reports would have told of nodes and workers, as far as facts tell it."""
        from saga_core.fleet import Node
        from saga_core.fleet import Worker as Mirrored

        fleet = self.head.fleet
        match fact:
            case NodeJoined():
                fleet.nodes[fact.node] = Node(fact.node, fact.incarnation, fact.host, at)
            case NodeLost() if fact.node in fleet.nodes:
                fleet.nodes[fact.node].state = NodeState.LOST
            case WorkerReady():
                node: Any = fact.worker.rpartition("/")[0]
                worker = fleet.workers.setdefault(fact.worker, Mirrored(fact.worker, node, fact.model))
                worker.state, worker.incarnation = WorkerState.READY, fact.incarnation
                worker.reason = ""
            case WorkerLost() if fact.worker in fleet.workers:
                lost = fleet.workers[fact.worker]
                lost.state, lost.reason = WorkerState.LOST, fact.reason
            case SessionPaused():
                self.paused[fact.session] = (at, fact.why)
            case StepPlaced() | StepLost() | StepFinished():
                self._step(fact)
            case _:
                pass

    def _step(self, fact: StepPlaced | StepLost | StepFinished) -> None:
        step = self.head.book.steps.get(fact.step)
        if step is None:
            return
        if isinstance(fact, StepPlaced):
            session = self.head.book.session_of(step)
            if session is not None:
                self.paused.pop(session.id, None)
            self._count(fact.worker, 1)
        elif step.worker is not None:
            worker = self._count(step.worker, -1)
            if worker is not None and isinstance(fact, StepFinished):
                worker.done += 1
                worker.prompt_tokens += fact.prompt_tokens or 0
                worker.cached_tokens += fact.cached_tokens or 0

    def _count(self, name: Any, by: int) -> Worker | None:
        worker = self.head.fleet.workers.get(name)
        if worker is not None:
            worker.placed = max(0, worker.placed + by)
        return worker


class Replay:
    """A journal as a source of snapshots."""

    def __init__(
        self, path: Path, *, interval_s: float = 1.0, speed: float = 1.0, at_s: float | None = None
    ) -> None:
        """`at_s`: where to begin, in seconds from the first fact; None: at the first.

        Raises UserError for a path that has no journal, ClusterError for one that is damaged.
        """
        self._snapshot, self._facts = _facts(path)
        self._path, self._interval_s, self.speed = path, interval_s, speed
        self.first, self.last = self._facts[0][0], self._facts[-1][0]
        self._restart()
        self._go(self.first + (at_s or 0.0))
        self._asked = False

    def _restart(self) -> None:
        self._world = World(self._snapshot)
        self._done, self._at = 0, self.first

    def _go(self, at: float) -> None:
        """To that moment, within the journal."""
        at = min(max(at, self.first), self.last)
        if at < self._at:
            self._restart()
        while self._done < len(self._facts) and self._facts[self._done][0] <= at:
            when, fact = self._facts[self._done]
            self._world.apply(fact, when)
            self._done += 1
        self._at = at

    # -- a person's keys -----------------------------------------------------------------

    def faster(self, by: int) -> None:
        """Twice as fast, or half."""
        self.speed = min(max(self.speed * 2.0**by, SLOWEST), FASTEST)

    def skip(self, by: int) -> None:
        """Back or on by a twentieth of the whole."""
        self._go(self._at + by * SKIP_SHARE * (self.last - self.first))
        self._asked = False

    def end(self) -> None:
        self._go(self.last)
        self._asked = False

    # -- as a source ---------------------------------------------------------------------

    def words(self) -> str:
        over = ", the end" if self._at >= self.last else ""
        part = f"{duration(self._at - self.first)} of {duration(self.last - self.first)}"
        return f"replay {part}, {self.speed:g}x{over}"

    def now(self) -> float:
        return self._at

    def cluster(self) -> ClusterView:
        """The next snapshot; the first one shows where it begins."""
        if self._asked:
            self._go(self._at + self._interval_s * self.speed)
        self._asked = True
        return self._view()

    def _view(self) -> ClusterView:
        from saga_head import show

        world = self._world
        for node in world.head.fleet.nodes.values():
            node.seen_at = self._at
        view = show.cluster(
            world.head, version="", url=str(self._path), started_at=self.first, stale=0, now=self._at,
            tallies=world.metrics.tallies, shown=SHOWN,
        )  # fmt: skip
        waiting = {name.partition(".")[0] for name in world.paused}
        workflows = [self._paused(w) if str(w.id) in waiting else w for w in view.workflows]
        return msgspec.structs.replace(view, name="replay", workflows=workflows)

    def _paused(self, view: WorkflowView) -> WorkflowView:
        sessions = self._world.head.book.sessions
        mine = [
            (since, why, sessions[name].running > 0)
            for name, (since, why) in self._world.paused.items()
            if name in sessions and name.partition(".")[0] == str(view.id)
        ]
        if not mine:
            return view
        held = [self._at - since for since, _, waits in mine if waits]
        why = mine[0][1]
        return msgspec.structs.replace(view, paused=len(mine), held_s=max(held, default=None), why=why)

    def explanation(self, workflow: int) -> Explanation:
        """What the book knows; of the decisions the short reasons that the journal has."""
        from saga_head import explanation

        head: Any = self._world.head
        found = head.book.workflows.get(workflow)
        if found is None:
            raise ClusterError(f"workflow {workflow} is not known at this moment of the journal")
        told = explanation.of_workflow(head, found, self._at)
        made = list(islice(reversed(list(_decisions(self.events(workflow)))), DECISIONS))
        return msgspec.structs.replace(told, decisions=made[::-1])

    def events(self, workflow: int) -> Sequence[EventView]:
        return self._world.feed.of(workflow)


def _decisions(events: Sequence[EventView]) -> Iterator[DecisionView]:
    for event in events:
        if event.kind in {"StepPlaced", "SessionPaused"}:
            yield DecisionView(
                at=event.at, since_at=event.at, times=1,
                verdict="placed" if event.kind == "StepPlaced" else "paused",
                session=f"{event.workflow}.{event.session}", step=event.step,
                worker=str(event.facts.get("worker", "")) or None, why=str(event.facts.get("why", "")),
                otherwise="", key=0.0,
            )  # fmt: skip


def _facts(path: Path) -> tuple[Path | None, list[tuple[float, Fact]]]:
    """The snapshot before a journal, if there is one, and its facts. A folder: all that it has."""
    from saga_head.journal import Torn, read

    files = _files(path)
    first = files[0]
    before = first.with_name(first.name.replace("journal-", "snapshot-")).with_suffix(".msgpack")
    facts: list[tuple[float, Fact]] = []
    for file in files:
        try:
            facts += [(at, fact) for _, at, fact in read(file)]
        except Torn as torn:
            if file is not files[-1] or not torn.at:
                raise ClusterError(f"{file}: damaged at byte {torn.at}, or no journal of saga") from None
        except OSError as error:
            raise UserError(f"--replay {file}: {error.strerror}") from None
    if not facts:
        raise UserError(f"--replay {path}: the journal is empty")
    return (before if before.exists() else None), facts


def _files(path: Path) -> list[Path]:
    """Of a file itself, of a journal or cluster folder the journals in their order."""
    if path.is_file():
        return [path]
    for folder in (path, path / "journal"):
        found = sorted(folder.glob("journal-*.log"))
        if found:
            return found
    raise UserError(f"--replay {path}: no journal there (valid: a journal-*.log, or a folder that has some)")
