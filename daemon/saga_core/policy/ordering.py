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


def least_attained(standing: Standing, tokens: int) -> float:  # noqa: ARG001
    """The workflow that has had the least service (Autellix's PLAS, arXiv 2502.13965)."""
    return standing.attained_s


def smallest(standing: Standing, tokens: int) -> float:  # noqa: ARG001
    """The session with the smallest context: the cheapest to compute again (ThunderAgent)."""
    return float(tokens)


def smallest_last(standing: Standing, tokens: int) -> float:  # noqa: ARG001
    """The session with the largest context first, so that the smallest is the first to be paused (ThunderAgent)."""
    return -float(tokens)
