"""Steps on workers: sent there, after their session's KV where that moves along, until they leave.

Rules of this file
  1. A worker's count of steps is that of the book's steps that are placed on it; `check` says so after every event.
  2. What waits for a move is sent when the move ends; where its new home is gone by then, it is lost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from saga_core.accounts import Account, spent
from saga_core.actions import Dispatch
from saga_core.book import Session, Step
from saga_core.coordinator import Coordinator
from saga_core.desk import Desk
from saga_core.events import StepFinished, StepLost, StepPlaced
from saga_core.fleet import Fleet, Worker
from saga_core.gates import Gates
from saga_core.ids import WorkflowId
from saga_core.moves import Move, Moves
from saga_core.policy.ordering import URGENCY_S
from saga_core.policy.profiles import Profile
from saga_core.states import MoveState, WorkerState
from saga_core.worths import Worths


class Dispatches:
    """Sends steps to the workers that were chosen for them, and counts them there."""

    def __init__(
        self,
        desk: Desk,
        fleet: Fleet,
        coordinator: Coordinator,
        gates: Gates,
        worths: Worths,
        moves: Moves,
    ) -> None:
        self.desk, self.fleet, self.coordinator = desk, fleet, coordinator
        self.gates, self.worths, self.moves = gates, worths, moves

    def send(self, step: Step, session: Session | None, worker: Worker, why: str, profile: Profile) -> None:
        """`step` goes to `worker`, because of `why`: at once, or after the KV of its session."""
        move = self.moves.begin(session, worker) if session is not None and profile.migrates else None
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
        priority = self._priority(step, session, profile) if profile.engine_order and worker.ordered else None
        dispatch = Dispatch(step.id, worker.id, session.id if session is not None else None, why, priority)
        if move is None:
            self.desk.do(dispatch)
        else:
            self.moves.wait(move, dispatch)

    def _priority(self, step: Step, session: Session | None, profile: Profile) -> int:
        """The key in milliseconds; a step of no workflow goes by its own arrival or with the least served."""
        if profile.epochs:
            return self.coordinator.priority(step.tenant)
        account = self.desk.book.accounts.of(step.workflow) if step.workflow is not None else None
        if account is None:
            account = Account(WorkflowId(0), step.arrived_at, 0.0, 0.0)
        key = profile.key(account, session.context_tokens if session is not None else 0)
        return int(1000 * (key - URGENCY_S * account.priority))

    def release(self, ended: list[Move]) -> Iterator[StepLost]:
        """Send what waited for these moves. Yields the steps whose new home is gone, for the caller to place again."""
        for move in ended:
            self.worths.moved(move.session, move.source.worker, move.target.worker)
            if move.state is MoveState.DONE:
                for gate in self.gates:
                    gate.bring(move.session, move.target.worker)
            for dispatch in move.steps.values():
                if self.moves.stands(move):
                    self.desk.do(dispatch)
                else:
                    yield StepLost(step=dispatch.step, worker=dispatch.worker, detail="it is gone")

    def leave(self, step: Step) -> None:
        """`step` is no longer on its worker, if it has been on one."""
        self.moves.drop(step.id)
        worker = self.fleet.workers.get(step.worker) if step.worker is not None else None
        if worker is None:
            return
        worker.placed -= 1
        self.fleet.touch(worker)
        session = self.desk.book.session_of(step)
        if session is not None:
            self.worths.rested(session.id, step.worker)

    def suspect(self, step: Step) -> None:
        """A connection failed: its worker is not used before a later report says that it is ready."""
        worker = self.fleet.workers.get(step.worker) if step.worker is not None else None
        if worker is not None and worker.incarnation == step.incarnation:
            worker.suspect_at = self.desk.now
            self.fleet.pool(worker.model).remove(worker.id)

    def computed(self, step: Step, event: StepFinished) -> None:
        """Until its node says how much: what was just computed is there."""
        worker = self.fleet.workers.get(step.worker) if step.worker is not None else None
        if worker is None:
            return
        worker.done += 1
        worker.prompt_tokens += event.prompt_tokens or 0
        worker.cached_tokens += event.cached_tokens or 0
        session = self.desk.book.session_of(step)
        same = worker.state is WorkerState.READY and worker.incarnation == step.incarnation
        if session is not None and same and session.id not in worker.resident:
            self.fleet.hold(
                worker, session.id, max(1, (event.prompt_tokens or 0) + (event.output_tokens or 0))
            )

    def again_s(self, step: Step, event: StepFinished) -> float:
        """Engine seconds that `step` took for what had been computed before."""
        session = self.desk.book.session_of(step)
        if session is None or event.prompt_tokens is None:
            return 0.0
        return spent(self.desk.book.accounts.costs, event, session.context_tokens)[1]

    def check(self) -> None:
        """Raise AssertionError where a worker miscounts its steps."""
        placed = Counter(step.worker for step in self.desk.book.steps.values() if step.worker is not None)
        for worker in self.fleet.workers.values():
            assert worker.placed == placed[worker.id], f"{worker.id} miscounts its steps"
