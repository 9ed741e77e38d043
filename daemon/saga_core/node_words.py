"""The node's own words: what happens to it (`Event`) and what its shell is to do (`Action`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from saga_core import wire
from saga_core.ids import SessionId, WorkerId, WorkflowId

# -- events ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class HeadSaid:
    message: wire.ToNode


@dataclass(frozen=True, slots=True)
class WorkerUp:
    """The engine answers, and it is ours."""

    worker: WorkerId
    incarnation: int
    host: str
    port: int
    key: str
    model: str
    capacity_tokens: int
    max_model_len: int
    max_seqs: int


@dataclass(frozen=True, slots=True)
class WorkerExited:
    worker: WorkerId
    incarnation: int
    reason: str


@dataclass(frozen=True, slots=True)
class WorkerLoad:
    """One reading of a ready worker's own figures."""

    worker: WorkerId
    incarnation: int
    running: int
    waiting: int
    kv_usage: float


@dataclass(frozen=True, slots=True)
class WorkerSilent:
    """A probe of a worker failed."""

    worker: WorkerId
    incarnation: int
    reason: str


@dataclass(frozen=True, slots=True)
class Residency:
    """Sessions whose resident tokens changed; `reset` says that all earlier ones are void."""

    worker: WorkerId
    incarnation: int
    tokens: Mapping[SessionId, int]
    reset: bool = False


@dataclass(frozen=True, slots=True)
class ProgramExited:
    workflow: WorkflowId
    attempt: int
    exit_code: int | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class StopAsked:
    """The daemon was told to end (signal, or the end of its allocation)."""

    reason: str


@dataclass(frozen=True, slots=True)
class Tick:
    pass


Event = (
    HeadSaid
    | WorkerUp
    | WorkerExited
    | WorkerLoad
    | WorkerSilent
    | Residency
    | ProgramExited
    | StopAsked
    | Tick
)


# -- actions -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SpawnWorker:
    worker: WorkerId
    incarnation: int


@dataclass(frozen=True, slots=True)
class KillWorker:
    """End this worker's whole process group; its `WorkerExited` is the answer."""

    worker: WorkerId
    incarnation: int
    reason: str


@dataclass(frozen=True, slots=True)
class SendHead:
    message: wire.ToHead


@dataclass(frozen=True, slots=True)
class StartProgram:
    program: wire.RunProgram


@dataclass(frozen=True, slots=True)
class EndProgram:
    workflow: WorkflowId
    attempt: int
    grace_s: float


@dataclass(frozen=True, slots=True)
class FindHead:
    """The head is silent: read its address again and connect anew."""


@dataclass(frozen=True, slots=True)
class Quit:
    """Stop everything that runs here and end the daemon."""

    reason: str
    exit_code: int


@dataclass(frozen=True, slots=True)
class Ignored:
    reason: str
    what: str


Action = SpawnWorker | KillWorker | SendHead | StartProgram | EndProgram | FindHead | Quit | Ignored
