"""Tool calls as facts tell them: from the end of a step to its session's next one, by the tool's name.

Rules of this file
  1. Only what is known is told: there is a call where the answer asked for a tool, or the next step says whose result it
     brings; of several that one answer asks for, the first. How it went is not known, and that a session never came
     back says nothing of when its tool was done.
  2. A session that has several steps at once is in no tool between two of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from saga_core.aeg.words import ANSWER, UNKNOWN
from saga_core.book import Book
from saga_core.events import Outcome, StepArrived, StepFinished, WorkflowEnded
from saga_core.ids import StepId, WorkflowId

NO_TOOL: Final = (UNKNOWN, ANSWER)
A = TypeVar("A")


@dataclass(frozen=True, slots=True)
class ToolCall(Generic[A]):
    """One that is over."""

    name: str
    asked: bool
    """The answer named it: it is a function that the client runs. Otherwise the step that brings its result did."""
    step: StepId
    """Whose answer went before."""
    by: A
    """What the caller keeps of that step."""
    begin: float
    end: float
    """Seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class _Rest(Generic[A]):
    """A session between two steps."""

    after: StepFinished
    by: A
    since: float


class ToolCalls(Generic[A]):
    """Follows the sessions of live workflows that are between two steps."""

    def __init__(self, book: Book) -> None:
        self._book = book
        self._resting: dict[WorkflowId, dict[str, _Rest[A]]] = {}

    def finished(self, fact: StepFinished, came: StepArrived, by: A, at: float) -> None:
        """A step that `came` is over, which the book knows already; `by` is what to keep of it."""
        if came.workflow is None or fact.outcome is not Outcome.DONE:
            return
        workflow = self._book.workflows.get(came.workflow)
        if workflow is not None and workflow.live and not workflow.sessions[came.session].running:
            self._resting.setdefault(workflow.id, {})[came.session] = _Rest(fact, by, at)

    def arrived(self, fact: StepArrived, at: float) -> ToolCall[A] | None:
        """The tool call that ends with this step; None: none is known."""
        if fact.workflow is None:
            return None
        rest = self._resting.get(fact.workflow, {}).pop(fact.session, None)
        if rest is None:
            return None
        asked = rest.after.tool not in NO_TOOL
        name = rest.after.tool if asked else fact.tool
        if name in NO_TOOL:
            return None
        return ToolCall(name, asked, rest.after.step, rest.by, rest.since, at)

    def ended(self, fact: WorkflowEnded) -> None:
        """Its sessions do not come back."""
        self._resting.pop(fact.workflow, None)
