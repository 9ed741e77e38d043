"""What the parts of a node share: the time, what is to be done, and what the head has not been told."""

from __future__ import annotations

from dataclasses import dataclass, field

from saga_core.node_words import Action


@dataclass(slots=True, eq=False)
class NodeDesk:
    """One for each node; `handle` clears `out` and sets `now`."""

    now: float
    out: list[Action] = field(default_factory=list)
    dirty: bool = False
    """The head is to hear of it at once."""
    has_news: bool = True
    """Something is known of the workers that no report has carried yet."""
    seq: int = 0
    """Number of the latest report."""
