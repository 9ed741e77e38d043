"""`saga submit --tasks`: a list of programs, each a workflow of its own, until all are over.

Rules of this file
  1. How many run at once is the cluster's choice: everything is handed over (`AT_ONCE` ahead of what has ended), the
     head gives programs to nodes while they have slots and the gate lets in what memory takes.
  2. What is done never runs again; what a call that was interrupted left running is waited for by the next one.
  3. Ends are heard of by the head's events; where those are missed (a restart, a long pause), each is asked for.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from saga_cli.client import Client
from saga_cli.control import HeadGone
from saga_cli.entries import Entry, Template
from saga_cli.ledger import DONE, VERSION, Header, Ledger, Result, Sent
from saga_cli.progress import Progress
from saga_cli.units import duration, plural
from saga_core.errors import ClusterError, UserError
from saga_core.states import ENDED
from saga_core.views import WorkflowView

AT_ONCE: Final = 500
"""Handed over and not ended: more than any cluster runs at once per user, and half of the ended ones that a head
still knows (`saga_core.book.KEEP_ENDED`)."""
WAIT_S: Final = 2
"""For the next event."""
LOOK_EVERY_S: Final = 30.0
"""How often each unfinished one is asked for in any case."""
AGAIN_S: Final = 1.0
"""Between two questions to a head that does not answer."""
GONE_S: Final = 300.0
"""A head that is gone for this long is given up; what runs goes on, and the same command finds it again."""
CLOCKS_S: Final = 5.0
"""By how much our clock and the head's may differ."""


@dataclass(slots=True)
class Run:
    """One call."""

    entries: list[Entry]
    template: Template
    ledger: Ledger
    retries: int = 0
    at_once: int = AT_ONCE
    _todo: deque[tuple[Entry, int]] = field(default_factory=deque)
    """Entries to submit, with the number of the attempt."""
    _live: dict[int, tuple[Entry, int]] = field(default_factory=dict)
    """By workflow."""
    _done: int = 0
    _other: int = 0
    _before: int = 0
    _began: float = 0.0
    _after: int | None = None
    _head: int | None = None
    _looked: float = 0.0
    _silent_since: float | None = None

    def go(self, client: Client, show: Progress) -> dict[str, Any]:
        """Run all that is not done yet; what became of them. An interrupt leaves what runs to the next call."""
        for entry in self.entries:
            self.template.of(entry)  # what cannot be is said before anything runs
        self.ledger.open(
            Header(version=VERSION, program=list(self.template.program), cluster=str(client.folder.path))
        )
        interrupted = False
        try:
            self._resume(client, show)
            self._loop(client, show)
        except KeyboardInterrupt:
            interrupted = True
            show.say(
                f"{plural(len(self._live), 'program')} go on; the same command waits for them and goes on"
            )
        finally:
            self.ledger.close()
        return self._outcome(interrupted=interrupted)

    # -- the beginning -------------------------------------------------------------------

    def _resume(self, client: Client, show: Progress) -> None:
        """Sort the entries: done, still there from an earlier call, or to be submitted."""
        found = {w.id: w for w in client.control.workflows()} if self.ledger.sent else {}
        for entry in self.entries:
            if entry.key in self.ledger.done:
                self._before += 1
                continue
            sent = self.ledger.sent.get(entry.key)
            known = self._known(entry, sent, found) if sent is not None else None
            if sent is not None and known is not None:
                self._live[known.id] = (entry, sent.attempt)
            else:
                self._todo.append((entry, sent.attempt if sent is not None else 1))
        if self._before:
            show.say(f"{self._before} of {plural(len(self.entries), 'program')} were done before")
        if self._live:
            show.say(f"{plural(len(self._live), 'program')} of an earlier call are still known")

    def _known(self, entry: Entry, sent: Sent, found: dict[int, WorkflowView]) -> WorkflowView | None:
        """The workflow of an earlier submission, also where its number did not come back any more."""
        name = self.template.of(entry).name
        same = [w for w in found.values() if w.name == name and w.submitted_at >= sent.sent_at - CLOCKS_S]
        if sent.id is not None:
            return next((w for w in same if w.id == sent.id), None)
        return next((w for w in same if w.id not in self._live), None)

    # -- the way through -----------------------------------------------------------------

    def _loop(self, client: Client, show: Progress) -> None:
        show.phase("running", len(self.entries) - self._before)
        self._began = time.monotonic()
        while self._todo or self._live:
            try:
                self._submit(client)
                ended = self._ended(client)
                self._silent_since = None
            except HeadGone as gone:
                self._be_patient(gone, show)
                continue
            for number in ended:
                self._over(client, number, show)

    def _be_patient(self, gone: HeadGone, show: Progress) -> None:
        now = time.monotonic()
        if self._silent_since is None:
            self._silent_since = now
            show.say(f"waiting: {gone}")
        if now - self._silent_since > GONE_S:
            raise gone
        time.sleep(AGAIN_S)

    def _submit(self, client: Client) -> None:
        """Hand over what may be. The note before it is what an interrupted call is found by."""
        while self._todo and len(self._live) < self.at_once:
            entry, attempt = self._todo[0]
            sent = Sent(key=entry.key, attempt=attempt, sent_at=time.time())
            self.ledger.note(sent)
            number = client.control.submit(self.template.of(entry)).id
            self._live[number] = (entry, attempt)
            self._todo.popleft()
            self.ledger.note(Sent(key=entry.key, attempt=attempt, sent_at=sent.sent_at, id=number))

    def _ended(self, client: Client) -> list[int]:
        """Those of ours that have ended since the last question."""
        if self._after is None or time.monotonic() - self._looked > LOOK_EVERY_S:
            return self._look(client)
        page = client.control.events(after=self._after, wait_s=WAIT_S)
        if page.missed or page.head != self._head:
            self._head, self._after = page.head, page.next
            return self._look(client)
        self._after = page.next
        ended = [e.workflow for e in page.events if e.kind == "WorkflowEnded"]
        return [number for number in ended if number is not None and number in self._live]

    def _look(self, client: Client) -> list[int]:
        """Ask for all that runs; events are heard of from here on."""
        page = client.control.events(after=(1 << 53))
        self._head, self._after, self._looked = page.head, page.next, time.monotonic()
        found = {w.id: w for w in client.control.workflows()}
        gone = [number for number in self._live if number not in found]
        if gone:
            raise ClusterError(
                f"workflow {gone[0]} is not known to the head any more; the same command submits it again"
            )
        return [number for number in self._live if found[number].state in ENDED]

    def _over(self, client: Client, number: int, show: Progress) -> None:
        """Keep the result, or try again."""
        entry, attempt = self._live.pop(number)
        view = client.workflow(number)
        if view.state == "failed" and attempt <= self.retries:
            show.say(f"  {entry.name} failed ({view.reason}), attempt {attempt} of {self.retries + 1}")
            self._todo.append((entry, attempt + 1))
            return
        self.ledger.keep(_result(entry, attempt, view, str(client.folder.workflow_log(number))))
        done = view.state == DONE
        self._done, self._other = self._done + done, self._other + (not done)
        why = f" ({view.reason})" if view.reason and not done else ""
        show.advance(
            self._done + self._other,
            f"{entry.name} {view.state} in {duration(view.tct_s)}{why}{self._left()}",
        )

    def _left(self) -> str:
        """When it should be over, at the rate so far."""
        over = self._done + self._other
        left = len(self.entries) - self._before - over
        return f"; {duration((time.monotonic() - self._began) / over * left)} left" if left else ""

    def _outcome(self, *, interrupted: bool) -> dict[str, Any]:
        return {
            "programs": len(self.entries),
            "done": self._before + self._done,
            "failed": self._other,
            "unfinished": len(self._todo) + len(self._live),
            "results": str(self.ledger.results),
            "interrupted": interrupted,
        }


def _result(entry: Entry, attempts: int, view: WorkflowView, log: str) -> Result:
    return Result(
        instance=entry.name, state=view.state, attempts=attempts, id=view.id, exit_code=view.exit_code,
        reason=view.reason, submitted_at=view.submitted_at, ended_at=view.ended_at, tct_s=view.tct_s, steps=view.steps,
        prompt_tokens=view.prompt_tokens, cached_tokens=view.cached_tokens, output_tokens=view.output_tokens, log=log,
        key=entry.key, entry=dict(entry.values),
    )  # fmt: skip


def of(
    entries: Iterable[Entry], template: Template, results: Path, *, retries: int, at_once: int | None
) -> Run:
    """A call. Raises UserError for numbers that cannot be."""
    if retries < 0:
        raise UserError(f"--retries {retries} is not valid (valid: 0 or more)")
    if at_once is not None and at_once < 1:
        raise UserError(
            f"--concurrency {at_once} is not valid (valid: 1 or more; by default the cluster chooses)"
        )
    return Run(list(entries), template, Ledger(results), retries, min(at_once or AT_ONCE, AT_ONCE))
