"""What a submission asks for, as the head takes it: whose turn is sooner, and what a program takes of its node."""

from __future__ import annotations

import pytest
from core_rig import PROGRAM, Rig, config, dispatched, only, program, said, worker
from msgspec.structs import replace

from saga_core import slots
from saga_core.actions import Dispatch
from saga_core.events import WorkflowSubmitted
from saga_core.fleet import Node
from saga_core.wire import RunProgram

GIB = 2**30


def submitted(rig: Rig, cpus: int = 0, gib: int = 0, priority: int = 0) -> int:
    number = rig.head.book.last_workflow + 1
    program = replace(PROGRAM, cpus=cpus, memory_bytes=gib * GIB)
    rig.last = rig(
        WorkflowSubmitted(
            workflow=number,
            tenant="t",
            token="s",
            kind="program",
            program=program,
            log="/l",
            priority=priority,
        )
    )
    return number


def given(actions: list, node: str = "n1") -> list[int]:
    return [message.workflow for message in said(actions, node) if isinstance(message, RunProgram)]


def two(rig: Rig) -> None:
    rig.hello("n1", cpus=8, memory_bytes=16 * GIB)
    rig.hello("n2", cpus=4, memory_bytes=64 * GIB)


def test_a_program_goes_where_its_cores_and_memory_are():
    rig = Rig()
    two(rig)
    assert given(rig.last) == []
    first = submitted(rig, cpus=6)
    assert given(rig.last) == [first], "n2 has four"
    second = submitted(rig, gib=32)
    assert given(rig.last, "n2") == [second]
    third = submitted(rig, cpus=3)
    assert given(rig.last, "n2") == [third], "two are left on n1"
    fourth = submitted(rig, cpus=3)
    assert not given(rig.last) + given(rig.last, "n2"), "it waits for cores"
    plain = submitted(rig)
    assert not given(rig.last) + given(rig.last, "n2"), "behind who came first"
    assert list(rig.head.programs.queued) == [fourth, plain]
    ended = rig.report(node="n1", programs=[program(first, exited=True, exit_code=0)])
    assert given(ended + rig.tick()) == [fourth, plain]


def test_who_asks_for_more_than_any_node_has_holds_nobody_up_and_is_told_at_once():
    rig = Rig()
    two(rig)
    huge, plain = submitted(rig, cpus=9), submitted(rig)
    assert given(rig.last) == [plain]
    assert list(rig.head.programs.queued) == [huge]
    rig.hello("n3", cpus=64, memory_bytes=GIB)
    assert given(rig.tick(), "n3") == [huge]
    nodes = list(rig.head.fleet.nodes.values())
    asked = replace(PROGRAM, cpus=64, memory_bytes=32 * GIB)
    assert "no node has both (the most are 64 cores and 64.0 GiB)" in slots.too_large(asked, nodes)
    assert not slots.too_large(asked, [])
    assert not slots.too_large(asked, [Node("n", 1, "h", 0.0)]), "an older daemon does not say"


def test_of_waiting_programs_the_more_important_starts_first():
    rig = Rig()
    low, first, second = submitted(rig, priority=-1), submitted(rig), submitted(rig)
    high = submitted(rig, priority=3)
    rig.hello("n1", program_slots=1)
    order: list[int] = []
    for _ in range(4):
        order += given(rig.tick(after=0.1))
        rig.report(programs=[program(order[-1], exited=True, exit_code=0)])
    assert order == [high, first, second, low]
    assert rig.restarted().head.book.workflows[high].priority == 3


@pytest.mark.parametrize("profile", ["saga", "saga-blind", "thunder"])
def test_at_the_gate_the_more_important_goes_in_first_and_is_paused_last(profile: str):
    rig = Rig(config(profile))
    rig.hello()
    rig.report(worker("n1/0", capacity_tokens=10_000))
    names = []
    for priority in (0, -2, 5, 0):
        number = rig.head.book.last_workflow + 1
        rig(
            WorkflowSubmitted(
                workflow=number, tenant="t", token="s", kind="replay", priority=priority, log="/l"
            )
        )
        names.append(number)
    plain, low, high, _ = names
    big = 7_000 * 4
    there = rig.submit()
    assert dispatched(rig.step(there, body_bytes=big)) == "n1/0", "it fills the room"
    held = [rig.step(number, body_bytes=big) for number in (low, plain, high)]
    assert not [action for actions in held for action in only(actions, Dispatch)]
    actions = rig.finish(1, prompt_tokens=7_000, output_tokens=1)
    actions += rig.end(there)
    went = [rig.head.book.steps[sent.step].workflow for sent in only(actions, Dispatch)]
    assert went[:1] == [high]


def test_priority_makes_nobody_overdue_later():
    rig = Rig(config("saga"))
    rig.hello()
    rig.report(worker("n1/0", capacity_tokens=10_000))
    gate = None
    for priority in (10, -10):
        number = rig.head.book.last_workflow + 1
        rig(
            WorkflowSubmitted(
                workflow=number, tenant="t", token="s", kind="replay", priority=priority, work_s=5.0, log="/l"
            )
        )
        rig.step(number, body_bytes=100)
        gate = rig.head.gates["m"]
    assert gate is not None
    first, second = gate.claims.values()
    assert gate.floor.due(first)[0] == gate.floor.due(second)[0], "by their shares alone"
    assert gate.floor.key(first)[0] < gate.floor.key(second)[0]
