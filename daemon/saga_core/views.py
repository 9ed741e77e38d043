"""What the head shows of itself: the answers of the control API, the CLI's input.

Frozen, complete, and free of secrets but for `Accepted` (the one answer to a submission).
"""

from __future__ import annotations

import msgspec

from saga_core.aeg.words import Declared


class WorkerView(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    node: str
    state: str
    model: str
    incarnation: int
    load: float
    """[0, 1]; the one number placement looks at (`saga_core.model.Worker.load`)."""
    kv_usage: float
    """[0, 1]: share of KV blocks referenced by running steps (pinned)."""
    resident_tokens: int
    """Tokens of known sessions whose KV is in this worker, pinned or not."""
    capacity_tokens: int
    running: int
    waiting: int
    steps_done: int
    reason: str = ""


class NodeView(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    state: str
    host: str
    incarnation: int
    seen_s: float
    """Seconds since its last report."""
    programs: int
    end_s: float | None = None
    """Seconds until its wall time ends, if it has one."""


class SessionView(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    state: str
    home: str | None
    steps: int
    context_tokens: int
    resident_tokens: int


class WorkflowView(msgspec.Struct, frozen=True, kw_only=True):
    id: int
    name: str
    tenant: str
    agent_type: str
    state: str
    """A `WorkflowState`; while it runs with known sessions, what they do: queued, reasoning or tool."""
    kind: str
    """`program` (started by saga), `replay` or `outside`."""
    submitted_at: float
    """Seconds since the epoch (UTC)."""
    started_at: float | None
    ended_at: float | None
    steps: int
    running_steps: int
    home: str | None
    """Worker of its latest step."""
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    tct_s: float | None
    """Task completion time: submission to end; None while it is live."""
    exit_code: int | None = None
    reason: str = ""
    sessions: list[SessionView] = []


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    workflows: dict[str, int]
    """Number of workflows per state, over the life of the cluster."""
    steps_done: int
    steps_refused: int
    steps_waiting: int
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    stale_messages: int


class ClusterView(msgspec.Struct, frozen=True, kw_only=True):
    """One snapshot of everything: `saga status`, and each frame of `saga top`."""

    name: str
    version: str
    profile: str
    url: str
    up_s: float
    models: list[str]
    nodes: list[NodeView]
    workers: list[WorkerView]
    totals: Totals
    workflows: list[WorkflowView]
    """Live ones, and the most recent of the ended."""


class ProgramSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A program to run on a node, as the person gave it. No shell is involved."""

    argv: list[str]
    cwd: str
    env: dict[str, str] = {}


class SubmitRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str = ""
    tenant: str = "default"
    agent_type: str = ""
    program: ProgramSpec | None = None
    """None: the client itself runs the steps (`kind` says why), and ends it by `finish`."""
    kind: str = "program"
    work_s: float = 0.0
    """Engine seconds that it will take; 0: nobody says."""
    steps: int = 0
    instance: str = ""
    """What it works on: workflows of one instance resemble each other."""
    deadline_s: float = 0.0
    """Seconds within which it should be over; 0: whenever."""
    graph: tuple[Declared, ...] = ()


class Accepted(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a submission, sent once it is on disk."""

    id: int
    base_url: str
    """`http://host:port/s/<token>/v1`"""
    api_key: str
    log: str = ""
    """Path of the program's output, in the cluster folder."""


class FinishRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    state: str = "done"
    reason: str = ""
