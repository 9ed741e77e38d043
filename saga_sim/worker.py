"""One simulated engine as its node sees it: a process that takes requests, hangs, dies and is there again.

An engine says itself when it wants to be called; nothing happens to it in between.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from saga_core.ids import StepId, WorkerId
from saga_sim.clock import Clock
from saga_sim.costs import Preset
from saga_sim.engine import NEVER, Engine, Request
from saga_sim.residence import Residence


class Clients(Protocol):
    """Who is told what becomes of requests."""

    def on_done(self, worker: SimWorker, request: Request) -> None: ...
    def on_lost(self, worker: SimWorker, request: Request, reason: str) -> None: ...


class SimWorker:
    """One engine and what is around it on its node."""

    def __init__(
        self, name: WorkerId, preset: Preset, clock: Clock, clients: Clients, wake: Callable[[], None]
    ) -> None:
        """`wake`: it is to be read."""
        self.id, self._preset = name, preset
        self._clock, self._clients, self._wake = clock, clients, wake
        self.alive = False
        """Its process is there and takes connections."""
        self.hung = False
        self.stirred = True
        """Something may have happened to its engine since it was read."""
        self.requests: dict[StepId, Request] = {}
        self._begin_anew()

    def _begin_anew(self) -> None:
        self.engine = Engine(self._preset.shape, self._preset.costs, self._on_done)
        self.residence = Residence(self.engine.cache, self._preset.shape.block_tokens)
        self._called_at = NEVER
        self.stirred = True

    def stir(self) -> None:
        """Something happened to its engine: it is read at the next beat."""
        self.stirred = True
        self._wake()

    def submit(self, request: Request) -> None:
        """Raises ValueError for a request that does not fit the engine."""
        self.engine.submit(request, self._clock.now)
        self.requests[StepId(request.key)] = request
        self.stir()
        self._call()

    def abort(self, step: StepId) -> Request | None:
        """Drop a request; it is returned if it was here."""
        request = self.requests.pop(step, None)
        if request is not None:
            self.engine.abort(request, self._clock.now)
            self.stir()
            self._call()
        return request

    def hang(self) -> None:
        """From now on it does nothing and answers nobody."""
        self.hung = True

    def die(self, reason: str) -> None:
        """Its process is gone, with its memory and every request."""
        if not self.alive:
            return
        self.alive = self.hung = False
        lost, self.requests = self.requests, {}
        self._begin_anew()
        for request in lost.values():
            self._clients.on_lost(self, request, reason)

    def _call(self) -> None:
        """Be called when the engine wants to be; an earlier call that came to nothing is recognised by its time."""
        if self.engine.next_at < NEVER and self.engine.next_at != self._called_at:
            self._called_at = self.engine.next_at
            self._clock.at(self._called_at, self._advance, (self.engine, self._called_at))

    def _advance(self, called: tuple[Engine, float]) -> None:
        engine, at = called
        if engine is not self.engine or at != engine.next_at or self.hung:
            return
        self._called_at = NEVER
        self.stir()
        engine.advance(at)
        self._call()

    def _on_done(self, request: Request, at: float) -> None:  # noqa: ARG002 - the clock says the same
        if self.requests.pop(StepId(request.key), None) is not None:
            self.residence.note(request)
            self._clients.on_done(self, request)
