"""All that is remembered: how long workflows took, what programs do, what is under way, whose hints were right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import log

from saga_core.aeg.hints import Trust
from saga_core.aeg.levels import Key, Shelf
from saga_core.aeg.live import Live, Session
from saga_core.aeg.program import Program, Programs
from saga_core.aeg.row import Row

LIVE = 1 << 17
"""Workflows watched at once; beyond, the oldest is forgotten as if cancelled."""
WATCHED = 256
"""Of these, how many stand for all when a curve is drawn."""
TENANTS = 512
"""Tenants whose hints are judged."""


@dataclass(slots=True, eq=False)
class Memory:
    """Bounded in every part."""

    shelf: Shelf = field(default_factory=Shelf)
    programs: Programs = field(default_factory=Programs)
    live: dict[int, Live] = field(default_factory=dict)
    trusts: dict[str, Trust] = field(default_factory=dict)
    row: Row = field(default_factory=Row)
    """`live` in the order in which they began."""

    def __post_init__(self) -> None:
        self.row = Row(self.live.values())

    def program(self, live: Live) -> Program:
        """What is known of the workflow's program."""
        kind = live.kind
        known = self.programs.by_name.get((kind.tenant, kind.agent_type))
        return known if known is not None else self.programs.at(kind.tenant, kind.agent_type)

    def session(self, workflow: int, name: str) -> tuple[Live, Session] | None:
        """A session and its workflow, if both are known."""
        live = self.live.get(workflow)
        state = live.sessions.get(name) if live is not None else None
        return (live, state) if live is not None and state is not None else None

    def watch(self, workflow: int, live: Live) -> None:
        self.live[workflow] = live
        self.row.append(live)
        if len(self.live) > LIVE:
            self.forget(next(iter(self.live)))

    def forget(self, workflow: int) -> Live | None:
        """It is not under way any more; None: it was not."""
        live = self.live.pop(workflow, None)
        if live is not None:
            self.row.remove(live)
        return live

    def trust(self, tenant: str) -> Trust:
        """The tenant's record, made the most recently used one."""
        known = self.trusts.pop(tenant, None) or Trust()
        self.trusts[tenant] = known
        if len(self.trusts) > TENANTS:
            del self.trusts[next(iter(self.trusts))]
        return known

    def finished(self, live: Live) -> None:
        """A whole workflow becomes history."""
        at = log(live.work_s), log(live.steps)
        due = [key for key in live.keys if self.shelf.learn(key, *at)]
        if due:
            self._draw(due)

    def _draw(self, due: Sequence[Key]) -> None:
        """Draw the curves of these levels, with what is under way (a sample of it, where that is much)."""
        stride = 1 + len(self.live) // WATCHED
        sample = [live for live in self.row.every(stride) if live.work_s > 0.0]
        for key in due:
            known = [(log(live.work_s), log(live.steps)) for live in sample if key in live.keys]
            self.shelf.draw(key, known, float(stride))
