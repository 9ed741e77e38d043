"""The execution graph of the SAGA paper (arXiv 2605.00528), exactly: reuse probability and pattern inference.

Used by the profile `saga-paper` and by comparisons; our own profile asks the `Learner`. What the paper leaves open is
said where we chose (docs/adr/0005).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

THETA_CONF = 0.7
"""Section 3.4: transitions less likely than this are not edges."""
COLD_START_WORKFLOWS = 30
"""Section 3.4: workflows of an agent type that are served request by request before inference is switched on."""
LEAST_STEPS = 2.0
"""The authors' repository: where no edge is likely enough, one in this many steps at the most is expected to be the last."""


def overlap(cached_tokens: float, new_tokens: float) -> float:
    """Eq. 5: share of the successor's prompt that the cache holds, `new_tokens` being what the tool will add."""
    if cached_tokens <= 0:
        return 0.0
    return cached_tokens / (cached_tokens + max(new_tokens, 0.0))


def reuse_probability(successors: Iterable[tuple[float, float]], cached_tokens: float) -> float:
    """Eq. 4: sum of P(v -> u) * overlap(s, u) over the successors u of the current node, given as (P, new tokens).

    A terminal node has none: 0. The sum is clamped to [0, 1].
    """
    total = sum(share * overlap(cached_tokens, new) for share, new in successors)
    return min(max(total, 0.0), 1.0)


def continuation(follows: Mapping[str, int], end: float, remaining_steps: float) -> float:
    """Sum of P(v -> u) over the edges of the inferred graph at a node (section 3.4); its end is no successor.

    follows: how often each tool came next, of the steps that were not the last. end: probability of being the last.
    Where no edge reaches `THETA_CONF` the authors' repository stays on the tool, and ends once in `remaining_steps`.
    """
    if end >= THETA_CONF:
        return 0.0
    seen = sum(follows.values())
    shares = [(1.0 - end) * count / seen for count in follows.values()] if seen else []
    edges = [share for share in shares if share >= THETA_CONF]
    return sum(edges) if edges else 1.0 - 1.0 / max(LEAST_STEPS, remaining_steps)
