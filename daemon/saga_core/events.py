"""What happened: the one vocabulary of inputs, journal, recovery, metrics and traces.

Rules of this file
  1. `Event` is what the shells hand to `Head.handle`. The messages of nodes
     (`saga_core.wire.ToHead`) and `Tick` are events too, but pass: they are not kept.
  2. `Fact` is what the head keeps (`saga_core.actions.Record`): the journal is a list of
     `(seconds, Fact)`, and applying them in order rebuilds every durable part of the head.
  3. Fields are added with defaults and never change their meaning; otherwise
     `JOURNAL_VERSION` is raised and an upgrade is written.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec

from saga_core.aeg.words import Declared
from saga_core.ids import NodeId, SessionId, StepId, TenantId, WorkerId, WorkflowId
from saga_core.states import WorkflowState
from saga_core.told import Told
from saga_core.views import ProgramSpec
from saga_core.wire import ToHead

JOURNAL_VERSION: Final = 1


class Outcome(StrEnum):
    """How a step ended, seen from the client."""

    DONE = "done"
    REFUSED = "refused"  # the worker answered with an error (status >= 400)
    CLIENT_GONE = "client-gone"
    BROKEN = "broken"  # its worker was lost in mid-stream
    LOST = "lost"  # no worker could serve it, or the head restarted
    REJECTED = "rejected"  # saga refused it
    ABORTED = "aborted"  # its workflow was cancelled


class _Kept(msgspec.Struct, frozen=True, kw_only=True, tag=True, omit_defaults=True):
    pass


class WorkflowSubmitted(_Kept, frozen=True, kw_only=True):
    """A workflow is known from here on. The only fact whose writer waits for the disk."""

    workflow: WorkflowId
    tenant: TenantId
    token: str
    """Credential of this workflow's endpoint. The journal is readable by its owner only."""
    kind: str
    """`program`, `replay` or `outside`."""
    name: str = ""
    agent_type: str = ""
    key: str = ""
    """The client's own name for it, when it came from outside."""
    work_s: float = 0.0
    """Engine seconds that it says it will take; 0: it does not say."""
    steps: int = 0
    """Steps that it says it will take; 0: it does not say."""
    instance: str = ""
    deadline_s: float = 0.0
    graph: tuple[Declared, ...] = ()
    """The steps that it says it will make (`saga_core.aeg.hints`)."""
    program: ProgramSpec | None = None
    log: str = ""
    weight: float = 1.0
    """Of its tenant, when it came."""
    priority: int = 0
    """Whose turn is sooner, as whoever submitted it says; larger is more important (docs/fairness.md)."""


class ProgramGiven(_Kept, frozen=True, kw_only=True):
    """A node is asked to run the program: from here on no other node gets this attempt."""

    workflow: WorkflowId
    attempt: int
    node: NodeId
    incarnation: int


class ProgramStarted(_Kept, frozen=True, kw_only=True):
    workflow: WorkflowId
    attempt: int
    node: NodeId
    incarnation: int


class WorkflowRequeued(_Kept, frozen=True, kw_only=True):
    """Its program will start again elsewhere, as attempt `attempt`."""

    workflow: WorkflowId
    attempt: int
    reason: str
    moved: bool = False
    """Its node was drained: that is nobody's failure, and none of its retries."""


class CancelAsked(_Kept, frozen=True, kw_only=True):
    workflow: WorkflowId


class WorkflowEnded(_Kept, frozen=True, kw_only=True):
    workflow: WorkflowId
    state: WorkflowState
    reason: str = ""
    exit_code: int | None = None


class StepArrived(_Kept, frozen=True, kw_only=True):
    """An HTTP request that asks for one LLM call. `workflow` or `key` say whose it is, or neither."""

    step: StepId
    tenant: TenantId
    model: str
    workflow: WorkflowId | None = None
    key: str = ""
    session: str = "main"
    """Name of the session within the workflow."""
    rule: str = "none"
    """Which identification rule fired (`saga_core.identity`)."""
    confidence: float = 1.0
    """Below 1 where the session was inferred from the prompt."""
    agent_type: str = ""
    stream: bool = False
    body_bytes: int = 0
    tool: str = ""
    """The tool whose result this step brings, if the client names it."""
    expected_tokens: int = 0
    """That it will write, as its client says; 0: it does not."""
    parent: str = ""
    """The session that opened this one, if the client names it."""
    prefix: str = ""
    """Name of what its prompt begins with, of a workflow's first step."""
    told: Told | None = None
    weight: float = 1.0
    """Of its tenant: of the workflow that the step may begin."""
    adapter: str = ""
    """The name of an adapter of `model`, where it asks for one (LoRA)."""


class StepPlaced(_Kept, frozen=True, kw_only=True):
    step: StepId
    worker: WorkerId
    why: str
    incarnation: int = 0
    """Of the worker: what ends later under another one says nothing about the worker of now."""
    gpus: int = 1
    """Of the worker; one, where it has none."""


class SessionPaused(_Kept, frozen=True, kw_only=True):
    """Its context counts no more: its next step waits until there is room."""

    session: SessionId
    worker: WorkerId
    why: str


class SessionMoved(_Kept, frozen=True, kw_only=True):
    """Its KV was brought to its new home, or was not: then what is missing there is computed again.

    A session whose home was still `source` was handed on between two steps: from here on its home is `target`.
    """

    session: SessionId
    source: WorkerId
    target: WorkerId
    tokens: int = 0
    """Of its beginning that are at the new home now."""
    copied_bytes: int = 0
    took_s: float = 0.0
    priced_s: float = 0.0
    """What it was expected to take."""
    again_s: float = 0.0
    """What computing it again would have taken, by the cost table."""
    failed: str = ""
    """Why it was not; empty: it was."""


class StepLost(_Kept, frozen=True, kw_only=True):
    """Its worker went away, and the step can go elsewhere."""

    step: StepId
    worker: WorkerId
    detail: str = ""
    begun: bool = False
    """The client has a part of the answer: the rest is computed elsewhere, behind what was said."""


class StepFinished(_Kept, frozen=True, kw_only=True):
    step: StepId
    outcome: Outcome
    status: int = 200
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    output_tokens: int | None = None
    ttft_s: float | None = None
    duration_s: float = 0.0
    tool: str = ""
    """What the answer asked for; of several the first. `-`: for nothing, its turn is over; empty: nobody saw."""
    detail: str = ""


class ProfileChanged(_Kept, frozen=True, kw_only=True):
    """From here on, decisions are made by this profile."""

    profile: str


class NodeJoined(_Kept, frozen=True, kw_only=True):
    node: NodeId
    incarnation: int
    host: str


class NodeLost(_Kept, frozen=True, kw_only=True):
    node: NodeId
    reason: str


class DrainCause(StrEnum):
    ASKED = "asked"  # somebody said so: until somebody takes it back
    ENDS = "ends"  # its wall time does
    REMOVED = "removed"  # as asked, and its daemon ends when nothing is left there


class NodeDraining(_Kept, frozen=True, kw_only=True):
    """It takes no new sessions; those that are there go on elsewhere with their next step."""

    node: NodeId
    cause: DrainCause
    reason: str
    until: float | None = None
    """When what is left there is broken off; None: never."""


class NodeDrained(_Kept, frozen=True, kw_only=True):
    """Nothing of ours is there any more."""

    node: NodeId


class NodeUndrained(_Kept, frozen=True, kw_only=True):
    """It takes sessions again, or is gone for good."""

    node: NodeId
    reason: str = ""


class WorkerReady(_Kept, frozen=True, kw_only=True):
    worker: WorkerId
    incarnation: int
    model: str


class WorkerLost(_Kept, frozen=True, kw_only=True):
    worker: WorkerId
    incarnation: int
    reason: str


class HeadStarted(_Kept, frozen=True, kw_only=True):
    """A new process took over: every step that was in flight is lost with the old one."""

    incarnation: int
    version: str


class FinishAsked(msgspec.Struct, frozen=True, kw_only=True):
    """Whoever runs the workflow says that it is over."""

    workflow: WorkflowId
    state: WorkflowState
    reason: str = ""


class DrainAsked(msgspec.Struct, frozen=True, kw_only=True):
    """A person or a program wants `node` emptied."""

    node: NodeId
    reason: str = ""
    within_s: float | None = None
    """After so many seconds, what is left there is broken off; None: never."""
    remove: bool = False
    """Its daemon shall end then."""


class UndrainAsked(msgspec.Struct, frozen=True, kw_only=True):
    """`node` shall take sessions again."""

    node: NodeId


class CloseAsked(msgspec.Struct, frozen=True, kw_only=True):
    """The cluster will be taken down: no new workflows, those that are there may end."""


class Tick(msgspec.Struct, frozen=True, kw_only=True):
    """Time passed. The shell sends one per epoch (100 ms)."""


Fact = (
    WorkflowSubmitted
    | ProgramGiven
    | ProgramStarted
    | WorkflowRequeued
    | CancelAsked
    | WorkflowEnded
    | StepArrived
    | StepPlaced
    | SessionPaused
    | SessionMoved
    | StepLost
    | StepFinished
    | ProfileChanged
    | NodeJoined
    | NodeLost
    | NodeDraining
    | NodeDrained
    | NodeUndrained
    | WorkerReady
    | WorkerLost
    | HeadStarted
)

Event = (
    WorkflowSubmitted
    | CancelAsked
    | FinishAsked
    | StepArrived
    | StepLost
    | StepFinished
    | ProfileChanged
    | HeadStarted
    | DrainAsked
    | UndrainAsked
    | CloseAsked
    | Tick
    | ToHead
)
