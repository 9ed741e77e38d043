"""The simulated side of a cluster: node machines over engine models, and the links between them and the head.

Rules of this file
  1. A node is the live `saga_core.node.Node`; here are only its shell and what it watches.
  2. The head learns nothing but by the node's messages, after the link's delay.
  3. A worker to which nothing has happened since it was read is not read again, and without faults a node of such
     workers, whose state is told, is not looked at: it would say the same again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from saga_core import wire
from saga_core.config import Config
from saga_core.ids import NodeId, worker_id
from saga_core.node import Node
from saga_core.node_words import (
    Action,
    EndKnown,
    Event,
    HeadSaid,
    KillWorker,
    MoveKv,
    Quit,
    RemoveKv,
    Residency,
    SendHead,
    SetWorths,
    SpawnWorker,
    Tick,
    WorkerExited,
    WorkerLoad,
    WorkerSilent,
    WorkerUp,
)
from saga_sim.clock import Clock
from saga_sim.costs import Preset
from saga_sim.moving import Files, Mover, kv_token_bytes
from saga_sim.worker import Clients, SimWorker

MODEL = "simulated"
TICK = Tick()
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
    kv_tokens_per_s: float = 0.0
    """How fast sessions' KV moves between two engines; 0: it cannot be moved."""

    @classmethod
    def of(cls, way_s: float) -> Link:
        """Links over which a call goes there and back in `way_s`, two thirds of it behind the gateway."""
        return cls(client_s=way_s / 6, worker_s=way_s / 3)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSpec:
    """What is simulated: `workers` engines of `preset`, `per_node` of them on each node."""

    preset: Preset
    workers: int
    per_node: int
    link: Link = field(default_factory=Link)
    tick_s: float = 1.0
    """How often the head is told that time has passed."""
    names: tuple[str, ...] = ()
    """Of the first nodes, where they matter (a hash places by names); the others are n0001, n0002, …"""
    mix: tuple[Preset, ...] = ()
    """Of the nodes in turn, where they are not all alike; their contexts must fit `preset`'s limits."""
    workflows_before: int = 0
    """How many the head had seen before: they are numbered, and their numbers are hashed too."""

    def preset_of(self, number: int) -> Preset:
        """What is on the node of that number, counted from 0."""
        return self.mix[number % len(self.mix)] if self.mix else self.preset

    def node_name(self, number: int) -> NodeId:
        """The node of that number, counted from 0."""
        return NodeId(self.names[number] if number < len(self.names) else f"n{number + 1:04d}")


class Watcher(Protocol):
    """Who carries a node's messages, and has its files."""

    def say(self, message: wire.ToHead) -> None: ...

    @property
    def gateway(self) -> Clients: ...
    @property
    def files(self) -> Files: ...


class SimNode:
    """One node daemon: the live machine, and a shell in virtual time."""

    def __init__(
        self,
        name: NodeId,
        workers: int,
        preset: Preset,
        clock: Clock,
        config: Config,
        watcher: Watcher,
        *,
        quiet: bool,
        kv_tokens_per_s: float = 0.0,
    ) -> None:
        """`quiet`: it need not repeat itself, since nobody doubts that it is there. kv_tokens_per_s: as of `Link`."""
        self.id, self._kv_tokens_per_s = name, kv_tokens_per_s
        self.clock, self.watcher = clock, watcher
        names = [worker_id(self.id, i) for i in range(workers)]
        self.workers = {name: SimWorker(name, preset, clock, watcher.gateway, self.wake) for name in names}
        self.down = False
        """The machine is dead: it hears, says and does nothing."""
        self._mover = Mover(self, config.migration, kv_tokens_per_s)
        self._preset, self._config, self._quiet = preset, config, quiet
        self._beat_s = config.head.report_every_s + TICK_S / 2
        self._incarnation = 1
        self._awake = False
        self.machine = self._machine()

    def _machine(self) -> Node:
        return Node(
            self.id,
            dict.fromkeys(self.workers, MODEL),
            self._config.node,
            incarnation=self._incarnation,
            host=str(self.id),
            version="sim",
            now=self.clock.now,
        )

    def start(self) -> None:
        self.handle(Tick())
        self.wake()

    def die(self, reason: str) -> None:
        """The machine fails: daemon and workers are gone at once, and nobody is told."""
        self.down = True
        self._mover.close()
        for worker in self.workers.values():
            worker.die(reason)

    def notice(self, in_s: float) -> None:
        """Its daemon hears that the machine is taken away in `in_s`; then it is, for good."""
        self.handle(EndKnown(self.clock.now + in_s))
        self.clock.after(in_s, lambda _: self.die("its time is over"))

    def come_back(self) -> None:
        """It is there again, as a new incarnation of its daemon, with nothing running."""
        if self.down:
            self.down = False
            # Worker incarnations count up from the daemon's, which is a time in real life.
            self._incarnation += 1_000
            self.machine = self._machine()
            self.start()

    def handle(self, event: Event) -> None:
        """Let the machine know, and do what it says."""
        if self.down:
            return
        for action in self.machine.handle(event, now=self.clock.now):
            self._perform(action)

    def hear(self, message: wire.ToNode) -> None:
        """A message of the head has arrived."""
        self.handle(HeadSaid(message))

    def _perform(self, action: Action) -> None:
        match action:
            case SendHead():
                self.watcher.say(action.message)
            case SpawnWorker():
                self.clock.after(self._preset.start_s, self._up, (self.machine, action))
            case KillWorker():
                self.end_worker(self.workers[action.worker], action.reason)
            case SetWorths():
                self._value(action)
            case MoveKv():
                self._mover.move(action.want)
            case RemoveKv():
                self._mover.remove(action)
            case Quit():
                self.die(action.reason)
            case _:
                pass  # no programs run here; the link needs no finding

    def _value(self, action: SetWorths) -> None:
        """An engine hears of it; one that hangs does not."""
        worker = self.workers[action.worker]
        if worker.alive and not worker.hung:
            worker.engine.cache.values({str(session): worth for session, worth in action.worths.items()})

    def end_worker(self, worker: SimWorker, reason: str) -> None:
        """A worker's process ends, and its daemon sees it."""
        incarnation = self.machine.workers[worker.id].incarnation
        worker.die(reason)
        self.handle(WorkerExited(worker.id, incarnation, reason))

    def _up(self, what: tuple[Node, SpawnWorker]) -> None:
        machine, spawned = what
        if machine is not self.machine or self.down:
            return
        shape = self._preset.shape
        self.workers[spawned.worker].alive = True
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
                host_tokens=shape.host_tokens,
                ordered=shape.priority,
                values=True,
                kv_token_bytes=kv_token_bytes(self._config.migration, self._kv_tokens_per_s),
            )
        )

    def wake(self) -> None:
        """There is something to watch: read and report at the node's own pace from here on."""
        if not self._awake:
            self._awake = True
            beats = int(self.clock.now / self._beat_s) + 1
            self.clock.at(beats * self._beat_s, self._beat)

    def _beat(self, _: object) -> None:
        self._awake = False
        if self.down:
            return
        for worker in self.workers.values():
            if worker.stirred or worker.hung:
                self._read(worker)
        self.handle(TICK)
        if not (self._quiet and self.machine.registered and not self.machine.has_news):
            self._awake = True
            self.clock.after(self._beat_s, self._beat)

    def _read(self, worker: SimWorker) -> None:
        """One reading of a worker: its residency and its load, as its node daemon takes them."""
        if not worker.alive:
            return
        incarnation = self.machine.workers[worker.id].incarnation
        if worker.hung:
            self.handle(WorkerSilent(worker.id, incarnation, "no answer"))
            return
        worker.stirred = False
        for request in worker.engine.running:
            worker.residence.note(request)
        news = worker.residence.news()
        if news:
            self.handle(Residency(worker.id, incarnation, news))
        engine = worker.engine
        self.handle(
            WorkerLoad(worker.id, incarnation, len(engine.running), len(engine.waiting), engine.usage)
        )
