"""The way of a step through the head: refused, waiting, placed, lost and placed again, over.

Rules of this file
  1. A step in the book is either on a worker or waits; `check` says so after every event.
  2. Steps without a ready worker wait in the order in which they began to, per model; a worker that becomes
     ready is asked for by its model, never by looking at everything that waits.
  3. With a gate, steps that have no room yet are held there.
"""

from __future__ import annotations

from dataclasses import replace as replaced
from functools import partial

from msgspec.structs import replace

from saga_core import arrivals, wire
from saga_core.accounts import Account, Accounts, plausible, spent
from saga_core.actions import Abort, Dispatch, Refuse
from saga_core.book import Book, Session, Step, Workflow
from saga_core.config import Config
from saga_core.coordinator import Coordinator
from saga_core.decisions import Decisions
from saga_core.desk import Desk
from saga_core.events import Outcome, SessionPaused, StepArrived, StepFinished, StepLost, StepPlaced
from saga_core.fleet import Fleet, Pool, Worker
from saga_core.gate import Gate
from saga_core.ids import SessionId, StepId, WorkerId, WorkflowId
from saga_core.leaving import Leaving
from saga_core.lobby import Lobby
from saga_core.moves import Move, Moves
from saga_core.policy.ordering import URGENCY_S, virtual_finish
from saga_core.policy.placement import Ask, Placement, place
from saga_core.policy.profiles import PROFILES, Profile, profile_of
from saga_core.states import MoveState, WorkerState
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
        self.gates: dict[str, Gate] = {}
        """By model; none where the profile has no gate."""
        self._guests: dict[WorkflowId, dict[str, Account]] = {}
        """What workflows go by at the gates of models that they did not begin with."""
        self.worths = Worths(desk, fleet, self.gates)
        self.moves = Moves(desk, fleet, config.migration, self.decisions)
        self._leaving = Leaving(desk, fleet, self.gates, self.moves)
        name = self.book.profile if self.book.profile in PROFILES else config.profile
        self.profile: Profile = profile_of(name, config.admission, config.mode)
        self.closing = False
        """The cluster is about to end: no new workflows."""
        self.settled_at = 0.0
        """Until then after a restart, a model that no worker serves may be one whose node has yet to report."""

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

    def named(self, event: StepArrived) -> StepArrived:
        """`event` as one of a model's, where what it asks for is an adapter of it."""
        if event.model in self.fleet.pools:
            return event
        model = self.fleet.adapters.models.get(event.model)
        return event if model is None else replace(event, model=model, adapter=event.model)

    def _refusal(self, event: StepArrived, workflow: Workflow | None) -> Refuse | None:
        if self._is_unknown(event.model):
            return self._unknown(event.step, event.model)
        refusal = arrivals.of_workflow(event, workflow, closing=self.closing)
        if refusal is not None:
            return refusal
        held = len(self.waiting)
        for gate in self.gates.values():
            held += gate.waiting
        return arrivals.queue_full(event.step, held) if held >= self.config.head.max_waiting else None

    def _is_unknown(self, model: str) -> bool:
        models = self.fleet.pools
        return bool(models) and model not in models and self.desk.now >= self.settled_at

    def _unknown(self, step: StepId, model: str) -> Refuse:
        adapters = self.fleet.adapters
        return arrivals.no_such_model(step, model, self.fleet.names(), adapters.partly(model))

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
            self._ask(step, session, self._gate(step.model, pool))
            return
        if self.profile.epochs and session is not None:
            stolen = self.coordinator.stolen(session, step.model, pool)
            if stolen is not None:
                self._note(step, session, stolen, pool, session.context_tokens)
                self._place(step, session, pool.workers[stolen.worker], stolen.why)
                return
        home = session.home if session is not None else None
        root = f"workflow {step.workflow}" if step.workflow is not None else f"step {step.id}"
        tokens = session.context_tokens if session is not None else 0
        ask = Ask(session.id if session is not None else None, root, home, tokens, avoid)
        decision = place(self.profile.place, ask, pool, self.config.placement)
        pool.turn += 1
        self._note(step, session, decision, pool, tokens)
        self._place(step, session, pool.workers[decision.worker], decision.why)

    def _shut_out(self, step: Step, pool: Pool) -> bool:
        """Whether all that is ready are workers that are being emptied, and none of them has anything of its workflow."""
        if not pool.last_resort or not all(worker.closed for worker in pool.workers.values()):
            return False
        workflow = self.book.workflows.get(step.workflow) if step.workflow is not None else None
        return workflow is None or not any(s.home in pool.workers for s in workflow.sessions.values())

    def _note(self, step: Step, session: Session | None, to: Placement, pool: Pool, tokens: int) -> None:
        self.decisions.place(
            step.workflow or WorkflowId(0),
            _claimant(step, session),
            step.id,
            pool.workers[to.worker],
            to.why,
            to.scores,
            tokens,
            self.desk.now,
        )

    def _place(self, step: Step, session: Session | None, worker: Worker, why: str) -> None:
        move = self.moves.begin(session, worker) if session is not None and self.profile.migrates else None
        if session is not None:
            self.fleet.move_home(session.home, worker.id)
            self.worths.moved(session.id, session.home if move is None else None, worker.id)
        placed = StepPlaced(
            step=step.id, worker=worker.id, why=why, incarnation=worker.incarnation, gpus=worker.gpus
        )
        self.desk.record(placed)
        if not worker.placed:
            worker.stirred_at = self.desk.now
        worker.placed += 1
        self.fleet.touch(worker)
        priority = self._priority(step, session) if self.profile.engine_order and worker.ordered else None
        dispatch = Dispatch(step.id, worker.id, session.id if session is not None else None, why, priority)
        if move is None:
            self.desk.do(dispatch)
        else:
            self.moves.wait(move, dispatch)

    def hear(self, said: wire.Exported | wire.Adopted) -> None:
        """A node says how its half of a move went."""
        if isinstance(said, wire.Exported):
            self._release(self.moves.exported(said))
        else:
            self._release(self.moves.adopted(said))

    def _release(self, ended: list[Move]) -> None:
        """What waited for these moves is sent; where their new home is gone, it goes elsewhere."""
        for move in ended:
            self.worths.moved(move.session, move.source.worker, move.target.worker)
            if move.state is MoveState.DONE:
                for gate in self.gates.values():
                    gate.bring(move.session, move.target.worker)
            for dispatch in move.steps.values():
                if self.moves.stands(move):
                    self.desk.do(dispatch)
                else:
                    self.lose(StepLost(step=dispatch.step, worker=dispatch.worker, detail="it is gone"))

    def _priority(self, step: Step, session: Session | None) -> int:
        """The key in milliseconds; a step of no workflow goes by its own arrival or with the least served."""
        if self.profile.epochs:
            return self.coordinator.priority(step.tenant)
        account = self.accounts.of(step.workflow) if step.workflow is not None else None
        if account is None:
            account = Account(WorkflowId(0), step.arrived_at, 0.0, 0.0)
        key = self.profile.key(account, session.context_tokens if session is not None else 0)
        return int(1000 * (key - URGENCY_S * account.priority))

    def _leave_worker(self, step: Step) -> None:
        self.moves.drop(step.id)
        worker = self.fleet.workers.get(step.worker) if step.worker is not None else None
        if worker is not None:
            worker.placed -= 1
            self.fleet.touch(worker)
            self._rest(step)

    def _rest(self, step: Step) -> None:
        session = self.book.session_of(step)
        if session is not None:
            self.worths.rested(session.id, step.worker)

    # -- the gate ------------------------------------------------------------------------

    def _gate(self, model: str, pool: Pool) -> Gate:
        assert self.profile.admission is not None
        gate = self.gates.get(model)
        if gate is None:
            gate = self.gates[model] = Gate(
                pool,
                self.profile.admission,
                self.profile.key,
                self.profile.victim,
                self.decisions,
                partial(self.accounts.virtual_s, model) if self.profile.due is virtual_finish else None,
                self.profile.due,
                lambda workflow: self.accounts.left_s(workflow, self.desk.now),
            )
        gate.attach(pool)
        return gate

    def _ask(self, step: Step, session: Session | None, gate: Gate) -> None:
        account = self._account(step, session)
        gate.ask(step.id, _claimant(step, session), account, step.body_bytes, self.desk.now)
        self._follow(gate)

    def _account(self, step: Step, session: Session | None) -> Account:
        """By which the gate of the step's model sorts it. A workflow's own is of the model that it began with.

        At the gate of another one, where virtual time is another, it came with its first step there.
        """
        own = self.accounts.of(step.workflow) if step.workflow is not None else None
        born_v = self.accounts.virtual_s(step.model)
        if session is None or own is None:
            return Account(WorkflowId(0), step.arrived_at, born_v, 0.0)
        if self.accounts.model_of(own.workflow) == step.model:
            return own
        guest = self._guests.setdefault(own.workflow, {}).setdefault(step.model, replaced(own, born_v=born_v))
        guest.expected_s, guest.attained_s = own.expected_s, own.attained_s
        return guest

    def _land(
        self, step: Step, end: StepFinished | None, again_s: float = 0.0, *, over: bool = True
    ) -> Gate | None:
        """Tell the gate that `step` has left its worker or waits no more. Unless it is `over` it asks again."""
        gate = self.gates.get(step.model)
        if gate is None:
            return None
        gate.land(
            step.id,
            self.desk.now,
            prompt_tokens=end.prompt_tokens if end is not None else None,
            cached_tokens=(end.cached_tokens or 0) if end is not None else 0,
            output_tokens=(end.output_tokens or 0) if end is not None else 0,
            again_s=again_s,
        )
        if over and step.workflow is None:
            gate.leave(_claimant(step, None), self.desk.now)
        return gate

    def _follow(self, gate: Gate) -> None:
        """Do what the gate has decided."""
        for pause in gate.take_pauses():
            self.desk.record(SessionPaused(session=pause.session, worker=pause.worker, why=pause.why))
            self.worths.paused(pause.session, pause.worker)
        for grant in gate.take_grants():
            step = self.book.steps[grant.step]
            self._place(step, self.book.session_of(step), self.fleet.workers[grant.worker], grant.why)

    def leave(self, workflow: Workflow, *, complete: bool) -> None:
        """`workflow` is over: its memory and its share are for others. `complete`: it did what it wanted to."""
        self.coordinator.left(workflow, self.desk.now, complete=complete)
        self.decisions.leave(workflow.id)
        self._guests.pop(workflow.id, None)
        for session in workflow.sessions.values():
            move = self.moves.over(session.id)
            if move is not None:
                self.worths.over(session.id, move.source.worker)
            self.worths.over(session.id, session.home)
        for gate in self.gates.values():
            for session in workflow.sessions.values():
                gate.leave(session.id, self.desk.now)
            self._follow(gate)

    def follow_profile(self) -> None:
        """The book's profile is another one: whoever waits is asked about anew."""
        self.profile = profile_of(self.book.profile, self.config.admission, self.config.mode)
        held = [step for gate in self.gates.values() for step, _ in gate.held()]
        self.gates.clear()
        self.worths.follow(self.profile.retention)
        for number in sorted(held):
            self._place_or_wait(self.book.steps[number])

    def tick(self) -> None:
        """Time passed."""
        self.expire()
        if self.profile.epochs:
            self.coordinator.tick(self.desk.now)
        for gate in self.gates.values():
            gate.tick(self.desk.now)
            self._follow(gate)
        self._release(self.moves.tick())
        if self.profile.migrates:
            self._leaving.tick()
        self.worths.tick()

    # -- waiting -------------------------------------------------------------------------

    def _wait(self, step: Step) -> None:
        self.lobby.add(step.id, step.model, self.desk.now)
        claimant = _claimant(step, self.book.session_of(step))
        why = f"no worker of model {step.model} is ready"
        if self.fleet.pools.get(step.model):
            why += " but those of nodes that drain"
        self.decisions.wait(step.workflow or WorkflowId(0), claimant, step.id, why, self.desk.now)

    def serve(self, model: str) -> None:
        """Place what waits for `model`, if a worker of it is ready."""
        pool = self.fleet.pools.get(model)
        if not pool:
            return
        gate = self.gates.get(model)
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
        if 0.0 < self.settled_at <= self.desk.now:
            self.settled_at = 0.0
            self._refuse_unknown()
        limit = self.config.head.queue_timeout_s
        late = self.lobby.late(self.desk.now - limit, REFUSALS)
        for gate in [g for g in self.gates.values() if g.waiting and not g.pool]:
            late += gate.late(self.desk.now - limit, REFUSALS - len(late))
        for step in [self.book.steps[s] for s in late]:
            message = f"no worker of model {step.model!r} was ready within {limit:g} s"
            self._give_up(step, Refuse(step.id, 503, "overloaded_error", "no_worker", message, 10))

    def _refuse_unknown(self) -> None:
        for model in filter(self._is_unknown, self.lobby.models()):
            for number in self.lobby.of(model):
                self._give_up(self.book.steps[number], self._unknown(number, model))

    # -- ends ----------------------------------------------------------------------------

    def lose(self, event: StepLost) -> None:
        """Its worker went away: elsewhere, if it has not happened too often."""
        step = self.book.steps.get(event.step)
        if step is None or step.worker != event.worker:
            self.desk.ignore("stale", f"loss of step {event.step} at {event.worker}")
            return
        self._leave_worker(step)
        self._suspect(step)
        gate = self._land(step, None, over=False)
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
        self.decisions.lost(workflow, _claimant(step, session), step.id, event.worker, rule, self.desk.now)

    def _suspect(self, step: Step) -> None:
        """A connection failed: its worker is not used before a later report says that it is ready."""
        worker = self.fleet.workers.get(step.worker) if step.worker is not None else None
        if worker is not None and worker.incarnation == step.incarnation:
            worker.suspect_at = self.desk.now
            self.fleet.pool(worker.model).remove(worker.id)

    def finish(self, event: StepFinished) -> None:
        """The gateway says that a step is over."""
        step = self.book.steps.get(event.step)
        if step is None:
            self.desk.ignore("unknown step", f"end of step {event.step}")
            return
        event = plausible(event)
        again_s = 0.0
        if event.outcome is Outcome.DONE:
            self._note_done(step, event)
            self.moves.computed(step, event)
            again_s = self._again_s(step, event)
        self.desk.record(event)  # first: what lands has its work credited
        self._leave_worker(step)
        self.lobby.remove(step.id, step.model)
        gate = self._land(step, event, again_s)
        if gate is not None:
            self._follow(gate)

    def _again_s(self, step: Step, event: StepFinished) -> float:
        """Engine seconds that `step` took for what had been computed before."""
        session = self.book.session_of(step)
        if session is None or event.prompt_tokens is None:
            return 0.0
        return spent(self.accounts.costs, event, session.context_tokens)[1]

    def _note_done(self, step: Step, event: StepFinished) -> None:
        """Until its node says how much: what was just computed is there."""
        worker = self.fleet.workers.get(step.worker) if step.worker is not None else None
        if worker is None:
            return
        worker.done += 1
        worker.prompt_tokens += event.prompt_tokens or 0
        worker.cached_tokens += event.cached_tokens or 0
        session = self.book.session_of(step)
        same = worker.state is WorkerState.READY and worker.incarnation == step.incarnation
        if session is not None and same and session.id not in worker.resident:
            self.fleet.hold(
                worker, session.id, max(1, (event.prompt_tokens or 0) + (event.output_tokens or 0))
            )

    def _give_up(self, step: Step, refusal: Refuse) -> None:
        """Refuse a step that is in the book already."""
        self.lobby.remove(step.id, step.model)
        gate = self._land(step, None)
        self.desk.do(refusal)
        status, detail = refusal.status, refusal.message
        self.desk.record(StepFinished(step=step.id, outcome=Outcome.REJECTED, status=status, detail=detail))
        if gate is not None:
            self._follow(gate)

    def abort(self, workflow: Workflow, reason: str) -> None:
        """Break off every step of `workflow`."""
        steps = [self.book.steps[s] for s in workflow.running]
        for step in steps:  # first, so that what the others leave is not granted to them
            if step.model in self.gates:
                self.gates[step.model].drop(step.id)
        for step in steps:
            self._leave_worker(step)
            self.lobby.remove(step.id, step.model)
            self._land(step, None)
            self.desk.do(Abort(step.id, reason))
            self.desk.record(StepFinished(step=step.id, outcome=Outcome.ABORTED, status=499, detail=reason))
        for gate in self.gates.values():
            self._follow(gate)

    def check(self) -> None:
        """Raise AssertionError where a step is in no place or in two."""
        placed: dict[WorkerId, int] = {}
        for step in self.book.steps.values():
            held = step.model in self.gates and self.gates[step.model].holds(step.id)
            assert not (held and step.id in self.waiting), f"step {step.id} is in two places"
            assert (step.worker is None) == (held or step.id in self.waiting), (
                f"step {step.id} is in no place"
            )
            if step.worker is not None:
                placed[step.worker] = placed.get(step.worker, 0) + 1
        assert self.waiting.keys() <= self.book.steps.keys(), "a step waits that is over"
        self.coordinator.check()
        self.worths.check()
        self.moves.check()
        self.decisions.check()
        for gate in self.gates.values():
            gate.check()
            strays = {_claimant(step, None) for step in self.book.steps.values() if step.workflow is None}
            assert gate.claims.keys() <= self.book.sessions.keys() | strays, "a claim outlives its step"
        self.lobby.check()
        for worker in self.fleet.workers.values():
            assert worker.placed == placed.get(worker.id, 0), f"{worker.id} miscounts its steps"


def _claimant(step: Step, session: Session | None) -> SessionId:
    """Who asks for memory: the session, or the step itself where it has none."""
    return session.id if session is not None else SessionId(f"step-{step.id}")
