"""A head and a node to talk to in tests: events by short names, checks after every event."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

from saga_core import wire
from saga_core.actions import Action, Disconnect, Dispatch, Ignored, Record, Refuse, Send
from saga_core.aeg import snapshot as learned
from saga_core.book import Book
from saga_core.config import Config, HeadConfig
from saga_core.events import (
    CancelAsked,
    Event,
    Fact,
    FinishAsked,
    HeadStarted,
    Outcome,
    StepArrived,
    StepFinished,
    StepLost,
    Tick,
    WorkflowSubmitted,
)
from saga_core.head import Head
from saga_core.states import WorkerState, WorkflowState
from saga_core.views import ProgramSpec

A = TypeVar("A")
PROGRAM = ProgramSpec(argv=["agent", "--fast"], cwd="/home/someone", env={"X": "1"})


def dump(book: Book) -> dict[str, Any]:
    """A book as plain data, to compare two of them; the order of workflows counts."""
    return {
        "profile": book.profile,
        "workflows": [dataclasses.asdict(w) for w in book.workflows.values()],
        "steps": [dataclasses.asdict(s) for s in book.steps.values()],
        "keys": list(book.keys.items()),
        "sessions": {k: dataclasses.asdict(s) for k, s in book.sessions.items()},
        "ended": list(book.ended),
        "live": book.live,
        "counts": dataclasses.asdict(book.counts),
        "last": (book.last_workflow, book.last_step, book.head),
        "services": {k: dataclasses.asdict(s) for k, s in book.accounts.services.items()},
        "learned": learned.encode(book.accounts.learner),
    }


def only(actions: list[Action], kind: type[A]) -> list[A]:
    return [action for action in actions if isinstance(action, kind)]


def one(actions: list[Action], kind: type[A]) -> A:
    found = only(actions, kind)
    assert len(found) == 1, actions
    return found[0]


def facts(actions: list[Action], *kinds: type[Fact]) -> list[Fact]:
    return [a.fact for a in only(actions, Record) if not kinds or isinstance(a.fact, kinds)]


def ignored(actions: list[Action]) -> list[str]:
    return [action.reason for action in only(actions, Ignored)]


def said(actions: list[Action], node: str = "n1") -> list[Any]:
    return [action.message for action in only(actions, Send) if action.node == node]


def config(profile: str = "least-loaded", **head: Any) -> Config:
    return Config(profile=profile, name="test", head=HeadConfig(**head))


class Rig:
    """A head, its time, its kept facts, and the nodes' counters."""

    def __init__(self, settings: Config | None = None, *, book: Book | None = None) -> None:
        self.config = settings or config()
        self.head = Head(self.config, book=book)
        self.now = 1000.0
        self.kept: list[tuple[float, Fact]] = []
        self.seq: dict[str, int] = {}
        self.steps = 0 if book is None else book.last_step
        self.last: list[Action] = self(HeadStarted(incarnation=self.head.book.head + 1, version="1"))

    def __call__(self, event: Event, *, after: float = 0.0) -> list[Action]:
        self.now += after
        actions = self.head.handle(event, now=self.now)
        self.kept += [(self.head.now, fact) for fact in facts(actions)]
        self.head.check()
        return actions

    def replayed(self) -> Book:
        """A fresh book with everything that was kept."""
        book = Book(self.config.profile)
        for at, fact in self.kept:
            book.apply(fact, at)
        return book

    def restarted(self) -> Rig:
        """A new head on what this one has kept."""
        rig = Rig(self.config, book=self.replayed())
        rig.now, rig.kept = self.now, self.kept + rig.kept
        return rig

    def tick(self, after: float = 0.1) -> list[Action]:
        return self(Tick(), after=after)

    # -- nodes ---------------------------------------------------------------------------

    def hello(self, node: str = "n1", incarnation: int = 1, **more: Any) -> list[Action]:
        if self.seq.get(f"{node}.{incarnation}") is None:
            self.seq[f"{node}.{incarnation}"] = 0
        more = {"protocol": wire.PROTOCOL, "version": "1", "host": node} | more
        return self(wire.Hello(node=node, incarnation=incarnation, **more))

    def report(self, *workers: Any, node: str = "n1", incarnation: int = 1, **more: Any) -> list[Action]:
        name = f"{node}.{incarnation}"
        self.seq[name] = more.pop("seq", self.seq.get(name, 0) + 1)
        return self(
            wire.Report(node=node, incarnation=incarnation, seq=self.seq[name], workers=list(workers), **more)
        )

    def up(self, *workers: str, node: str = "n1", model: str = "m", **more: Any) -> list[Action]:
        """A node with ready workers, in one go."""
        self.hello(node)
        return self.report(*(worker(w, model=model, **more) for w in workers or (f"{node}/0",)), node=node)

    # -- steps and workflows -------------------------------------------------------------

    def step(self, workflow: int | None = None, **more: Any) -> list[Action]:
        self.steps += 1
        more = {"tenant": "t", "model": "m"} | more
        return self(StepArrived(step=self.steps, workflow=workflow, **more))

    def finish(self, step: int, outcome: Outcome = Outcome.DONE, **more: Any) -> list[Action]:
        return self(StepFinished(step=step, outcome=outcome, **more))

    def lose(self, step: int, worker: str = "n1/0") -> list[Action]:
        return self(StepLost(step=step, worker=worker, detail="refused"))

    def submit(self, *, program: bool = False, **more: Any) -> int:
        number = self.head.book.last_workflow + 1
        more = {"tenant": "t", "token": "s", "kind": "program" if program else "replay"} | more
        self.last = self(
            WorkflowSubmitted(workflow=number, program=PROGRAM if program else None, log="/l", **more)
        )
        return number

    def cancel(self, workflow: int) -> list[Action]:
        return self(CancelAsked(workflow=workflow))

    def end(self, workflow: int, state: WorkflowState = WorkflowState.DONE) -> list[Action]:
        return self(FinishAsked(workflow=workflow, state=state, reason="said so"))


def worker(
    name: str = "n1/0", state: WorkerState = WorkerState.READY, incarnation: int = 1, **more: Any
) -> wire.WorkerFact:
    more = {"model": "m", "max_seqs": 10, "host": "h", "port": 1, "key": "k", "ordered": True} | more
    return wire.WorkerFact(worker=name, incarnation=incarnation, state=state, **more)


def program(workflow: int, attempt: int = 1, **more: Any) -> wire.ProgramFact:
    return wire.ProgramFact(workflow=workflow, attempt=attempt, **more)


def dispatched(actions: list[Action]) -> str:
    return one(actions, Dispatch).worker


def refused(actions: list[Action]) -> Refuse:
    return one(actions, Refuse)


def disconnected(actions: list[Action]) -> list[str]:
    return [action.worker for action in only(actions, Disconnect)]
