"""What to do: the values `Head.handle` returns, performed in order by the shell around it."""

from __future__ import annotations

from dataclasses import dataclass

from saga_core.events import Fact
from saga_core.ids import NodeId, SessionId, StepId, WorkerId
from saga_core.wire import ToNode


@dataclass(frozen=True, slots=True)
class Record:
    """Keep this fact. It is already applied; the shell writes it before it performs the next action."""

    fact: Fact


@dataclass(frozen=True, slots=True)
class Dispatch:
    """Send this step to this worker."""

    step: StepId
    worker: WorkerId
    session: SessionId | None
    why: str


@dataclass(frozen=True, slots=True)
class Refuse:
    """Answer this step with an error of the API's own shape."""

    step: StepId
    status: int
    type: str
    code: str
    message: str
    retry_after_s: int | None = None


@dataclass(frozen=True, slots=True)
class Abort:
    """Break this step off: its workflow is over."""

    step: StepId
    reason: str


@dataclass(frozen=True, slots=True)
class Disconnect:
    """Close every connection to this worker: it is lost, whatever its sockets say."""

    worker: WorkerId
    reason: str


@dataclass(frozen=True, slots=True)
class Send:
    """Say this to a node."""

    node: NodeId
    message: ToNode


@dataclass(frozen=True, slots=True)
class Ignored:
    """Nothing was done, and why; counted, so that a test and an operator can see it."""

    reason: str
    what: str


Action = Record | Dispatch | Refuse | Abort | Disconnect | Send | Ignored
