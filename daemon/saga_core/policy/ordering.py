"""Who goes first: a key per session, smaller is sooner. Pure; ties go by the session's id.

`accounts` knows what a workflow has had and is expected to take; a key is a function of that and of the session.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Standing(Protocol):
    """What is known of a workflow."""

    arrived_at: float
    """Seconds."""
    born_v: float
    """Virtual time at its arrival."""
    attained_s: float
    """Engine seconds of useful work it has had."""
    expected_s: float
    """Engine seconds of useful work it is expected to take in all."""
    weight: float


YOUTH = 1.0
"""Engine seconds of work to come that a virtual second of arriving later outweighs. On swe-like at pressure 1.5 (800
workflows of the tuning half, against ThunderAgent, geomean and 95th percentile of completion time): 1: 1.01 and 0.97 to
0.98 (two seeds); 0.5: 0.97 to 0.98 and 0.96 to 1.00, 0: 0.95 and 1.01, the newest alone: 1.00 and 0.96 (one seed each);
-1, which is the virtual finish: 0.90 and 1.04."""

URGENCY_S = 1e9
"""What one step of priority counts in any key of turns: more than all of them (30 years), and a float still tells
microseconds apart beside ten of it."""

Key = Callable[[Standing, int], float]
"""(standing of the workflow, context tokens of the session) -> key."""


def arrival(standing: Standing, tokens: int) -> float:  # noqa: ARG001
    """Program-FCFS: the workflow that came first (Continuum; the fallback where nothing is known of work)."""
    return standing.arrived_at


def virtual_finish(standing: Standing, tokens: int) -> float:  # noqa: ARG001
    """When a fair share of the cluster would have finished it (policy study, section 5; docs/fairness.md).

    Whoever takes more than expected is expected to take what it took.
    """
    return standing.born_v + max(standing.expected_s, standing.attained_s) / standing.weight


def left(standing: Standing, tokens: int) -> float:  # noqa: ARG001
    """The least work expected still to come."""
    return max(standing.expected_s - standing.attained_s, 0.0)


def newest(standing: Standing, tokens: int) -> float:  # noqa: ARG001
    """The workflow that came last.

    Where nothing is known of lengths every order has the same mean time in the system, and the order of arrival the least
    variance, its opposite the largest (Shanthikumar and Sumita, J. Appl. Prob. 24, 1987): with a backlog the former serves
    everybody late, the latter all but a few soon. Whoever turns out to be one of the few is overdue some time.
    """
    return -standing.arrived_at


def least_left_newest_first(standing: Standing, tokens: int) -> float:
    """The least work to come, in engine seconds, and of like amounts the newest, by virtual time at its arrival."""
    return left(standing, tokens) - YOUTH * standing.born_v


def least_attained(standing: Standing, tokens: int) -> float:  # noqa: ARG001
    """The workflow that has had the least service (Autellix's PLAS, arXiv 2502.13965)."""
    return standing.attained_s


def smallest(standing: Standing, tokens: int) -> float:  # noqa: ARG001
    """The session with the smallest context: the cheapest to compute again (ThunderAgent)."""
    return float(tokens)


def smallest_last(standing: Standing, tokens: int) -> float:  # noqa: ARG001
    """The session with the largest context first, so that the smallest is the first to be paused (ThunderAgent)."""
    return -float(tokens)
