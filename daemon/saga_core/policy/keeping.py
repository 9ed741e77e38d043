"""What the KV of a session in a tool is worth, by profile. Pure; the formulas are those of `saga_core.kv.retention`.

Who is over, paused or waiting for an engine is no question of rules: `saga_core.worths` says so from facts.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import NamedTuple, Protocol

from saga_core.aeg import Estimate
from saga_core.costs import CostTable
from saga_core.kv.retention import (
    TTL_PERCENTILE,
    Worth,
    density_of_context,
    kvflow,
    tool_ttl_s,
    ttl_lru,
    wa_lru,
)

LOOK_S = 1.0
"""A worth that changes as time passes is not looked at again sooner."""
CONTINUUM_PERCENTILE = 0.9
"""Of a tool's latencies: the policy study's Continuum (section 1). Its authors' own: docs/adr/0005."""


class Outlook(Protocol):
    """What the execution graph says of a session between two steps."""

    def left(self, for_s: float) -> Estimate:
        """Seconds until its next step, given so many seconds away."""

    def returns(self, for_s: float) -> float:
        """Probability that it has a next step, given so many seconds away and that its workflow goes on."""

    def latency_s(self, share: float) -> float:
        """That percentile of the latencies of the tool it waits for; 0 where none is known."""

    def reuse(self, cached_tokens: int) -> float:
        """Probability that what is cached of it serves its next step (SAGA paper, Eqs. 4 and 5)."""

    def steps(self) -> float:
        """Steps of its workflow until its own next one, 1 at least; inf: it has none."""


class Scene(Protocol):
    """The worker that a session is at home on."""

    @property
    def costs(self) -> CostTable:
        """What its engine's work costs."""

    @property
    def used_share(self) -> float:
        """Share of its KV memory that live sessions hold."""

    @property
    def idle_most_s(self) -> float:
        """How long the longest of its sessions between two steps has been away."""

    @property
    def size_most_tokens(self) -> int:
        """Context of the largest one of these."""


@dataclass(frozen=True, slots=True)
class Away:
    """A session between two steps."""

    context_tokens: int
    since: float
    """When its latest step ended, in seconds."""
    for_s: float
    """How long ago that is."""
    outlook: Outlook


class Rating(NamedTuple):
    """What it is worth now, and in how many seconds it is to be asked about again (inf: never)."""

    worth: Worth
    again_s: float


class Retention(Protocol):
    """The rule of a profile."""

    def __call__(self, scene: Scene, away: Away) -> Rating:
        """What `away` is worth on `scene`."""


def by_density(scene: Scene, away: Away) -> Rating:
    """Ours: seconds that it takes to compute again over the seconds until it is asked for (policy study, section 5).

    Times the probability that it ever is: sub-agents that are done say nothing. By the median of what is left: as good as the mean or better (section 6). Asked again when the time away has
    doubled; where less than that is left, when half of it has passed.
    """
    left_s = away.outlook.left(away.for_s).median
    again_s = away.for_s if left_s >= away.for_s else left_s / 2
    standing, value = density_of_context(scene.costs, away.context_tokens, left_s)
    return Rating((standing, value * away.outlook.returns(away.for_s)), max(LOOK_S, again_s))


IN_LINE: frozenset[Retention] = frozenset({by_density})
"""Rules under which, of those who wait in an engine's line, the last one goes first. The papers of the others keep all
of them alike. On swe-like work that thrashes (limit 1.3, nothing halved) the Belady ratio falls from 1.16 to 0.99."""


def by_ttl(scene: Scene, away: Away) -> Rating:  # noqa: ARG001
    """Continuum: kept for the 90th percentile of its tool's latencies, none where none is known; LRU beside that."""
    ttl_s = away.outlook.latency_s(CONTINUUM_PERCENTILE)
    left_s = ttl_s - away.for_s
    worth = ttl_lru(away.since, away.since + ttl_s, away.since + away.for_s)
    return Rating(worth, left_s if left_s > 0.0 else inf)


def by_wa_lru(scene: Scene, away: Away) -> Rating:
    """The SAGA paper: WA-LRU (Eq. 1), and kept within the TTL of its tool (Algorithm 1, Eq. 6).

    Idle time and size are shares of the largest on the worker, so all scores move with time: asked again when the time
    away has doubled, or its TTL is over.
    """
    ttl_s = tool_ttl_s(away.outlook.latency_s(TTL_PERCENTILE), scene.used_share)
    worth = wa_lru(
        _share(away.for_s, scene.idle_most_s),
        away.outlook.reuse(away.context_tokens),
        _share(away.context_tokens, scene.size_most_tokens),
        within_ttl=away.for_s < ttl_s,
    )
    again_s = max(LOOK_S, away.for_s)
    return Rating(worth, min(again_s, ttl_s - away.for_s) if away.for_s < ttl_s else again_s)


def by_steps(scene: Scene, away: Away) -> Rating:  # noqa: ARG001
    """KVFlow: the more steps until the session runs again, the sooner it goes; least recently used among equals."""
    steps = away.outlook.steps()
    return Rating(kvflow(steps), max(LOOK_S, away.for_s))


def _share(part: float, whole: float) -> float:
    return min(1.0, part / whole) if whole > 0.0 else 0.0
