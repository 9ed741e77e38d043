"""A cluster in a box: a head, nodes, the links between them, and a toy world that obeys.

The links drop, repeat, delay and reorder, by a seeded generator of random numbers.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random

from saga_core import events, wire
from saga_core import node_words as words
from saga_core.actions import Dispatch, Record, Send
from saga_core.book import Book
from saga_core.config import Config, HeadConfig, NodeConfig
from saga_core.events import HeadStarted, Outcome, StepArrived, StepFinished, WorkflowSubmitted
from saga_core.head import Head
from saga_core.kv.retention import OVER
from saga_core.node import Node
from saga_core.policy.migration import Migration
from saga_core.states import WorkerState
from saga_core.views import ProgramSpec

STEP_S = 0.1


KV_TOKENS = 16
"""That a step leaves behind; where sessions' KV moves, so many that it is worth it."""
KV_MOVED = 4000


def up(worker: str, incarnation: int, *, kv_token_bytes: int = 0) -> words.WorkerUp:
    return words.WorkerUp(
        worker, incarnation, "h", 1, "k", "m", 1_000_000, 1000, 8, values=True, kv_token_bytes=kv_token_bytes
    )


PROGRAM = ProgramSpec(argv=["agent"], cwd="/")


@dataclass
class Faults:
    """How badly the links behave; all zero after `calm`."""

    drop: float = 0.2
    repeat: float = 0.2
    delay_s: float = 1.5
    crash: float = 0.01

    def calm(self) -> None:
        self.drop = self.repeat = self.delay_s = self.crash = 0.0


@dataclass
class Daemon:
    """A node with its world: processes, programs and KV memory as they really are."""

    node: Node
    workers: dict[str, int] = field(default_factory=dict)
    """Living engine processes with their incarnation."""
    programs: dict[tuple[int, int], float] = field(default_factory=dict)
    """Running programs and when they end."""
    kv: dict[tuple[str, str], int] = field(default_factory=dict)
    worths: dict[str, dict[str, tuple[int, float]]] = field(default_factory=dict)
    """Per engine, what it was told that sessions' KV is worth."""
    files: dict[tuple[int, int], tuple[str, int]] = field(default_factory=dict)
    """Of its exports: session and tokens; its guard removes them with it."""
    writing: list[wire.MoveHalf] = field(default_factory=list)
    """What its engines are asked and have not answered."""


class Box:
    """Head and nodes, joined by hostile links, in one time."""

    def __init__(
        self,
        seed: int,
        *,
        nodes: int = 2,
        profile: str = "saga-paper",
        drains: bool = False,
        moves: bool = False,
    ) -> None:
        """`drains`: nodes are emptied and taken back as well. moves: sessions' KV can be moved."""
        self.drains, self.moves = drains, moves
        self.local: list[events.Event] = []
        self.rng, self.faults, self.now = Random(seed), Faults(), 1000.0
        self.head_config = Config(
            profile=profile,
            name="box",
            head=HeadConfig(program_retries=100, node_timeout_s=3),
            migration=Migration(patience_s=6.0),
        )
        self.node_config = NodeConfig(backoff_s=0.1, backoff_max_s=0.4, head_timeout_s=2)
        self.kept: list[tuple[float, events.Fact]] = []
        self.mail: list[tuple[float, int, str, object]] = []
        self.posted = self.steps = 0
        self.starts: list[tuple[str, int, int]] = []
        """Every start of a program: `(node, workflow, attempt)`."""
        self.daemons: dict[str, Daemon] = {}
        self.accepted: list[int] = []
        self.dead_head_until = 0.0
        self.start_head(Book(self.head_config.profile))
        for number in range(nodes):
            self.start_node(f"n{number + 1}")

    # -- the link ------------------------------------------------------------------------

    def post(self, to: str, message: object) -> None:
        frame = wire.encode(message)
        copies = 1 + (self.rng.random() < self.faults.repeat)
        for _ in range(copies):
            if self.rng.random() >= self.faults.drop:
                self.posted += 1
                at = self.now + self.rng.random() * self.faults.delay_s
                heapq.heappush(self.mail, (at, self.posted, to, frame))

    def deliver(self) -> None:
        while self.mail and self.mail[0][0] <= self.now:
            _, _, to, frame = heapq.heappop(self.mail)
            if to == "head":
                if self.now >= self.dead_head_until:
                    self.to_head(wire.decode_to_head(frame))
            elif to in self.daemons:
                self.to_node(to, words.HeadSaid(wire.decode_to_node(frame)))

    # -- the head ------------------------------------------------------------------------

    def start_head(self, book: Book) -> None:
        self.head = Head(self.head_config, book=book)
        self.to_head(HeadStarted(incarnation=book.head + 1, version="1"))

    def restart_head(self) -> None:
        """kill -9, and a new one on what the journal has."""
        book = Book(self.head_config.profile)
        for at, fact in self.kept:
            book.apply(fact, at)
        self.dead_head_until = self.now + self.rng.random() * 4
        self.start_head(book)

    def to_head(self, event: events.Event) -> None:
        actions = self.head.handle(event, now=self.now)
        self.head.check()
        for action in actions:
            match action:
                case Record(fact):
                    self.kept.append((self.head.now, fact))
                case Send(node, message):
                    self.post(node, message)
                case Dispatch(step, worker, session):
                    self.serve(step, worker, session)
                case _:
                    pass

    def serve(self, step: int, worker: str, session: str | None) -> None:
        """The engine answers at once, if it lives; its KV memory now holds the session."""
        daemon = self.daemons.get(worker.split("/", maxsplit=1)[0])
        if daemon is None or worker not in daemon.workers:
            self.post_local(events.StepLost(step=step, worker=worker))
            return
        if session is not None:
            tokens = daemon.kv.get((worker, session), 0) + (KV_MOVED if self.moves else KV_TOKENS)
            daemon.kv[worker, session] = tokens
            self.tell_residency(daemon, worker, session, tokens)
        self.post_local(StepFinished(step=step, outcome=Outcome.DONE, prompt_tokens=16, output_tokens=1))

    def tell_residency(self, daemon: Daemon, worker: str, session: str, tokens: int) -> None:
        event = words.Residency(worker, daemon.workers[worker], {session: tokens})
        self.to_node(daemon.node.id, event)

    def post_local(self, event: events.Event) -> None:
        """The gateway is in the head's process: its words are neither lost nor reordered."""
        self.local.append(event)

    # -- nodes ---------------------------------------------------------------------------

    def start_node(self, name: str) -> None:
        """A daemon, for the first time or again: what ran under the last one is gone."""
        node = Node(
            name, {f"{name}/{i}": "m" for i in range(2)}, self.node_config,
            incarnation=int(self.now * 1000), host=name, version="1", now=self.now,
        )  # fmt: skip
        self.daemons[name] = Daemon(node)

    def to_node(self, name: str, event: words.Event) -> None:
        daemon = self.daemons[name]
        actions = daemon.node.handle(event, now=self.now)
        daemon.node.check()
        for action in actions:
            match action:
                case words.SpawnWorker(worker, incarnation):
                    daemon.workers[worker], daemon.worths[worker] = incarnation, {}
                case words.KillWorker(worker, incarnation):
                    self.die(daemon, worker)
                case words.SendHead(message):
                    self.post("head", message)
                case words.StartProgram(want):
                    self.starts.append((name, want.workflow, want.attempt))
                    daemon.programs[want.workflow, want.attempt] = self.now + self.rng.random() * 8
                case words.EndProgram(workflow, attempt):
                    daemon.programs[workflow, attempt] = self.now
                case words.SetWorths(worker, incarnation, worths):
                    assert daemon.workers[worker] == incarnation
                    self.value(daemon.worths[worker], worths)
                case words.MoveKv(want):
                    daemon.writing.append(want)
                case words.RemoveKv(head, move):
                    daemon.files.pop((head, move), None)
                case words.Quit(reason):
                    raise AssertionError(f"{name} quits: {reason}")
                case _:
                    pass

    def move(self, daemon: Daemon) -> None:
        """Engines do what they were asked, one by one, or fail, or are gone by then."""
        wants = [want for want in daemon.writing if self.rng.random() < 0.7]
        for want in wants:
            daemon.writing.remove(want)
            well = (
                daemon.workers.get(want.worker) == want.incarnation
                and self.rng.random() >= 5 * self.faults.crash
            )
            do = self.export if want.half is wire.Half.EXPORT else self.adopt
            tokens = do(daemon, want) if well else 0
            answer = words.KvMoved(
                want.head, want.move, want.half, tokens, tokens, "" if tokens else "it failed"
            )
            self.to_node(daemon.node.id, answer)

    def export(self, daemon: Daemon, want: wire.MoveHalf) -> int:
        tokens = daemon.kv.get((want.worker, want.session), 0)
        if tokens:
            daemon.files[want.head, want.move] = (want.session, tokens)
        return tokens

    def adopt(self, daemon: Daemon, want: wire.MoveHalf) -> int:
        there = self.daemons[want.other].files.get((want.head, want.move))
        if there is None:
            return 0
        session, size = there
        assert session == want.session
        tokens = max(size, daemon.kv.get((want.worker, session), 0))
        daemon.kv[want.worker, session] = tokens
        self.tell_residency(daemon, want.worker, session, tokens)
        return size

    @staticmethod
    def value(engine: dict[str, tuple[int, float]], worths: Mapping[str, tuple[int, float] | None]) -> None:
        """As the engine's queue does: of who is over nothing is kept."""
        for session, worth in worths.items():
            if worth is None or worth == OVER:
                engine.pop(session, None)
            else:
                engine[session] = worth

    def die(self, daemon: Daemon, worker: str) -> None:
        incarnation = daemon.workers.pop(worker)
        daemon.kv = {k: v for k, v in daemon.kv.items() if k[0] != worker}
        self.to_node(daemon.node.id, words.WorkerExited(worker, incarnation, "signal 9"))

    # -- time ----------------------------------------------------------------------------

    def run(self, seconds: float) -> None:
        until = self.now + seconds
        while self.now < until:
            self.now = round(self.now + STEP_S, 3)
            self.deliver()
            self.happen()
            for name in list(self.daemons):
                self.live(name)
            if self.now >= self.dead_head_until:
                self.to_head(events.Tick())
            while self.local:
                self.to_head(self.local.pop(0))

    def live(self, name: str) -> None:
        """One moment of a node's world."""
        daemon = self.daemons[name]
        self.to_node(name, words.Tick())
        self.move(daemon)
        for worker, incarnation in list(daemon.workers.items()):
            if daemon.node.workers[worker].state is WorkerState.STARTING and self.rng.random() < 0.3:
                self.to_node(name, up(worker, incarnation, kv_token_bytes=int(self.moves)))
        for (workflow, attempt), end in list(daemon.programs.items()):
            if self.now >= end:
                del daemon.programs[workflow, attempt]
                self.to_node(name, words.ProgramExited(workflow, attempt, 0))

    def happen(self) -> None:
        """Faults, and work."""
        rng = self.rng
        if rng.random() < self.faults.crash:
            self.start_node(rng.choice(list(self.daemons)))
        if rng.random() < self.faults.crash:
            self.restart_head()
        if rng.random() < 2 * self.faults.crash:
            daemon = rng.choice(list(self.daemons.values()))
            if daemon.workers:
                self.die(daemon, rng.choice(list(daemon.workers)))
        for _ in range(4 if self.moves else 1):
            if rng.random() < 30 * self.faults.crash and self.now >= self.dead_head_until:
                self.work()

    def work(self) -> None:
        """A submission, a step, a cancellation or an eviction."""
        rng = self.rng
        what = rng.random()
        if what < 0.3:
            number = self.head.book.last_workflow + 1
            self.accepted.append(number)
            wanted = PROGRAM if rng.random() < 0.6 else None
            self.to_head(WorkflowSubmitted(workflow=number, tenant="t", token="", kind="x", program=wanted))
        elif what < 0.8 and self.accepted:
            self.steps = max(self.steps, self.head.book.last_step) + 1
            flow, session = rng.choice(self.accepted), rng.choice("ab")
            self.to_head(StepArrived(step=self.steps, tenant="t", model="m", workflow=flow, session=session))
        elif what < 0.85 and self.accepted:
            self.to_head(events.CancelAsked(workflow=rng.choice(self.accepted)))
        elif what < 0.9 and self.drains:
            self.drain_or_take_back()
        else:
            self.evict()

    def drain_or_take_back(self) -> None:
        name, within_s = self.rng.choice(list(self.daemons)), self.rng.choice([None, 0.5, 3.0])
        if self.rng.random() < 0.5:
            self.to_head(events.DrainAsked(node=name, within_s=within_s))
        else:
            self.to_head(events.UndrainAsked(node=name))

    def take_back_all(self) -> None:
        for name in list(self.head.book.drains):
            self.to_head(events.UndrainAsked(node=name))

    def evict(self) -> None:
        full = [(d, key) for d in self.daemons.values() for key in d.kv]
        if full:
            daemon, (worker, session) = self.rng.choice(full)
            del daemon.kv[worker, session]
            self.tell_residency(daemon, worker, session, 0)
