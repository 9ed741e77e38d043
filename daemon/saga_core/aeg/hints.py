"""What clients declare, believed as far as it has proved right: bias taken out, error beside our own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf, isfinite, log

from saga_core.aeg.rings import Ring
from saga_core.aeg.words import Declared, Hints

RATIOS = 32
"""Outcomes remembered per tenant."""
PROVED = 5
"""Outcomes before bias and spread of a tenant's hints are taken from its own history."""
SPREAD = 0.7
"""log-scale error presumed before that: with it the study's ordering loses 6-8 % against the truth (section 4)."""
Z = 1.2816
"""90th percentile of the normal distribution."""
MARGIN = 1.1
NODES, EDGES, VISITS = 256, 512, 8192
"""Bounds on a declared graph: its size, and the steps and edges looked at to solve for its length (some 2 ms)."""
LEAST_GAIN = 1e-4
ROUNDING = 1e-6
MOST_STEPS, MOST_WORK_S = 1 << 24, 1e9
"""Beyond: a client's nonsense."""


@dataclass(slots=True, eq=False)
class Trust:
    """One tenant's hints against the outcomes."""

    ratios: Ring = field(default_factory=lambda: Ring(RATIOS))
    """log(happened / declared)"""
    error: float = 0.0
    own_error: float = 0.0

    def learn(self, log_happened: float, log_hint: float, log_own: float | None) -> None:
        """`log_own`: what the history would have said, None where there was none."""
        corrected = log_hint + self.bias
        fade = max(1.0 / RATIOS, 1.0 / (len(self.ratios.ordered) + 1))
        self.error += fade * (abs(corrected - log_happened) - self.error)
        own = abs(log_own - log_happened) if log_own is not None else inf
        if isfinite(own):
            self.own_error += fade * (own - self.own_error)
        else:
            self.own_error += fade * (2.0 * self.error - self.own_error)
        self.ratios.add(log_happened - log_hint)

    @property
    def bias(self) -> float:
        ordered = self.ratios.ordered
        return ordered[len(ordered) // 2] if len(ordered) >= PROVED else 0.0

    @property
    def beaten(self) -> bool:
        """Has the history said better than this tenant?"""
        return len(self.ratios.ordered) >= PROVED and self.error > MARGIN * self.own_error + 0.05

    def band(self, log_hint: float) -> tuple[float, float, float]:
        """10th, 50th, 90th percentile of the logarithm of what will be."""
        ordered = self.ratios.ordered
        n = len(ordered)
        if n < PROVED:
            return log_hint - Z * SPREAD, log_hint, log_hint + Z * SPREAD
        return log_hint + ordered[n // 10], log_hint + ordered[n // 2], log_hint + ordered[n * 9 // 10]


def declared_steps(hints: Hints) -> float | None:
    """Steps that the client expects, said by itself or by its graph."""
    if hints.steps is not None and hints.steps > 0:
        return float(min(hints.steps, MOST_STEPS))
    return expected_steps(hints.graph)


def declared_log_work(hints: Hints | None) -> float | None:
    if hints is None or hints.work_s is None or not 0.0 < hints.work_s < MOST_WORK_S:
        return None
    return log(hints.work_s)


def sound(graph: Sequence[Declared]) -> bool:
    """May it be followed? It is small, its successors exist, and their probabilities are some."""
    return (
        0 < len(graph) <= NODES
        and sum(len(step.next) for step in graph) <= EDGES
        and all(valid(step, len(graph)) for step in graph)
    )


def expected_steps(graph: Sequence[Declared]) -> float | None:
    """Expected length from step 0 to the end; None for a graph too large or one that does not end.

    Solves E = 1 + P E by sweeps from the last step to the first: two for a graph without loops but on itself.
    """
    if not sound(graph):
        return None
    expected = [1.0] * len(graph)
    for _ in range(VISITS // (len(graph) + sum(len(step.next) for step in graph))):
        change = 0.0
        for index in range(len(graph) - 1, -1, -1):
            again = sum(share for to, share in graph[index].next if to == index)
            if again >= 1.0:
                return None
            rest = sum(share * expected[to] for to, share in graph[index].next if to != index)
            value = (1.0 + rest) / (1.0 - again)
            change = max(change, abs(value - expected[index]))
            expected[index] = value
        if change < LEAST_GAIN * expected[0]:
            return expected[0] if expected[0] < MOST_STEPS else None
    return None


def valid(step: Declared, nodes: int) -> bool:
    """Successors exist, each with a probability, together at most 1."""
    shares = [share for _, share in step.next]
    return (
        all(0 <= to < nodes for to, _ in step.next)
        and all(0.0 <= share <= 1.0 for share in shares)
        and sum(shares) <= 1.0 + ROUNDING
    )


def follow(graph: Sequence[Declared], node: int, tool: str) -> int:
    """In a sound graph: the declared step that has just run, after `node` (-1: none yet) and having asked for `tool`; -2: off course."""
    if node == -2:
        return -2
    nexts = graph[node].next if node >= 0 else ((0, 1.0),)
    fitting = [(share, -to) for to, share in nexts if graph[to].tool in ("", tool)]
    return -max(fitting)[1] if fitting else -2


def likeliest(graph: Sequence[Declared], node: int) -> tuple[str, float] | None:
    """The tool of the likeliest declared step after `node`."""
    if node == -2:
        return None
    nexts = graph[node].next if node >= 0 else ((0, 1.0),)
    fitting = [(share, -to) for to, share in nexts]
    if not fitting:
        return None
    share, to = max(fitting)
    return (graph[-to].tool, share) if graph[-to].tool else None


def steps_until(graph: Sequence[Declared], node: int, session: str) -> float:
    """Fewest steps from `node` of a sound graph to one that `session` takes, or anybody may; inf: there is none."""
    reached, frontier, steps = {node}, [node], 0
    while frontier:
        steps += 1
        ahead = {to for at in frontier for to, share in graph[at].next if share > 0.0}
        if any(graph[to].session in ("", session) for to in ahead):
            return steps
        frontier = list(ahead - reached)
        reached |= ahead
    return inf
