"""The words of the learned graph: what a workflow is like, what is said of it, what is expected of it."""

from __future__ import annotations

import msgspec

ANSWER = "-"
"""The `tool` of a step that asked for none: its turn is over, a person or the program goes on."""
UNKNOWN = ""
"""The `tool` of a step of which nobody knows what it asked for."""


class Kind(msgspec.Struct, frozen=True):
    """What workflows are compared by. Empty where not known."""

    tenant: str
    agent_type: str
    instance: str = ""
    """Benchmark item, or the client's own name of the work: several workflows of one resemble each other."""
    prefix: str = ""
    """Name of what every prompt of it begins with: a hash of system prompt and tools, or the model."""


class Declared(msgspec.Struct, frozen=True, kw_only=True):
    """One step of a declared graph: which tool it asks for, and where it goes on with which probability."""

    tool: str = UNKNOWN
    session: str = ""
    """Own name of the session that takes it, where agents take turns; empty: any."""
    next: tuple[tuple[int, float], ...] = ()
    """Index of a step and its probability; what is missing to 1 is the end of the workflow."""


class Hints(msgspec.Struct, frozen=True, kw_only=True):
    """What the client says of its workflow; believed as far as its tenant's hints have proved right."""

    work_s: float | None = None
    """GPU-seconds of the whole workflow."""
    steps: int | None = None
    graph: tuple[Declared, ...] = ()
    """Starts at step 0. Its expected length serves as `steps` where none are given."""


class Estimate(msgspec.Struct, frozen=True):
    """What is expected: mean, the band from the 10th to the 90th percentile, who says so, from how many, median."""

    mean: float
    low: float
    high: float
    source: str
    samples: int
    """0: a guess without history; better not to decide by it."""
    median: float
