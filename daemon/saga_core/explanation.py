"""What the head says of one workflow or step: what was decided and why, what it has had, what is expected of it.

Frozen and free of secrets, as `saga_core.views`.
"""

from __future__ import annotations

import msgspec

from saga_core.aeg.scores import Score
from saga_core.views import WorkflowView


class CandidateView(msgspec.Struct, frozen=True, kw_only=True):
    worker: str
    score: float
    """The smallest is chosen: load, or the share of the limit in need."""


class DecisionView(msgspec.Struct, frozen=True, kw_only=True):
    """One decision, in words."""

    at: float
    """Seconds since the epoch (UTC); of several steps in a row, the latest."""
    since_at: float
    """The first of them."""
    times: int
    verdict: str
    session: str
    step: int | None
    worker: str | None
    why: str
    otherwise: str
    """What would have been otherwise; empty where nothing is known of that."""
    key: float
    candidates: list[CandidateView] = []


class EstimateView(msgspec.Struct, frozen=True, kw_only=True):
    """What is expected: the mean, and the band from the 10th to the 90th percentile."""

    mean: float
    low: float
    high: float
    source: str
    samples: int
    """0: a guess without history."""


class AccountView(msgspec.Struct, frozen=True, kw_only=True):
    """What a workflow has had, and what it is expected to take, in engine seconds of useful work."""

    weight: float
    attained_s: float
    born_s: float
    """Virtual time at its first step."""
    virtual_s: float
    """Virtual time of now."""
    finish_s: float
    """Virtual time at which a fair share would have finished it."""
    total: EstimateView
    remaining: EstimateView
    steps: EstimateView
    """Steps still to come."""


class ForecastView(msgspec.Struct, frozen=True, kw_only=True):
    """A session: where it stands at the gate, and what is expected of it."""

    id: str
    gate: str
    waits_s: float | None
    key: float | None
    """Its place in the order of the profile; smaller is sooner."""
    ahead: int | None
    """Sessions that wait with smaller keys; None: it does not wait."""
    needs_tokens: int | None
    next_tool: str
    next_tool_probability: float
    returns_s: EstimateView | None
    """Until its next step; None while one is there."""
    growth_tokens: EstimateView
    output_tokens: EstimateView
    end_probability: float
    """That its latest step was the workflow's last."""


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """`saga explain`: what was decided about a workflow or one step, and what is known of it."""

    profile: str
    order: str
    """Name of the profile's key."""
    step: int | None = None
    workflow: WorkflowView | None = None
    """None: a step of no workflow."""
    decisions: list[DecisionView] = []
    """Oldest first: the latest few, as far as they are still known."""
    account: AccountView | None = None
    """None: it has made no step, or is over."""
    sessions: list[ForecastView] = []
    scores: list[Score] = []
    """How past predictions for its agent type fared."""
