"""What was decided, kept as values for whoever asks (`saga explain`).

Rules of this file
  1. A decision is the numbers of the moment in which it was made; words are made when somebody reads it
     (`saga_core.reasons`), so that it costs next to nothing while nobody does.
  2. Bounded: the latest `RING` placements and the latest `RING` turns of the gate, the latest `EACH` of each live
     workflow.
  3. Steps of a session that go where its step before went are one decision of the workflow, with a count: they would
     push out the ones that tell something.
  4. Soft state: a head that starts has decided nothing. The journal keeps the short reasons of all time.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from enum import StrEnum

import msgspec

from saga_core.fleet import Worker
from saga_core.ids import SessionId, StepId, WorkerId, WorkflowId
from saga_core.rooms import Claim, Room

RING = 10_000
"""Some 2.5 MB, and 10 s of a cluster with 1,000 steps per second."""
EACH = 8
"""Of one workflow: 2 KiB of the 8 that a live one may take."""

Scores = tuple[tuple[WorkerId, float], ...]
"""Candidates looked at; the smallest is chosen."""


class Verdict(StrEnum):
    """What became of a step or a session."""

    LET_IN = "let in"
    HELD = "held"
    PAUSED = "paused"
    RESUMED = "resumed"
    MOVED = "moved"
    """Resumed on another worker, or taken there."""
    FORCED = "forced"
    """Let in although there was no room: it had waited for too long."""
    PLACED = "placed"
    LOST = "lost"
    """Its worker went away; it is placed again."""
    MIGRATED = "migrated"
    """Its KV was brought to where it goes, or was to be."""


class Decision(msgspec.Struct, frozen=True, gc=False):
    """One decision."""

    at: float
    verdict: Verdict
    workflow: WorkflowId
    """0: the step belongs to none."""
    session: SessionId
    step: StepId | None
    worker: WorkerId | None
    """Where it goes, or where it was; held: where it waits, if it is at home."""
    rule: str
    """Why, as far as it is not in the numbers."""
    since: float
    times: int
    """Steps in a row that went the same way, the first of them at `since`; the rest is of the latest."""
    tokens: int = 0
    """Of its context."""
    resident_tokens: int = 0
    """Of these, in the memory of `worker`."""
    waiting: int = 0
    """Steps that wait: at the gate; placed: in the engine; paused: sessions that computed nothing."""
    scores: Scores = ()
    key: float = 0.0
    """Its place in the order; smaller is sooner."""
    room: WorkerId | None = None
    """The worker whose memory was looked at. What follows is in tokens as the gate counts them."""
    cost_tokens: float = 0.0
    """What it would add to the need of that room."""
    need_tokens: float = 0.0
    """Of all live sessions of that room, without it."""
    limit_tokens: float = 0.0
    """Of that room."""
    share: float = 1.0
    """Of the limit up to which it counted."""
    ahead: int | None = None
    """Sessions with smaller keys that wait for the same; None: too many to count."""
    waited_s: float = 0.0


Placed = tuple[float, SessionId, StepId, WorkerId, str, float, int, int, int, int, Scores, WorkflowId]
"""The numbers of a placement, of which every step has one: a tuple until somebody asks (`_value`)."""


class Decisions:
    """The latest decisions of one head."""

    def __init__(self) -> None:
        self._turned: Counter[Verdict] = Counter()
        self._steps = 0
        self._placed: deque[Placed] = deque(maxlen=RING)
        self._turns: deque[Decision] = deque(maxlen=RING)
        self._of: dict[WorkflowId, list[Decision | Placed]] = {}

    # -- what is noted -------------------------------------------------------------------

    def turn(
        self,
        verdict: Verdict,
        claim: Claim,
        room: Room | None,
        now: float,
        *,
        key: float,
        share: float,
        step: StepId | None = None,
        rule: str = "",
        ahead: int | None = None,
        waiting: int = 0,
        waited_s: float = 0.0,
        scores: Scores = (),
    ) -> None:
        """A turn of the gate. `room`: the one that the session was measured against, which it is not in now."""
        resident, cost, need, limit = 0, 0.0, 0.0, 0.0
        if room is not None:
            resident, cost = room.worker.resident.get(claim.id, 0), room.cost(claim)
            need, limit = room.need(now), room.room(1.0)
        in_line = verdict is Verdict.HELD and (room is None or claim.worker != room.id)
        name = room.id if room is not None else None
        worker = None if in_line else name
        workflow, tokens = claim.account.workflow, claim.tokens
        made = Decision(
            now, verdict, workflow, claim.id, step, worker, rule, now, 1, tokens, resident, waiting, scores,
            key, name, cost, need, limit, share, ahead, waited_s,
        )  # fmt: skip
        self._note(made)

    def home(self, step: StepId, claim: Claim, worker: Worker, now: float) -> None:
        """A step of a live session goes to the worker that has its context."""
        self.place(claim.account.workflow, claim.id, step, worker, "home", (), claim.tokens, now)

    def place(
        self,
        workflow: WorkflowId,
        session: SessionId,
        step: StepId,
        worker: Worker,
        rule: str,
        scores: Scores,
        tokens: int,
        now: float,
    ) -> None:
        """A step goes to `worker`, as those before it that went the same way."""
        kept = self._of.get(workflow)
        since, times = now, 1
        if kept is not None:
            last = kept[-1]
            if isinstance(last, tuple) and last[1] == session and last[3] == worker.id:
                since, times = last[5], last[6] + 1
                del kept[-1]
            elif (before := _same(kept, session, worker.id)) is not None:
                since, times = before[5], before[6] + 1
        made = (
            now, session, step, worker.id, rule, since, times,
            tokens, worker.resident.get(session, 0), worker.waiting, scores, workflow,
        )  # fmt: skip
        self._steps += 1
        self._placed.append(made)
        if workflow:
            self._keep(workflow, made)

    def wait(self, workflow: WorkflowId, session: SessionId, step: StepId, rule: str, now: float) -> None:
        """A step waits, and not at a gate."""
        self._note(Decision(now, Verdict.HELD, workflow, session, step, None, rule, now, 1))

    def lost(
        self,
        workflow: WorkflowId,
        session: SessionId,
        step: StepId,
        worker: WorkerId,
        rule: str,
        now: float,
    ) -> None:
        """The worker of a step is gone: it is placed again."""
        self._note(Decision(now, Verdict.LOST, workflow, session, step, worker, rule, now, 1))

    def migrated(
        self,
        workflow: WorkflowId,
        session: SessionId,
        step: StepId | None,
        worker: WorkerId,
        rule: str,
        tokens: int,
        now: float,
    ) -> None:
        """The KV of a session was brought to `worker`, `tokens` of it, or was to be."""
        made = Decision(now, Verdict.MIGRATED, workflow, session, step, worker, rule, now, 1, tokens, tokens)
        self._note(made)

    def _note(self, made: Decision) -> None:
        self._turned[made.verdict] += 1
        self._turns.append(made)
        if made.workflow:
            self._keep(made.workflow, made)

    def _keep(self, workflow: WorkflowId, made: Decision | Placed) -> None:
        kept = self._of.get(workflow)
        if kept is None:
            kept = self._of[workflow] = []
        kept.append(made)
        if len(kept) > EACH:
            del kept[0]

    # -- who asks ------------------------------------------------------------------------

    @property
    def totals(self) -> dict[str, int]:
        """Decisions of this head by verdict."""
        return {verdict.value: self._turned[verdict] for verdict in Verdict} | {
            Verdict.PLACED.value: self._steps
        }

    def of(self, workflow: WorkflowId) -> list[Decision]:
        """Decisions about `workflow`, oldest first: of an ended one what the rings still have."""
        kept = self._of.get(workflow)
        if kept is not None:
            return [_value(made) for made in kept]
        found = self._found(lambda made: made.workflow == workflow)
        rows = {(made.session, made.since): made.at for made in found if made.verdict is Verdict.PLACED}
        return [m for m in found if m.verdict is not Verdict.PLACED or m.at == rows[m.session, m.since]]

    def latest(self, workflow: WorkflowId) -> Decision | None:
        """The latest decision about a live workflow."""
        kept = self._of.get(workflow)
        return _value(kept[-1]) if kept else None

    def of_step(self, step: StepId) -> list[Decision]:
        """Decisions about one step, oldest first, as far as they are still known."""
        return self._found(lambda made: made.step == step)

    def _found(self, asked: Callable[[Decision], bool]) -> list[Decision]:
        known = [*self._turns, *map(_value, self._placed)]
        return sorted(filter(asked, known), key=lambda made: made.at)

    def leave(self, workflow: WorkflowId) -> None:
        """`workflow` is over: it keeps no list of its own any more."""
        self._of.pop(workflow, None)

    def check(self) -> None:
        """Raise AssertionError where a bound is broken."""
        assert all(0 < len(kept) <= EACH for kept in self._of.values()), "a workflow keeps too many decisions"


def _same(kept: list[Decision | Placed], session: SessionId, worker: WorkerId) -> Placed | None:
    """The latest of this session in `kept`, if it was a step to the same worker; it is taken out."""
    for i in range(len(kept) - 1, -1, -1):
        before = kept[i]
        if not isinstance(before, tuple):
            if before.session == session:
                return None
        elif before[1] == session:
            if before[3] != worker:
                return None
            del kept[i]
            return before
    return None


def _value(made: Decision | Placed) -> Decision:
    if not isinstance(made, tuple):
        return made
    at, session, step, worker, rule, since, times, tokens, resident, waiting, scores, workflow = made
    return Decision(
        at,
        Verdict.PLACED,
        workflow,
        session,
        step,
        worker,
        rule,
        since,
        times,
        tokens,
        resident,
        waiting,
        scores,
    )
