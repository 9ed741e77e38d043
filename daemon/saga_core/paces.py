"""How long workflows take: seconds of life per second of useful engine work, and whole lives, by tenant and agent type.

Rules of this file
  1. Only what is done teaches; the latest count most.
  2. Bounded: of more kinds than `MOST`, those that ended longest ago are forgotten.
"""

from __future__ import annotations

from dataclasses import dataclass

from saga_core.aeg import Kind

MOST = 1024
SHARE = 0.2
"""Of the latest workflow in the mean: some ten of them make it."""
ALL = ""
"""The kind that everybody is of: for kinds of which none has ended yet."""


@dataclass(slots=True)
class Pace:
    """Means over ended workflows of one kind."""

    stretch: float
    """Seconds from first step to end per second of useful work: waits and tools are in it."""
    life_s: float


class Paces:
    """Paces by kind."""

    def __init__(self, by_kind: dict[str, Pace] | None = None) -> None:
        """`by_kind`: what a snapshot has kept."""
        self.by_kind = by_kind if by_kind is not None else {}

    def learn(self, kind: str, life_s: float, work_s: float) -> None:
        """A workflow is done."""
        if not life_s > 0.0 or not work_s > 0.0:
            return
        for name in (kind, ALL):
            self._learn(name, life_s / work_s, life_s)
        while len(self.by_kind) > MOST:
            del self.by_kind[next(iter(self.by_kind))]

    def _learn(self, name: str, stretch: float, life_s: float) -> None:
        known = self.by_kind.pop(name, None)
        if known is not None:
            stretch = known.stretch + SHARE * (stretch - known.stretch)
            life_s = known.life_s + SHARE * (life_s - known.life_s)
        self.by_kind[name] = Pace(stretch, life_s)

    def of(self, kind: str) -> Pace | None:
        """Of that kind, or else of all; None: none has ended yet."""
        return self.by_kind.get(kind) or self.by_kind.get(ALL)


def kind_of(kind: Kind) -> str:
    """Its name: tenants' names hold no control characters."""
    return f"{kind.tenant}\x1f{kind.agent_type}"
