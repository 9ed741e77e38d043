"""The node's own words: what happens to it (`Event`) and what its shell is to do (`Action`).

Structs, not dataclasses: a frozen dataclass takes five times as long to make.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from saga_core import wire
from saga_core.ids import SessionId, WorkerId, WorkflowId

# -- events ------------------------------------------------------------------------------


class HeadSaid(msgspec.Struct, frozen=True):
    message: wire.ToNode


class WorkerUp(msgspec.Struct, frozen=True):
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
    host_tokens: int = 0
    """KV that the engine keeps in host memory behind its own."""
    ordered: bool = False
    """Whether it serves the smallest priority first."""
    gpus: int = 1
    values: bool = False
    """Whether it takes what sessions' KV is worth."""
    kv_token_bytes: int = 0
    """Of one token's KV in a file; 0: it cannot be moved."""
    capabilities: tuple[wire.Capability, ...] = ()
    """Found out at its start."""
    adapters: tuple[str, ...] = ()
    """Names that it serves beside `model`."""


class WorkerExited(msgspec.Struct, frozen=True):
    worker: WorkerId
    incarnation: int
    reason: str


class WorkerLoad(msgspec.Struct, frozen=True):
    """One reading of a ready worker's own figures."""

    worker: WorkerId
    incarnation: int
    running: int
    waiting: int
    kv_usage: float
    tokens: int | None = None
    """Read and written since its start; None: it does not say."""


class WorkerSilent(msgspec.Struct, frozen=True):
    """A probe of a worker failed."""

    worker: WorkerId
    incarnation: int
    reason: str


class Residency(msgspec.Struct, frozen=True):
    """Sessions whose resident tokens changed; `reset` says that all earlier ones are void."""

    worker: WorkerId
    incarnation: int
    tokens: Mapping[SessionId, int]
    reset: bool = False
    holes: int = 0
    """Times that events were lost or wrong, since the worker's start."""
    healed: int = 0
    """Times that the engine was asked instead."""


class KvMoved(msgspec.Struct, frozen=True):
    """The answer to `MoveKv`; reason: why that half is not done."""

    head: int
    move: int
    half: wire.Half
    tokens: int = 0
    copied_bytes: int = 0
    reason: str = ""


class ProgramExited(msgspec.Struct, frozen=True):
    workflow: WorkflowId
    attempt: int
    exit_code: int | None
    reason: str = ""


class EndKnown(msgspec.Struct, frozen=True):
    """The allocation ends at `ends_at` on the node's clock: nearer than it was said, or later; None: never."""

    ends_at: float | None


class StopAsked(msgspec.Struct, frozen=True):
    """The daemon was told to end (signal, or the end of its allocation)."""

    reason: str


class Tick(msgspec.Struct, frozen=True):
    pass


Event = (
    HeadSaid
    | WorkerUp
    | WorkerExited
    | WorkerLoad
    | WorkerSilent
    | Residency
    | KvMoved
    | ProgramExited
    | EndKnown
    | StopAsked
    | Tick
)


# -- actions -----------------------------------------------------------------------------


class SpawnWorker(msgspec.Struct, frozen=True):
    worker: WorkerId
    incarnation: int


class KillWorker(msgspec.Struct, frozen=True):
    """End this worker's whole process group; its `WorkerExited` is the answer."""

    worker: WorkerId
    incarnation: int
    reason: str


class SendHead(msgspec.Struct, frozen=True):
    message: wire.ToHead


class StartProgram(msgspec.Struct, frozen=True):
    program: wire.RunProgram


class EndProgram(msgspec.Struct, frozen=True):
    workflow: WorkflowId
    attempt: int
    grace_s: float


class SetWorths(msgspec.Struct, frozen=True):
    """Tell the engine what these sessions' KV is worth from now on; None: nobody says any more.

    `soon`: sessions whose steps are near, to be loaded from host memory if the engine can.
    """

    worker: WorkerId
    incarnation: int
    worths: Mapping[SessionId, tuple[int, float] | None]
    soon: tuple[SessionId, ...] = ()


class MoveKv(msgspec.Struct, frozen=True):
    """Have the engine do its half of a move; `KvMoved` is the answer."""

    want: wire.MoveHalf


class RemoveKv(msgspec.Struct, frozen=True):
    """Remove the file of this move, which was exported here; nothing where it is gone."""

    head: int
    move: int


class FindHead(msgspec.Struct, frozen=True):
    """The head is silent: read its address again and connect anew."""


class Quit(msgspec.Struct, frozen=True):
    """Stop everything that runs here and end the daemon."""

    reason: str
    exit_code: int


class Ignored(msgspec.Struct, frozen=True):
    reason: str
    what: str


Action = (
    SpawnWorker
    | KillWorker
    | SendHead
    | StartProgram
    | EndProgram
    | SetWorths
    | MoveKv
    | RemoveKv
    | FindHead
    | Quit
    | Ignored
)
