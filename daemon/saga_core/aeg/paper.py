"""The execution graph of the SAGA paper (arXiv 2605.00528), exactly: reuse probability and pattern inference.

Used by the profile `saga-paper` and by comparisons; our own profile asks the `Learner`. What the paper leaves open is
said where we chose.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from saga_core.aeg.words import Declared

THETA_CONF = 0.7
"""Section 3.4: transitions less likely than this are not edges."""
COLD_START_WORKFLOWS = 30
"""Section 3.4: workflows of an agent type that are served request by request before inference is switched on."""
END = "."
"""Our name for what follows the last tool; the paper's terminal node has no successors."""


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


def declared_reuse(graph: Sequence[Declared], node: int, cached_tokens: float, new_tokens: float) -> float:
    """Eqs. 4 and 5 at a step of a declared graph whose every successor adds `new_tokens`."""
    return reuse_probability(((share, new_tokens) for _, share in graph[node].next), cached_tokens)


@dataclass(slots=True)
class Pattern:
    """Pattern inference (section 3.4) for one agent type: counts of tool to tool, normalised by row."""

    workflows: int = 0
    counts: dict[str, dict[str, int]] = field(default_factory=dict)

    def add(self, tools: Sequence[str]) -> None:
        """One finished workflow's tools in order; its end counts as a successor."""
        self.workflows += 1
        for tool, then in zip(tools, [*tools[1:], END], strict=True):
            row = self.counts.setdefault(tool, {})
            row[then] = row.get(then, 0) + 1

    @property
    def on(self) -> bool:
        """Is the cold start over?"""
        return self.workflows >= COLD_START_WORKFLOWS

    def edges(self, tool: str) -> dict[str, float]:
        """Successors of at least `THETA_CONF`, with their share of the whole row; none during the cold start."""
        row = self.counts.get(tool, {})
        total = sum(row.values())
        if not self.on or not total:
            return {}
        return {then: count / total for then, count in row.items() if count >= THETA_CONF * total}

    def next_tool(self, tool: str) -> str | None:
        """The successor that an edge leads to; None where none is likely enough, or the workflow ends."""
        likely = self.edges(tool)
        best = max(likely, key=lambda then: (likely[then], then), default=END)
        return None if best == END else best

    def reuse(self, tool: str, cached_tokens: float, new_tokens: float) -> float:
        """Eqs. 4 and 5 on the inferred graph; the end is no successor."""
        kept = ((share, new_tokens) for then, share in self.edges(tool).items() if then != END)
        return reuse_probability(kept, cached_tokens)
