"""What one agent program does step by step: its tools' order, their pauses, growth, outputs and ends."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from saga_core.aeg.bands import Band
from saga_core.aeg.pauses import Pauses
from saga_core.aeg.rings import Ring
from saga_core.aeg.scores import END, Tally
from saga_core.aeg.sequel import Sequel
from saga_core.aeg.words import UNKNOWN

TOOLS = 32
"""Tools told apart per program; further ones count as unknown."""
PROGRAMS, TENANT_PROGRAMS = 128, 16
"""Programs kept, in all and of one tenant."""
DISTANCES = 200
"""As many as return times of a tool."""
MEMORY = 512
"""Steps after which a tool's ends are halved: it forgets."""
ENDS_SHRINK = 4.0
"""Steps of a tool at which its own ends weigh as much as the program's."""
STOPS_SHRINK = ENDS_SHRINK
FIRST_END = (1.0, 20.0)
"""Presumed: one workflow in 20 steps (the paper's termination probability of 0.05)."""


@dataclass(slots=True)
class Ends:
    """How often something was asked for, and how often that was the last."""

    asked: float = 0.0
    last: float = 0.0

    def ask(self) -> None:
        self.asked += 1.0
        if self.asked > MEMORY:
            self.asked /= 2.0
            self.last /= 2.0

    def unask(self) -> None:
        """It was not asked for, or nobody knows what came of it."""
        self.asked = max(self.asked - 1.0, self.last)


@dataclass(slots=True, eq=False)
class Tool:
    """One tool of one program."""

    pauses: Pauses = field(default_factory=Pauses)
    growth: Band = field(default_factory=Band)
    """Tokens that the next prompt adds to this step's prompt and output."""
    output: Band = field(default_factory=Band)
    """Tokens that the step after this tool writes."""
    ends: Ends = field(default_factory=Ends)
    stops: Ends = field(default_factory=Ends)
    """The same of sessions beside a workflow's first one: sub-agents are done long before their workflow is."""


@dataclass(slots=True, eq=False)
class Program:
    """All that is known of one agent program of one tenant."""

    sequel: Sequel = field(default_factory=Sequel)
    tools: dict[str, Tool] = field(default_factory=dict)
    ends: Ends = field(default_factory=Ends)
    stops: Ends = field(default_factory=Ends)
    distances: Ring = field(default_factory=lambda: Ring(DISTANCES))
    """Steps from one of a session to its next, counted in steps of its workflow, where it is not the only one."""
    steps: int = 0
    tallies: dict[str, Tally] = field(default_factory=dict)

    def score(self, what: str, error: float, rule: float, within: bool) -> None:
        tally = self.tallies.get(what)
        if tally is None:
            tally = self.tallies[what] = Tally()
        tally.add(error, rule, within)

    def tool(self, name: str) -> Tool:
        """Its entry; a new one, or that of the unknown where there are too many."""
        known = self.tools.get(name)
        if known is None:
            if len(self.tools) >= TOOLS and name:
                return self.tool(UNKNOWN)
            known = self.tools[name] = Tool()
        return known

    def end(self, tool: str) -> None:
        """A step that asked for `tool` was its workflow's last."""
        self.ends.last += 1.0
        self.tool(tool).ends.last += 1.0

    def unask(self, tool: str) -> None:
        """The last step of a cancelled workflow neither ended it nor went on: out of the count."""
        for ends in (self.ends, self.tool(tool).ends):
            ends.unask()

    def score_end(self, tool: str, *, last: bool) -> None:
        """Brier's score of what was expected of a step that asked for `tool`, beside the program's own rate."""
        expected = self.end_probability(tool)
        rate = (self.ends.last + FIRST_END[0]) / (self.ends.asked + FIRST_END[1])
        truth = 1.0 if last else 0.0
        self.score(END, (truth - expected) ** 2, (truth - rate) ** 2, (expected > 0.5) == last)

    def stop(self, tool: str) -> None:
        """A step that asked for `tool` was its session's last, not its workflow's."""
        self.stops.last += 1.0
        self.tool(tool).stops.last += 1.0

    def stop_probability(self, tool: str) -> float:
        """That a session beside the first one does not return from `tool`, or had nothing more to do."""
        overall = self.stops.last / (self.stops.asked + STOPS_SHRINK)
        known = self.tools.get(tool)
        if known is None:
            return overall
        share = (known.stops.last + STOPS_SHRINK * overall) / (known.stops.asked + STOPS_SHRINK)
        return min(share, 1.0)

    def end_probability(self, tool: str) -> float:
        """That a step which asked for `tool` was its workflow's last."""
        last, asked = FIRST_END
        overall = (self.ends.last + last) / (self.ends.asked + asked)
        known = self.tools.get(tool)
        if known is None:
            return overall
        share = (known.ends.last + ENDS_SHRINK * overall) / (known.ends.asked + ENDS_SHRINK)
        return min(share, 1.0)


@dataclass(slots=True, eq=False)
class Programs:
    """Bounded store of programs, and the pool that answers for young ones."""

    YOUNG_STEPS: ClassVar = 256
    """Steps with which a program contributes to the pool: no tenant can fill it."""

    by_name: dict[tuple[str, str], Program] = field(default_factory=dict)
    """By tenant and agent type, the least recently begun first."""
    pool: Program = field(default_factory=Program)

    def at(self, tenant: str, agent_type: str) -> Program:
        """The program, made the most recently used one."""
        key = (tenant, agent_type)
        program = self.by_name.pop(key, None)
        if program is None:
            program = Program()
            self._make_room(tenant)
        self.by_name[key] = program
        return program

    def _make_room(self, tenant: str) -> None:
        """Forget this tenant's least recently used program if it has many, else anybody's if all are many."""
        own = [key for key in self.by_name if key[0] == tenant]
        if len(own) >= TENANT_PROGRAMS:
            del self.by_name[own[0]]
        elif len(self.by_name) >= PROGRAMS:
            del self.by_name[next(iter(self.by_name))]
