"""A cluster, from Python: what the command line does, without a terminal.

    from saga_cli.client import Client

    cluster = Client.connect()                       # as the command line finds it
    number = cluster.submit(["python", "agent.py"], deadline_s=600).id
    (ended,) = cluster.wait([number])
    print(ended.state, ended.tct_s, cluster.log(number).decode())

Every method asks the head anew and raises an error of `saga_core.errors`: `UserError` for what was asked wrongly,
`ClusterError` where the cluster is at fault. A client keeps nothing and may be shared by threads.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, Self

from saga_cli.control import TIMEOUT_S, Control
from saga_cli.folder import DEFAULT, ClusterFolder
from saga_cli.selection import ranges, select
from saga_core.errors import ClusterError, UserError
from saga_core.explanation import Explanation
from saga_core.states import ENDED
from saga_core.views import Accepted, ClusterView, EventView, WorkflowView

if TYPE_CHECKING:
    from saga_cli.submission import Said

ASK_EVERY_S: Final = 0.5
CHUNK_BYTES: Final = 64 * 1024
LOOK_EVERY_S: Final = 0.1
"""How often a growing log is read."""
EVENTS_WAIT_S: Final = 5
"""How long one question for events stays open; below the timeout of an exchange."""


@dataclass(frozen=True, slots=True)
class Client:
    """The head of one cluster, and its folder."""

    control: Control
    folder: ClusterFolder

    @classmethod
    def connect(cls, cluster_dir: str | Path | None = None, *, timeout_s: float = TIMEOUT_S) -> Self:
        """The cluster in that folder; None: that of SAGA_CLUSTER_DIR, else ~/.saga/default.

        Raises ClusterError when none runs there.
        """
        named = cluster_dir or os.environ.get("SAGA_CLUSTER_DIR") or DEFAULT
        folder = ClusterFolder(Path(named).expanduser().absolute())
        return cls(Control.of(folder, timeout_s), folder)

    # -- looking -------------------------------------------------------------------------

    def status(self) -> ClusterView:
        """Nodes, workers, tenants, totals, and the latest workflows."""
        return self.control.cluster()

    def workflows(self, selector: str = "all") -> list[WorkflowView]:
        """Those that `last`, `3-7` or `1,4-6` means, by number. Raises UserError where it means none."""
        known = {w.id: w for w in self.control.workflows()}
        return (
            [known[number] for number in select(selector, list(known))] if known or selector != "all" else []
        )

    def workflow(self, number: int) -> WorkflowView:
        """One, with its sessions."""
        return self.control.workflow(number)

    def explain(self, which: int | str) -> Explanation:
        """Why a workflow's steps went where they went or wait; `saga-12` means the step of that request id."""
        from saga_cli.explaining import step_number

        step = step_number(which) if isinstance(which, str) else None
        if step is not None:
            return self.control.explain_step(step)
        if isinstance(which, str):
            which = self.only(which)
        return self.control.explain_workflow(which)

    def only(self, selector: str) -> int:
        """The number of the one workflow that `selector` means."""
        found = self.workflows(selector)
        if len(found) != 1:
            raise UserError(f"{selector!r} means {len(found)} workflows; this command takes one")
        return found[0].id

    # -- doing ---------------------------------------------------------------------------

    def submit(
        self,
        program: Sequence[str],
        *,
        name: str = "",
        agent_type: str = "",
        tenant: str = "default",
        env: Mapping[str, str] | None = None,
        workdir: Path | None = None,
        said: Said | None = None,
        cpus: int = 0,
        memory_bytes: int = 0,
    ) -> Accepted:
        """Start a program as a workflow of its own; returns once it is on the cluster's disk.

        `said`: what is known of it beforehand (deadline, priority, steps, its graph). cpus, memory_bytes: what it takes
        of its node. Raises UserError for what cannot be.
        """
        from saga_cli.submission import request

        pairs = [f"{key}={value}" for key, value in (env or {}).items()]
        return self.control.submit(
            request(
                program,
                name=name,
                agent_type=agent_type,
                tenant=tenant,
                env=pairs,
                workdir=workdir,
                said=said,
                cpus=cpus,
                memory_bytes=memory_bytes,
            )
        )

    def cancel(self, number: int) -> WorkflowView:
        """Stop it; one that has ended stays as it is."""
        found = self.control.workflow(number)
        return found if found.state in ENDED else self.control.cancel(number)

    def wait(
        self,
        numbers: Sequence[int],
        *,
        timeout_s: float | None = None,
        ended: Callable[[WorkflowView], None] = lambda _: None,
    ) -> list[WorkflowView]:
        """The workflows once all have ended; `ended` is told of each.

        Raises ClusterError when that takes longer than `timeout_s`; they go on then.
        """
        deadline = time.monotonic() + timeout_s if timeout_s is not None else None
        known: set[int] = set()
        while True:
            found = self._of(numbers)
            for over in [w for w in found if w.state in ENDED and w.id not in known]:
                known.add(over.id)
                ended(over)
            if len(known) == len(found):
                return found
            if deadline is not None and time.monotonic() > deadline:
                live = ranges([w.id for w in found if w.id not in known])
                raise ClusterError(f"not ended after {timeout_s:g} s: workflow {live} (they go on)")
            time.sleep(ASK_EVERY_S)

    def _of(self, numbers: Sequence[int]) -> list[WorkflowView]:
        if len(numbers) == 1:
            return [self.control.workflow(numbers[0])]
        wanted = set(numbers)
        return [w for w in self.control.workflows() if w.id in wanted]

    # -- following -----------------------------------------------------------------------

    def events(
        self, *, workflow: int | None = None, after: int | None = None, follow: bool = False
    ) -> Iterator[EventView]:
        """What happened, oldest first: all that the head keeps, or what came after number `after`.

        With `follow` it goes on, through restarts of the head, until the caller stops asking.
        """
        head: int | None = None
        while True:
            try:
                page = self._control().events(
                    after=after, workflow=workflow, wait_s=EVENTS_WAIT_S if follow else None
                )
            except ClusterError:
                if not follow or head is None:
                    raise
                time.sleep(ASK_EVERY_S)
                continue
            if head not in {None, page.head}:
                head, after = page.head, 0  # a new head counts from the beginning
                continue
            yield from page.events
            head, after = page.head, page.next
            if not page.events and not follow:
                return

    def _control(self) -> Control:
        """Looked up anew: a head that was started again may have another port."""
        return Control.of(self.folder, self.control.timeout_s)

    def log(self, number: int) -> bytes:
        """What its program wrote so far. Raises UserError for a workflow that has no program."""
        return b"".join(self.follow_log(number, follow=False))

    def follow_log(self, number: int, *, follow: bool = True) -> Iterator[bytes]:
        """The same in pieces, until the workflow has ended."""
        workflow = self.control.workflow(number)
        if workflow.kind != "program":
            raise UserError(
                f"workflow {number} has no log: saga did not start its program (kind {workflow.kind!r})"
            )
        path = self.folder.workflow_log(number)
        while follow and not path.exists() and workflow.state not in ENDED:
            time.sleep(ASK_EVERY_S)
            workflow = self.control.workflow(number)
        if path.exists():
            with path.open("rb") as log:
                yield from self._growing(log, number) if follow else _rest(log)

    def _growing(self, log: BinaryIO, number: int) -> Iterator[bytes]:
        over, next_ask = False, 0.0
        while not over:
            now = time.monotonic()
            if now >= next_ask:
                # Asked before the rest is read: what is written until the end is not missed.
                over = self.control.workflow(number).state in ENDED
                next_ask = now + ASK_EVERY_S
            yield from _rest(log)
            if not over:
                time.sleep(LOOK_EVERY_S)


def _rest(log: BinaryIO) -> Iterator[bytes]:
    while chunk := log.read(CHUNK_BYTES):
        yield chunk
