"""What one tick does is bounded, however much there is to do; the next ticks do the rest."""

from __future__ import annotations

import pytest

from saga_core import wire
from saga_core.actions import Refuse
from saga_core.config import Config, HeadConfig
from saga_core.events import HeadStarted, StepArrived, Tick, WorkflowSubmitted
from saga_core.head import Head
from saga_core.states import WorkerState
from saga_core.steps import REFUSALS
from saga_core.workflows import ENDS


def head_of(profile="saga"):
    settings = HeadConfig(queue_timeout_s=10.0, idle_workflow_s=50.0, node_timeout_s=5.0)
    head = Head(Config(profile=profile, head=settings))
    head.handle(HeadStarted(incarnation=1, version="t"), now=100.0)
    return head


def arrive(head, count, now):
    for number in range(1, count + 1):
        head.handle(StepArrived(step=number, tenant="t", model="m", body_bytes=4000), now=now)


def refusals_of(head, start, ticks):
    """How many steps each tick refuses."""
    told = [head.handle(Tick(), now=start + 0.1 * turn) for turn in range(ticks)]
    head.check()
    return [sum(isinstance(action, Refuse) for action in actions) for actions in told]


def test_steps_without_a_worker_are_refused_some_at_a_time():
    head = head_of()
    arrive(head, 3 * REFUSALS, 101.0)
    assert refusals_of(head, 110.9, 5) == [0, REFUSALS, REFUSALS, REFUSALS, 0]


def test_steps_at_a_gate_whose_workers_are_gone_are_refused_some_at_a_time():
    head = head_of()
    head.handle(wire.Hello(protocol=wire.PROTOCOL, version="t", node="n", incarnation=1, host="h"), now=100.0)
    fact = wire.WorkerFact(
        worker="n/0",
        incarnation=1,
        state=WorkerState.READY,
        model="m",
        capacity_tokens=1000,
        max_model_len=1000,
    )
    head.handle(wire.Report(node="n", incarnation=1, seq=1, workers=[fact]), now=100.0)
    arrive(head, 2 * REFUSALS, 101.0)
    starting = wire.WorkerFact(worker="n/0", incarnation=2, state=WorkerState.STARTING, model="m")
    head.handle(wire.Report(node="n", incarnation=1, seq=2, workers=[starting]), now=102.0)
    for turn in range(3, 13):
        head.handle(wire.Report(node="n", incarnation=1, seq=turn, workers=[starting]), now=99.0 + turn)
    found = refusals_of(head, 111.5, 4)
    assert found[0] == REFUSALS
    assert found[1] == REFUSALS - 1, "one was on the worker"
    assert found[2:] == [0, 0]


@pytest.mark.parametrize("count", [3 * ENDS, 3 * ENDS + 1])
def test_silent_workflows_end_some_at_a_time(count):
    head = head_of()
    for number in range(1, count + 1):
        event = WorkflowSubmitted(workflow=number, tenant="t", token="k", kind="outside", name=f"w{number}")
        head.handle(event, now=101.0)
    live = []
    for turn in range(5):
        head.handle(Tick(), now=151.0 + 0.1 * turn)
        live.append(head.book.live)
    head.check()
    assert live == [max(0, count - ENDS * (turn + 1)) for turn in range(5)]
