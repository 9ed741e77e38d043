"""Which tool comes next: counts after the last tools, from the longest context that was seen often enough."""

from __future__ import annotations

from dataclasses import dataclass, field

from saga_core.aeg.words import UNKNOWN

ORDER = 2
"""Tools looked back on. Longer contexts predict worse or no better in all recordings (docs/aeg.md)."""
OFTEN = 4
"""Times a context must have been seen before it speaks."""
CONTEXTS = 512
"""Contexts kept of one program; the one unused for longest is forgotten first."""
TOOLS = 64
"""Tools told apart after one context; rarer ones are not counted."""
MEMORY = 256
"""Times after which the counts of a context are halved: it forgets."""

Past = tuple[str, ...]


@dataclass(slots=True)
class Fork:
    """What followed one context."""

    seen: int = 0
    best: str = UNKNOWN
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, tool: str) -> None:
        counts = self.counts
        count = counts.get(tool, 0) + 1
        if count == 1 and len(counts) >= TOOLS:
            return
        counts[tool] = count
        self.seen += 1
        if count > counts.get(self.best, 0):
            self.best = tool
        if self.seen > MEMORY:
            self._halve()

    def _halve(self) -> None:
        self.counts = {tool: count // 2 for tool, count in self.counts.items() if count > 1}
        self.seen = sum(self.counts.values())


def next_past(past: Past, tool: str) -> Past:
    """The context after `tool`."""
    return (*past[1 - ORDER :], tool) if ORDER > 1 else (tool,)


@dataclass(slots=True)
class Sequel:
    """Successors of one program's tools."""

    forks: dict[Past, Fork] = field(default_factory=dict)

    def add(self, past: Past, tool: str) -> None:
        forks = self.forks
        while True:
            fork = forks.get(past)
            if fork is None:
                fork = forks[past] = Fork()
                if len(forks) > CONTEXTS:
                    del forks[next(iter(forks))]
            fork.add(tool)
            if not past:
                return
            past = past[1:]

    def next(self, past: Past) -> tuple[str, float]:
        """The likeliest tool and its probability; ("", 0) where nothing was seen."""
        while True:
            fork = self.forks.get(past)
            if fork is not None and (fork.seen >= OFTEN or (not past and fork.seen)):
                # Krichevsky and Trofimov's half: a tool seen n times of n is not certain.
                return fork.best, (fork.counts[fork.best] + 0.5) / (fork.seen + 1.0)
            if not past:
                return UNKNOWN, 0.0
            past = past[1:]
