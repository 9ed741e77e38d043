"""Every prediction against what happened, beside what a simple rule would have said."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

MEMORY = 4096.0
"""Predictions after which the sums are halved: the scores are of late."""
MARKS = (0.0, 0.25, 0.5, 0.75)
"""Shares of a workflow's work at which its estimates are scored."""
NEXT_TOOL, RETURN, GROWTH, OUTPUT, END = "next tool", "return", "growth", "output", "last step"
WORK = tuple(f"work at {mark:.0%}" for mark in MARKS)
HINT = "work hint"


@dataclass(slots=True)
class Tally:
    """Sums over predictions of one sort; `rule` is the simple rule's: the commonest tool, Lindy, the class."""

    count: float = 0.0
    error: float = 0.0
    rule: float = 0.0
    within: float = 0.0

    def add(self, error: float, rule: float, within: bool) -> None:
        self.count += 1.0
        self.error += error
        self.rule += rule
        if within:
            self.within += 1.0
        if self.count > MEMORY:
            self.count /= 2.0
            self.error /= 2.0
            self.rule /= 2.0
            self.within /= 2.0


class Score(msgspec.Struct, frozen=True, kw_only=True):
    """Predictions of one sort. Errors are mean |log(predicted / happened)|; of tools the share wrong; of last steps
    the mean squared error of the probability.
    """

    what: str
    count: int
    error: float
    rule_error: float
    """Of the simple rule: the program's commonest tool, Lindy's rule, the class's median."""
    within: float
    """Share that fell into the 10-90 % band (0.8 is right); for tools and last steps, the share right."""


class ProgramScores(msgspec.Struct, frozen=True, kw_only=True):
    tenant: str
    agent_type: str
    scores: tuple[Score, ...]


class Scores(msgspec.Struct, frozen=True, kw_only=True):
    """Over all programs, and each by itself."""

    overall: tuple[Score, ...]
    programs: tuple[ProgramScores, ...]


def summary(tallies: dict[str, Tally]) -> tuple[Score, ...]:
    return tuple(
        Score(
            what=what,
            count=round(tally.count),
            error=tally.error / tally.count,
            rule_error=tally.rule / tally.count,
            within=tally.within / tally.count,
        )
        for what, tally in sorted(tallies.items())
        if tally.count
    )


def pooled(all_tallies: Iterable[dict[str, Tally]]) -> dict[str, Tally]:
    total: dict[str, Tally] = {}
    for tallies in all_tallies:
        for what, tally in tallies.items():
            into = total.setdefault(what, Tally())
            into.count += tally.count
            into.error += tally.error
            into.rule += tally.rule
            into.within += tally.within
    return total


def scores(by_program: dict[tuple[str, str], dict[str, Tally]]) -> Scores:
    return Scores(
        overall=summary(pooled(by_program.values())),
        programs=tuple(
            ProgramScores(tenant=tenant, agent_type=agent_type, scores=summary(tallies))
            for (tenant, agent_type), tallies in by_program.items()
            if tallies
        ),
    )
