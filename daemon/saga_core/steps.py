"""The way of a step through the head: refused, waiting, placed, lost and placed again, over.

Rules of this file
  1. A step in the book is either on a worker or waits; `check` says so after every event.
  2. Steps without a ready worker wait in the order in which they began to, per model; a worker that becomes
     ready is asked for by its model, never by looking at everything that waits.
  3. With a gate, steps that have no room yet are held there.
"""

from __future__ import annotations

from msgspec.structs import replace

from saga_core import arrivals, wire
from saga_core.accounts import Accounts, plausible
from saga_core.actions import Abort, Refuse
from saga_core.book import Book, Session, Step, Workflow
from saga_core.catalogue import Catalogue
from saga_core.config import Config
from saga_core.coordinator import Coordinator
from saga_core.decisions import Decisions
from saga_core.desk import Desk
from saga_core.dispatches import Dispatches
from saga_core.events import Outcome, SessionPaused, StepArrived, StepFinished, StepLost
from saga_core.fleet import Fleet, Pool
from saga_core.gate import Gate
from saga_core.gates import Gates, claimant
from saga_core.ids import StepId, WorkerId, WorkflowId
from saga_core.leaving import Leaving
from saga_core.lobby import Lobby
from saga_core.moves import Move, Moves
from saga_core.policy.placement import Ask, Placement, place
from saga_core.policy.profiles import PROFILES, Profile, profile_of
from saga_core.worths import Worths

REFUSALS = 128
"""Steps that one tick refuses because they have waited for too long, the others in the next ones: some 2 ms."""


class Steps:
    """Steps in flight, and those that wait for a worker."""

    def __init__(self, desk: Desk, fleet: Fleet, config: Config) -> None:
        self.desk, self.fleet, self.config = desk, fleet, config
        self.lobby = Lobby()
        self.coordinator = Coordinator(desk.book, fleet, desk.book.accounts)
        self.decisions = Decisions()
        self.catalogue = Catalogue(desk, fleet)
        self.gates = Gates(desk, self.decisions)
        self.worths = Worths(desk, fleet, self.gates.by_model)
        self.moves = Moves(desk, fleet, config.migration, self.decisions)
        self._dispatches = Dispatches(desk, fleet, self.coordinator, self.gates, self.worths, self.moves)
        self._leaving = Leaving(desk, fleet, self.gates.by_model, self.moves)
        name = self.book.profile if self.book.profile in PROFILES else config.profile
        self.profile: Profile = profile_of(name, config.admission, config.mode)
        self.closing = False
        """The cluster is about to end: no new workflows."""

    @property
    def book(self) -> Book:
        return self.desk.book

    @property
    def waiting(self) -> dict[StepId, float]:
        """Steps without a worker and since when, oldest first; those at gates are not among them."""
        return self.lobby.since

    @property
    def accounts(self) -> Accounts:
        return self.desk.book.accounts

    # -- arrival -------------------------------------------------------------------------

    def admits(self, event: StepArrived, workflow: Workflow | None) -> bool:
        """Whether the step may come in; if not, it has been answered. `workflow` is its own if known."""
        if event.step in self.book.steps:
            self.desk.ignore("stale", f"arrival of step {event.step}")
            return False
        refusal = self._refusal(event, workflow)
        if refusal is not None:
            self.desk.do(refusal)
        return refusal is None

    def _refusal(self, event: StepArrived, workflow: Workflow | None) -> Refuse | None:
        if self.catalogue.lacks(event.model):
            return self.catalogue.refusal(event.step, event.model)
        refusal = arrivals.of_workflow(event, workflow, closing=self.closing)
        if refusal is not None:
            return refusal
        held = len(self.waiting) + self.gates.waiting
        return arrivals.queue_full(event.step, held) if held >= self.config.head.max_waiting else None

    def arrive(self, event: StepArrived, workflow: Workflow | None) -> None:
        """Take an admitted step in, as one of `workflow`'s."""
        if workflow is not None and event.workflow is None:
            event = replace(event, workflow=workflow.id)
        self.desk.record(event)
        if workflow is not None and self.profile.epochs:
            account = self.accounts.of(workflow.id)
            assert account is not None, f"workflow {workflow.id} has no account"
            self.coordinator.arrived(workflow, account, self.desk.now)
        self._place_or_wait(self.book.steps[event.step])

    # -- placement -----------------------------------------------------------------------

    def _place_or_wait(self, step: Step, avoid: WorkerId | None = None) -> None:
        """Place the step now, or let it wait until a worker of its model is ready."""
        pool = self.fleet.pools.get(step.model)
        if not pool or self._shut_out(step, pool):
            self._wait(step)
            return
        session = self.book.session_of(step)
        if self.profile.admission is not None:
            gate = self.gates.at(step.model, pool, self.profile)
            self.gates.ask(step, session, gate)
            self._follow(gate)
            return
        if self.profile.epochs and session is not None:
            stolen = self.coordinator.stolen(session, step.model, pool)
            if stolen is not None:
                self._note(step, session, stolen, pool, session.context_tokens)
                self._dispatches.send(step, session, pool.workers[stolen.worker], stolen.why, self.profile)
                return
        home = session.home if session is not None else None
        root = f"workflow {step.workflow}" if step.workflow is not None else f"step {step.id}"
        tokens = session.context_tokens if session is not None else 0
        ask = Ask(session.id if session is not None else None, root, home, tokens, avoid)
        decision = place(self.profile.place, ask, pool, self.config.placement)
        pool.turn += 1
        self._note(step, session, decision, pool, tokens)
        self._dispatches.send(step, session, pool.workers[decision.worker], decision.why, self.profile)

    def _shut_out(self, step: Step, pool: Pool) -> bool:
        """Whether all that is ready are workers that are being emptied, and none of them has anything of its workflow."""
        if not pool.last_resort or not all(worker.closed for worker in pool.workers.values()):
            return False
        workflow = self.book.workflows.get(step.workflow) if step.workflow is not None else None
        return workflow is None or not any(s.home in pool.workers for s in workflow.sessions.values())

    def _note(self, step: Step, session: Session | None, to: Placement, pool: Pool, tokens: int) -> None:
        self.decisions.place(
            step.workflow or WorkflowId(0),
            claimant(step, session),
            step.id,
            pool.workers[to.worker],
            to.why,
            to.scores,
            tokens,
            self.desk.now,
        )

    def _follow(self, gate: Gate) -> None:
        """Do what the gate has decided."""
        for pause in gate.take_pauses():
            self.desk.record(SessionPaused(session=pause.session, worker=pause.worker, why=pause.why))
            self.worths.paused(pause.session, pause.worker)
        for grant in gate.take_grants():
            step = self.book.steps[grant.step]
            self._dispatches.send(
                step, self.book.session_of(step), self.fleet.workers[grant.worker], grant.why, self.profile
            )

    def leave(self, workflow: Workflow, *, complete: bool) -> None:
        """`workflow` is over: its memory and its share are for others. `complete`: it did what it wanted to."""
        self.coordinator.left(workflow, self.desk.now, complete=complete)
        self.decisions.leave(workflow.id)
        self.gates.forget(workflow.id)
        for session in workflow.sessions.values():
            move = self.moves.over(session.id)
            if move is not None:
                self.worths.over(session.id, move.source.worker)
            self.worths.over(session.id, session.home)
        for gate in self.gates:
            for session in workflow.sessions.values():
                gate.leave(session.id, self.desk.now)
            self._follow(gate)

    def follow_profile(self) -> None:
        """The book's profile is another one: whoever waits is asked about anew."""
        self.profile = profile_of(self.book.profile, self.config.admission, self.config.mode)
        held = self.gates.close()
        self.worths.follow(self.profile.retention)
        for number in held:
            self._place_or_wait(self.book.steps[number])

    def tick(self) -> None:
        """Time passed."""
        self.expire()
        if self.profile.epochs:
            self.coordinator.tick(self.desk.now)
        for gate in self.gates:
            gate.tick(self.desk.now)
            self._follow(gate)
        self._release(self.moves.tick())
        if self.profile.migrates:
            self._leaving.tick()
        self.worths.tick()

    def hear(self, said: wire.HalfMoved) -> None:
        """A node says how its half of a move went."""
        self._release(self.moves.answered(said))

    def _release(self, ended: list[Move]) -> None:
        for lost in self._dispatches.release(ended):
            self.lose(lost)

    # -- waiting -------------------------------------------------------------------------

    def _wait(self, step: Step) -> None:
        self.lobby.add(step.id, step.model, self.desk.now)
        waits = claimant(step, self.book.session_of(step))
        why = f"no worker of model {step.model} is ready"
        if self.fleet.pools.get(step.model):
            why += " but those of nodes that drain"
        self.decisions.wait(step.workflow or WorkflowId(0), waits, step.id, why, self.desk.now)

    def serve(self, model: str) -> None:
        """Place what waits for `model`, if a worker of it is ready."""
        pool = self.fleet.pools.get(model)
        if not pool:
            return
        gate = self.gates.by_model.get(model)
        if gate is not None:
            gate.attach(pool)
            gate.follow(self.desk.now)
            self._follow(gate)
        for step in [self.book.steps[s] for s in self.lobby.of(model)]:
            if not self._shut_out(step, pool):
                self.lobby.remove(step.id, step.model)
                self._place_or_wait(step)
        for adapter in [
            name for name in self.lobby.models() if self.fleet.adapters.models.get(name) == model
        ]:
            for number in self.lobby.of(adapter):  # it came before anybody knew whose adapter that is
                self._give_up(self.book.steps[number], arrivals.adapter_known_now(number, adapter, model))

    def expire(self) -> None:
        """Refuse what has waited for `queue_timeout_s`, or for a model that no node has come back with."""
        if self.catalogue.settles():
            self._refuse_unknown()
        limit = self.config.head.queue_timeout_s
        late = self.lobby.late(self.desk.now - limit, REFUSALS)
        late += self.gates.late(self.desk.now - limit, REFUSALS - len(late))
        for step in [self.book.steps[s] for s in late]:
            message = f"no worker of model {step.model!r} was ready within {limit:g} s"
            self._give_up(step, Refuse(step.id, 503, "overloaded_error", "no_worker", message, 10))

    def _refuse_unknown(self) -> None:
        for model in filter(self.catalogue.lacks, self.lobby.models()):
            for number in self.lobby.of(model):
                self._give_up(self.book.steps[number], self.catalogue.refusal(number, model))

    # -- ends ----------------------------------------------------------------------------

    def lose(self, event: StepLost) -> None:
        """Its worker went away: elsewhere, if it has not happened too often."""
        step = self.book.steps.get(event.step)
        if step is None or step.worker != event.worker:
            self.desk.ignore("stale", f"loss of step {event.step} at {event.worker}")
            return
        self._dispatches.leave(step)
        self._dispatches.suspect(step)
        gate = self.gates.land(step, None, over=False)
        self.desk.record(event)
        self._note_lost(step, event)
        if gate is not None:
            self._follow(gate)
        if step.lost > self.config.head.max_step_losses:
            message = f"the step's worker was lost {step.lost} times, at last {event.worker}: {event.detail}"
            self._give_up(step, Refuse(step.id, 502, "api_error", "worker_lost", message))
            return
        self._place_or_wait(step, avoid=event.worker)

    def _note_lost(self, step: Step, event: StepLost) -> None:
        session = self.book.session_of(step)
        answer = (
            "its answer had begun and is gone on with elsewhere" if event.begun else "no answer had begun"
        )
        workflow, rule = step.workflow or WorkflowId(0), f"{event.detail or 'it is gone'}; {answer}"
        self.decisions.lost(workflow, claimant(step, session), step.id, event.worker, rule, self.desk.now)

    def finish(self, event: StepFinished) -> None:
        """The gateway says that a step is over."""
        step = self.book.steps.get(event.step)
        if step is None:
            self.desk.ignore("unknown step", f"end of step {event.step}")
            return
        event = plausible(event)
        again_s = 0.0
        if event.outcome is Outcome.DONE:
            self._dispatches.computed(step, event)
            self.moves.computed(step, event)
            again_s = self._dispatches.again_s(step, event)
        self.desk.record(event)  # first: what lands has its work credited
        self._dispatches.leave(step)
        self.lobby.remove(step.id, step.model)
        gate = self.gates.land(step, event, again_s)
        if gate is not None:
            self._follow(gate)

    def _give_up(self, step: Step, refusal: Refuse) -> None:
        """Refuse a step that is in the book already."""
        self.lobby.remove(step.id, step.model)
        gate = self.gates.land(step, None)
        self.desk.do(refusal)
        status, detail = refusal.status, refusal.message
        self.desk.record(StepFinished(step=step.id, outcome=Outcome.REJECTED, status=status, detail=detail))
        if gate is not None:
            self._follow(gate)

    def abort(self, workflow: Workflow, reason: str) -> None:
        """Break off every step of `workflow`."""
        steps = [self.book.steps[s] for s in workflow.running]
        for step in steps:  # first, so that what the others leave is not granted to them
            if step.model in self.gates.by_model:
                self.gates.by_model[step.model].drop(step.id)
        for step in steps:
            self._dispatches.leave(step)
            self.lobby.remove(step.id, step.model)
            self.gates.land(step, None)
            self.desk.do(Abort(step.id, reason))
            self.desk.record(StepFinished(step=step.id, outcome=Outcome.ABORTED, status=499, detail=reason))
        for gate in self.gates:
            self._follow(gate)

    def check(self) -> None:
        """Raise AssertionError where a step is in no place or in two."""
        for step in self.book.steps.values():
            held = self.gates.holds(step)
            assert not (held and step.id in self.waiting), f"step {step.id} is in two places"
            assert (step.worker is None) == (held or step.id in self.waiting), (
                f"step {step.id} is in no place"
            )
        assert self.waiting.keys() <= self.book.steps.keys(), "a step waits that is over"
        self.coordinator.check()
        self.worths.check()
        self.moves.check()
        self.decisions.check()
        self.gates.check()
        self.lobby.check()
        self._dispatches.check()
