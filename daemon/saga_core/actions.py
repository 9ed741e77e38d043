"""What to do: the values `Head.handle` returns, performed in order by the shell around it.

Structs of msgspec, although they never leave the process: they are made for every step, and a
frozen dataclass takes five times as long to make.
"""

from __future__ import annotations

import msgspec

from saga_core.events import Fact
from saga_core.ids import NodeId, SessionId, StepId, WorkerId
from saga_core.wire import ToNode


class Record(msgspec.Struct, frozen=True):
    """Keep this fact. It is already applied; the shell writes it before it performs the next action."""

    fact: Fact


class Dispatch(msgspec.Struct, frozen=True):
    """Send this step to this worker."""

    step: StepId
    worker: WorkerId
    session: SessionId | None
    why: str
    priority: int | None = None
    """For engines that serve by it, smaller first (vLLM --scheduling-policy priority); None: they do not."""


class Refuse(msgspec.Struct, frozen=True):
    """Answer this step with an error of the API's own shape."""

    step: StepId
    status: int
    type: str
    code: str
    message: str
    retry_after_s: int | None = None


class Abort(msgspec.Struct, frozen=True):
    """Break this step off: its workflow is over."""

    step: StepId
    reason: str


class Disconnect(msgspec.Struct, frozen=True):
    """Close every connection to this worker: it is lost, whatever its sockets say."""

    worker: WorkerId
    reason: str


class Send(msgspec.Struct, frozen=True):
    """Say this to a node."""

    node: NodeId
    message: ToNode


class Ignored(msgspec.Struct, frozen=True):
    """Nothing was done, and why; counted, so that a test and an operator can see it."""

    reason: str
    what: str


Action = Record | Dispatch | Refuse | Abort | Disconnect | Send | Ignored
