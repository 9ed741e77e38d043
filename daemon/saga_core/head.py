"""The head as a machine: `handle(event, now)` in, actions out. The only mutator of scheduling state.

Rules of this file
  1. Durable state is the `Book` and changes through facts alone (`Desk.record`).
  2. Soft state (`Fleet`, waiting steps, wants of programs) is rebuilt from reports.
  3. Same events and times give the same actions, byte for byte: ties go by id.
  4. Stale or impossible input is `Ignored` with a reason; it never raises and never guesses.
  5. The first event of a head is `HeadStarted`, and there is one.

The parts: `Steps` (the way of a step), `Workflows` (how those begin and end), `Mirror` (nodes and workers), `Programs`
(what runs where).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import assert_never

from saga_core import wire
from saga_core.accounts import Accounts
from saga_core.actions import Action, Record
from saga_core.backlog import Backlog, backlog_of
from saga_core.book import Book, Workflow
from saga_core.config import Config
from saga_core.decisions import Decisions
from saga_core.desk import Desk
from saga_core.drains import Drains
from saga_core.events import (
    CancelAsked,
    CloseAsked,
    DrainAsked,
    Event,
    FinishAsked,
    HeadStarted,
    ProfileChanged,
    StepArrived,
    StepFinished,
    StepLost,
    Tick,
    UndrainAsked,
    WorkflowEnded,
    WorkflowRequeued,
    WorkflowSubmitted,
)
from saga_core.fleet import Fleet, Node
from saga_core.gate import Gate
from saga_core.ids import StepId
from saga_core.mirror import Mirror, node_of
from saga_core.moves import Moves
from saga_core.policy.profiles import PROFILES, Profile
from saga_core.programs import Programs
from saga_core.states import NodeState
from saga_core.steps import Steps
from saga_core.workflows import Workflows
from saga_core.worths import Worths

__all__ = ["Head", "node_of"]


class Head:
    """Global scheduling state and the decisions about it."""

    def __init__(self, config: Config, *, book: Book | None = None) -> None:
        """`book`: what an earlier process left; a `HeadStarted` with a higher incarnation must follow."""
        self.config = config
        self.book = book if book is not None else Book(config.profile, config.costs)
        self.fleet = Fleet()
        self.programs = Programs(config.head)
        self._desk = Desk(self.book)
        self._steps = Steps(self._desk, self.fleet, config)
        self._mirror = Mirror(self._desk, self.fleet, config)
        self._workflows = Workflows(self._desk, self.fleet, self._steps, self.programs, config.head)
        self.drains = Drains(self._desk, self.fleet, self._mirror, self.programs, config.head)
        self._quiet_since: float | None = None
        self._started = False

    @property
    def waiting(self) -> dict[StepId, float]:
        """Steps without a worker, and since when."""
        return self._steps.waiting

    @property
    def gates(self) -> dict[str, Gate]:
        """By model; empty where the profile has none."""
        return self._steps.gates.by_model

    @property
    def accounts(self) -> Accounts:
        """What each workflow has had, and what is expected of it."""
        return self._steps.accounts

    @property
    def worths(self) -> Worths:
        """What sessions' KV is worth, as engines are told."""
        return self._steps.worths

    @property
    def moves(self) -> Moves:
        """Sessions whose KV is on its way to their new homes."""
        return self._steps.moves

    @property
    def decisions(self) -> Decisions:
        """The latest decisions about steps and sessions."""
        return self._steps.decisions

    @property
    def profile(self) -> Profile:
        """By which policies it decides now."""
        return self._steps.profile

    @property
    def closing(self) -> bool:
        """Whether the cluster takes no new workflows, since it is about to end."""
        return self._steps.closing

    @property
    def busy(self) -> bool:
        """Whether a workflow is there that will end by itself, or a step."""
        live = (w for w in self.book.workflows.values() if w.live)
        return bool(self.book.steps) or any(w.kind != "outside" for w in live)

    @property
    def idle_s(self) -> float | None:
        """Seconds without a step, and without a program that may make one; None: there is one."""
        return None if self._quiet_since is None else self.now - self._quiet_since

    def backlog(self) -> list[Backlog]:
        """Per model, whether it has the workers that its sessions want."""
        waiting = self._steps.lobby.counts()
        pools = self.fleet.pools
        return [
            backlog_of(model, pools.get(model), self.gates.get(model), waiting.get(model, 0), self.now)
            for model in sorted(pools.keys() | waiting.keys())
        ]

    @property
    def now(self) -> float:
        """Time of the last event in seconds: what is kept beside its facts."""
        return self._desk.now

    def handle(self, event: Event, *, now: float) -> list[Action]:
        """Let `event` have happened at `now` (seconds; a clock that runs backwards stands still here).

        Returns what to do, in order.
        """
        self._desk.begin(now)
        match event:
            case StepArrived():
                self._on_step_arrived(event)
            case StepFinished():
                self._steps.finish(event)
            case StepLost():
                self._steps.lose(event)
            case wire.Report():
                self._on_report(event)
            case Tick():
                self._on_tick()
            case WorkflowSubmitted():
                self._on_submitted(event)
            case CancelAsked():
                self._workflows.cancel(event)
            case FinishAsked():
                self._workflows.finish(event)
            case wire.Hello():
                self._on_hello(event)
            case wire.Goodbye():
                self._on_goodbye(event)
            case wire.Valued():
                self.worths.arrived(event)
            case wire.HalfMoved():
                self._steps.hear(event)
            case ProfileChanged():
                self._on_profile(event)
            case HeadStarted():
                self._on_head_started(event)
            case DrainAsked():
                self.drains.ask(event)
            case UndrainAsked():
                self._on_undrain(event)
            case CloseAsked():
                self._steps.closing = True
            case _:
                assert_never(event)
        return self._desk.out

    # -- steps and workflows -------------------------------------------------------------

    def _on_step_arrived(self, event: StepArrived) -> None:
        event = self._steps.catalogue.named(event)
        workflow = self._workflow_of(event)
        if not self._steps.admits(event, workflow):
            return
        self._quiet_since = None  # it may be over before the next tick
        if workflow is None and event.key:
            workflow = self._workflows.open(event)
        self._steps.arrive(event, workflow)

    def _workflow_of(self, event: StepArrived) -> Workflow | None:
        if event.workflow is not None:
            return self.book.workflows.get(event.workflow)
        return self.book.find(event.tenant, event.key) if event.key else None

    def _on_submitted(self, event: WorkflowSubmitted) -> None:
        if self._workflows.submit(event):
            self._run_programs()

    # -- the head itself -----------------------------------------------------------------

    def _on_profile(self, event: ProfileChanged) -> None:
        if event.profile not in PROFILES:
            self._desk.ignore("unknown profile", event.profile)
            return
        self._desk.record(event)
        self._steps.follow_profile()

    def _on_head_started(self, event: HeadStarted) -> None:
        if self._started or event.incarnation <= self.book.head:
            self._desk.ignore("stale", f"start of head {event.incarnation}, this is {self.book.head}")
            return
        self._started = True
        if self.book.head:  # not the first: nodes are out there, and have not reported yet
            self._steps.catalogue.unsettle(self.now + self.config.head.node_timeout_s)
        self._desk.record(event)
        if self.book.profile not in PROFILES:  # the journal is of a saga that had another choice
            self._desk.ignore("unknown profile", self.book.profile)
            self._desk.record(ProfileChanged(profile=self.config.profile))
        self._steps.follow_profile()
        self._workflows.recover()

    def _on_tick(self) -> None:
        for node in self._mirror.silent():
            self._lose_node(node, "silent", f"no report for {self.now - node.seen_at:.1f} s")
        self._follow(self.drains.tick())
        self._steps.tick()
        self._workflows.end_idle()
        self._run_programs()
        if self.book.steps or self.programs.any:
            self._quiet_since = None
        elif self._quiet_since is None:
            self._quiet_since = self.now

    # -- nodes ---------------------------------------------------------------------------

    def _on_hello(self, hello: wire.Hello) -> None:
        if self._mirror.refuse(hello):
            return
        if self._mirror.stale(hello):
            self._desk.ignore("stale", f"hello of {hello.node}")
            return
        if not self._mirror.known(hello):
            self._join(hello)
        self._mirror.welcome(hello)

    def _join(self, hello: wire.Hello) -> None:
        old = self.fleet.nodes.get(hello.node)
        if old is not None and old.state is NodeState.UP:
            self._lose_node(old, "silent", "its daemon was restarted")
        node = self._mirror.join(hello)
        self.drains.joined(node)
        self._follow(self.programs.on_joined(node, self.book))

    def _on_report(self, report: wire.Report) -> None:
        node = self._mirror.accepts(report)
        if node is None:
            return
        self._mirror.follow(node, report)
        self._follow(self.programs.on_facts(node, report.programs, self.book))
        self._mirror.ack(node)
        self._serve(node)

    def _on_undrain(self, event: UndrainAsked) -> None:
        self.drains.take_back(event)
        node = self.fleet.nodes.get(event.node)
        if node is not None:
            self._serve(node)

    def _serve(self, node: Node) -> None:
        for model in sorted({worker.model for worker in node.workers.values()}):
            self._steps.serve(model)

    def _on_goodbye(self, goodbye: wire.Goodbye) -> None:
        node = self.fleet.nodes.get(goodbye.node)
        if node is None or node.incarnation != goodbye.incarnation or node.state is NodeState.LEFT:
            self._desk.ignore("stale", f"goodbye of {goodbye.node}")
            return
        self._lose_node(node, "goodbye", goodbye.reason or "it left")
        self.drains.left(node)

    def _lose_node(self, node: Node, cause: str, reason: str) -> None:
        self._mirror.lose(node, cause, reason)
        self._follow(self.programs.on_node_lost(node, self.book, reason))

    # -- programs ------------------------------------------------------------------------

    def _run_programs(self) -> None:
        waiting = self._programs_waiting() if self.programs.queued else 0
        self._follow(self.programs.run(self.fleet, self.book, self.now, waiting=waiting))

    def _programs_waiting(self) -> int:
        """How many running programs wait at a gate and have been let in nowhere."""
        given = self.programs.given
        return sum(
            claim.worker is None and claim.account.workflow in given
            for gate in self.gates.values()
            for claim in gate.waiters.sessions().values()
        )

    def _follow(self, actions: Iterable[Action]) -> None:
        """Actions of `Programs`, one by one as it yields them: facts are recorded, ends go through `Workflows`."""
        for action in actions:
            match action:
                case Record(fact=WorkflowEnded() as fact):
                    self._workflows.end(fact)
                case Record(fact=WorkflowRequeued() as fact):
                    self._workflows.start_again(fact)
                case Record(fact=fact):
                    self._desk.record(fact)
                case _:
                    self._desk.do(action)

    def check(self) -> None:
        """Raise AssertionError where the state contradicts itself. On in all tests."""
        self.book.check()
        self.fleet.check()
        self.programs.check(self.book)
        self._steps.check()
        self.drains.check()
        homes: dict[str, int] = {}
        for session in self.book.sessions.values():
            if session.home is not None:
                homes[session.home] = homes.get(session.home, 0) + 1
        assert homes == self.fleet.homes(), "homes miscounted"
        for worker in self.fleet.workers.values():
            assert worker.resident.keys() <= self.book.sessions.keys(), f"{worker.id} holds dead sessions"
