"""Where computing again comes from: accesses by what happened since their session's last one on the same worker."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from math import inf

import msgspec

from saga_sim.oracle.accesses import Access, Recording

SAME_S = 1e-9
"""A pause is noted in the moment in which the step before it ends, or the one behind it starts."""


class Cause(StrEnum):
    FIRST = "first"  # the session's first access there
    PAUSED = "paused"  # the gate paused it meanwhile
    MOMENT = "away <10 s"  # also a step that was preempted, and comes back
    MINUTE = "away 10-60 s"
    MINUTES = "away 60-300 s"
    LONG = "away >300 s"


AWAY_S = ((10.0, Cause.MOMENT), (60.0, Cause.MINUTE), (300.0, Cause.MINUTES), (inf, Cause.LONG))


class Portion(msgspec.Struct, frozen=True, kw_only=True):
    """Accesses with one cause: seconds of computing again, the run's own and the oracle's on the same accesses."""

    cause: Cause
    accesses: int
    again_s: float
    oracle_s: float


def causes(recording: Recording, pauses: Mapping[str, Sequence[float]]) -> list[Cause]:
    """Of each access. `pauses`: when each session was paused, in order."""
    last: dict[str, Access] = {}
    found = []
    for access in recording.accesses:
        before = last.get(access.session)
        found.append(_cause(access, before, pauses.get(access.session, ())))
        last[access.session] = access
    return found


def _cause(access: Access, before: Access | None, paused_at: Sequence[float]) -> Cause:
    if before is None:
        return Cause.FIRST
    at = bisect_left(paused_at, before.end_s - SAME_S)
    if at < len(paused_at) and paused_at[at] <= access.start_s + SAME_S:
        return Cause.PAUSED
    away_s = access.start_s - before.end_s
    return next(cause for limit_s, cause in AWAY_S if away_s < limit_s)


def portions(counted: Iterable[tuple[Cause, float, float]]) -> tuple[Portion, ...]:
    """The sums of (cause, own seconds, the oracle's) of all accesses; every cause is there."""
    sums = {cause: [0, 0.0, 0.0] for cause in Cause}
    for cause, again_s, oracle_s in counted:
        row = sums[cause]
        row[0] += 1
        row[1] += again_s
        row[2] += oracle_s
    return tuple(
        Portion(cause=cause, accesses=int(count), again_s=again_s, oracle_s=oracle_s)
        for cause, (count, again_s, oracle_s) in sums.items()
    )
