"""Where the live view has its snapshots from: a head, or a journal."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Protocol, runtime_checkable

from saga_cli.control import Control
from saga_core.explanation import Explanation
from saga_core.views import ClusterView, EventView

if TYPE_CHECKING:
    from saga_cli.folder import ClusterFolder

ASK_TIMEOUT_S: Final = 3.0
SHOWN: Final = 5_000
"""Workflows that a person can scroll through; of more, the live ones come first."""


class Source(Protocol):
    """Each call but `words` may take a while and raise ClusterError."""

    def words(self) -> str:
        """What the first line says of it."""
        ...

    def now(self) -> float:
        """Seconds since the epoch that it shows."""
        ...

    def cluster(self) -> ClusterView: ...
    def explanation(self, workflow: int) -> Explanation: ...
    def events(self, workflow: int) -> Sequence[EventView]:
        """Of one workflow, oldest first, as far as they are known."""
        ...


@runtime_checkable
class Moved(Protocol):
    """A source whose time a person moves."""

    def faster(self, by: int) -> None: ...
    def skip(self, by: int) -> None: ...


class Live:
    """The running head of a cluster folder, through its restarts."""

    def __init__(self, folder: ClusterFolder) -> None:
        self._folder = folder

    def words(self) -> str:
        return ""

    def now(self) -> float:
        return time.time()

    def cluster(self) -> ClusterView:
        return self._control().cluster(SHOWN)

    def explanation(self, workflow: int) -> Explanation:
        return self._control().explain_workflow(workflow)

    def events(self, workflow: int) -> Sequence[EventView]:
        control, found = self._control(), list[EventView]()
        page = control.events(workflow=workflow)
        while page.events:
            found += page.events
            page = control.events(after=page.next, workflow=workflow)
        return found

    def _control(self) -> Control:
        """Asked anew each time: a head that was restarted may have another port."""
        return Control.of(self._folder, ASK_TIMEOUT_S)
