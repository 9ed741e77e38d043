"""The simulated world: the live head and the live nodes, joined by links, with agents that replay a trace.

No policy is here and no second scheduler: `Head.handle` decides, this file carries its actions out in virtual time.
One trace, one configuration, one seed: the same facts at the same times.

Rules of this file
  1. Agents do what `saga submit --replay` does: a workflow is submitted, its steps come with the session's name through
     the identity rules, and its end is told.
  2. Faults of the model must not look like results: what the head cannot do is a failed step with its reason.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from saga_core import actions as act
from saga_core import wire
from saga_core.config import Config
from saga_core.errors import ClusterError
from saga_core.events import (
    Event,
    Fact,
    FinishAsked,
    HeadStarted,
    WorkflowSubmitted,
)
from saga_core.events import Tick as HeadTick
from saga_core.head import Head
from saga_core.ids import NodeId, TenantId, WorkerId, WorkflowId
from saga_core.mirror import node_of
from saga_core.policy.profiles import PROFILES
from saga_core.states import WorkflowState
from saga_sim.agents import Agent, Agents, Call
from saga_sim.clock import Clock
from saga_sim.cluster import MODEL, ClusterSpec, SimNode
from saga_sim.costs import Preset
from saga_sim.faults import Fault, FaultKind, Faults, Line
from saga_sim.garbage import seldom_collected
from saga_sim.gateway import Gateway
from saga_sim.moving import Files
from saga_sim.pacing import Pace
from saga_sim.runs import ReplayResult
from saga_sim.trace.records import Workflow
from saga_sim.worker import SimWorker

__all__ = ["ClusterSpec", "World"]

SAMPLE_S = 60.0
"""How often the memory of all workers is looked at for the figures."""
BOOT_S = 60.0
"""Virtual time within which every worker must be ready, beside its own start."""


def served_by(preset: Preset, profile: str) -> Preset:
    """The engines of `preset`, started as `profile` wants them."""
    if not PROFILES[profile].engine_order:
        return preset
    return replace(preset, shape=replace(preset.shape, priority=True))


class World:
    """One run. Build it, `run()` it, read the result."""

    def __init__(
        self,
        spec: ClusterSpec,
        config: Config,
        *,
        faults: Faults | None = None,
        on_fact: Callable[[float, Fact], None] | None = None,
        on_event: Callable[[], None] | None = None,
        declared: Callable[[Workflow], float] | None = None,
        instances: bool = False,
    ) -> None:
        """`declared`: the engine seconds that a workflow says it will take; by default none says anything.
        `instances`: whether workflows name the item that they work on (`x-saga-instance`).

        Without `faults` nodes are trusted to be there, so `config` must be patient with silent ones.
        """
        self.spec, self.config = spec, config
        self.clock = Clock()
        self.head = Head(config)
        self.head.book.last_workflow = spec.workflows_before
        self.gateway = Gateway(self.clock, spec.link, self.handle, self._worker)
        self.ignored = 0
        self.nodes: dict[NodeId, SimNode] = {}
        self._on_fact, self._on_event, self._declared = on_fact, on_event, declared
        self._instances = instances
        self._useful = self._cached = 0
        self.files: Files = {}
        """KV on its way between engines."""
        for number in range(-(-spec.workers // spec.per_node)):
            here = min(spec.per_node, spec.workers - number * spec.per_node)
            node = SimNode(
                spec.node_name(number),
                here,
                served_by(spec.preset_of(number), config.profile),
                self.clock,
                config,
                self,
                quiet=faults is None,
                kv_tokens_per_s=spec.link.kv_tokens_per_s,
            )
            self.nodes[node.id] = node
        self._line = Line(self.clock, spec.link.control_s, faults)
        self._faults = faults

    # -- running -------------------------------------------------------------------------

    def run(
        self,
        workflows: Sequence[Workflow],
        pace: Pace,
        *,
        max_live: int | None = None,
        on_ended: Callable[[Agent], None] = lambda _: None,
    ) -> ReplayResult:
        """Boot the cluster, let all workflows arrive, and run until the last one has ended."""
        self._boot()
        agents = Agents(self, workflows, pace, max_live=max_live, on_ended=on_ended)
        agents.start()
        self.clock.after(SAMPLE_S, self._sample)
        if self._faults is not None:
            self._line.spoil()
            for fault in self._faults.plan:
                self.clock.after(fault.at_s, self._strike, fault)
        step = self.clock.step if self._on_event is None else self._step
        with seldom_collected():
            while agents.left and step():
                pass
        if agents.left:
            raise ClusterError(f"the simulation stands still with {agents.left} workflows unfinished")
        return agents.result()

    def _boot(self) -> None:
        self.handle(HeadStarted(incarnation=1, version="sim"))
        self.clock.after(self.spec.tick_s, self._tick)
        for node in self.nodes.values():
            node.start()
        limit = BOOT_S + max(preset.start_s for preset in (self.spec.preset, *self.spec.mix))
        while self._ready() < self.spec.workers:
            if not self._step() or self.clock.now > limit:
                raise ClusterError(f"{self._ready()} of {self.spec.workers} simulated workers became ready")

    def _ready(self) -> int:
        pool = self.head.fleet.pools.get(MODEL)
        return 0 if pool is None else len(pool)

    def _step(self) -> bool:
        going = self.clock.step()
        if self._on_event is not None:
            self._on_event()
        return going

    def _tick(self, _: object) -> None:
        self.handle(HeadTick())
        self.clock.after(self.spec.tick_s, self._tick)

    def _sample(self, _: object) -> None:
        for node in self.nodes.values():
            for worker in node.workers.values():
                useful, cached = worker.engine.cache.useful()
                self._useful += useful
                self._cached += cached
        self.clock.after(SAMPLE_S, self._sample)

    @property
    def useful_share(self) -> float | None:
        """Of what the workers kept, what unfinished workflows could still use, over all samples."""
        return self._useful / self._cached if self._cached else None

    # -- the head's shell ----------------------------------------------------------------

    def handle(self, event: Event) -> None:
        """Let the head know, and do what it says."""
        for action in self.head.handle(event, now=self.clock.now):
            self._perform(action)

    def _perform(self, action: act.Action) -> None:
        match action:
            case act.Record():
                if self._on_fact is not None:
                    self._on_fact(self.clock.now, action.fact)
            case act.Dispatch():
                self.gateway.dispatch(action)
            case act.Send():
                self._line.carry(action.node, self.nodes[action.node].hear, action.message)
            case act.Refuse():
                self.gateway.refuse(action)
            case act.Abort():
                self.gateway.abort(action)
            case act.Disconnect():
                self.clock.after(0.0, self._disconnect, action)
            case act.Ignored():
                self.ignored += 1

    def say(self, message: wire.ToHead) -> None:
        """A node says something to the head."""
        self._line.carry(message.node, self.handle, message)

    # -- steps ---------------------------------------------------------------------------

    def submit(self, workflow: Workflow) -> WorkflowId:
        """Make a workflow known to the head, as the control API does."""
        number = WorkflowId(self.head.book.last_workflow + 1)
        self.handle(
            WorkflowSubmitted(
                workflow=number,
                tenant=TenantId(workflow.tenant or "default"),
                token="",
                kind="replay",
                name=workflow.workflow_id,
                agent_type=workflow.agent_type,
                instance=(workflow.instance or "") if self._instances else "",
                work_s=self._declared(workflow) if self._declared is not None else 0.0,
            )
        )
        return number

    def finish(self, workflow: WorkflowId, *, ok: bool) -> None:
        """Tell the head how a workflow ended."""
        state = WorkflowState.DONE if ok else WorkflowState.FAILED
        self.handle(FinishAsked(workflow=workflow, state=state))

    def call(self, call: Call) -> None:
        """An agent makes a call; `call.answered` is told the end of it."""
        self.gateway.call(call)

    def _worker(self, name: WorkerId) -> SimWorker:
        return self.nodes[node_of(name)].workers[name]

    def _disconnect(self, action: act.Disconnect) -> None:
        """The head gives a worker up."""
        steps = [step.id for step in self.head.book.steps.values() if step.worker == action.worker]
        self.gateway.give_up(action.worker, steps, action.reason)

    # -- faults --------------------------------------------------------------------------

    def _strike(self, fault: Fault) -> None:
        node = self.nodes[node_of(WorkerId(fault.target)) if "/" in fault.target else NodeId(fault.target)]
        match fault.kind:
            case FaultKind.CRASH:
                node.end_worker(node.workers[WorkerId(fault.target)], "it crashed")
            case FaultKind.HANG:
                node.workers[WorkerId(fault.target)].hang()
            case FaultKind.DEATH:
                node.die("its machine died")
                self.clock.after(fault.for_s, lambda _: node.come_back())
            case FaultKind.CUT:
                self._line.cut(node.id, self.clock.now + fault.for_s)
            case FaultKind.END:
                node.notice(fault.for_s)

    # -- checks --------------------------------------------------------------------------

    def check(self) -> None:
        """Raise AssertionError where the head, a node or an engine contradicts itself."""
        self.head.check()
        for node in self.nodes.values():
            node.machine.check()
            for worker in node.workers.values():
                worker.engine.check()
