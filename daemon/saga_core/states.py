"""The life cycles: which state follows which, and by what.

Rules of this file
  1. Everything that decides about a state change of these objects lives here, as data.
  2. `(state, cause) -> state`. A pair that is missing is a bug and raises
     `InvalidTransition` with the object's story; nothing is repaired silently.
  3. A pair that maps a state to itself says: this may be repeated, and changes nothing.
  4. docs/states.md is drawn from these tables; a test compares them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import TypeVar

from saga_core.errors import InvalidTransition


class WorkflowState(StrEnum):
    ACCEPTED = "accepted"  # on disk; its program waits for a node
    RUNNING = "running"
    CANCELLING = "cancelling"  # its program is being stopped
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class SessionState(StrEnum):
    QUEUED = "queued"  # a step has arrived and has no worker yet
    REASONING = "reasoning"  # a step is on a worker
    TOOL = "tool"  # between two steps
    CLOSED = "closed"


class WorkerState(StrEnum):
    STARTING = "starting"
    READY = "ready"
    LOST = "lost"  # its process ended or its node is silent; it may come back


class NodeState(StrEnum):
    UP = "up"
    LOST = "lost"  # no report for `node_timeout_s`
    LEFT = "left"  # said goodbye


class DutyState(StrEnum):
    ACTIVE = "active"  # takes sessions
    DRAINING = "draining"  # takes no new ones; what is there moves on or ends
    DRAINED = "drained"  # nothing of ours is there any more


class MoveState(StrEnum):
    EXPORTING = "exporting"  # its old home is asked for it
    ADOPTING = "adopting"  # it lies in a file; its new home is asked to take it
    DONE = "done"
    FAILED = "failed"  # it is where it was; at the new home it is computed again


W, S, K, N, D = WorkflowState, SessionState, WorkerState, NodeState, DutyState

WORKFLOW: Mapping[tuple[WorkflowState, str], WorkflowState] = {
    (W.ACCEPTED, "program started"): W.RUNNING,
    (W.ACCEPTED, "step"): W.RUNNING,
    (W.ACCEPTED, "cancel"): W.CANCELLING,
    (W.RUNNING, "program started"): W.RUNNING,
    (W.RUNNING, "cancel"): W.CANCELLING,
    (W.RUNNING, "requeue"): W.ACCEPTED,  # its node is lost before the program could be
    (W.CANCELLING, "program started"): W.CANCELLING,
    (W.CANCELLING, "cancel"): W.CANCELLING,
    **{(state, f"ended {end}"): end
       for state in (W.ACCEPTED, W.RUNNING, W.CANCELLING)
       for end in (W.DONE, W.FAILED, W.CANCELLED)},
}  # fmt: skip

SESSION: Mapping[tuple[SessionState, str], SessionState] = {
    (S.TOOL, "step arrived"): S.QUEUED,
    (S.QUEUED, "step arrived"): S.QUEUED,  # two steps of one session at once: agents do that
    (S.REASONING, "step arrived"): S.REASONING,
    (S.QUEUED, "step placed"): S.REASONING,
    (S.REASONING, "step placed"): S.REASONING,
    (S.QUEUED, "steps over"): S.TOOL,
    (S.REASONING, "steps over"): S.TOOL,
    (S.REASONING, "step waits"): S.QUEUED,  # its worker was lost before the first byte
    (S.QUEUED, "step waits"): S.QUEUED,
    (S.TOOL, "closed"): S.CLOSED,  # its steps are broken off first
}

WORKER: Mapping[tuple[WorkerState, str], WorkerState] = {
    (K.STARTING, "starting"): K.STARTING,
    (K.STARTING, "ready"): K.READY,
    (K.STARTING, "lost"): K.LOST,
    (K.READY, "ready"): K.READY,
    (K.READY, "starting"): K.STARTING,  # restarted faster than a report
    (K.READY, "lost"): K.LOST,
    (K.LOST, "starting"): K.STARTING,
    (K.LOST, "ready"): K.READY,
    (K.LOST, "lost"): K.LOST,
}

NODE: Mapping[tuple[NodeState, str], NodeState] = {
    (N.UP, "silent"): N.LOST,
    (N.UP, "goodbye"): N.LEFT,
    (N.LOST, "joined"): N.UP,
    (N.LOST, "goodbye"): N.LEFT,
    (N.LEFT, "joined"): N.UP,
}

DUTY: Mapping[tuple[DutyState, str], DutyState] = {
    (D.ACTIVE, "drain"): D.DRAINING,
    (D.DRAINING, "drain"): D.DRAINING,  # by another time, or for another reason
    (D.DRAINED, "drain"): D.DRAINING,
    (D.DRAINING, "empty"): D.DRAINED,
    (D.DRAINING, "undrain"): D.ACTIVE,
    (D.DRAINED, "undrain"): D.ACTIVE,
}

MOVE: Mapping[tuple[MoveState, str], MoveState] = {
    (MoveState.EXPORTING, "exported"): MoveState.ADOPTING,
    (MoveState.EXPORTING, "failed"): MoveState.FAILED,
    (MoveState.ADOPTING, "adopted"): MoveState.DONE,
    (MoveState.ADOPTING, "failed"): MoveState.FAILED,
}

ENDED = frozenset({W.DONE, W.FAILED, W.CANCELLED})

State = TypeVar("State", WorkflowState, SessionState, WorkerState, NodeState, DutyState, MoveState)


def advance(
    table: Mapping[tuple[State, str], State],
    state: State,
    cause: str,
    *,
    what: str,
    story: Sequence[str] = (),
) -> State:
    """The state after `cause`. Raises `InvalidTransition` for a pair the table does not know."""
    try:
        return table[state, cause]
    except KeyError:
        raise InvalidTransition(what, state, cause, story) from None
