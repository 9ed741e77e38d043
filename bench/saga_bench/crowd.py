"""A head with a given number of ready workers and live workflows, made by events alone."""

from __future__ import annotations

from saga_core import wire
from saga_core.config import Config
from saga_core.events import HeadStarted, Outcome, StepArrived, StepFinished, WorkflowSubmitted
from saga_core.head import Head
from saga_core.ids import NodeId, StepId, TenantId, WorkflowId, worker_id
from saga_core.states import WorkerState

MODEL = "m"
WORKERS_PER_NODE = 8
"""One rank per GPU of an eight-GPU node."""
MAX_SEQS = 256
CONTEXT_TOKENS = 12_000
"""Prompt of a step in the middle of a coding agent's run."""
START_S = 1_000_000.0
TENANT = TenantId("default")


def crowded_head(workers: int, workflows: int, profile: str) -> Head:
    """`workers` ready workers and `workflows` live workflows of one session and one finished step each."""
    head = Head(Config(profile=profile))
    head.handle(HeadStarted(incarnation=1, version="bench"), now=START_S)
    join_nodes(head, workers)
    for number in range(1, workflows + 1):
        submit(head, WorkflowId(number))
        run_step(head, StepId(number), WorkflowId(number), now=START_S + number * 1e-3)
    return head


def join_nodes(head: Head, workers: int) -> None:
    """Let the nodes of `workers` workers say hello and report them ready."""
    for first in range(0, workers, WORKERS_PER_NODE):
        node = NodeId(f"n{first // WORKERS_PER_NODE + 1:04d}")
        count = min(WORKERS_PER_NODE, workers - first)
        hello = wire.Hello(protocol=wire.PROTOCOL, version="bench", node=node, incarnation=1, host=node)
        head.handle(hello, now=START_S)
        facts = [_ready(node, index) for index in range(count)]
        head.handle(wire.Report(node=node, incarnation=1, seq=1, workers=facts), now=START_S)


def _ready(node: NodeId, index: int) -> wire.WorkerFact:
    return wire.WorkerFact(
        worker=worker_id(node, index),
        incarnation=1,
        state=WorkerState.READY,
        model=MODEL,
        host=node,
        port=8000 + index,
        capacity_tokens=500_000,
        max_model_len=131_072,
        max_seqs=MAX_SEQS,
        kv_usage=0.1,
    )


def submit(head: Head, workflow: WorkflowId) -> None:
    """Open a workflow as `saga submit` does, but without a program."""
    token = f"wf-{workflow:032d}"  # as long as a real one
    event = WorkflowSubmitted(workflow=workflow, tenant=TENANT, token=token, kind="replay", name="bench")
    head.handle(event, now=START_S)


def run_step(head: Head, step: StepId, workflow: WorkflowId, *, now: float) -> None:
    """One whole step: it arrives, is placed, and ends."""
    head.handle(arrival(step, workflow), now=now)
    head.handle(end(step), now=now + 1e-4)


def arrival(step: StepId, workflow: WorkflowId) -> StepArrived:
    return StepArrived(
        step=step, tenant=TENANT, model=MODEL, workflow=workflow, rule="token", stream=True, body_bytes=48_000
    )


def end(step: StepId) -> StepFinished:
    return StepFinished(
        step=step,
        outcome=Outcome.DONE,
        prompt_tokens=CONTEXT_TOKENS,
        cached_tokens=CONTEXT_TOKENS - 500,
        output_tokens=200,
        ttft_s=0.2,
        duration_s=3.0,
    )
