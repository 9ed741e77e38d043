"""What crosses between head and node, and how it is framed.

Rules of this file
  1. Messages are facts (node to head) or wants (head to node); a want is repeated until
     the facts show it done, so a lost or repeated message changes nothing.
  2. Every message of a node carries its `incarnation`; the head drops older ones.
  3. New fields get defaults, so an older reader still reads a newer writer.
     A change that an older peer would misread raises `PROTOCOL`.
  4. Whatever arrives is checked here once; garbage is a `RemoteProtocolError`.

docs/protocol.md says the same in prose.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, TypeVar

import msgspec

from saga_core.errors import LocalProtocolError, RemoteProtocolError
from saga_core.ids import NodeId, SessionId, WorkerId, WorkflowId
from saga_core.states import WorkerState

PROTOCOL: Final = 1
MAX_MESSAGE_BYTES: Final = 8 * 1024 * 1024
"""A report of 10,000 sessions takes about 400 KB; twenty times that is a fault."""


class Message(msgspec.Struct, frozen=True, kw_only=True, tag=True, omit_defaults=True):
    """Base of everything on the wire; the tag is the class name."""


class Capability(msgspec.Struct, frozen=True, array_like=True):
    """What a start of a worker was tried for, with how it went; `works` None: it was not tried."""

    name: str
    """prefix hits, events, session control, tiers, priority."""
    works: bool | None
    detail: str = ""


class WorkerFact(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a node knows of one of its workers."""

    worker: WorkerId
    incarnation: int
    state: WorkerState
    model: str
    host: str = ""
    port: int = 0
    key: str = ""
    """Bearer of this worker; it travels inside CURVE only and is never logged."""
    capacity_tokens: int = 0
    max_model_len: int = 0
    max_seqs: int = 0
    host_tokens: int = 0
    """KV in host memory, from where it is loaded again instead of computed."""
    ordered: bool = False
    """Whether it serves the smallest priority first (vLLM --scheduling-policy priority), not as requests come."""
    values: bool = False
    """Whether its engine takes what sessions' KV is worth (`Worths`)."""
    kv_token_bytes: int = 0
    """Of one token's KV in a file, as its start was tried; 0: its sessions' KV cannot be moved."""
    capabilities: tuple[Capability, ...] = ()
    """Found out at its start."""
    holes: int = 0
    """Times since its start that its KV events were lost, or did not agree with what it says when asked."""
    healed: int = 0
    """Times that what it says took the place of what was heard."""
    adapters: tuple[str, ...] = ()
    """Names that it serves beside `model` (LoRA)."""
    gpus: int = 1
    """That it runs on; one, where there are none."""
    running: int = 0
    waiting: int = 0
    kv_usage: float = 0.0
    stirs: int = 0
    """Grows while the engine does something; 0: it does not say."""
    reason: str = ""


class ProgramFact(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a node knows of one agent program."""

    workflow: WorkflowId
    attempt: int
    exited: bool = False
    exit_code: int | None = None
    reason: str = ""


class ResidentFact(msgspec.Struct, frozen=True, array_like=True):
    """`tokens` of `session` have their KV in `worker`, as a prefix without holes."""

    worker: WorkerId
    session: SessionId
    tokens: int


class Hello(Message, frozen=True, kw_only=True):
    """First word of a node daemon."""

    protocol: int
    version: str
    node: NodeId
    incarnation: int
    """Grows with each start of the daemon on this node (milliseconds since the epoch)."""
    host: str
    ends_in_s: float | None = None
    """Seconds until its allocation ends; None: never, as far as it knows."""
    program_slots: int = 64
    """Programs that may run here at once."""
    cpus: int = 0
    """Cores that programs may ask for in all; 0: it does not say."""
    memory_bytes: int = 0
    """The same of memory."""


class Report(Message, frozen=True, kw_only=True):
    """Everything a node knows, complete but for residency, which lists changes since the last `Ack`."""

    node: NodeId
    incarnation: int
    seq: int
    workers: list[WorkerFact] = []
    programs: list[ProgramFact] = []
    resident: list[ResidentFact] = []
    since: int = 0
    """The acknowledged report that `resident` builds upon; 0: upon nothing, everything is told."""
    ends_in_s: float | None = None
    """As in `Hello`: the end of an allocation may be put off, or be near all of a sudden."""


class Goodbye(Message, frozen=True, kw_only=True):
    """The daemon ends on purpose; its workers are already stopping."""

    node: NodeId
    incarnation: int
    reason: str = ""


class Valued(Message, frozen=True, kw_only=True):
    """Up to `version` of this head's worths, the engine of `worker` has been told."""

    node: NodeId
    incarnation: int
    head: int
    worker: WorkerId
    version: int


class Half(StrEnum):
    EXPORT = "export"  # the old home writes the session's KV to the file of the move
    ADOPT = "adopt"  # the new home takes in what the file holds


class HalfMoved(Message, frozen=True, kw_only=True):
    """That half of a move is done; with a reason, it is not and why."""

    node: NodeId
    incarnation: int
    head: int
    move: int
    half: Half
    tokens: int = 0
    copied_bytes: int = 0
    reason: str = ""


class Welcome(Message, frozen=True, kw_only=True):
    """The head took the node in."""

    protocol: int
    cluster: str
    incarnation: int
    """The node's own, echoed: a welcome meant for an earlier start is recognised."""
    head: int
    """Incarnation of the head."""
    report_every_s: float


class Refused(Message, frozen=True, kw_only=True):
    """The head does not take the node in; trying again will not help."""

    reason: str


class Ack(Message, frozen=True, kw_only=True):
    """The head has seen the report `seq`."""

    incarnation: int
    head: int
    seq: int


class WhoAreYou(Message, frozen=True, kw_only=True):
    """The head does not know the sender of a report: say `Hello` again."""


class RunProgram(Message, frozen=True, kw_only=True):
    """Want: this program runs. Repeated until a `ProgramFact` of it arrives."""

    workflow: WorkflowId
    attempt: int
    incarnation: int
    argv: list[str]
    cwd: str
    env: dict[str, str]
    log: str
    cpus: int = 0
    """Cores that it asked for; 0: for none."""
    memory_bytes: int = 0


class StopProgram(Message, frozen=True, kw_only=True):
    """Want: this program has ended: TERM now, KILL after `grace_s`."""

    workflow: WorkflowId
    attempt: int
    grace_s: float


class ForgetProgram(Message, frozen=True, kw_only=True):
    """The head has recorded the end of this program; its fact need not be repeated."""

    workflow: WorkflowId
    attempt: int


class Worths(Message, frozen=True, kw_only=True):
    """Want: the engine of `worker` keeps KV by these worths. Repeated until a `Valued` names its version."""

    head: int
    worker: WorkerId
    incarnation: int
    """Of the worker."""
    since: int
    """The version that this builds upon; 0: upon nothing, all that was said before is void."""
    version: int
    worths: dict[SessionId, tuple[int, float] | None]
    """(standing, value) as in `saga_core.kv.retention`, the least goes first; None: nobody says any more."""
    soon: list[SessionId] = []
    """Sessions whose next steps are near: what host memory has of them may be loaded. Said once, and never repeated."""


class RestartWorker(Message, frozen=True, kw_only=True):
    """Want: this incarnation of a worker is ended, and the next one started. Repeated while its facts say ready."""

    worker: WorkerId
    incarnation: int
    reason: str


class MoveHalf(Message, frozen=True, kw_only=True):
    """Want: that half of a move is done by the engine of `worker`. Repeated until a `HalfMoved` of it arrives."""

    head: int
    move: int
    """Counts up per head; head and move name the file."""
    half: Half
    worker: WorkerId
    incarnation: int
    """Of the worker."""
    session: SessionId
    other: NodeId
    """Of the other half: the file is in shared memory if it is the same node, in the cluster folder if it is another."""


class EndMove(Message, frozen=True, kw_only=True):
    """Nobody wants this move's file any more. Said once: a node removes a file by itself that nobody asks for."""

    head: int
    move: int


class Shutdown(Message, frozen=True, kw_only=True):
    """Want: the node daemon stops its workers and programs and ends."""

    reason: str


ToHead = Hello | Report | Goodbye | Valued | HalfMoved
ToNode = (
    Welcome
    | Refused
    | Ack
    | WhoAreYou
    | RunProgram
    | StopProgram
    | ForgetProgram
    | Worths
    | RestartWorker
    | MoveHalf
    | EndMove
    | Shutdown
)

M = TypeVar("M")

_encoder = msgspec.msgpack.Encoder()
_to_head: msgspec.msgpack.Decoder[ToHead] = msgspec.msgpack.Decoder(ToHead)
_to_node: msgspec.msgpack.Decoder[ToNode] = msgspec.msgpack.Decoder(ToNode)


def encode(message: Message) -> bytes:
    """One frame. Raises `LocalProtocolError` when it is over `MAX_MESSAGE_BYTES`."""
    frame = _encoder.encode(message)
    if len(frame) > MAX_MESSAGE_BYTES:
        name = type(message).__name__
        raise LocalProtocolError(f"{name} of {len(frame)} bytes is over the limit of {MAX_MESSAGE_BYTES}")
    return frame


def decode_to_head(frame: bytes) -> ToHead:
    """What a node said. Raises `RemoteProtocolError` on anything that is not a message of ours."""
    return _decode(_to_head, frame)


def decode_to_node(frame: bytes) -> ToNode:
    """What the head said. Raises `RemoteProtocolError` on anything that is not a message of ours."""
    return _decode(_to_node, frame)


def _decode(decoder: msgspec.msgpack.Decoder[M], frame: bytes) -> M:
    if len(frame) > MAX_MESSAGE_BYTES:
        raise RemoteProtocolError(f"frame of {len(frame)} bytes is over the limit of {MAX_MESSAGE_BYTES}")
    try:
        return decoder.decode(frame)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RemoteProtocolError(f"not a saga message: {error}") from error
