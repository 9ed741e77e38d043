"""Eviction rules: which block goes first. A rule says what the last block of a stream is worth; the least goes.

Rules that depend on the time of asking are `moving`: they are asked for every stream each time. The others are asked
again only for what changed. `whole` rules drop all of a session that they may, not just what is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from saga_core.aeg.paper import reuse_probability
from saga_core.kv import retention
from saga_core.kv.retention import Standing
from saga_sim.oracle.accesses import Access
from saga_sim.oracle.estimates import ReturnChances, ReturnTimes
from saga_sim.oracle.moment import Moment, SessionNow
from saga_sim.oracle.rows import Row

Value = tuple[float, float]
"""Compared in order; the second decides between equals."""

# A session comes back with this probability as long as nothing is known (the paper's repository: it ends with 0.05).
COLD_RETURN = 0.95
FIRST: Value = (float("-inf"), 0.0)
"""Of no more use: below every value."""


class Rule(Protocol):
    """One replay's eviction rule; it may learn on the way, so every replay takes a new one."""

    whole: bool
    moving: bool

    def observe(self, access: Access, before: SessionNow | None) -> None:
        """An access starts; `before` is its session as it was until now."""

    def begin(self, rows: Sequence[Row], moment: Moment) -> None:
        """A moving rule is about to be asked for these rows."""

    def appraise(self, row: Row, moment: Moment) -> tuple[Value, int]:
        """What the last block of `row` is worth, and the first block behind which none is worth more."""


class _Rule:
    whole = False
    moving = False

    def observe(self, access: Access, before: SessionNow | None) -> None:
        """Nothing to learn."""

    def begin(self, rows: Sequence[Row], moment: Moment) -> None:
        """Nothing to prepare."""


class LeastRecent(_Rule):
    """vLLM: the block let go the longest ago; a request's tail before its head."""

    def appraise(self, row: Row, moment: Moment) -> tuple[Value, int]:  # noqa: ARG002 - time does not matter
        stair, low = row.oldest()
        return retention.lru(stair.at_s), low


class WholeSession(_Rule):
    """The session that was let go the longest ago, all of it."""

    whole = True

    def appraise(self, row: Row, moment: Moment) -> tuple[Value, int]:
        stair, _ = row.oldest()
        latest = moment.sessions[stair.session].access.end_s
        return (max(stair.at_s, latest), 0.0), row.fork


class FinishAware(_Rule):
    """As vLLM, but what belongs to finished workflows goes first."""

    def appraise(self, row: Row, moment: Moment) -> tuple[Value, int]:
        stair, low = row.oldest()
        standing = Standing.OVER if moment.finished(row) else Standing.LIVE
        return retention.finish_aware_lru(stair.at_s, standing), low


class WorkflowAware(_Rule):
    """WA-LRU of the SAGA paper (Eqs. 1, 4, 5): idle time, probability of reuse, size. By session, its tail first.

    explicit: the continuation is known (one true successor or none). Otherwise it is inferred from what followed the
    same tool so far, and nobody says when a workflow ends.
    """

    moving = True

    def __init__(self, *, explicit: bool) -> None:
        self._explicit = explicit
        self._chances = ReturnChances(COLD_RETURN)
        self._idle_s = self._tokens = 0.0

    def observe(self, access: Access, before: SessionNow | None) -> None:
        self._chances.observe(access, before.access if before is not None else None)

    def begin(self, rows: Sequence[Row], moment: Moment) -> None:
        sessions = [session for row in rows for session in _concerned(row, moment)]
        self._idle_s = max(_idle_s(session, moment) for session in sessions)
        self._tokens = max(session.access.tokens for session in sessions)

    def appraise(self, row: Row, moment: Moment) -> tuple[Value, int]:
        waiting = moment.waiting(row)
        kept = [self._score(session, self._reuse(session, moment), moment) for session in waiting]
        if not kept:
            kept = [self._score(session, 0.0, moment) for session in _concerned(row, moment)]
        return (-min(kept), row.oldest()[0].at_s), row.fork

    def _score(self, session: SessionNow, reuse: float, moment: Moment) -> float:
        idle = _idle_s(session, moment) / self._idle_s if self._idle_s else 0.0
        size = session.access.tokens / self._tokens if self._tokens else 0.0
        return retention.wa_lru_score(idle, reuse, size)

    def _reuse(self, session: SessionNow, moment: Moment) -> float:
        cached = session.access.tokens
        if not self._explicit:
            chance = self._chances.returns(session.access)
            return reuse_probability([(chance, self._chances.new_tokens)], cached)
        following = moment.next_of_session[session.number]
        if following is None:
            return 0.0
        return reuse_probability([(1.0, moment.recording.accesses[following].new_tokens)], cached)


class Density(_Rule):
    """Seconds to compute the block again over the expected time until it is asked for.

    finish: what belongs to finished workflows goes first. median: of the residual return times, instead of the mean.
    """

    moving = True

    def __init__(self, *, finish: bool = True, median: bool = False) -> None:
        self._finish = finish
        self._times = ReturnTimes(median=median)

    def observe(self, access: Access, before: SessionNow | None) -> None:
        if before is not None:
            self._times.observe(before.access.tool, access.start_s - before.access.end_s)

    def appraise(self, row: Row, moment: Moment) -> tuple[Value, int]:
        last_s = row.oldest()[0].at_s
        waiting = [s for s in moment.waiting(row) if not (s.ended and self._finish)]
        if waiting:
            wait_s = min(self._wait_s(session, moment) for session in waiting)
        elif row.shared:
            wait_s = moment.now_s - last_s + 1.0
        else:
            return (FIRST[0], last_s), row.fork
        _, value = retention.density(moment.block_s(row.end - 1), wait_s)
        return (value, last_s), row.fork

    def _wait_s(self, session: SessionNow, moment: Moment) -> float:
        return self._times.residual_s(session.access.tool, _idle_s(session, moment))


class FarthestUse(_Rule):
    """Belady: the block whose next use is the farthest away. Exact in tokens; `whole`: by session."""

    def __init__(self, *, whole: bool = False) -> None:
        self.whole = whole

    def appraise(self, row: Row, moment: Moment) -> tuple[Value, int]:  # noqa: ARG002 - time does not matter
        number, low = row.next_use()
        last_s = row.oldest()[0].at_s
        return (FIRST if number is None else (-float(number), last_s)), low


class CostlyFarthest(_Rule):
    """Cost-aware Belady: seconds to compute it again over the true time to its next use. `whole`: by session."""

    moving = True

    def __init__(self, *, whole: bool = False) -> None:
        self.whole = whole

    def appraise(self, row: Row, moment: Moment) -> tuple[Value, int]:
        number, low = row.next_use()
        if number is None:
            return FIRST, low
        cost_s = self._cost_s(row, moment)
        wait_s = moment.starts_s[number] - moment.now_s
        return (cost_s / max(wait_s, 1e-9), -float(number)), low

    def _cost_s(self, row: Row, moment: Moment) -> float:
        if not self.whole:
            return moment.block_s(row.end - 1)
        floor = row.floor
        return moment.blocks_s(floor, row.end) / (row.end - floor)


def _concerned(row: Row, moment: Moment) -> list[SessionNow]:
    """The sessions that wait for the last block, or else the one that let it go last."""
    return moment.waiting(row) or [moment.sessions[row.oldest()[0].session]]


def _idle_s(session: SessionNow, moment: Moment) -> float:
    return max(0.0, moment.now_s - session.access.end_s)
