"""Where calls come in: whose they are, whether their tenant may make them now, and what they are as events.

Rules of this file
  1. Long prompts are hashed in a thread; such a step arrives when that is done, unless it is over by then.
  2. A call that is refused here is no step: the head never hears of it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import msgspec
from msgspec.structs import replace

from saga_core import events
from saga_core.asides import aside
from saga_core.book import Book
from saga_core.errors import UserError
from saga_core.events import Event
from saga_core.identity import Identity
from saga_core.ids import StepId, TenantId, WorkflowId
from saga_core.states import WorkflowState
from saga_head import ported
from saga_head.gateway.port import Call, Exchange, Refusal
from saga_head.gateway.prefix import prefix_of
from saga_head.gateway.refusals import INTERNAL
from saga_head.metrics import Metrics
from saga_head.prompts import Chain, chain_of
from saga_head.recognition import Recognition
from saga_head.tenants import Tenants

INLINE_BYTES = 32 * 1024
"""Prompts of longer bodies are hashed in a thread: 200 KB would hold the loop for 0.4 ms."""


class Open(msgspec.Struct, frozen=True, gc=False):
    """A step in flight, as the shell keeps it."""

    exchange: Exchange
    rule: bytes
    """How its caller was recognised, as the client is told."""
    salt: bytes | None
    final: bool
    """Its session ends with it."""


class Reception:
    """Takes calls, and hands `StepArrived` on."""

    def __init__(
        self,
        book: Book,
        tenants: Tenants,
        metrics: Metrics,
        opened: Callable[[StepId, Open, Call], None],
        handle: Callable[[Event], None],
    ) -> None:
        """`opened` hears of each step before the head does."""
        self.recognition = Recognition()
        self._book, self._tenants, self._metrics = book, tenants, metrics
        self._opened, self._handle = opened, handle
        self._reading: set[StepId] = set()

    def arrive(self, call: Call, exchange: Exchange) -> None:
        who = self.recognition.of(call)
        if not self.recognition.asks_content(call, who):
            self._arrived(call, exchange, who)
        elif call.body_bytes <= INLINE_BYTES:
            self._arrived(call, exchange, self._inferred(call, who, chain_of(call.api, call.body)))
        else:
            self._read(call, exchange, who)

    def left(self, step: StepId) -> bool:
        """The client of `step` is gone; whether that was before it arrived."""
        if step not in self._reading:
            return False
        self._reading.discard(step)
        return True

    def _read(self, call: Call, exchange: Exchange, who: Identity) -> None:
        step = StepId(call.step)
        self._reading.add(step)
        reading = asyncio.get_running_loop().run_in_executor(None, chain_of, call.api, call.body)

        def read(done: asyncio.Future[Chain | None]) -> None:
            if step not in self._reading or done.cancelled():
                return
            self._reading.discard(step)
            try:
                self._arrived(call, exchange, self._inferred(call, who, done.result()))
            except Exception:
                logging.getLogger(__name__).exception("step %d could not arrive", step)
                exchange.refuse(INTERNAL)

        reading.add_done_callback(read)

    def _inferred(self, call: Call, who: Identity, chain: Chain | None) -> Identity:
        """By content; workflows of conversations that this made room for are over."""
        named = self.recognition.by_content(call, who, chain)
        if named is not who:
            self._forget(TenantId(call.caller.tenant))
        return named

    def _forget(self, tenant: TenantId) -> None:
        for name in self.recognition.forgotten(tenant):
            workflow = self._book.find(tenant, name)
            if workflow is not None and not workflow.running:
                reason = "its conversation was not continued while many others were"
                done = events.FinishAsked(workflow=workflow.id, state=WorkflowState.DONE, reason=reason)
                self._handle(done)

    def _arrived(self, call: Call, exchange: Exchange, who: Identity) -> None:
        step, tenant = StepId(call.step), call.caller.tenant
        try:
            said = aside(call.headers, call.fields, granted=self._tenants.priority(tenant))
        except UserError as error:
            self._refuse(exchange, Refusal(400, "invalid_request_error", "invalid_header", str(error)))
            return
        known = self._known(call, who)
        refusal = self._tenants.refusal(tenant, opens=not known and call.caller.workflow is None)
        if refusal is not None:
            self._refuse(exchange, refusal)
            return
        self._metrics.identified(who.rule)
        salt = self._tenants.salt(tenant, call.fields.cache_salt)
        self._opened(step, Open(exchange, ported.said(who), salt, who.final), call)
        if known and said.told is not None:  # of each, a workflow's first word counts
            said = replace(said, told=None)
        prefix = "" if known else prefix_of(call.fields)
        weight = self._tenants.weight(tenant)
        self._handle(ported.step_arrived(step, call, who, prefix, said, weight))

    def _known(self, call: Call, who: Identity) -> bool:
        """Whether it is of no workflow, or of one whose first step has come."""
        if call.caller.workflow is not None:
            return self._book.accounts.of(WorkflowId(call.caller.workflow)) is not None
        return not who.workflow or self._book.find(TenantId(call.caller.tenant), who.workflow) is not None

    def _refuse(self, exchange: Exchange, refusal: Refusal) -> None:
        self._metrics.refused(refusal.code)
        exchange.refuse(refusal)
