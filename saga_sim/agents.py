"""The agents of a simulated run: each recorded workflow as a client that paces its own steps."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Protocol

from saga_core.actions import Dispatch
from saga_core.identity import NO_BODY, Identity, identify
from saga_core.ids import TenantId, WorkflowId
from saga_sim.client import FIRST_PAUSE_S, LONGEST_PAUSE_S, Patience
from saga_sim.clock import Clock
from saga_sim.pacing import Pace, ReadyStep, WorkflowPace
from saga_sim.runs import ReplayResult, RunState, StepRun, WorkflowRun
from saga_sim.streams import Contexts, Groups, Prompt
from saga_sim.tools import tools_of
from saga_sim.trace.records import Step, Workflow, session_names

NOBODY = WorkflowId(0)
ATTEMPTS = Patience().attempts


@dataclass(slots=True, eq=False)
class Call:
    """One call of an agent, from its start to its answer."""

    agent: Agent
    step: Step
    workflow: WorkflowId
    tenant: TenantId
    session: str
    prompt: Prompt
    output_tokens: int
    tool: str
    """What its answer asks for, as far as the gateway can see."""
    started_at: float
    answered: Callable[[Any], None]
    ttft_s: float = 0.0
    cached_tokens: int = 0
    failure: str = ""
    again: bool = False
    """Whether trying once more may help, as an ordinary client would."""
    attempts: int = 1
    dispatch: Dispatch | None = None
    """Where the head sent it last."""


class Cluster(Protocol):
    """What agents need of the world."""

    clock: Clock
    spec: Any

    def submit(self, workflow: Workflow) -> WorkflowId: ...
    def finish(self, workflow: WorkflowId, *, ok: bool) -> None: ...
    def call(self, call: Call) -> None: ...


@dataclass(slots=True, eq=False)
class Agent:
    """One workflow while it runs. What only a running one needs is made when it arrives and dropped at its end."""

    index: int
    workflow: Workflow
    number: WorkflowId = NOBODY
    arrived_at: float = 0.0
    ended_at: float = 0.0
    state: RunState = RunState.CANCELLED
    why: str = ""
    retries: int = 0
    done: list[StepRun] = field(default_factory=list)
    pace: WorkflowPace | None = None
    contexts: Contexts | None = None
    sessions: tuple[str, ...] = ()
    tools: tuple[str, ...] = ()

    @property
    def over(self) -> bool:
        return self.pace is None


class Agents:
    """All workflows of a run."""

    def __init__(
        self,
        cluster: Cluster,
        workflows: Sequence[Workflow],
        pace: Pace,
        *,
        max_live: int | None,
        on_ended: Callable[[Agent], None],
    ) -> None:
        self.clock, self._cluster, self._pace = cluster.clock, cluster, pace
        self._agents = [Agent(index, workflow) for index, workflow in enumerate(workflows)]
        self._groups = Groups()
        self._block_tokens: int = cluster.spec.preset.shape.block_tokens
        self._max_live, self._on_ended = max_live, on_ended
        self._queue: deque[Agent] = deque()
        self._live = 0
        self._base = 0.0
        self.left = len(self._agents)

    def start(self) -> None:
        """Let them arrive from now on, as the pace says."""
        self._base = self.clock.now
        due = self._pace.arrivals([agent.workflow for agent in self._agents])
        for agent, seconds in zip(self._agents, due, strict=True):
            self.clock.after(seconds, self._come, agent)

    def result(self) -> ReplayResult:
        """All workflows in the order given, times counted from the start."""
        runs = tuple(self._run(agent) for agent in self._agents)
        return ReplayResult(runs=runs, wall_s=self.clock.now - self._base)

    # -- a workflow ----------------------------------------------------------------------

    def _come(self, agent: Agent) -> None:
        """It arrives; with a limit on live ones it may have to wait for a slot first."""
        if self._max_live is not None and self._live >= self._max_live:
            self._queue.append(agent)
            return
        self._live += 1
        agent.arrived_at = self.clock.now
        agent.number = self._cluster.submit(agent.workflow)
        agent.pace = WorkflowPace(agent.workflow, self._pace)
        agent.contexts = Contexts(agent.workflow, self._groups, self._block_tokens)
        agent.sessions, agent.tools = session_names(agent.workflow), tools_of(agent.workflow)
        self._launch(agent, agent.pace.arrive(self.clock.now))

    def _launch(self, agent: Agent, ready: Sequence[ReadyStep]) -> None:
        for item in ready:
            self.clock.at(item.start_at, self._begin, (agent, item.step))

    def _begin(self, what: tuple[Agent, Step]) -> None:
        agent, step = what
        if agent.contexts is None:
            return  # it has failed meanwhile
        self._cluster.call(
            Call(
                agent=agent,
                step=step,
                workflow=agent.number,
                tenant=TenantId(agent.workflow.tenant or "default"),
                session=agent.sessions[step.id],
                prompt=agent.contexts.build(step),
                output_tokens=step.output_tokens,
                tool=agent.tools[step.id],
                started_at=self.clock.now,
                answered=self._answered,
            )
        )

    def _answered(self, call: Call) -> None:
        agent = call.agent
        if agent.pace is None:
            return
        if call.failure and call.again and call.attempts < ATTEMPTS:
            pause_s = min(FIRST_PAUSE_S * 2 ** (call.attempts - 1), LONGEST_PAUSE_S)
            call.failure, call.again = "", False
            call.attempts += 1
            agent.retries += 1
            self.clock.after(pause_s, self._cluster.call, call)
            return
        if call.failure:
            self._end(agent, RunState.FAILED, f"step {call.step.id}: {call.failure}")
            return
        agent.done.append(self._measured(call))
        ready = agent.pace.step_finished(call.step.id, self.clock.now)
        if agent.pace.done:
            self._end(agent, RunState.FINISHED)
        else:
            self._launch(agent, ready)

    def _measured(self, call: Call) -> StepRun:
        return StepRun(
            step=call.step.id,
            session=call.session,
            started_s=call.started_at - self._base,
            ttft_s=call.ttft_s,
            duration_s=self.clock.now - call.started_at,
            prompt_tokens=call.prompt.tokens,
            cached_tokens=call.cached_tokens,
            output_tokens=call.output_tokens,
            regenerated_tokens=max(0, call.prompt.computed_before - call.cached_tokens),
            attempts=call.attempts,
        )

    def _end(self, agent: Agent, state: RunState, why: str = "") -> None:
        agent.state, agent.why, agent.ended_at = state, why, self.clock.now
        if agent.contexts is not None:
            agent.contexts.close()
        agent.pace = agent.contexts = None
        agent.sessions = agent.tools = ()
        self.left -= 1
        self._live -= 1
        self._cluster.finish(agent.number, ok=state is RunState.FINISHED)
        self._on_ended(agent)
        if self._queue:
            self._come(self._queue.popleft())

    def _run(self, agent: Agent) -> WorkflowRun:
        return WorkflowRun(
            workflow_id=agent.workflow.workflow_id,
            agent_type=agent.workflow.agent_type,
            state=agent.state,
            arrived_s=agent.arrived_at - self._base,
            ended_s=agent.ended_at - self._base,
            steps=tuple(sorted(agent.done, key=lambda run: run.step)),
            expected_steps=len(agent.workflow.steps),
            retries=agent.retries,
            why=agent.why,
        )


@lru_cache(maxsize=4096)
def identity_of(session: str) -> Identity:
    """Who calls, by the live rules; all workflows name their sessions alike, so few names are asked about."""
    return identify({b"x-saga-session-id": session.encode()}, NO_BODY, by_token=True)
