"""The gateway of a simulated head: agents' calls on their way to engines, and what comes back, in virtual time.

Rules of this file
  1. Before the first byte the head may send a step elsewhere; after it the stream is broken, and said to be.
  2. What an engine says of a step that was given up on the way, or sent elsewhere, nobody hears.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from saga_core import actions as act
from saga_core.events import Event, Outcome, StepArrived, StepFinished, StepLost
from saga_core.ids import StepId, WorkerId
from saga_sim.agents import Call, identity_of
from saga_sim.client import RETRIED_STATUSES
from saga_sim.clock import Clock
from saga_sim.cluster import MODEL, Link
from saga_sim.engine import Request
from saga_sim.worker import SimWorker

BODY_BYTES_PER_TOKEN = 4
"""What a request's body is long for, in a live cluster: English and code in JSON."""


class Gateway:
    """All calls that have no answer yet."""

    def __init__(
        self,
        clock: Clock,
        link: Link,
        handle: Callable[[Event], None],
        worker: Callable[[WorkerId], SimWorker],
    ) -> None:
        """`handle` lets the head know; `worker` is the one of that name."""
        self._clock, self._link, self._handle, self._worker = clock, link, handle, worker
        self.calls: dict[StepId, Call] = {}
        self._last_step = 0

    # -- to an engine --------------------------------------------------------------------

    def call(self, call: Call) -> None:
        """An agent makes a call; `call.answered` is told the end of it."""
        self._clock.after(self._link.client_s, self._arrive, call)

    def _arrive(self, call: Call) -> None:
        self._last_step += 1
        step = StepId(self._last_step)
        self.calls[step] = call
        who = identity_of(call.session)
        self._handle(
            StepArrived(
                step=step,
                tenant=call.tenant,
                model=MODEL,
                workflow=call.workflow,
                session=who.session,
                rule=who.rule,
                agent_type=who.agent_type,
                stream=True,
                body_bytes=call.prompt.tokens * BODY_BYTES_PER_TOKEN,
                prefix=call.step.shared_prefix_group or "",
            )
        )

    def dispatch(self, action: act.Dispatch) -> None:
        """The head sends a step to an engine."""
        call = self.calls.get(action.step)
        if call is not None:
            call.dispatch = action
            self._clock.after(self._link.worker_s, self._submit, action)

    def _submit(self, dispatch: act.Dispatch) -> None:
        call = self.calls.get(dispatch.step)
        if call is None or call.dispatch is not dispatch:
            return
        worker = self._worker(dispatch.worker)
        if not worker.alive:
            self._lost((dispatch.step, dispatch.worker, "connection refused", False))
            return
        request = Request(
            key=dispatch.step,
            stream=call.prompt.stream,
            prompt_tokens=call.prompt.tokens,
            output_tokens=call.output_tokens,
            session=dispatch.session or "",
            priority=dispatch.priority or 0,
            computed_before=call.prompt.computed_before,
        )
        try:
            worker.submit(request)
        except ValueError as error:
            self._handle(
                StepFinished(step=dispatch.step, outcome=Outcome.REFUSED, status=400, detail=str(error))
            )
            self._answer(dispatch.step, f"400: {error}")

    # -- back ----------------------------------------------------------------------------

    def on_done(self, worker: SimWorker, request: Request) -> None:
        """An engine has made all of a request's tokens."""
        self._clock.after(self._link.worker_s, self._finished, (worker.id, request))

    def on_lost(self, worker: SimWorker, request: Request, reason: str) -> None:
        """A request's connection broke."""
        lost = (StepId(request.key), worker.id, reason, request.first_at is not None)
        self._clock.after(self._link.worker_s, self._lost, lost)

    def give_up(self, worker: WorkerId, steps: Iterable[StepId], reason: str) -> None:
        """These steps on `worker` are lost, whatever it would say."""
        for step in steps:
            request = self._worker(worker).abort(step)
            begun = request is not None and request.first_at is not None
            self._lost((step, worker, reason, begun))

    def abort(self, action: act.Abort) -> None:
        """The head ends a step that is under way."""
        call = self.calls.get(action.step)
        if call is not None and call.dispatch is not None:
            self._worker(call.dispatch.worker).abort(action.step)
        self._answer(action.step, action.reason)

    def refuse(self, action: act.Refuse) -> None:
        """The head does not take a step."""
        why = f"{action.status} {action.code}: {action.message}"
        self._answer(action.step, why, again=action.status in RETRIED_STATUSES)

    def _lost(self, lost: tuple[StepId, WorkerId, str, bool]) -> None:
        step, worker, reason, begun = lost
        call = self.calls.get(step)
        if call is None or call.dispatch is None or call.dispatch.worker != worker:
            return
        if not begun:
            self._handle(StepLost(step=step, worker=worker, detail=reason))
            return
        self._handle(StepFinished(step=step, outcome=Outcome.BROKEN, status=200, detail=reason))
        self._answer(step, f"broken stream: {reason}", again=True)

    def _finished(self, what: tuple[WorkerId, Request]) -> None:
        worker, request = what
        step = StepId(request.key)
        call = self.calls.get(step)
        if call is None or call.dispatch is None or call.dispatch.worker != worker:
            return
        del self.calls[step]
        assert request.first_at is not None
        ttft_s = request.first_at + self._link.worker_s - call.started_at
        self._handle(
            StepFinished(
                step=step,
                outcome=Outcome.DONE,
                prompt_tokens=request.prompt_tokens,
                cached_tokens=request.cached_tokens,
                output_tokens=request.output_tokens,
                ttft_s=ttft_s,
                duration_s=self._clock.now - call.started_at,
                tool=call.tool,
            )
        )
        call.ttft_s = ttft_s + self._link.client_s
        call.cached_tokens = request.cached_tokens or 0
        self._clock.after(self._link.client_s, call.answered, call)

    def _answer(self, step: StepId, why: str, *, again: bool = False) -> None:
        """A step ends without a result."""
        call = self.calls.pop(step, None)
        if call is not None:
            call.failure, call.again = why, again
            self._clock.after(self._link.client_s, call.answered, call)
