"""What the SAGA paper's coordinator does once per epoch beside routing: shares of tenants, and stealing.

Rules of this file
  1. It is asked only where the profile is `epochs`: all of it is soft state and costs the other profiles nothing.
  2. Between two epochs shares stand still; a step takes the priority of the moment in which it is dispatched.
"""

from __future__ import annotations

from itertools import islice

from saga_core.accounts import Account, Accounts
from saga_core.book import Book, Session, Workflow
from saga_core.fleet import Fleet, Pool, Worker
from saga_core.ids import SessionId, TenantId, WorkflowId
from saga_core.policy.fairshare import EPOCH_S, CompletionTimes, FairShare, deadline, priority
from saga_core.policy.placement import Placement
from saga_core.policy.stealing import Stealing, Theft

LOOKED_AT = 64
"""Sessions of a victim that are looked at for one between two steps."""


class Coordinator:
    """Shares and thefts of one head."""

    def __init__(self, book: Book, fleet: Fleet, accounts: Accounts) -> None:
        self.book, self.fleet, self.accounts = book, fleet, accounts
        self.shares = FairShare()
        self.times = CompletionTimes()
        self._stealing: dict[str, Stealing] = {}
        """By model."""
        self._due = 0.0

    # -- shares --------------------------------------------------------------------------

    def arrived(self, workflow: Workflow, account: Account, now: float) -> None:
        """A step of `workflow` has arrived: it has a part in its tenant's share from its first one on."""
        if workflow.id in self.shares:
            return
        due = deadline(
            workflow.submitted_at,
            expected_tct_s=self.times.expected_s(workflow.agent_type),
            work_s=account.expected_s,
            declared=workflow.submitted_at + workflow.deadline_s if workflow.deadline_s > 0.0 else None,
        )
        self.shares.enter(workflow.id, workflow.tenant, due, _remaining_s(account), now)

    def left(self, workflow: Workflow, now: float, *, complete: bool) -> None:
        """It is over, with its sessions; a `complete` one says how long such workflows take."""
        if workflow.id in self.shares and complete:
            self.times.add(workflow.agent_type, now - workflow.submitted_at)
        self.shares.leave(workflow.id)
        for session in workflow.sessions.values():
            for stealing in self._stealing.values():
                stealing.close(session.id)

    def priority(self, tenant: TenantId) -> int:
        """Of a step of `tenant` for an engine; smaller is sooner."""
        return priority(self.shares.share(tenant))

    def _remaining(self, workflow: WorkflowId) -> float:
        account = self.accounts.of(workflow)
        return _remaining_s(account) if account is not None else 0.0

    # -- stealing ------------------------------------------------------------------------

    def stolen(self, session: Session, model: str, pool: Pool) -> Placement | None:
        """Where the next step of `session` goes, if somebody stole it."""
        stealing = self._stealing.get(model)
        theft = stealing.close(session.id) if stealing is not None and stealing.stolen else None
        if theft is None or theft.thief not in pool.workers:
            return None
        return Placement(
            theft.thief, f"stolen from {theft.victim}, which has a line, by {theft.thief}, which has none"
        )

    def _oldest(self, victim: Worker) -> SessionId | None:
        """Of those at home in `victim` and between two steps, the one that has been there for longest."""
        for name in islice(victim.resident, LOOKED_AT):
            session = self.book.sessions.get(name)
            if session is not None and session.home == victim.id and not session.running:
                return name
        return None

    # -- time ----------------------------------------------------------------------------

    def tick(self, now: float) -> list[Theft]:
        """Time passed; once per epoch, shares are refreshed and idle workers steal."""
        if now < self._due:
            return []
        self._due = now + 0.999 * EPOCH_S  # a tick per epoch, whatever rounding does to the times
        self.shares.refresh(self._remaining, now)
        thefts: list[Theft] = []
        for model, pool in self.fleet.pools.items():
            thefts += self._stealing.setdefault(model, Stealing()).epoch(pool, self._oldest, now)
        return thefts

    def check(self) -> None:
        """Raise AssertionError where its parts contradict themselves."""
        self.shares.check()
        for stealing in self._stealing.values():
            stealing.check()
            assert stealing.stolen.keys() <= self.book.sessions.keys(), "a stolen session is over"


def _remaining_s(account: Account) -> float:
    """Engine seconds of useful work that are still expected."""
    return max(0.0, account.expected_s - account.attained_s)
