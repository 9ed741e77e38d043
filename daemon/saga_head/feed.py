"""The latest facts of one head, numbered, for `saga events` and the timelines of `saga top`.

Rules of this file
  1. Keeping a fact is one append; it becomes a view when somebody asks.
  2. Facts of all time are in the journal; the ring here is bounded by `KEPT`.
  3. Secrets never leave: tokens, and what a program was started with.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import Final

from saga_core.events import Fact, StepArrived, StepFinished
from saga_core.ids import StepId
from saga_core.views import EventPage, EventView

KEPT: Final = 20_000
"""Some 10 MB; at 100 steps/s a good minute, and the journal has the rest."""
MOST: Final = 2_000
"""Events of one answer: some 400 KB."""
LONGEST_WAIT_S: Final = 30.0
WAKE_EVERY_S: Final = 0.1
"""Who waits is answered once per epoch, not once per fact."""
UNTOLD: Final = frozenset({"workflow", "session", "step", "token", "program"})
"""The first three stand apart, the others are secret."""

Owner = tuple[int | None, str]
"""A workflow's number and a session's name."""


class Feed:
    """A ring of facts with numbers that grow by one."""

    def __init__(self) -> None:
        self._ring: deque[tuple[float, Fact, Owner]] = deque(maxlen=KEPT)
        self._last = 0
        self._steps: dict[StepId, Owner] = {}
        """Whose each step in flight is: most of a step's facts say only its number."""
        self._came = asyncio.Event()

    def add(self, fact: Fact, at: float) -> None:
        """Keep `fact`, which happened at `at`."""
        self._ring.append((at, fact, self._owner(fact)))
        self._last += 1
        self._came.set()

    def _owner(self, fact: Fact) -> Owner:
        match fact:
            case StepArrived():
                owner = self._steps[fact.step] = (fact.workflow, fact.session)
                return owner
            case StepFinished():
                return self._steps.pop(fact.step, (None, ""))
            case _:
                return _said(fact, self._steps)

    def of(self, workflow: int) -> list[EventView]:
        """All that is kept of one workflow."""
        begin = self._last - len(self._ring)
        return [
            _view(number, at, fact, owner)
            for number, (at, fact, owner) in self._from(begin)
            if owner[0] == workflow
        ]

    async def page(self, head: int, *, after: int | None, workflow: int | None, wait_s: float) -> EventPage:
        """Facts later than number `after` (None: all that are kept), of one workflow or of all.

        With none there yet, waits up to `wait_s` for the first.
        """
        deadline = asyncio.get_running_loop().time() + min(wait_s, LONGEST_WAIT_S)
        begin = self._last - len(self._ring) if after is None else min(after, self._last)
        while True:
            page = self._page(head, begin, workflow)
            left_s = deadline - asyncio.get_running_loop().time()
            if page.events or left_s <= 0 or (after is None and wait_s == 0):
                return page
            begin = page.next
            self._came.clear()
            try:
                await asyncio.wait_for(self._came.wait(), left_s)
            except TimeoutError:
                return page
            await asyncio.sleep(WAKE_EVERY_S)

    def _page(self, head: int, after: int, workflow: int | None) -> EventPage:
        oldest = self._last - len(self._ring)
        missed = max(0, oldest - after)
        at = max(after, oldest)
        found: list[EventView] = []
        for number, (when, fact, owner) in self._from(at):
            at = number
            if workflow is None or owner[0] == workflow:
                found.append(_view(number, when, fact, owner))
                if len(found) == MOST:
                    break
        return EventPage(head=head, events=found, next=at, missed=missed)

    def _from(self, after: int) -> Iterator[tuple[int, tuple[float, Fact, Owner]]]:
        """Those with numbers above `after`, oldest first."""
        oldest = self._last - len(self._ring)
        tail = list(islice(reversed(self._ring), self._last - max(after, oldest)))
        yield from zip(range(self._last - len(tail) + 1, self._last + 1), reversed(tail), strict=True)


def _said(fact: Fact, steps: dict[StepId, Owner]) -> Owner:
    """By the fact's own words; a session's id is `workflow.name`."""
    step = getattr(fact, "step", None)
    if step is not None:
        return steps.get(step, (None, ""))
    session = getattr(fact, "session", "")
    if session:
        number, _, name = session.partition(".")
        return (int(number) if number.isdecimal() else None, name)
    return (getattr(fact, "workflow", None), "")


def _view(number: int, at: float, fact: Fact, owner: Owner) -> EventView:
    return EventView(
        seq=number,
        at=at,
        kind=type(fact).__name__,
        workflow=owner[0],
        session=owner[1],
        step=getattr(fact, "step", None) if type(fact).__name__.startswith("Step") else None,
        facts=dict(_rest(fact)),
    )


def _rest(fact: Fact) -> Iterator[tuple[str, str | int | float | bool]]:
    for name in fact.__struct_fields__:
        value = getattr(fact, name)
        if name not in UNTOLD and isinstance(value, str | int | float) and value != "":
            yield name, value
