"""Agents that share too little memory, in virtual time: the events that reach a head whose workers' pools are full.

Everything a head hears in production is there: workflows of several tenants and agent types that begin, ask, wait for
tools and end, a few with a second session; nodes that report once a second what changed; an epoch every 100 ms. The
times are drawn, not simulated: an engine that holds a step keeps it for as long as was drawn, whatever else it has.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from saga_bench.crowd import MAX_SEQS, MODEL, START_S, WORKERS_PER_NODE
from saga_core import wire
from saga_core.actions import Action, Dispatch, Refuse
from saga_core.errors import ClusterError
from saga_core.events import (
    Event,
    FinishAsked,
    HeadStarted,
    Outcome,
    StepArrived,
    StepFinished,
    Tick,
    WorkflowSubmitted,
)
from saga_core.head import Head
from saga_core.ids import NodeId, SessionId, StepId, TenantId, WorkerId, WorkflowId, session_id, worker_id
from saga_core.states import WorkerState, WorkflowState

EPOCH_S: Final = 0.1
REPORT_S: Final = 1.0
STEP_S: Final = 3.0
"""Mean time of a step on its worker."""
TOOL_S, LONG_TOOL_S, LONG_SHARE = 4.0, 60.0, 0.1
"""Mean time of a tool call, that of a long one, and how many are long: coding agents and their test suites."""
FIRST_TOKENS, GROWTH_TOKENS, MOST_TOKENS = 8_000, 600, 30_000
"""Of a context: when it begins, per step, and where it is compacted (to its half)."""
FIRST_CACHED, AGAIN_CACHED = 0.1, 0.9
"""Of a prompt, what the worker has already: of the first one what all share."""
NEED_TOKENS: Final = 16_000
"""What such a session needs on average, reserve included."""
STEPS_OF_TYPE = {"swe-agent": 24, "reviewer": 8, "browser": 14, "researcher": 32, "triage": 4}
"""Agent types with the mean number of their steps."""
TENANTS: Final = 10
SECOND_SESSION: Final = 8
"""One workflow in so many has a sub-agent with a context of its own."""
BYTES_PER_TOKEN: Final = 4
SEED: Final = 7

Timed = Callable[[str, Event], list[Action]]
"""(name of what happens, the event) -> what the head makes of it."""


@dataclass(slots=True)
class Agent:
    """One workflow as its client knows it."""

    workflow: WorkflowId
    tenant: TenantId
    steps_left: int
    contexts: list[int]
    """Tokens, per session."""
    session: int = 0
    begun: bool = False


@dataclass(slots=True)
class Call:
    """A step that its agent waits for."""

    agent: Agent
    session: int
    worker: WorkerId | None = None


@dataclass(slots=True)
class Agents:
    """`workflows` agents on `workers` workers whose pools hold `1 / pressure` of what they need."""

    head: Head
    workers: int
    workflows: int
    pressure: float
    now: float = START_S
    events: int = 0
    held: int = 0
    """Steps that wait at the gate."""
    _agenda: list[tuple[float, int, str, object]] = field(default_factory=list)
    _seq: int = 0
    _calls: dict[StepId, Call] = field(default_factory=dict)
    _last_step: int = 0
    _last_workflow: int = 0
    _changed: dict[NodeId, dict[tuple[WorkerId, SessionId], int]] = field(default_factory=dict)
    """Residency that the next report of a node tells."""
    _reports: dict[NodeId, int] = field(default_factory=dict)
    _random: random.Random = field(default_factory=lambda: random.Random(SEED))  # noqa: S311

    def begin(self, over_s: float) -> None:
        """Let the workers be ready, and every agent come within `over_s` seconds."""
        self.head.handle(HeadStarted(incarnation=1, version="bench"), now=self.now)
        for index in range(-(-self.workers // WORKERS_PER_NODE)):
            node = NodeId(f"n{index + 1:04d}")
            self._reports[node], self._changed[node] = 0, {}
            hello = wire.Hello(protocol=wire.PROTOCOL, version="bench", node=node, incarnation=1, host=node)
            self.head.handle(hello, now=self.now)
            self.head.handle(self._told(node), now=self.now)
            self._at(self.now + self._random.random() * REPORT_S, "report", node)
        for _ in range(self.workflows):
            self._at(self.now + self._random.random() * over_s, "begin", None)
        self._at(self.now + EPOCH_S, "tick", None)

    def _at(self, at: float, what: str, about: object) -> None:
        self._seq += 1
        heapq.heappush(self._agenda, (at, self._seq, what, about))

    def run(self, until: Callable[[], bool], handle: Timed) -> None:
        """Let things happen until `until` says so; it is asked after every event."""
        while not until():
            self.now, _, what, about = heapq.heappop(self._agenda)
            match what:
                case "begin":
                    self._begin(handle)
                case "ask":
                    assert isinstance(about, Agent)
                    self._ask(about, handle)
                case "over":
                    assert isinstance(about, int)
                    self._over(StepId(about), handle)
                case "report":
                    self._report(NodeId(str(about)), handle)
                case _:
                    self._at(self.now + EPOCH_S, "tick", None)
                    self._tell("tick", Tick(), handle)

    def _tell(self, name: str, event: Event, handle: Timed) -> None:
        self.events += 1
        for action in handle(name, event):
            if isinstance(action, Dispatch):
                call = self._calls[action.step]
                call.worker = action.worker
                self.held -= 1
                self._at(self.now + self._random.expovariate(1 / STEP_S), "over", action.step)
            elif isinstance(action, Refuse):
                raise ClusterError(f"the bench was refused: {action.message}")

    def _begin(self, handle: Timed) -> None:
        self._last_workflow += 1
        number = WorkflowId(self._last_workflow)
        kind = self._random.choice(list(STEPS_OF_TYPE))
        tenant = TenantId(f"tenant-{number % TENANTS}")
        sessions = 2 if number % SECOND_SESSION == 0 else 1
        contexts = [int(FIRST_TOKENS * self._random.uniform(0.5, 1.5)) for _ in range(sessions)]
        steps = 1 + int(self._random.expovariate(1 / STEPS_OF_TYPE[kind]))
        token = f"wf-{number:032d}"
        event = WorkflowSubmitted(
            workflow=number,
            tenant=tenant,
            token=token,
            kind="replay",
            name=f"{kind}-{number}",
            agent_type=kind,
        )
        self._tell("submit", event, handle)
        self._ask(Agent(number, tenant, steps, contexts), handle)

    def _ask(self, agent: Agent, handle: Timed) -> None:
        self._last_step += 1
        step = StepId(self._last_step)
        agent.session = (agent.session + 1) % len(agent.contexts)
        self._calls[step] = Call(agent, agent.session)
        self.held += 1
        event = StepArrived(
            step=step,
            tenant=agent.tenant,
            model=MODEL,
            workflow=agent.workflow,
            session=f"s{agent.session}",
            rule="token",
            stream=True,
            body_bytes=BYTES_PER_TOKEN * agent.contexts[agent.session],
        )
        self._tell("arrive", event, handle)

    def _over(self, step: StepId, handle: Timed) -> None:
        call = self._calls.pop(step)
        agent, worker = call.agent, call.worker
        assert worker is not None
        prompt = agent.contexts[call.session]
        event = StepFinished(
            step=step,
            outcome=Outcome.DONE,
            prompt_tokens=prompt,
            cached_tokens=int((AGAIN_CACHED if agent.begun else FIRST_CACHED) * prompt),
            output_tokens=200,
            ttft_s=0.2,
            duration_s=3.0,
        )
        self._changed[NodeId(worker.rpartition("/")[0])][
            worker, session_id(agent.workflow, f"s{call.session}")
        ] = prompt
        self._tell("finish", event, handle)
        grown = prompt + int(GROWTH_TOKENS * self._random.uniform(0.2, 1.8))
        agent.contexts[call.session] = grown if grown < MOST_TOKENS else grown // 2
        agent.begun = True
        agent.steps_left -= 1
        if agent.steps_left <= 0:
            self._tell("end", FinishAsked(workflow=agent.workflow, state=WorkflowState.DONE), handle)
            self._begin(handle)
        else:
            mean_s = LONG_TOOL_S if self._random.random() < LONG_SHARE else TOOL_S
            self._at(self.now + self._random.expovariate(1 / mean_s), "ask", agent)

    def _report(self, node: NodeId, handle: Timed) -> None:
        self._at(self.now + REPORT_S, "report", node)
        self._tell("report", self._told(node), handle)

    def _told(self, node: NodeId) -> wire.Report:
        seq = self._reports[node] = self._reports[node] + 1
        changed, self._changed[node] = self._changed[node], {}
        resident = [
            wire.ResidentFact(worker, session, tokens) for (worker, session), tokens in changed.items()
        ]
        first = (int(node[1:]) - 1) * WORKERS_PER_NODE
        count = min(WORKERS_PER_NODE, self.workers - first)
        facts = [self._fact(node, index) for index in range(count)]
        return wire.Report(node=node, incarnation=1, seq=seq, workers=facts, resident=resident, since=seq - 1)

    def _fact(self, node: NodeId, index: int) -> wire.WorkerFact:
        return wire.WorkerFact(
            worker=worker_id(node, index),
            incarnation=1,
            state=WorkerState.READY,
            model=MODEL,
            host=node,
            port=8000 + index,
            capacity_tokens=int(NEED_TOKENS * self.workflows / self.workers / self.pressure),
            max_model_len=131_072,
            max_seqs=MAX_SEQS,
            kv_usage=self._random.uniform(0.3, 1.0),
        )
