"""What clients say of their workflows: taken as said, or refused with what would be valid."""

import pytest
from core_rig import Rig, config, one

from saga_core import snapshot, told
from saga_core.actions import Dispatch
from saga_core.errors import UserError
from saga_core.identity import NO_BODY, identify
from saga_core.views import ProgramSpec, SubmitRequest


def headers(**more: str) -> dict[bytes, bytes]:
    return {f"x-saga-{name.replace('_', '-')}".encode(): value.encode() for name, value in more.items()}


def test_a_call_names_its_parent_and_the_tool_whose_result_it_brings() -> None:
    who = identify(headers(parent_session_id="main", tool="bash", session_id="sub"), NO_BODY, by_token=True)
    assert (who.session, who.parent, who.tool) == ("sub", "main", "bash")
    assert identify({b"x-parent-session-id": b"p"}, NO_BODY, by_token=False).parent == "p"
    assert identify(headers(tool="t" * 500), NO_BODY, by_token=True).tool == "t" * 128


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (SubmitRequest(priority=11, kind="replay"), r"priority: '11' is not valid \(valid: .* -10 to 10\)"),
        (SubmitRequest(program=ProgramSpec(argv=["a"], cwd="/", cpus=-1)), "nothing below 0"),
    ],
)
def test_a_submission_that_cannot_be_is_refused(asked, says) -> None:
    with pytest.raises(UserError, match=says):
        told.check(asked)


# -- a file ----------------------------------------------------------------------------------

LOOP = {
    "steps": [
        {"name": "plan", "tool": "read", "next": "act"},
        {"name": "act", "tool": "bash", "next": {"act": 0.75, "check": 0.25}},
        {"name": "check", "tool": "pytest", "next": {"act": 0.5, "end": 0.5}},
    ]
}


def test_a_declared_workflow_is_a_graph_by_numbers() -> None:
    plan, act, check = told.graph_of(LOOP, "flow.toml")
    assert (plan.tool, plan.next) == ("read", ((1, 1.0),))
    assert act.next == ((1, 0.75), (2, 0.25))
    assert check.next == ((1, 0.5),)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({}, "flow.toml: .*steps"),
        ({"steps": []}, r"flow.toml: 0 steps \(valid: 1 to 256\)"),
        ({"steps": [{"name": "a"}] * 2}, "the name 'a' is taken"),
        ({"steps": [{"name": "end"}]}, "the name 'end' is taken"),
        ({"steps": [{"name": "a", "tol": "x"}]}, r"unknown field `tol` - at `\$.steps\[0\]`"),
        (
            {"steps": [{"name": "a", "next": "b"}]},
            r"unknown next 'b' in flow.toml: step 'a' \(have: a, end\)",
        ),
        ({"steps": [{"name": "a", "next": {"end": 1.5}}]}, "step 'a': next.end = 1.5 is not a probability"),
        (
            {"steps": [{"name": "a", "next": {"a": 0.7, "end": 0.7}}]},
            "step 'a': its successors add up to 1.4",
        ),
        ({"steps": [{"name": "a", "next": "a"}]}, "would never end"),
        ({"steps": [{"name": "a", "tool": "t" * 200}]}, "step 'a': tool: "),
        ({"steps": [{"name": str(i)} for i in range(300)]}, "300 steps"),
    ],
)
def test_an_odd_file_is_refused_with_the_place(data, says) -> None:
    with pytest.raises(UserError, match=says):
        told.graph_of(data, "flow.toml")


def test_a_declared_graph_is_followed() -> None:
    rig = Rig(config("saga"))
    rig.hello()
    rig.up("n1/0")
    number = rig.submit(graph=told.graph_of(LOOP, "f"))
    rig.step(number)
    learner = rig.head.book.accounts.learner
    assert learner.remaining_steps(number).mean > 3
    assert learner.next_tool(number, "main")[0] == "read"
    assert rig.replayed().workflows[number].graph == rig.head.book.workflows[number].graph
    again = snapshot.decode(snapshot.encode(rig.head.book), "test")
    assert again.workflows[number].graph == rig.head.book.workflows[number].graph
    assert again.accounts.learner.next_tool(number, "main")[0] == "read"
    rig.end(number)
    assert rig.head.book.workflows[number].graph == (), "what is over keeps no graph"


# -- engines that serve by priority ----------------------------------------------------------


@pytest.mark.parametrize(
    ("profile", "ordered", "has"), [("las", True, True), ("las", False, False), ("saga", True, False)]
)
def test_a_priority_goes_only_to_engines_that_serve_by_it(profile, ordered, has) -> None:
    rig = Rig(config(profile))
    rig.hello()
    rig.up("n1/0", ordered=ordered)
    priority = one(rig.step(rig.submit()), Dispatch).priority
    assert (priority is not None) is has
