"""What the book is made of: workflows, their sessions, their steps, and sums over all of them.

Only `Book.apply` changes any of these.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from saga_core import states
from saga_core.aeg import Declared, Hints
from saga_core.events import DrainCause
from saga_core.ids import NodeId, SessionId, StepId, TenantId, WorkerId, WorkflowId
from saga_core.states import ENDED, DutyState, SessionState, WorkflowState
from saga_core.views import ProgramSpec

STORY = 12
"""Causes kept per workflow, for the text of an `InvalidTransition`."""


@dataclass(slots=True, eq=False)
class Session:
    """One growing token context of a workflow."""

    id: SessionId
    state: SessionState = SessionState.TOOL
    home: WorkerId | None = None
    running: int = 0
    """Steps arrived and not finished."""
    placed: int = 0
    """Of those, steps on a worker."""
    steps: int = 0
    context_tokens: int = 0
    """Prompt and output of its latest finished step."""
    rule: str = ""
    """By which its latest step was recognised (`saga_core.identity`), and how sure that is."""
    confidence: float = 1.0

    def move(self, cause: str) -> None:
        self.state = states.advance(states.SESSION, self.state, cause, what=self.id)

    def settle(self) -> None:
        """A step has left a worker or is over: say what the session does now."""
        if self.running == 0:
            self.move("steps over")
        elif self.placed == 0:
            self.move("step waits")

    def implied(self, *, live: bool) -> SessionState:
        """The state that its counts imply, in a workflow that is `live` or not."""
        if not live:
            return SessionState.CLOSED
        if self.placed:
            return SessionState.REASONING
        return SessionState.QUEUED if self.running else SessionState.TOOL


@dataclass(slots=True, eq=False)
class Workflow:
    """One run of an agent program: the scheduling atom."""

    id: WorkflowId
    tenant: TenantId
    kind: str
    token: str
    submitted_at: float
    name: str = ""
    agent_type: str = ""
    key: str = ""
    work_s: float = 0.0
    """Engine seconds that it said it would take; 0: it did not."""
    steps_told: int = 0
    """The same in steps."""
    instance: str = ""
    deadline_s: float = 0.0
    """Seconds from its submission within which it should be over; 0: it did not say."""
    graph: tuple[Declared, ...] = ()
    program: ProgramSpec | None = None
    log: str = ""
    weight: float = 1.0
    priority: int = 0
    state: WorkflowState = WorkflowState.ACCEPTED
    started_at: float | None = None
    ended_at: float | None = None
    active_at: float = 0.0
    attempt: int = 1
    node: NodeId | None = None
    """Where attempt `attempt` of its program runs or was asked to run."""
    node_incarnation: int = 0
    moves: int = 0
    """Attempts that ended because their node was drained."""
    started_attempt: int = 0
    """The latest attempt that its node has shown to be there."""
    sessions: dict[str, Session] = field(default_factory=dict)
    running: dict[StepId, None] = field(default_factory=dict)
    steps: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    home: WorkerId | None = None
    gpu_s: float = 0.0
    """GPU-seconds of its steps (`saga_core.usage`)."""
    exit_code: int | None = None
    reason: str = ""
    story: list[str] = field(default_factory=list)

    @property
    def live(self) -> bool:
        return self.state not in ENDED

    @property
    def hints(self) -> Hints | None:
        """What the learner is told of what the client said."""
        if not (self.work_s or self.steps_told or self.graph):
            return None
        return Hints(work_s=self.work_s or None, steps=self.steps_told or None, graph=self.graph)

    def advance(self, cause: str) -> None:
        self.state = states.advance(
            states.WORKFLOW, self.state, cause, what=f"workflow {self.id}", story=self.story
        )
        self.story.append(cause)
        del self.story[:-STORY]


@dataclass(slots=True, eq=False)
class Step:
    """One LLM call in flight."""

    id: StepId
    tenant: TenantId
    model: str
    arrived_at: float
    workflow: WorkflowId | None
    session: str
    worker: WorkerId | None = None
    incarnation: int = 0
    """Of `worker`, when the step was placed."""
    placed_at: float = 0.0
    body_bytes: int = 0
    expected_tokens: int = 0
    """That it will write, as its client says; 0: it does not."""
    lost: int = 0
    """Times that its worker went away."""


@dataclass(slots=True, eq=False)
class Drain:
    """A node that takes no new sessions; as long as it is one, whatever becomes of its daemon or of the head."""

    cause: DrainCause
    reason: str
    since: float
    until: float | None = None
    """When what is left there is broken off; None: never."""
    duty: DutyState = DutyState.DRAINING

    @property
    def remove(self) -> bool:
        """Whether its daemon shall end when nothing is left there."""
        return self.cause is DrainCause.REMOVED


@dataclass(slots=True)
class Counts:
    """Sums over the life of the cluster."""

    ended: dict[str, int] = field(default_factory=dict)
    steps_done: int = 0
    steps_refused: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
