"""Sessions whose KV is brought to their new home: two phases, and an end in any case.

Rules of this file
  1. A move begins when a step of a session at a tool boundary is given to another worker than the one that has its KV,
     and `policy.migration` says that it is worth it. The step is at its new home from then on; it is sent when the move
     ends, however it ends. What does nothing on a worker that soon ends is handed on in the same way, without a step.
  2. First the old home writes the KV to a file, then the new one reads it. Nothing is taken from the old home before;
     it is told that the session is over there when the move has ended.
  3. A move ends: adopted; failed, as a node says; out of time; with the loss of the worker whose turn it is; with its
     workflow. Each end is a `SessionMoved` and tells both nodes that the file is not wanted any more.
  4. Soft state: a new head knows of no move, and the nodes drop those of the old one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from saga_core import wire
from saga_core.actions import Dispatch, Send
from saga_core.decisions import Decisions
from saga_core.desk import Desk
from saga_core.events import SessionMoved, StepFinished
from saga_core.fleet import Fleet, Worker
from saga_core.ids import NodeId, SessionId, StepId, WorkerId, WorkflowId
from saga_core.policy.migration import COMPUTED_TOKENS, Migration, Offer, Price, Way, price
from saga_core.records import Session, Step
from saga_core.states import MOVE, MoveState, WorkerState, advance

MOST = 256
"""Moves under way at once: a tick looks at each of them, some 1 us."""
HALF = {MoveState.EXPORTING: wire.Half.EXPORT, MoveState.ADOPTING: wire.Half.ADOPT}
"""What is asked for in each state."""
REPEAT_S = 0.5
"""A want that was not answered is said again after so long: sooner than others, a step waits for it."""


@dataclass(frozen=True, slots=True)
class End:
    """One of the two workers of a move, as it was when the move began."""

    worker: WorkerId
    node: NodeId
    incarnation: int

    @classmethod
    def of(cls, worker: Worker) -> End:
        return cls(worker.id, worker.node, worker.incarnation)


@dataclass(slots=True, eq=False)
class Move:
    """One session's KV on its way."""

    number: int
    session: SessionId
    source: End
    target: End
    offer: Offer
    price: Price
    base_s: float
    """The price without what was learned of the way."""
    begun_at: float
    state: MoveState = MoveState.EXPORTING
    said_at: float = 0.0
    steps: dict[StepId, Dispatch] = field(default_factory=dict)
    """What is sent when it ends."""


class Moves:
    """All moves of one head."""

    def __init__(self, desk: Desk, fleet: Fleet, policy: Migration, decisions: Decisions) -> None:
        self.desk, self.fleet, self.policy, self.decisions = desk, fleet, policy, decisions
        self.all: dict[int, Move] = {}
        self._of: dict[SessionId, Move] = {}
        self._waits: dict[StepId, Move] = {}
        self._ways = {across: Way() for across in (False, True)}
        self._computing = Way()
        self._number = 0

    # -- how one begins ------------------------------------------------------------------

    def begin(self, session: Session, target: Worker) -> Move | None:
        """The move that a step of `session`, which goes to `target`, waits for; None: it is sent at once.

        To be called before the session's home is another one.
        """
        going = self._of.get(session.id)
        if going is not None:
            return going if going.target == End.of(target) else None
        source = self._source(session, target)
        if source is None or len(self.all) >= MOST:
            return None
        offer = self._offer(session.id, source, target)
        costs, now = self.desk.book.accounts.costs, self.desk.now
        way_times, computed_times = self._ways[offer.across].times(now), self._computing.times(now)
        asked = price(offer, costs, self.policy, way_times, computed_times)
        if not asked.is_worth:
            return None
        self._number += 1
        base_s = price(offer, costs, self.policy).move_s
        ends = End.of(source), End.of(target)
        move = Move(self._number, session.id, *ends, offer, asked, base_s, now)
        self.all[move.number] = self._of[session.id] = move
        return move

    def _source(self, session: Session, target: Worker) -> Worker | None:
        """The worker that has the session's KV, if it can be moved from there to `target`."""
        if not self.policy.on or session.home is None or session.home == target.id or session.placed:
            return None
        source = self.fleet.workers.get(session.home)
        if source is None or source.state is not WorkerState.READY or source.suspect_at is not None:
            return None
        alike = source.model == target.model and source.kv_token_bytes == target.kv_token_bytes
        return source if alike and source.kv_token_bytes and source.resident.get(session.id) else None

    def _offer(self, session: SessionId, source: Worker, target: Worker) -> Offer:
        ends = {source.id, target.id}
        ahead = sum(
            move.offer.tokens * move.offer.token_bytes
            for move in self.all.values()
            if not ends.isdisjoint((move.source.worker, move.target.worker))
        )
        tokens, there = source.resident[session], target.resident.get(session, 0)
        return Offer(tokens, min(tokens, there), source.kv_token_bytes, source.node != target.node, ahead)

    def hand_on(self, session: Session, target: Worker) -> None:
        """Bring a session that does nothing to `target`, if that is worth it; its next step is not waited for."""
        move = self.begin(session, target) if session.id not in self._of else None
        if move is not None:
            self._say(move)

    def wait(self, move: Move, dispatch: Dispatch) -> None:
        """`dispatch` is done when `move` ends; the first one sets it going."""
        move.steps[dispatch.step] = dispatch
        self._waits[dispatch.step] = move
        if not move.said_at:
            self._say(move)

    def _say(self, move: Move) -> None:
        """What is wanted of whose turn it is."""
        move.said_at = self.desk.now
        mine, other = self._turn(move), move.source if move.state is MoveState.ADOPTING else move.target
        want = wire.MoveHalf(
            head=self.desk.book.head, move=move.number, half=HALF[move.state], worker=mine.worker,
            incarnation=mine.incarnation, session=move.session, other=other.node,
        )  # fmt: skip
        self.desk.do(Send(mine.node, want))

    @staticmethod
    def _turn(move: Move) -> End:
        """Whose turn it is."""
        return move.source if move.state is MoveState.EXPORTING else move.target

    def computed(self, step: Step, end: StepFinished) -> None:
        """A step is done: what its prompt took, without the time for which it had no worker."""
        cached_tokens, prompt_tokens = end.cached_tokens or 0, end.prompt_tokens or 0
        missing = prompt_tokens - cached_tokens
        if end.ttft_s is None or missing < COMPUTED_TOKENS:
            return
        priced_s = self.desk.book.accounts.costs.chunk_s(cached_tokens, missing)
        took_s = end.ttft_s - (step.placed_at - step.arrived_at)
        if took_s > 0.0 and priced_s > 0.0:
            self._computing.computed(took_s, priced_s, self.desk.now)

    # -- how it goes on ------------------------------------------------------------------

    def answered(self, said: wire.HalfMoved) -> list[Move]:
        """A node has answered: the moves that end by it. What is resident at the new home its node reports, as always."""
        move = self._current(said)
        if move is None:
            return []
        if said.reason or not said.tokens:
            return [self._fail(move, said.reason or f"nothing of it was {said.half}ed")]
        self._advance(move, f"{said.half}ed")
        if move.state is MoveState.ADOPTING:
            self._say(move)
            return []
        return [self._end(move, tokens=said.tokens, copied_bytes=said.copied_bytes)]

    def _current(self, said: wire.HalfMoved) -> Move | None:
        move = self.all.get(said.move)
        if (
            move is None
            or said.head != self.desk.book.head
            or said.half is not HALF[move.state]
            or self._turn(move).node != said.node
        ):
            self.desk.ignore("stale", f"{said.half} of move {said.move} by {said.node}")
            return None
        return move

    def _advance(self, move: Move, cause: str) -> None:
        move.state = advance(MOVE, move.state, cause, what=f"move {move.number} of {move.session}")

    def _stands(self, end: End) -> bool:
        """Whether that worker is there as it was."""
        worker = self.fleet.workers.get(end.worker)
        return (
            worker is not None and worker.state is WorkerState.READY and worker.incarnation == end.incarnation
        )

    def stands(self, move: Move) -> bool:
        """Whether its new home is there as it was when the move began."""
        return self._stands(move.target)

    def tick(self) -> list[Move]:
        """Time passed, and workers may have gone: the moves that end by it."""
        ended = []
        for move in list(self.all.values()):
            why = self._why_over(move)
            if why:
                ended.append(self._fail(move, why))
            elif self.desk.now - move.said_at >= REPEAT_S:
                self._say(move)
        return ended

    def _why_over(self, move: Move) -> str:
        """Why it comes to nothing; empty: it may still arrive."""
        limit_s = move.price.patience_s(self.policy)
        if not self._stands(move.target):
            return f"its new home {move.target.worker} is gone"
        if move.state is MoveState.EXPORTING and not self._stands(move.source):
            return f"its old home {move.source.worker} is gone"
        if self.desk.now - move.begun_at >= limit_s:
            return f"not {move.state.removesuffix('ing')}ed within {limit_s:.1f} s"
        return ""

    # -- how it ends ---------------------------------------------------------------------

    def drop(self, step: StepId) -> None:
        """A step waits no more: its client has gone, or its workflow ends."""
        move = self._waits.pop(step, None)
        if move is not None:
            del move.steps[step]

    def over(self, session: SessionId) -> Move | None:
        """`session` is over, and none of its steps waits any more: the move that ends by it."""
        move = self._of.get(session)
        return None if move is None else self._fail(move, "its workflow is over")

    def _fail(self, move: Move, why: str) -> Move:
        self._advance(move, "failed")
        return self._end(move, failed=why)

    def _end(self, move: Move, tokens: int = 0, copied_bytes: int = 0, failed: str = "") -> Move:
        del self.all[move.number], self._of[move.session]
        for step in move.steps:
            del self._waits[step]
        took_s = self.desk.now - move.begun_at
        session = self.desk.book.sessions.get(move.session)
        if session is not None and not failed and session.home == move.source.worker:  # it was handed on
            self.fleet.move_home(session.home, move.target.worker)
        fact = SessionMoved(
            session=move.session, source=move.source.worker, target=move.target.worker, tokens=tokens,
            copied_bytes=copied_bytes, took_s=took_s, priced_s=move.price.move_s, again_s=move.price.again_s,
            failed=failed,
        )  # fmt: skip
        if session is not None:
            self._ways[move.offer.across].learn(took_s, move.base_s, self.desk.now, failed=bool(failed))
            self._note(move, fact)
        self.desk.record(fact)
        for node in dict.fromkeys((move.source.node, move.target.node)):
            self.desk.do(Send(node, wire.EndMove(head=self.desk.book.head, move=move.number)))
        return move

    def _note(self, move: Move, fact: SessionMoved) -> None:
        workflow = WorkflowId(int(move.session.partition(".")[0]))
        what = f"not brought from {fact.source}: {fact.failed}" if fact.failed else f"from {fact.source}"
        rule = f"{what}, after {fact.took_s:.2f} s (expected {fact.priced_s:.2f}, computing it {fact.again_s:.2f})"
        self.decisions.migrated(
            workflow,
            move.session,
            next(iter(move.steps), None),
            fact.target,
            rule,
            fact.tokens,
            self.desk.now,
        )

    def check(self) -> None:
        """Raise AssertionError where moves, sessions and waiting steps disagree."""
        assert {m.session: m for m in self.all.values()} == self._of, "two moves of a session"
        assert self._of.keys() <= self.desk.book.sessions.keys(), "a move of a session that is over"
        waits = {step: move for move in self.all.values() for step in move.steps}
        assert waits == self._waits, "a step waits for no move"
        for name, move in waits.items():
            step = self.desk.book.steps[name]
            assert (step.worker, step.incarnation) == (move.target.worker, move.target.incarnation), (
                f"step {name} waits for a move to elsewhere"
            )
            assert move.state in {MoveState.EXPORTING, MoveState.ADOPTING}
