"""Whether a session steps again: sub-agents are done long before their workflow is, and nobody says so."""

import pytest

from saga_core.aeg import Kind, Learner
from saga_core.aeg.snapshot import decode, encode


def step(learner, workflow, session, at, tool):
    learner.stepped(workflow, session, at=at, work_s=1.0, prompt_tokens=100, output_tokens=10, tool=tool)


def lead(learner, number, turns=3):
    """A workflow whose main session asks a sub-agent, which looks around and answers; then it goes on."""
    learner.began(number, Kind("t", "lead"))
    step(learner, number, "main", 0.0, "ask")
    for turn in range(turns):
        step(learner, number, "sub", 1.0 + turn, "look")
        learner.returned(number, "sub", at=2.0 + turn)
    step(learner, number, "sub", 9.0, "answer")
    learner.returned(number, "main", at=9.5)
    step(learner, number, "main", 10.0, "look")


def taught(workflows=20):
    learner = Learner()
    for number in range(workflows):
        lead(learner, number)
        learner.ended(number, complete=True)
    return learner


def test_a_sub_agent_that_has_answered_does_not_return():
    learner = taught()
    lead(learner, 900)
    assert learner.return_probability(900, "sub", 0.0) < 0.2
    step(learner, 900, "sub", 12.0, "look")
    assert learner.return_probability(900, "sub", 0.0) > 0.9
    assert learner.return_probability(900, "sub", 500.0) < learner.return_probability(900, "sub", 0.0)


def test_the_first_session_is_there_until_its_workflow_ends():
    learner = taught()
    lead(learner, 900)
    assert learner.return_probability(900, "main", 1e6) == 1.0
    assert learner.return_probability(900, "nobody", 1.0) == 1.0
    assert learner.return_probability(901, "main", 1.0) == 1.0


def test_who_is_cancelled_teaches_nothing_of_it():
    learner = Learner()
    for number in range(20):
        lead(learner, number)
        learner.ended(number, complete=False)
    lead(learner, 900)
    assert learner.return_probability(900, "sub", 0.0) == 1.0


def test_it_survives_a_restart():
    learner = taught()
    lead(learner, 900)
    again = decode(encode(learner), "test")
    for at in (0.0, 5.0, 500.0):
        assert again.return_probability(900, "sub", at) == learner.return_probability(900, "sub", at)


def test_a_tool_that_is_named_late_is_counted_once():
    learner = Learner()
    learner.began(1, Kind("t", "x"))
    step(learner, 1, "main", 0.0, "ask")
    for turn in range(5):
        step(learner, 1, "sub", turn, "")
        learner.returned(1, "sub", at=turn + 0.5, tool="look")
    program = learner.memory.programs.by_name["t", "x"]
    assert program.tool("look").stops.asked == pytest.approx(5.0)
    assert program.tool("").stops.asked == 0.0
