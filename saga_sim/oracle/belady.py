"""Rules against oracles: the ratio of what each has to compute again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import msgspec

from saga_core.costs import CostTable
from saga_core.errors import choose
from saga_sim.oracle.accesses import Recording
from saga_sim.oracle.replay import Outcome, replay_cache
from saga_sim.oracle.rules import (
    CostlyFarthest,
    Density,
    FarthestUse,
    FinishAware,
    LeastRecent,
    Rule,
    WholeSession,
    WorkflowAware,
)

RULES: Mapping[str, Callable[[], Rule]] = {
    "lru": LeastRecent,
    "lru-session": WholeSession,
    "lru-finish": FinishAware,
    "wa-lru-inferred": lambda: WorkflowAware(explicit=False),
    "wa-lru-explicit": lambda: WorkflowAware(explicit=True),
    "density-no-finish": lambda: Density(finish=False),
    "density": Density,
    "density-median": lambda: Density(median=True),
}
ORACLES: Mapping[str, Callable[[], Rule]] = {
    "farthest": FarthestUse,
    "farthest-cost": CostlyFarthest,
    "farthest-session": lambda: FarthestUse(whole=True),
    "farthest-cost-session": lambda: CostlyFarthest(whole=True),
}


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Outcomes by rule, oracles included. The best oracle is the least of them, in tokens and in seconds each."""

    blocks: int
    outcomes: dict[str, Outcome]
    best_tokens: int
    best: Outcome
    """The oracle that is best in seconds."""

    @property
    def best_s(self) -> float:
        return self.best.missed_s

    def ratio_tokens(self, rule: str) -> float | None:
        """Tokens computed again over the oracle's. None where the oracle has none: there is nothing to compare."""
        return self.outcomes[rule].missed_tokens / self.best_tokens if self.best_tokens else None

    def ratio_s(self, rule: str) -> float | None:
        """Seconds of computing again over the oracle's."""
        return self.outcomes[rule].missed_s / self.best_s if self.best_s else None


def compare(
    recording: Recording,
    blocks: int,
    costs: CostTable,
    rules: Iterable[str] | None = None,
    oracles: Iterable[str] = tuple(ORACLES),
) -> Comparison:
    """Replay the rules (all unless named) and the oracles on one pool."""
    known = {**RULES, **ORACLES}
    chosen = list(RULES) if rules is None else list(rules)
    for name in chosen:
        if name not in known:
            raise choose("rule", name, list(known))
    perfect = list(oracles)
    names = [*chosen, *(name for name in perfect if name not in chosen)]
    outcomes = {name: replay_cache(recording, blocks, known[name](), costs) for name in names}
    return Comparison(
        blocks=blocks,
        outcomes=outcomes,
        best_tokens=min(outcomes[name].missed_tokens for name in perfect),
        best=min((outcomes[name] for name in perfect), key=lambda outcome: outcome.missed_s),
    )
