"""Whose history answers: from the same instance over programs that begin alike to all workflows.

A question goes up this chain from the most alike to all. Each level answers with the weight its samples earn,
`n / (n + SHRINK)`, of what the levels before left over; so three runs of the same benchmark item speak louder than
three hundred of its class, and one does not silence them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import log2

from saga_core.aeg.curves import Curve
from saga_core.aeg.rings import Ring
from saga_core.aeg.words import Kind

WORKFLOWS = 256
"""Finished workflows a level remembers: enough for its percentiles, and few enough to forget an old fleet in days."""
INSTANCE_WORKFLOWS = 16
LEVELS = 2048
"""Levels kept; the one unused for longest is forgotten first."""

INSTANCE, PREFIX, OPENING, PROGRAM, TYPE, TENANT, ALL = range(7)
NAMES = (
    "instance",
    "prefix",
    "first prompt",
    "program of the tenant",
    "agent type",
    "tenant",
    "all workflows",
)
SHRINK = (1.0, 3.0, 12.0, 4.0, 4.0, 4.0, 0.5)
"""Samples at which a level weighs as much as everything above it, by depth; chosen in docs/aeg.md."""
OPENINGS_PER_OCTAVE = 2
"""How finely first prompts are told apart."""
Key = tuple[int, str, str, str]
"""Depth, tenant, agent type, what else."""
Keys = tuple[Key, ...]
"""A chain of them, the most alike first."""


@dataclass(slots=True, eq=False)
class Level:
    """What workflows of one likeness took."""

    key: Key
    work: Curve
    """log GPU-seconds of whole workflows"""
    steps: Curve
    """log steps of whole workflows"""
    learned: int = 0

    @classmethod
    def new(cls, key: Key) -> Level:
        limit = INSTANCE_WORKFLOWS if key[0] == INSTANCE else WORKFLOWS
        return cls(key, Curve(Ring(limit)), Curve(Ring(limit)))


def keys(kind: Kind, first_prompt_tokens: int = 0) -> Keys:
    """The chain of a kind, most alike first; the first prompt is 0 until it is known."""
    tenant, program = kind.tenant, kind.agent_type
    chain: list[Key] = []
    if kind.instance:
        chain.append((INSTANCE, tenant, program, kind.instance))
    if kind.prefix:
        chain.append((PREFIX, tenant, program, kind.prefix))
    if first_prompt_tokens > 0:
        octave = round(OPENINGS_PER_OCTAVE * log2(first_prompt_tokens))
        chain.append((OPENING, tenant, program, str(octave)))
    chain.append((PROGRAM, tenant, program, ""))
    if program:
        chain.append((TYPE, "", program, ""))
        chain.append((TENANT, tenant, "", ""))
    chain.append((ALL, "", "", ""))
    return tuple(chain)


@dataclass(slots=True, eq=False)
class Shelf:
    """Bounded store of levels; a level comes into being when its first workflow is over."""

    levels: dict[Key, Level] = field(default_factory=dict)

    def learn(self, key: Key, log_work: float, log_steps: float) -> bool:
        """One more workflow is over. Should the level's curves be drawn anew?"""
        level = self.levels.pop(key, None) or Level.new(key)
        self.levels[key] = level  # the newest stands last
        level.learned += 1
        level.work.add(log_work)
        level.steps.add(log_steps)
        if len(self.levels) > LEVELS:
            del self.levels[next(iter(self.levels))]
        return level.work.due

    def draw(self, key: Key, under_way: Sequence[tuple[float, float]], weight: float) -> None:
        """Draw the level's curves, with the logarithms of work and steps of what is under way."""
        level = self.levels[key]
        level.work.draw(sorted((log_work, weight) for log_work, _ in under_way))
        level.steps.draw(sorted((log_steps, weight) for _, log_steps in under_way))
