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
    Outcome,
    StepArrived,
    StepFinished,
    StepLost,
    WorkflowSubmitted,
)
from saga_core.events import Tick as HeadTick
from saga_core.head import Head
from saga_core.ids import NodeId, StepId, TenantId, WorkerId, WorkflowId
from saga_core.mirror import node_of
from saga_core.policy.profiles import PROFILES
from saga_core.states import WorkflowState
from saga_sim.agents import Agent, Agents, Call, identity_of
from saga_sim.client import RETRIED_STATUSES
from saga_sim.clock import Clock
from saga_sim.cluster import MODEL, ClusterSpec, SimNode, SimWorker
from saga_sim.costs import Preset
from saga_sim.engine import Request
from saga_sim.faults import Fault, FaultKind, Faults, Line
from saga_sim.garbage import seldom_collected
from saga_sim.moving import Files
from saga_sim.pacing import Pace
from saga_sim.runs import ReplayResult
from saga_sim.trace.records import Workflow

__all__ = ["ClusterSpec", "World"]

BODY_BYTES_PER_TOKEN = 4
"""What a request's body is long for, in a live cluster: English and code in JSON."""
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
        self.ignored = 0
        self.nodes: dict[NodeId, SimNode] = {}
        self._on_fact, self._on_event, self._declared = on_fact, on_event, declared
        self._instances = instances
        self._calls: dict[StepId, Call] = {}
        self._last_step = 0
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
                self._dispatch(action)
            case act.Send():
                self._line.carry(action.node, self.nodes[action.node].hear, action.message)
            case act.Refuse():
                why = f"{action.status} {action.code}: {action.message}"
                self._answer(action.step, why, again=action.status in RETRIED_STATUSES)
            case act.Abort():
                self._drop(action.step)
                self._answer(action.step, action.reason)
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
        self.clock.after(self.spec.link.client_s, self._arrive, call)

    def _arrive(self, call: Call) -> None:
        self._last_step += 1
        step = StepId(self._last_step)
        self._calls[step] = call
        who = identity_of(call.session)
        self.handle(
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

    def _dispatch(self, action: act.Dispatch) -> None:
        call = self._calls.get(action.step)
        if call is not None:
            call.dispatch = action
            self.clock.after(self.spec.link.worker_s, self._submit, action)

    def _worker(self, name: WorkerId) -> SimWorker:
        return self.nodes[node_of(name)].workers[name]

    def _submit(self, dispatch: act.Dispatch) -> None:
        call = self._calls.get(dispatch.step)
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
            self.handle(
                StepFinished(step=dispatch.step, outcome=Outcome.REFUSED, status=400, detail=str(error))
            )
            self._answer(dispatch.step, f"400: {error}")

    def on_done(self, worker: SimWorker, request: Request) -> None:
        """An engine has made all of a request's tokens."""
        self.clock.after(self.spec.link.worker_s, self._finished, (worker.id, request))

    def on_lost(self, worker: SimWorker, request: Request, reason: str) -> None:
        """A request's connection broke."""
        lost = (StepId(request.key), worker.id, reason, request.first_at is not None)
        self.clock.after(self.spec.link.worker_s, self._lost, lost)

    def _lost(self, lost: tuple[StepId, WorkerId, str, bool]) -> None:
        """Before the first byte the head may send it elsewhere; after it the stream is broken, and said to be."""
        step, worker, reason, begun = lost
        call = self._calls.get(step)
        if call is None or call.dispatch is None or call.dispatch.worker != worker:
            return
        if not begun:
            self.handle(StepLost(step=step, worker=worker, detail=reason))
            return
        self.handle(StepFinished(step=step, outcome=Outcome.BROKEN, status=200, detail=reason))
        self._answer(step, f"broken stream: {reason}", again=True)

    def _disconnect(self, action: act.Disconnect) -> None:
        """The head gives a worker up: what is on it is lost, whatever the worker would say."""
        for step in [s.id for s in self.head.book.steps.values() if s.worker == action.worker]:
            request = self._worker(action.worker).abort(step)
            begun = request is not None and request.first_at is not None
            self._lost((step, action.worker, action.reason, begun))

    def _drop(self, step: StepId) -> None:
        call = self._calls.get(step)
        if call is not None and call.dispatch is not None:
            self._worker(call.dispatch.worker).abort(step)

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

    def _finished(self, what: tuple[WorkerId, Request]) -> None:
        worker, request = what
        step = StepId(request.key)
        call = self._calls.get(step)
        if call is None or call.dispatch is None or call.dispatch.worker != worker:
            return  # given up on the way
        del self._calls[step]
        assert request.first_at is not None
        ttft_s = request.first_at + self.spec.link.worker_s - call.started_at
        self.handle(
            StepFinished(
                step=step,
                outcome=Outcome.DONE,
                prompt_tokens=request.prompt_tokens,
                cached_tokens=request.cached_tokens,
                output_tokens=request.output_tokens,
                ttft_s=ttft_s,
                duration_s=self.clock.now - call.started_at,
                tool=call.tool,
            )
        )
        call.ttft_s = ttft_s + self.spec.link.client_s
        call.cached_tokens = request.cached_tokens or 0
        self.clock.after(self.spec.link.client_s, call.answered, call)

    def _answer(self, step: StepId, why: str, *, again: bool = False) -> None:
        """A step ends without a result."""
        call = self._calls.pop(step, None)
        if call is not None:
            call.failure, call.again = why, again
            self.clock.after(self.spec.link.client_s, call.answered, call)

    # -- checks --------------------------------------------------------------------------

    def check(self) -> None:
        """Raise AssertionError where the head, a node or an engine contradicts itself."""
        self.head.check()
        for node in self.nodes.values():
            node.machine.check()
            for worker in node.workers.values():
                worker.engine.check()
