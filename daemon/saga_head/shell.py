"""The shell around the head: events in, actions performed, one at a time and in order.

Rules of this file
  1. Everything runs on the event loop's thread; nothing here waits but `submit`.
  2. Performing an action may cause an event (a refused exchange says `finish` at once); such
     events queue up, so that the head never sees an event before the actions of the last are done.
  3. A fact is in the journal's buffer before any later action of the same event is performed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from saga_core import actions as act
from saga_core import events, wire
from saga_core.errors import ClusterError
from saga_core.events import Event, Fact, Outcome, WorkflowSubmitted
from saga_core.head import Head
from saga_core.ids import NodeId, StepId, TenantId, WorkerId, WorkflowId
from saga_core.states import WorkflowState
from saga_core.views import ProgramSpec, SubmitRequest
from saga_head import ported
from saga_head.feed import Feed
from saga_head.gateway.port import Call, Caller, Exchange, Refusal, Result
from saga_head.gateway.stored import ResponseStore
from saga_head.journal import Journal
from saga_head.keys import Callers, new_token
from saga_head.metrics import Metrics
from saga_head.reception import Open, Reception
from saga_head.tenants import Tenants
from saga_shell import log

if TYPE_CHECKING:
    from saga_head.spans import Spans

NOT_A_KEY = Refusal(
    401,
    "authentication_error",
    "invalid_api_key",
    "the API key is not valid for this cluster: `saga url --key` prints a valid one, "
    "and a program started by `saga submit` has its own in OPENAI_API_KEY",
)
FLUSH_S = 0.01
"""Group commit: what the last 10 ms brought is lost to `kill -9` of the head, but for acceptances."""
STEP_GAP = 1000
"""Step numbers left out after a restart, so that none of those last 10 ms is given twice."""
AFTER_FLUSH = frozenset({wire.RunProgram, wire.StopProgram, wire.ForgetProgram})
"""Wants that follow from a fact: it is written before a node acts on them, or `kill -9` could undo it."""
REPEATED = frozenset({events.StepArrived, events.StepPlaced, events.StepFinished})
"""Facts of every step: logged at debug, the rest at info."""


class Shell:
    """Performs what the head decides; the gateway's `Scheduler`."""

    def __init__(
        self,
        head: Head,
        journal: Journal,
        callers: Callers,
        clock: Callable[[], float],
        send: Callable[[NodeId, wire.ToNode], None],
        tenants: Tenants,
        spans: Spans | None = None,
    ) -> None:
        """`spans`: who traces; nobody, unless it was asked for (`saga_head.tracing`)."""
        self.head, self.journal, self.callers = head, journal, callers
        self.clock, self._send = clock, send
        self.metrics = Metrics(head)
        self.feed = Feed()
        self.spans = spans
        self.may_act: Callable[[], None] = lambda: None
        """Called before each event; it does not return where this head may not act (any more)."""
        self.url = ""
        self.logs = Path()
        """Folder of programs' output, in the cluster folder."""
        self.stale = 0
        self._retired = False
        self._open: dict[StepId, Open] = {}
        self.tenants = tenants
        self.reception = Reception(head.book, tenants, self.metrics, self._opened, self.handle)
        self.responses = ResponseStore()
        self._last_step = head.book.last_step + (STEP_GAP if head.book.last_step else 0)
        self._flushing = False
        self._queue: deque[Event] = deque()
        self._busy = False
        for workflow in head.book.workflows.values():
            if workflow.token:
                callers.add(workflow.token, workflow.tenant, workflow.id)
        for ended in head.book.ended:
            callers.over(ended)

    # -- the loop ------------------------------------------------------------------------

    def handle(self, event: Event) -> None:
        """Let the head know, and do what it says; nothing any more once it is retired."""
        if self._retired:
            return
        self._queue.append(event)
        if self._busy:
            return
        self.may_act()
        self._busy = True
        try:
            while self._queue:
                now = self.clock()
                for action in self.head.handle(self._queue.popleft(), now=now):
                    if type(action) is act.Record:  # most of what comes: it does not go through the match
                        self._keep(action.fact, now)
                    else:
                        self._perform(action)
        finally:
            self._busy = False

    def _perform(self, action: act.Action) -> None:
        match action:
            case act.Dispatch():
                self._dispatch(action)
            case act.Send():
                if type(action.message) in AFTER_FLUSH:
                    self.journal.flush()
                self._send(action.node, action.message)
            case act.Refuse():
                self._refuse(action)
            case act.Abort():
                opened = self._open.get(action.step)
                if opened is not None:
                    opened.exchange.abort()
            case act.Disconnect():
                self._disconnect(action)
            case act.Ignored():
                self.stale += 1
                self.metrics.ignored(action.reason)
                log.debug("ignored", reason=action.reason, what=action.what)

    def _keep(self, fact: Fact, at: float) -> None:
        """Keep `fact` with the time at which the head applied it, so that recovery applies the same."""
        self.journal.append(fact, at)
        if not self._flushing:
            self._flushing = True
            asyncio.get_running_loop().call_later(FLUSH_S, self._flush)
        self.metrics.fold(fact, at)
        self.feed.add(fact, at)
        if self.spans is not None:
            self.spans.fold(fact, at)
        if type(fact) not in REPEATED:
            self.tenants.fold(fact)
            if type(fact) is events.WorkflowEnded:
                self.callers.over(fact.workflow)
            log.info(type(fact).__name__, **_bound(fact))

    def _flush(self) -> None:
        self._flushing = False
        self.journal.flush()

    def _dispatch(self, action: act.Dispatch) -> None:
        opened = self._open.get(action.step)
        if opened is not None:
            worker = self.head.fleet.workers[action.worker]
            trace = b"" if self.spans is None else self.spans.sent(action.step)
            opened.exchange.dispatch(ported.target(worker, action, opened.rule, opened.salt, trace))

    def _refuse(self, action: act.Refuse) -> None:
        if action.step not in self.head.book.steps:
            self.metrics.refused(action.code)
        opened = self._open.get(action.step)
        if opened is not None:
            opened.exchange.refuse(
                Refusal(action.status, action.type, action.code, action.message, action.retry_after_s)
            )

    def _disconnect(self, action: act.Disconnect) -> None:
        for step in list(self.head.book.steps.values()):
            if step.worker == action.worker and step.id in self._open:
                self._open[step.id].exchange.lose(action.reason)

    # -- the gateway's scheduler ---------------------------------------------------------

    def authenticate(self, token: str | None, bearer: str | None) -> Caller | Refusal:
        """The path token alone is a credential; without one the bearer has to be."""
        caller = self.callers.find(token or bearer or "")
        return NOT_A_KEY if caller is None else caller

    def next_step(self) -> int:
        self._last_step += 1
        return self._last_step

    def arrive(self, call: Call, exchange: Exchange) -> None:
        self.reception.arrive(call, exchange)

    def _opened(self, step: StepId, opened: Open, call: Call) -> None:
        self._open[step] = opened
        if self.spans is not None:
            self.spans.opened(step, call)

    def first_byte(self, step: int, ttft_s: float) -> None:
        """Nothing is decided by it yet; `finish` carries the time."""

    def finish(self, step: int, result: Result) -> None:
        number = StepId(step)
        if self.reception.left(number):
            return
        if self.spans is not None:
            self.spans.left(number)
        opened = self._open.pop(number, None)
        known = self.head.book.steps.get(number)
        if result.response and known is not None:
            workflow = self.head.book.workflows.get(known.workflow) if known.workflow is not None else None
            key = workflow.key if workflow is not None else ""
            self.reception.recognition.answered(known.tenant, result.response, key, known.session)
        self.handle(ported.finished(number, result))
        ends = opened is not None and opened.final and result.outcome is Outcome.DONE
        if ends and known is not None and known.workflow is not None:
            reason = "its last step said so"
            done = events.FinishAsked(workflow=known.workflow, state=WorkflowState.DONE, reason=reason)
            self.handle(done)

    def lost(self, step: int, worker: str, detail: str, *, begun: bool) -> bool:
        number = StepId(step)
        if self._retired or number not in self.head.book.steps:
            return False
        self.handle(events.StepLost(step=number, worker=WorkerId(worker), detail=detail, begun=begun))
        return True

    # -- submissions ---------------------------------------------------------------------

    async def submit(self, request: SubmitRequest) -> tuple[WorkflowId, str]:
        """Accept a workflow: its number and token, once it is on the disk.

        Raises `ClusterError` when it cannot be written; the workflow is then cancelled again.
        """
        if self._retired:
            raise ClusterError("no new workflows are accepted here: another head takes over, ask again")
        if self.journal.problem:
            raise ClusterError(f"no new workflows are accepted: {self.journal.problem}")
        if self.head.closing:
            raise ClusterError("no new workflows are accepted: the cluster is being taken down")
        if full := self.tenants.full(request.tenant):
            raise ClusterError(f"no new workflow is accepted: {full}")
        self.may_act()
        number = WorkflowId(self.head.book.last_workflow + 1)
        token = new_token()
        log_path = str(self.logs / f"{number}.log") if request.program is not None else ""
        event = WorkflowSubmitted(
            workflow=number,
            tenant=TenantId(request.tenant),
            token=token,
            kind=request.kind,
            name=request.name,
            agent_type=request.agent_type,
            work_s=request.work_s,
            steps=request.steps,
            instance=request.instance,
            deadline_s=request.deadline_s,
            graph=request.graph,
            weight=self.tenants.weight(request.tenant),
            priority=request.priority,
            program=self._with_endpoint(request.program, token),
            log=log_path,
        )
        now = self.clock()
        actions = self.head.handle(event, now=now)
        for action in actions:
            if isinstance(action, act.Record):
                self._keep(action.fact, now)
        self.callers.add(token, event.tenant, number)
        try:
            await self.journal.sync()
        except OSError as error:
            self.handle(events.CancelAsked(workflow=number))
            raise ClusterError(f"workflow not accepted: {error}") from error
        for action in actions:
            if not isinstance(action, act.Record):
                self._perform(action)
        return number, token

    def _with_endpoint(self, program: ProgramSpec | None, token: str) -> ProgramSpec | None:
        """The program's environment names its own endpoint; what the person set stays."""
        if program is None:
            return None
        ours = {
            "OPENAI_BASE_URL": self.base_url(token),
            "OPENAI_API_BASE": self.base_url(token),
            "OPENAI_API_KEY": token,
            "ANTHROPIC_BASE_URL": self.base_url(token).removesuffix("/v1"),
            "ANTHROPIC_API_KEY": token,
            "SAGA_URL": self.url,
        }
        return replace(program, env=ours | program.env)

    def base_url(self, token: str) -> str:
        """What an OpenAI client takes as its base URL for the workflow of `token`."""
        return f"{self.url}/s/{token}/v1"

    def retire(self) -> None:
        """Another head is about to act: whatever happens here from now on is no event."""
        self._retired = True


SECRET = frozenset({"token", "program"})


def _bound(fact: Fact) -> dict[str, object]:
    """Fields of a fact fit for a log: no secrets, nothing empty."""
    names = [name for name in fact.__struct_fields__ if name not in SECRET]
    return {name: value for name in names if (value := getattr(fact, name)) not in ("", None)}
