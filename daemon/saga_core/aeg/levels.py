"""Whose history answers: the same instance, the same program of the same tenant, the program, the tenant, all.

A question goes up this chain from the most alike to all. Each level answers with the weight its samples earn,
`n / (n + SHRINK)`, of what the levels before left over; so three runs of the same benchmark item speak louder than
three hundred of its class, and one does not silence them.
"""

from __future__ import annotations

from saga_core.aeg.rings import Ring
from saga_core.aeg.words import Kind

WORKFLOWS = 256
"""Finished workflows a level remembers: the study's rings differ little from 30 to 1000; this one forgets in days."""
INSTANCE_WORKFLOWS = 16
LEVELS = 2048
"""Levels kept; the one unused for longest is forgotten first."""

INSTANCE, PROGRAM, TYPE, TENANT, ALL = range(5)
NAMES = ("instance", "program of the tenant", "agent type", "tenant", "all workflows")
SHRINK = (1.0, 4.0, 4.0, 4.0, 0.5)
"""Samples at which a level weighs as much as everything above it, by depth."""
Key = tuple[int, str, str, str]
"""Depth, tenant, agent type and model, instance."""


class Level:
    """What workflows of one likeness took, in logarithms."""

    __slots__ = ("depth", "key", "steps", "work")

    def __init__(self, key: Key) -> None:
        self.key = key
        self.depth = key[0]
        limit = INSTANCE_WORKFLOWS if self.depth == INSTANCE else WORKFLOWS
        self.work = Ring(limit)
        """log GPU-seconds of whole workflows"""
        self.steps = Ring(limit)
        """log steps of whole workflows"""

    def learn(self, log_work: float, log_steps: float) -> None:
        self.work.add(log_work)
        self.steps.add(log_steps)


def keys(kind: Kind) -> list[Key]:
    """The chain of a kind, most alike first."""
    program = f"{kind.agent_type}\n{kind.model}" if kind.model else kind.agent_type
    chain: list[Key] = []
    if kind.instance:
        chain.append((INSTANCE, kind.tenant, program, kind.instance))
    chain.append((PROGRAM, kind.tenant, program, ""))
    if kind.agent_type:
        chain.append((TYPE, "", program, ""))
        chain.append((TENANT, kind.tenant, "", ""))
    chain.append((ALL, "", "", ""))
    return chain


class Shelf:
    """Bounded store of levels."""

    def __init__(self) -> None:
        self.levels: dict[Key, Level] = {}

    def chain(self, kind: Kind) -> tuple[Level, ...]:
        return tuple(self._level(key) for key in keys(kind))

    def _level(self, key: Key) -> Level:
        level = self.levels.pop(key, None) or Level(key)
        self.levels[key] = level  # the newest stands last
        if len(self.levels) > LEVELS:
            del self.levels[next(iter(self.levels))]
        return level
