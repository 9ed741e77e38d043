"""The simulated side of a cluster: node machines over engine models, and the links between them and the head.

Rules of this file
  1. A node is the live `saga_core.node.Node`; here are only its shell and what it watches.
  2. The head learns nothing but by the node's messages, after the link's delay.
  3. A node whose engines are idle and whose state is told is not looked at: it would say the same again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from saga_core import wire
from saga_core.config import NodeConfig
from saga_core.ids import NodeId, StepId, WorkerId, worker_id
from saga_core.node import Node
from saga_core.node_words import (
    Action,
    Event,
    HeadSaid,
    Residency,
    SendHead,
    SpawnWorker,
    Tick,
    WorkerLoad,
    WorkerUp,
)
from saga_sim.clock import Clock
from saga_sim.costs import Preset
from saga_sim.engine import NEVER, Engine, Request
from saga_sim.residence import Residence

MODEL = "simulated"
TICK_S = 0.1
"""The epoch of the live node daemon: a report that is due leaves half of it late on average."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """Delays in seconds, one way."""

    client_s: float = 0.5e-3
    """Between a client and the gateway."""
    worker_s: float = 1.0e-3
    """Between the gateway and an engine, with what both do for a request."""
    control_s: float = 1.0e-3
    """Between a node daemon and the head."""

    @classmethod
    def of(cls, way_s: float) -> Link:
        """Links over which a call goes there and back in `way_s`, two thirds of it behind the gateway."""
        return cls(client_s=way_s / 6, worker_s=way_s / 3)


class SimWorker:
    """One engine and what is around it on its node."""

    def __init__(self, node: SimNode, name: WorkerId, preset: Preset) -> None:
        self.node, self.id = node, name
        self.engine = Engine(preset.shape, preset.costs, self._on_done)
        self.residence = Residence(self.engine.cache, preset.shape.block_tokens)
        self.requests: dict[StepId, Request] = {}
        self._called_at = NEVER

    def submit(self, request: Request) -> None:
        """Raises ValueError for a request that does not fit the engine."""
        self.engine.submit(request, self.node.clock.now)
        self.requests[StepId(request.key)] = request
        self.node.wake()
        self._call()

    def abort(self, step: StepId) -> None:
        request = self.requests.pop(step, None)
        if request is not None:
            self.engine.abort(request, self.node.clock.now)
            self._call()

    def _call(self) -> None:
        """Be called when the engine wants to be; an earlier call that came to nothing is recognised by its time."""
        if self.engine.next_at < NEVER and self.engine.next_at != self._called_at:
            self._called_at = self.engine.next_at
            self.node.clock.at(self._called_at, self._advance, self._called_at)

    def _advance(self, at: float) -> None:
        if at != self.engine.next_at:
            return
        self._called_at = NEVER
        self.engine.advance(at)
        self._call()

    def _on_done(self, request: Request, at: float) -> None:  # noqa: ARG002 - the clock says the same
        if self.requests.pop(StepId(request.key), None) is not None:
            self.residence.note(request)
            self.node.on_done(self, request)


class SimNode:
    """One node daemon: the live machine, and a shell in virtual time."""

    def __init__(
        self,
        number: int,
        workers: int,
        preset: Preset,
        clock: Clock,
        config: NodeConfig,
        *,
        say: Callable[[wire.ToHead], None],
        on_done: Callable[[SimWorker, Request], None],
        report_every_s: float,
    ) -> None:
        self.id = NodeId(f"n{number:04d}")
        self.clock, self.on_done = clock, on_done
        self.workers = {
            name: SimWorker(self, name, preset) for name in (worker_id(self.id, i) for i in range(workers))
        }
        self.machine = Node(
            self.id,
            dict.fromkeys(self.workers, MODEL),
            config,
            incarnation=1,
            host=str(self.id),
            version="sim",
            now=clock.now,
        )
        self._preset, self._say = preset, say
        self._beat_s = report_every_s + TICK_S / 2
        self._awake = False

    def start(self) -> None:
        self.handle(Tick())
        self.wake()

    def handle(self, event: Event) -> None:
        """Let the machine know, and do what it says."""
        for action in self.machine.handle(event, now=self.clock.now):
            self._perform(action)

    def hear(self, message: wire.ToNode) -> None:
        """A message of the head has arrived."""
        self.handle(HeadSaid(message))

    def _perform(self, action: Action) -> None:
        match action:
            case SendHead():
                self._say(action.message)
            case SpawnWorker():
                self.clock.after(self._preset.start_s, self._up, action)
            case _:
                pass  # no programs run here, and without faults nothing else is said

    def _up(self, spawned: SpawnWorker) -> None:
        shape = self._preset.shape
        self.handle(
            WorkerUp(
                worker=spawned.worker,
                incarnation=spawned.incarnation,
                host=str(self.id),
                port=1,
                key="",
                model=MODEL,
                capacity_tokens=shape.capacity_tokens,
                max_model_len=shape.max_model_len_tokens,
                max_seqs=shape.max_num_seqs,
            )
        )

    def wake(self) -> None:
        """There is something to watch: read and report at the node's own pace from here on."""
        if not self._awake:
            self._awake = True
            beats = int(self.clock.now / self._beat_s) + 1
            self.clock.at(beats * self._beat_s, self._beat)

    def _beat(self, _: object) -> None:
        for worker in self.workers.values():
            self._read(worker)
        self.handle(Tick())
        self._awake = any(not worker.engine.is_idle for worker in self.workers.values())
        if self._awake or not self.machine.registered:
            self._awake = True
            self.clock.after(self._beat_s, self._beat)

    def _read(self, worker: SimWorker) -> None:
        """One reading of a worker: its residency and its load, as its node daemon takes them."""
        incarnation = self.machine.workers[worker.id].incarnation
        for request in worker.engine.running:
            worker.residence.note(request)
        news = worker.residence.news()
        if news:
            self.handle(Residency(worker.id, incarnation, news))
        engine = worker.engine
        self.handle(
            WorkerLoad(worker.id, incarnation, len(engine.running), len(engine.waiting), engine.usage)
        )
