"""What the head shows of itself: the answers of the control API, the CLI's input.

Frozen, complete, and free of secrets but for `Accepted` (the one answer to a submission).
"""

from __future__ import annotations

import msgspec

from saga_core.aeg.words import Declared
from saga_core.states import NodeState
from saga_core.wire import Capability


class WorkerView(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    node: str
    state: str
    model: str
    incarnation: int
    load: float
    """[0, 1]; the one number placement looks at (`saga_core.fleet.Worker.load`)."""
    kv_usage: float
    """[0, 1]: share of KV blocks referenced by running steps (pinned)."""
    resident_tokens: int
    """Tokens of known sessions whose KV is in this worker, pinned or not."""
    capacity_tokens: int
    running: int
    waiting: int
    steps_done: int
    reason: str = ""
    need_tokens: int | None = None
    """Tokens that its live sessions need or soon will; None: its model has no gate."""
    limit_tokens: int | None = None
    """Of these, how many its memory takes by now; None: no gate, or memory that is not known."""
    factor: float | None = None
    """The limit as a multiple of its memory."""
    live_sessions: int = 0
    """Those that it was let in for, in a tool too."""
    held_sessions: int = 0
    """Those paused here that have a step waiting."""
    retained_tokens: int = 0
    """Of the resident ones, those of sessions that are in a tool and shall find them again."""
    evictable_tokens: int = 0
    """Of the resident ones, those of sessions that are paused: nobody keeps them."""
    prompt_tokens: int = 0
    """Of its finished steps, as this head saw them."""
    cached_tokens: int = 0
    capabilities: tuple[Capability, ...] = ()
    """What its start was tried for."""
    holes: int = 0
    """Times that its KV events were lost or wrong."""
    healed: int = 0
    """Times that it was asked instead."""


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
    duty: str = "active"
    """`active`, `draining` (it takes no new sessions) or `drained` (and nothing of ours is left)."""
    why: str = ""
    """Why it drains."""
    until_s: float | None = None
    """Seconds until what is left on a draining node is broken off, if that is to be."""
    steps: int = 0
    """On its workers."""
    removed: bool = False
    """Its daemon ends as soon as it is drained."""

    @property
    def standing(self) -> str:
        """What a node that is up does, where that is not all of its duty; of another one, what has become of it."""
        return self.duty if self.state == NodeState.UP and self.duty != "active" else self.state


class SessionView(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    state: str
    home: str | None
    steps: int
    context_tokens: int
    resident_tokens: int
    gate: str = ""
    """`in`, `held` (it has not been in yet) or `paused`; empty: no gate knows it."""
    waits_s: float | None = None
    """How long it has been waiting at the gate with a step."""
    rule: str = ""
    """By which its latest step was recognised (docs/identity.md)."""
    confidence: float = 1.0
    """Below 1 where it was inferred from the prompt."""


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
    """Completion time: submission to end; None while it is live."""
    exit_code: int | None = None
    reason: str = ""
    sessions: list[SessionView] = []
    held_s: float | None = None
    """How long the longest waiting of its sessions has been at the gate."""
    paused: int = 0
    """Its sessions that are paused, with a step waiting or not."""
    resident_tokens: int = 0
    """KV of its sessions, in the memory of their homes."""
    priority: int = 0
    """Larger goes sooner: as its submission or its first step said."""
    slack_s: float | None = None
    """Seconds until its deadline, negative beyond it; None: it has none, or is over."""
    eta_s: float | None = None
    """Seconds until it should be over, at the pace it has had; None: nothing is known, or it is over."""
    why: str = ""
    """Why it waits, while it does."""


class TenantView(msgspec.Struct, frozen=True, kw_only=True):
    """Who pays, and what came of it."""

    id: str
    weight: float
    live: int
    """Workflows not ended."""
    held: int
    """Of these, with a session waiting at the gate."""
    attained_s: float
    """Engine seconds of useful work that its workflows had, over the life of this head."""
    share: float
    """Of the work of all tenants, in [0, 1]."""
    ended: int = 0
    slowdown: float | None = None
    """Mean over its ended workflows of life / life without waiting; None: none ended yet."""
    promised: int = 0
    """Ended workflows that had a deadline."""
    kept: int = 0
    """Of these, done within it."""


class EventView(msgspec.Struct, frozen=True, kw_only=True):
    """One fact, as `saga events` shows it: free of secrets."""

    seq: int
    """Counts the facts of one head."""
    at: float
    """Seconds since the epoch (UTC)."""
    kind: str
    """Name of the fact (`saga_core.events`)."""
    workflow: int | None = None
    session: str = ""
    """Name of the session within the workflow."""
    step: int | None = None
    facts: dict[str, str | int | float | bool] = {}
    """Its other fields, as far as they are said."""


class EventPage(msgspec.Struct, frozen=True, kw_only=True):
    """Facts in a row."""

    head: int
    """Incarnation of the head: numbers of another one mean nothing."""
    events: list[EventView]
    next: int
    """What to ask for as `after` next."""
    missed: int = 0
    """Facts that were asked for and are kept no more."""


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
    steps_held: int = 0
    """Steps at the gate."""
    sessions_held: int = 0
    """Sessions at the gate with a step, of which none or some have been in before."""
    sessions_paused: int = 0
    decisions: dict[str, int] = {}
    """By verdict, over the life of this head."""


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
    idle_s: float | None = None
    """How long nothing has been there that will want an engine; None: something is."""
    backlog: list[BacklogView] = []
    """Per model."""
    workflows: list[WorkflowView]
    """Live ones, and the most recent of the ended."""
    tenants: list[TenantView] = []
    at: float = 0.0
    """When this was so, in seconds since the epoch (UTC)."""


class ProgramSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A program to run on a node, as the person gave it. No shell is involved."""

    argv: list[str]
    cwd: str
    env: dict[str, str] = {}
    cpus: int = 0
    """Cores that it takes of its node; 0: it counts for none."""
    memory_bytes: int = 0
    """The same of memory."""


class BacklogView(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a model has as many workers as its sessions want."""

    model: str
    ready: int
    """Workers that take new sessions."""
    wanted: int
    """For the memory of all sessions, those too that wait; at least one while anybody is there."""
    waiting_steps: int
    waiting_tokens: int
    """Of the sessions that wait."""


class ShutdownRequest(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """To end the cluster. An older head refuses fields that it does not know: what is not asked for is not named."""

    drain: bool = False
    """First take no new workflows, and let those that are there end."""
    within_s: float = 600.0
    """For at most so many seconds."""
    hand_over: bool = False
    """Only the head ends, since another one is about to begin: answers that are under way are read to their ends."""


class DrainRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """To empty a node."""

    reason: str = ""
    within_s: float | None = None
    """After so many seconds what is left is broken off: steps, and programs, which start again elsewhere."""
    remove: bool = False
    """Its daemon ends then."""


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
    priority: int = 0
    """Larger goes sooner."""


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
