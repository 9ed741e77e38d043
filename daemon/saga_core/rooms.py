"""What sessions claim of the workers' memory. Bookkeeping only: who may go in is `gate`'s business.

Rules of this file
  1. A claim that is live counts into its room's need, whether it computes or waits for a tool; one that is not
     live counts nowhere.
  2. `Room.need` is a sum kept up to date: a claim is taken out, changed, and put in again.
  3. Who comes next and who is paused next is read off two orders; a claim whose rank may have changed is touched there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from saga_core.accounts import Account
from saga_core.fleet import Worker
from saga_core.ids import SessionId, StepId, WorkerId
from saga_core.policy.admission import NEVER, Admission
from saga_core.ranked import Rank, Ranked


@dataclass(slots=True, eq=False)
class Claim:
    """One session's wish for memory."""

    id: SessionId
    account: Account
    tokens: int = 0
    """Of its context: as measured after its latest step, or estimated of the one that waits."""
    shared: int = 0
    """Of these, what its first prompt found cached: somebody else's, who counts it."""
    worker: WorkerId | None = None
    """Where its context is or was."""
    live: bool = False
    flying: int = 0
    """Steps on a worker."""
    waiting: dict[StepId, None] = field(default_factory=dict)
    since: float = 0.0
    """When it began to wait, or to be idle."""
    counted: float = 0.0
    """What it stands for in its room's sum, at `since` if it is idle."""
    expected_tokens: int = 0
    """That its step will write, as the client says; 0: it does not, or none is there."""
    bytes_per_token: float = 0.0
    """Of its prompts; 0: not known yet."""
    steps: int = 0


@dataclass(slots=True, eq=False)
class Room:
    """One ready worker's memory."""

    worker: Worker
    policy: Admission
    opened_at: float
    """Begin of the window."""
    capacity_tokens: int
    key: Callable[[Claim], Rank]
    """Smaller is resumed sooner."""
    victim: Callable[[Claim], Rank]
    """Larger is paused sooner."""
    due: Callable[[Claim], Rank]
    """Smaller is overdue sooner."""
    factor: float = 1.0
    """The limit as a multiple of the memory."""
    live: dict[SessionId, Claim] = field(default_factory=dict)
    paused: dict[SessionId, Claim] = field(default_factory=dict)
    """Those that were live here, are not, and have a step waiting: `hold` and `let_go` keep it."""
    least_cost: float = NEVER
    """None of the paused costs less."""
    computing: float = 0.0
    """Need of live claims with a step on the worker, in tokens."""
    resting: float = 0.0
    """Need of the others, as of `rested_at`."""
    rested_at: float = 0.0
    flying: int = 0
    busy_s: float = 0.0
    busy_since: float = 0.0
    again_s: float = 0.0
    """Of this window: seconds with work, seconds of regeneration."""
    order: Ranked[Claim] = field(init=False)
    """The paused, by key."""
    by_due: Ranked[Claim] = field(init=False)
    """The paused, by when they are overdue; the same as `order` where that is the key."""
    idle: Ranked[Claim] = field(init=False)
    """The live that compute nothing, by victim."""

    id: WorkerId = field(init=False)

    def __post_init__(self) -> None:
        self.id = self.worker.id
        self.order, self.idle = Ranked(self.key), Ranked(self.victim)
        self.by_due = self.order if self.due == self.key else Ranked(self.due)

    def need(self, now: float) -> float:
        """Tokens that the live claims need or soon will."""
        resting = self.resting if now == self.rested_at else self.resting * self._decay(self.rested_at, now)
        return max(0.0, self.computing + resting)

    def fullness(self, now: float) -> float:
        """The need as a share of the limit."""
        return self.need(now) / max(1.0, self.room(1.0))

    def room(self, share: float) -> float:
        """Tokens that claims may need, at that share of the limit."""
        return self.policy.limit(self.factor, self.capacity_tokens, share)

    def cost(self, claim: Claim) -> float:
        """Tokens that `claim` would add."""
        return max(0, claim.tokens - claim.shared) + self.policy.reserve(
            self.capacity_tokens, claim.expected_tokens
        )

    def fits(self, claim: Claim, now: float, share: float) -> bool:
        """Whether it may come in; an empty room takes whatever comes."""
        return self.takes(self.cost(claim), now, share)

    def takes(self, tokens: float, now: float, share: float) -> bool:
        """Whether so many more may come in; an empty room takes whatever comes."""
        return not self.live or self.need(now) + tokens <= self.room(share)

    def _decay(self, since: float, now: float) -> float:
        half_life_s = self.policy.half_life_s
        return 2.0 ** (-(now - since) / half_life_s) if half_life_s else 1.0

    def _settle(self, now: float) -> None:
        self.resting *= self._decay(self.rested_at, now)
        self.rested_at = now

    # -- claims --------------------------------------------------------------------------

    def enter(self, claim: Claim, now: float) -> None:
        """`claim` is live here from now on."""
        self.let_go(claim.id)
        claim.worker, claim.live = self.id, True
        claim.since = now
        self.live[claim.id] = claim
        self._put_in(claim, now)

    def leave(self, claim: Claim, now: float) -> None:
        """It is not live any more; steps that are on the worker stay there."""
        self._take_out(claim, now)
        self.idle.remove(claim.id)
        del self.live[claim.id]
        claim.live = False
        if not self.live and not self.paused:
            self.factor = 1.0  # what it learned of these sessions' idleness says nothing of the next

    def hold(self, claim: Claim) -> None:
        """A step of `claim`, which was live here and is not, waits; or what it costs has changed meanwhile."""
        self.paused[claim.id] = claim
        self._rank(claim)
        self.least_cost = min(self.least_cost, self.cost(claim))

    def _rank(self, claim: Claim) -> None:
        self.order.touch(claim)
        self.by_due.touch(claim)

    def let_go(self, session: SessionId) -> None:
        """No step of it waits here any more; a stranger does nothing."""
        if self.paused.pop(session, None) is not None:
            self.order.remove(session)
            self.by_due.remove(session)

    def next(self, space: float) -> Claim | None:
        """Of the paused that cost no more than `space`, the one with the smallest key.

        Where none is small enough that is known at once; otherwise the larger with smaller keys are passed over.
        """
        if space < self.least_cost or not self.paused:
            return None
        least = NEVER
        for claim in self.order:
            cost = self.cost(claim)
            if cost <= space:
                return claim
            least = min(least, cost)
        self.least_cost = least
        return None

    def touch(self, claim: Claim) -> None:
        """Something in the ranks of `claim` may have changed."""
        if claim.id in self.paused:
            self._rank(claim)
        elif claim.live and not claim.flying:
            self.idle.touch(claim)

    def _take_out(self, claim: Claim, now: float) -> None:
        if claim.flying:
            self.computing -= claim.counted
        else:
            self._settle(now)
            self.resting -= claim.counted * self._decay(claim.since, now)

    def _put_in(self, claim: Claim, now: float) -> None:
        claim.counted = self.cost(claim)
        if claim.flying:
            self.idle.remove(claim.id)
            self.computing += claim.counted
        else:
            self.idle.touch(claim)
            self._settle(now)
            claim.since = now
            self.resting += claim.counted

    def resize(self, claim: Claim, now: float, tokens: int, expected_tokens: int) -> None:
        """The context of a live claim is `tokens` long, and so much will be written."""
        self._take_out(claim, now)
        claim.tokens, claim.expected_tokens = tokens, expected_tokens
        self._put_in(claim, now)

    def take_off(self, claim: Claim, now: float) -> None:
        """A step of a live claim goes to the worker."""
        self._take_out(claim, now)
        claim.flying += 1
        self._put_in(claim, now)
        self.fly(now)

    def land(self, claim: Claim, now: float, tokens: int) -> None:
        """A step of a live claim is over, wherever it was; its context is `tokens` long now."""
        self._take_out(claim, now)
        claim.flying -= 1
        claim.tokens, claim.expected_tokens = tokens, 0
        self._put_in(claim, now)

    # -- the worker's time ---------------------------------------------------------------

    def fly(self, now: float) -> None:
        if not self.flying:
            self.busy_since = now
        self.flying += 1

    def down(self, now: float) -> None:
        self.flying -= 1
        if not self.flying:
            self.busy_s += now - self.busy_since

    def watch(self, now: float, *, held: bool) -> bool:
        """After a full window, move the limit. Whether it moved."""
        if self.capacity_tokens != self.worker.memory_tokens:
            self.capacity_tokens = self.worker.memory_tokens
            return True
        window_s = now - self.opened_at
        if window_s < self.policy.window_s:
            return False
        if self.flying:
            self.busy_s += now - self.busy_since
            self.busy_since = now
        limited = held and self.need(now) > self.policy.held_share * self.room(1.0)
        before = self.factor
        self.factor = self.policy.next_factor(
            before, busy=self.busy_s / window_s, again=self.again_s / window_s, held=limited
        )
        self.opened_at, self.busy_s, self.again_s = now, 0.0, 0.0
        return self.factor != before

    def check(self, now: float) -> None:
        """Raise AssertionError where the sum is not that of its parts."""
        assert all(claim.live and claim.worker == self.id for claim in self.live.values()), self.id
        assert not self.live.keys() & self.paused.keys(), f"{self.id}: live and paused"
        assert all(claim.waiting and not claim.live for claim in self.paused.values()), self.id
        self.order.check(set(self.paused))
        self.by_due.check(set(self.paused))
        self.idle.check({name for name, claim in self.live.items() if not claim.flying})
        assert all(self.cost(claim) >= self.least_cost for claim in self.paused.values()), self.id
        total = sum(
            claim.counted * (1.0 if claim.flying else self._decay(claim.since, now))
            for claim in self.live.values()
        )
        assert abs(total - self.need(now)) < 1e-6 * (1.0 + total), f"{self.id} miscounts its need"
