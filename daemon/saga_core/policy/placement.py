"""Where a step goes. `place(ask, pool, policy) -> Placement`; nothing here changes anything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from saga_core.fleet import Pool, Worker
from saga_core.ids import SessionId, WorkerId


@dataclass(frozen=True, slots=True)
class PlacementPolicy:
    """Constants of placement, with their sources."""

    max_load: float = 0.8
    """Above this load the home is left (SAGA paper, routing threshold; sensitivity below 5 %)."""
    match: float = 0.5
    """`prefix-aware` stays where more than this share of the context is (SGLang router, --cache-threshold 0.5)."""


class Ask(msgspec.Struct, frozen=True):
    """What placement is told of a step."""

    session: SessionId | None
    root: str
    """Name of the whole workflow, or of the step itself where it has none: what is hashed."""
    home: WorkerId | None
    tokens: int = 0
    """Of the session's context after its latest step."""
    avoid: WorkerId | None = None
    """The worker that has just failed this step."""


class Placement(msgspec.Struct, frozen=True):
    """A decision with its reason. `scores` holds the candidates looked at, smaller is better."""

    worker: WorkerId
    why: str
    scores: tuple[tuple[WorkerId, float], ...] = ()


Place = Callable[[Ask, Pool, PlacementPolicy], Placement]


def round_robin(ask: Ask, pool: Pool, policy: PlacementPolicy) -> Placement:  # noqa: ARG001
    """Each step to the next worker in turn, whoever it belongs to."""
    worker = pool.nth(pool.turn)
    return Placement(worker.id, f"turn {pool.turn}")


def least_loaded(ask: Ask, pool: Pool, policy: PlacementPolicy) -> Placement:  # noqa: ARG001
    """Each step to the worker with the smallest load."""
    worker = pool.least_loaded()
    return Placement(worker.id, f"least loaded ({worker.load:.2f})", ((worker.id, worker.load),))


def sticky(ask: Ask, pool: Pool, policy: PlacementPolicy) -> Placement:  # noqa: ARG001
    """Every step of a workflow to the same worker, by consistent hashing of its name."""
    worker = pool.hashed(ask.root)
    return Placement(worker.id, f"hash of {ask.root}", ((worker.id, worker.load),))


def affinity(ask: Ask, pool: Pool, policy: PlacementPolicy) -> Placement:
    """The paper's rule: home if it still caches the session and load(home) < 0.8, else least loaded."""
    home = pool.workers.get(ask.home) if ask.home is not None else None
    why_not = _why_not_home(ask, home, pool, policy)
    if home is not None and not why_not:
        tokens = home.resident.get(ask.session, 0) if ask.session is not None else 0
        why = f"home: {tokens} tokens resident, load {home.load:.2f} < {policy.max_load}"
        return Placement(home.id, why, ((home.id, home.load),))
    best = pool.least_loaded()
    scores = ((best.id, best.load),) if home is None else ((home.id, home.load), (best.id, best.load))
    return Placement(best.id, f"least loaded ({best.load:.2f}); {why_not}", scores)


def _why_not_home(ask: Ask, home: Worker | None, pool: Pool, policy: PlacementPolicy) -> str:
    if home is None and ask.home in pool.leaving:
        return f"home {ask.home}: {pool.leaving[ask.home].leaving}"
    if home is None:
        return "no home yet" if ask.home is None else f"home {ask.home} is not ready"
    if ask.session is None or not home.resident.get(ask.session):
        return f"nothing resident at home {home.id}"
    if home.load >= policy.max_load:
        return f"home {home.id} has load {home.load:.2f} >= {policy.max_load}"
    return ""


def prefix_aware(ask: Ask, pool: Pool, policy: PlacementPolicy) -> Placement:
    """SGLang's cache-aware rule: where more than half of the context is resident, else the least loaded.

    Only the home is looked at: a session's context is where its latest step was.
    """
    home = pool.workers.get(ask.home) if ask.home is not None else None
    tokens = home.resident.get(ask.session, 0) if home is not None and ask.session is not None else 0
    if home is not None and tokens > policy.match * ask.tokens:
        why = f"home: {tokens} of {ask.tokens} tokens resident"
        return Placement(home.id, why, ((home.id, home.load),))
    best = pool.least_loaded()
    return Placement(best.id, f"least loaded ({best.load:.2f})", ((best.id, best.load),))


def place(rule: Place, ask: Ask, pool: Pool, policy: PlacementPolicy) -> Placement:
    """The decision of `rule`, led away from `ask.avoid` where another worker is there."""
    decision = rule(ask, pool, policy)
    if decision.worker != ask.avoid or len(pool) == 1:
        return decision
    others = [w for w in pool.workers.values() if w.id != ask.avoid]
    best = min(others, key=lambda w: w.rank)
    return Placement(best.id, f"not {ask.avoid} again, which failed this step")
