"""What the parts of the head share: the book, the time, and the list of things to do.

Rules of this file
  1. Durable state changes through `record` alone, which applies the fact to the book and hands
     it out to be kept; so the journal is complete by construction.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from saga_core.actions import Action, Ignored, Record
from saga_core.book import Book
from saga_core.events import Fact


@dataclass(slots=True, eq=False)
class Desk:
    """One event is on the desk at a time; `out` collects what follows from it."""

    book: Book
    now: float = 0.0
    """Seconds; never runs backwards."""
    out: list[Action] = field(default_factory=list)

    def begin(self, now: float) -> None:
        self.out, self.now = [], max(self.now, now)

    def record(self, fact: Fact) -> None:
        """Let `fact` be so, and have it kept."""
        self.book.apply(fact, self.now)
        self.out.append(Record(fact))

    def do(self, action: Action) -> None:
        self.out.append(action)

    def ignore(self, reason: str, what: str) -> None:
        """Nothing is done about `what`; it is counted under `reason`."""
        self.out.append(Ignored(reason, what))
