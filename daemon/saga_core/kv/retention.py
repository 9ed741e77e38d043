"""What keeping the KV of a session is worth: the eviction rules of the literature and ours, as pure functions.

A *worth* is `(standing, value)`, compared in order; the least goes first (`saga_core.kv.queue`, and the offline oracle).
Every rule is soft: it orders blocks, and never says that one may not be taken. Rules that know who is finished, paused
or waiting give it as the standing; the others leave everybody LIVE. Times in seconds, sizes in tokens, shares 0 to 1.

Who predicts is not decided here: expected return times, transition probabilities and steps to execution come from the
AEG, latencies from its rings.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

from saga_core.costs import CostTable


class Standing(IntEnum):
    """What decides before any value does (policy study, section 5, EVICT)."""

    OVER = 0
    """Finished, or a tail that no prompt continues: of no more use."""
    PAUSED = 1
    """Its workflow waits at the gate: it does not return before it is resumed."""
    UNKNOWN = 2
    """Nobody said what it is worth: least recently used first."""
    LIVE = 3
    HELD = 4
    """Its next step is here and waits for the engine, or its TTL runs: it goes when there is no other."""


Worth = tuple[int, float]
"""(standing, value)."""

UNVALUED: Worth = (Standing.UNKNOWN, 0.0)
"""Of whom nobody said anything; equals are ordered least recently used first."""
OVER: Worth = (Standing.OVER, 0.0)

RETURN_FLOOR_S = 1.0
"""Policy study, section 5: added to the expected return time, so that 'at once' has a finite value."""
WA_IDLE, WA_REUSE, WA_SIZE = 0.3, 0.5, 0.2
"""SAGA paper, Eq. 1: alpha, beta, gamma."""
TTL_PERCENTILE = 0.95
"""SAGA paper, Algorithm 1: of the tool's latency history."""
TTL_LOW, TTL_HIGH = 0.7, 0.9
"""SAGA paper, Algorithm 1: shares of the pool between which memory pressure goes from 0 to 1."""
TTL_SHRINK = 0.5
"""SAGA paper, Eq. 6: at full pressure half of the base is left."""
TTL_MOST_S = 300.0
"""SAGA paper, Eq. 6."""


# -- recency -----------------------------------------------------------------------------


def lru(last_used_s: float) -> Worth:
    """The order of vLLM: the longest unused goes first."""
    return Standing.LIVE, last_used_s


def finish_aware_lru(last_used_s: float, standing: Standing = Standing.LIVE) -> Worth:
    """Recency, behind what is known of the workflow: finished first, paused next (policy study, section 6)."""
    return standing, last_used_s


# -- density -----------------------------------------------------------------------------


def recompute_token_s(costs: CostTable, context_tokens: int) -> float:
    """Seconds to compute one token again behind `context_tokens` others: b + e * ctx (policy study, section 5)."""
    return costs.prefill_token_s + costs.attention_token2_s * context_tokens


def density(recompute_s: float, return_s: float, standing: Standing = Standing.LIVE) -> Worth:
    """Seconds that keeping it saves over the seconds until it is asked for (policy study, section 5, EVICT).

    recompute_s: of one block or token, whichever, the same for all. return_s: expected time left until the return,
    given the time already passed; for a returned step the wait in the queue.
    """
    return standing, recompute_s / (return_s + RETURN_FLOOR_S)


def density_of_context(
    costs: CostTable, context_tokens: int, return_s: float, standing: Standing = Standing.LIVE
) -> Worth:
    """`density` of a session's last token, the one that goes first: its context is in front of it."""
    return density(recompute_token_s(costs, context_tokens), return_s, standing)


# -- the SAGA paper ----------------------------------------------------------------------


def wa_lru_score(idle_share: float, reuse: float, size_share: float) -> float:
    """P_evict, 0 to 1; the largest goes first (SAGA paper, Eq. 1).

    idle_share, size_share: of the longest idle time and of the largest session among the candidates.
    """
    return WA_IDLE * idle_share + WA_REUSE * (1.0 - reuse) + WA_SIZE * size_share


def wa_lru(idle_share: float, reuse: float, size_share: float, *, within_ttl: bool = False) -> Worth:
    """WA-LRU as a worth. A session within its TTL goes only when there is no other (soft, as all is here)."""
    standing = Standing.HELD if within_ttl else Standing.LIVE
    return standing, -wa_lru_score(idle_share, reuse, size_share)


def memory_pressure(used_share: float) -> float:
    """0 below 70 % of the pool in use, 1 above 90 %, a straight line between (SAGA paper, Algorithm 1)."""
    return min(1.0, max(0.0, (used_share - TTL_LOW) / (TTL_HIGH - TTL_LOW)))


def tool_ttl_s(base_s: float, used_share: float) -> float:
    """How long a session's KV stays after a tool call began (SAGA paper, Algorithm 1 and Eq. 6).

    base_s: the 95th percentile of the tool's latencies (`latency_percentile_s`).
    """
    return min(base_s * (1.0 - TTL_SHRINK * memory_pressure(used_share)), TTL_MOST_S)


def latency_percentile_s(ordered_s: Sequence[float], share: float = TTL_PERCENTILE) -> float | None:
    """That percentile of latencies in ascending order, between neighbours in a straight line; None of none.

    The paper names neither the interpolation nor a least number of samples.
    """
    if not ordered_s:
        return None
    place = share * (len(ordered_s) - 1)
    low = int(place)
    high = min(low + 1, len(ordered_s) - 1)
    return ordered_s[low] + (place - low) * (ordered_s[high] - ordered_s[low])


# -- others ------------------------------------------------------------------------------


def ttl_lru(last_used_s: float, expires_s: float, now_s: float) -> Worth:
    """TTL retention: within the TTL kept before all that is past it, least recently used first among equals."""
    return (Standing.HELD if now_s < expires_s else Standing.LIVE), last_used_s


def kvflow(steps_to_execution: float, standing: Standing = Standing.LIVE) -> Worth:
    """KVFlow: the more steps until the agent runs again, the sooner it goes; a finished one is infinitely far."""
    return standing, -steps_to_execution
