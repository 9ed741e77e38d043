"""Live replay of a trace over HTTP: real prompts, forced output lengths, the trace's tool gaps.

Each workflow arrives, asks its caller for an endpoint, runs its steps as the pacing machine says and
tells its end. A failed step ends its workflow; the others go on. Nothing is printed: progress goes to
`on_event`, figures to the result.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from urllib.parse import quote

from saga_core.errors import UserError
from saga_sim.client import Address, Patience, Reply, StepCaller, StepFailed
from saga_sim.pacing import Pace, ReadyStep, WorkflowPace
from saga_sim.prompts import DEFAULT_VOCAB, Prompt, Prompts
from saga_sim.runs import (
    Endpoint,
    EventKind,
    ReplayEvent,
    ReplayResult,
    RunState,
    StepRun,
    WorkflowRun,
)
from saga_sim.trace.records import Step, Workflow, session_names

# The gateway cuts names at 128 characters; a cut name could be another's.
MAX_HEADER_CHARS = 128
# How long the caller's `finish` may take: a replay that is cancelled must end.
FAREWELL_S = 10.0

StepTask = asyncio.Task[tuple[float, int]]  # when the step ended, and its id


async def replay(
    workflows: Sequence[Workflow],
    *,
    endpoint: Callable[[Workflow], Awaitable[Endpoint]],
    finish: Callable[[Workflow, bool], Awaitable[None]],
    model: str,
    seed: int = 0,
    pace: Pace | None = None,
    on_event: Callable[[ReplayEvent], None] = lambda _: None,
    max_live: int | None = None,
    vocab: tuple[int, int] = DEFAULT_VOCAB,
    patience: Patience | None = None,
) -> ReplayResult:
    """Replay workflows against an OpenAI-compatible server that takes token-id prompts (vLLM).

    `endpoint` gives a workflow's address when it arrives, `finish` is told how it ended. At most `max_live`
    workflows run at once; with that limit a workflow arrives when its slot is free. Cancelling the calling
    task (Ctrl-C under `asyncio.run`) ends the replay: what was measured until then is *returned*, marked
    `interrupted`. Raises UserError when an option is out of range.
    """
    if max_live is not None and max_live < 1:
        raise UserError(f"cannot run {max_live} workflows at once (valid: 1 or more)")
    async with StepCaller(model=model, patience=patience or Patience()) as caller:
        run = _Replay(
            endpoint=endpoint,
            finish=finish,
            caller=caller,
            seed=seed,
            pace=pace or Pace(seed=seed),
            on_event=on_event,
            slots=asyncio.Semaphore(max_live or max(1, len(workflows))),
            vocab=vocab,
        )
        return await run.all(workflows)


@dataclass(slots=True, kw_only=True)
class _Live:
    """One workflow while it runs."""

    workflow: Workflow
    client: Address
    prompts: Prompts
    pace: WorkflowPace
    sessions: tuple[str, ...]
    arrived_at: float
    done: list[StepRun] = field(default_factory=list)
    retries: int = 0


@dataclass(slots=True, kw_only=True)
class _Replay:
    endpoint: Callable[[Workflow], Awaitable[Endpoint]]
    finish: Callable[[Workflow, bool], Awaitable[None]]
    caller: StepCaller
    seed: int
    pace: Pace
    on_event: Callable[[ReplayEvent], None]
    slots: asyncio.Semaphore
    vocab: tuple[int, int]
    started_at: float = 0.0

    async def all(self, workflows: Sequence[Workflow]) -> ReplayResult:
        self.started_at = _now()
        due = self.pace.arrivals(workflows)
        tasks = [
            asyncio.create_task(self._workflow(workflow, self.started_at + due_s))
            for workflow, due_s in zip(workflows, due, strict=True)
        ]
        interrupted = await _settle(tasks)
        runs = tuple(task.result() for task in tasks)
        return ReplayResult(runs=runs, wall_s=self._since(_now()), interrupted=interrupted)

    async def _workflow(self, workflow: Workflow, due_at: float) -> WorkflowRun:
        """One workflow from its arrival to its end, whatever end that is. Cancelling it ends it as cancelled."""
        try:
            await _sleep_until(due_at)
            async with self.slots:
                return await self._admitted(workflow)
        except asyncio.CancelledError:  # before it arrived
            return self._ended(workflow, None, RunState.CANCELLED, "the replay was cancelled")

    async def _admitted(self, workflow: Workflow) -> WorkflowRun:
        arrived_at = _now()
        self._tell(EventKind.WORKFLOW_ARRIVED, workflow)
        live: _Live | None = None
        state, why = RunState.FAILED, ""
        try:
            live = self._open(workflow, await self.endpoint(workflow), arrived_at)
            await self._steps(live)
            state = RunState.FINISHED
        except StepFailed as failed:
            why = str(failed)
        except asyncio.CancelledError:
            state, why = RunState.CANCELLED, "the replay was cancelled"
        except Exception as error:
            if live is not None:  # a bug of ours; else the caller's endpoint failed, for this workflow alone
                raise
            why = f"no endpoint: {type(error).__name__}: {error}"
        if live is not None or state is RunState.CANCELLED:
            why = await self._farewell(workflow, state is RunState.FINISHED, why)
        return self._ended(workflow, live, state, why, arrived_at)

    def _open(self, workflow: Workflow, endpoint: Endpoint, arrived_at: float) -> _Live:
        return _Live(
            workflow=workflow,
            client=self.caller.bound_to(endpoint),
            prompts=Prompts(workflow, seed=self.seed, vocab=self.vocab),
            pace=WorkflowPace(workflow, self.pace),
            sessions=session_names(workflow),
            arrived_at=arrived_at,
        )

    async def _farewell(self, workflow: Workflow, ok: bool, why: str) -> str:
        try:
            await asyncio.wait_for(self.finish(workflow, ok), FAREWELL_S)
        except Exception as error:  # noqa: BLE001 - the caller's finish; the workflow's own end stands
            told = f"its end could not be told: {type(error).__name__}: {error}"
            return f"{why}; {told}" if why else told
        return why

    async def _steps(self, live: _Live) -> None:
        """Run all steps; the first failure or a cancellation stops those that run."""
        running = self._launched(live, live.pace.arrive(live.arrived_at))
        done: set[StepTask] = set()
        try:
            while running:
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for ended_at, step_id in sorted(task.result() for task in done):
                    running |= self._launched(live, live.pace.step_finished(step_id, ended_at))
        finally:
            await _cancel(running | done)

    def _launched(self, live: _Live, ready: Sequence[ReadyStep]) -> set[StepTask]:
        return {asyncio.create_task(self._step(live, item)) for item in ready}

    async def _step(self, live: _Live, ready: ReadyStep) -> tuple[float, int]:
        await _sleep_until(ready.start_at)
        step, workflow = ready.step, live.workflow
        session = live.sessions[step.id]
        prompt = live.prompts.build(step)
        started_at = _now()
        self._tell(EventKind.STEP_STARTED, workflow, step=step.id, session=session)

        def retried(why: str) -> None:
            live.retries += 1
            self._tell(EventKind.STEP_RETRIED, workflow, step=step.id, session=session, why=why)

        try:
            reply = await self.caller.call(
                live.client,
                prompt.tokens.tolist(),
                step.output_tokens,
                session_headers(workflow, live.sessions, step),
                on_first=lambda: self._tell(EventKind.FIRST_TOKEN, workflow, step=step.id, session=session),
                on_retry=retried,
            )
        except StepFailed as failed:
            raise StepFailed(f"step {step.id}: {failed}") from failed
        live.prompts.finished(step, reply.output_ids)
        run = step_run(step, session, prompt, reply, started_at - self.started_at, started_at)
        live.done.append(run)
        self._tell(EventKind.STEP_FINISHED, workflow, step=step.id, session=session, run=run)
        return reply.ended_at, step.id

    def _ended(
        self,
        workflow: Workflow,
        live: _Live | None,
        state: RunState,
        why: str,
        arrived_at: float | None = None,
    ) -> WorkflowRun:
        now = _now()
        self._tell(EventKind.WORKFLOW_ENDED, workflow, state=state, why=why)
        return WorkflowRun(
            workflow_id=workflow.workflow_id,
            agent_type=workflow.agent_type,
            state=state,
            arrived_s=self._since(now if arrived_at is None else arrived_at),
            ended_s=self._since(now),
            steps=tuple(sorted(live.done, key=lambda run: run.step)) if live else (),
            expected_steps=len(workflow.steps),
            retries=live.retries if live else 0,
            why=why,
        )

    def _tell(
        self,
        kind: EventKind,
        workflow: Workflow,
        *,
        step: int | None = None,
        session: str | None = None,
        run: StepRun | None = None,
        state: RunState | None = None,
        why: str = "",
    ) -> None:
        at_s = self._since(_now())
        self.on_event(
            ReplayEvent(
                kind=kind, at_s=at_s, workflow_id=workflow.workflow_id,
                step=step, session=session, run=run, state=state, why=why,
            )
        )  # fmt: skip

    def _since(self, at: float) -> float:
        return at - self.started_at


def step_run(
    step: Step, session: str, prompt: Prompt, reply: Reply, started_s: float, started_at: float
) -> StepRun:
    """A finished step as measured, with what does not agree with the trace."""
    prompt_tokens = reply.prompt_tokens or 0
    output_tokens = reply.output_tokens or 0
    pairs = [("prompt", prompt_tokens, step.prompt_tokens), ("output", output_tokens, step.output_tokens)]
    if reply.output_ids:
        pairs.append(("streamed", len(reply.output_ids), step.output_tokens))
    cached = reply.cached_tokens
    return StepRun(
        step=step.id,
        session=session,
        started_s=started_s,
        ttft_s=(reply.first_at or reply.ended_at) - started_at,
        duration_s=reply.ended_at - started_at,
        prompt_tokens=prompt_tokens,
        cached_tokens=cached,
        output_tokens=output_tokens,
        regenerated_tokens=None if cached is None else max(0, prompt.computed_before - cached),
        attempts=reply.attempts,
        mismatches=tuple(f"{what} {got}, trace {told}" for what, got, told in pairs if got != told),
    )


def session_headers(workflow: Workflow, sessions: Sequence[str], step: Step) -> dict[str, str]:
    """Who is calling: workflow, agent type, the step's session, and the session that opened it (if one did)."""
    session = sessions[step.id]
    opener = workflow.steps[sessions.index(session)]
    headers = {
        "X-Saga-Workflow-Id": header_name(workflow.workflow_id),
        "X-Saga-Agent-Type": header_name(workflow.agent_type),
        "X-Saga-Session-Id": header_name(session),
    }
    if opener.parents:
        parent = opener.ctx_parent if opener.ctx_parent is not None else opener.parents[-1]
        headers["X-Saga-Parent-Session-Id"] = header_name(sessions[parent])
    return headers


def header_name(name: str) -> str:
    """A name that any proxy carries: visible ASCII, bounded; different names stay different."""
    safe = quote(name, safe="/")
    return safe if len(safe) <= MAX_HEADER_CHARS else blake2b(name.encode(), digest_size=16).hexdigest()


async def _settle(tasks: Sequence[asyncio.Task[WorkflowRun]]) -> bool:
    """Wait for all; True if we were cancelled meanwhile (the tasks then end as cancelled). A bug in one ends all."""
    if not tasks:
        return False
    interrupted = False
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    except asyncio.CancelledError:
        interrupted = True
        if (this := asyncio.current_task()) is not None:
            this.uncancel()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    return interrupted


async def _cancel(tasks: set[StepTask]) -> None:
    """End all; of several failures the first one counts, the others are looked at and dropped."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.exception()


async def _sleep_until(at: float) -> None:
    await asyncio.sleep(max(0.0, at - _now()))


def _now() -> float:
    return asyncio.get_running_loop().time()
