"""The paper's graph against cases worked by hand."""

from math import inf

import pytest

from saga_core.aeg import Declared, Hints, Kind, Learner
from saga_core.aeg.hints import expected_steps, steps_until
from saga_core.aeg.paper import continuation, overlap, reuse_probability
from saga_core.aeg.snapshot import decode, encode


def test_overlap_is_the_cached_share_of_the_next_prompt():
    assert overlap(3000, 1000) == 0.75
    assert overlap(3000, 0) == 1.0
    assert overlap(0, 0) == 0.0


def test_reuse_sums_over_successors():
    # 0.6 * 3000/4000 + 0.3 * 3000/6000 = 0.45 + 0.15
    assert reuse_probability([(0.6, 1000), (0.3, 3000)], 3000) == pytest.approx(0.60)


def test_a_terminal_step_is_not_reused_and_the_sum_is_clamped():
    assert reuse_probability([], 3000) == 0.0
    assert reuse_probability([(0.9, 0), (0.9, 0)], 3000) == 1.0


def test_an_edge_needs_seven_of_ten_and_the_end_is_no_successor():
    assert continuation({"edit": 7, "run": 3}, 0.0, 99.0) == pytest.approx(0.7)
    assert continuation({"edit": 1}, 0.2, 99.0) == pytest.approx(0.8)
    assert continuation({"edit": 1}, 0.7, 99.0) == 0.0


def test_without_an_edge_the_workflow_ends_once_in_its_remaining_steps():
    """As in the authors' repository: at least every second time."""
    assert continuation({"edit": 6, "run": 4}, 0.0, 20.0) == pytest.approx(0.95)
    assert continuation({}, 0.0, 0.5) == 0.5
    assert continuation({"edit": 10}, 0.4, 4.0) == 0.75, "0.6 is no edge"


def learned(workflows, tools=("read", "edit"), graph=()):
    """A learner that has seen so many, and is in the middle of number 900, one step before its last."""
    learner, kind = Learner(), Kind("t", "coder")
    for number in [*range(workflows), 900]:
        learner.began(number, kind, Hints(graph=graph) if graph else None)
        for tool in tools if number != 900 else tools[:-1]:
            learner.stepped(
                number, "main", at=0.0, work_s=1.0, prompt_tokens=1000, output_tokens=10, tool=tool
            )
            learner.returned(number, "main", at=5.0)
        if number != 900:
            learner.ended(number, complete=True)
    return learner


def test_inference_waits_for_thirty_workflows():
    assert learned(29).reuse(900, "main", 1000) == 0.0
    assert learned(30).reuse(900, "main", 1000) > 0.5
    assert learned(30).reuse(900, "nobody", 1000) == 0.0


def test_reuse_falls_where_workflows_end_and_with_what_the_tool_adds():
    goes_on, ends = learned(60), learned(60, tools=("read", "edit", "submit", "submit"))
    assert ends.reuse(900, "main", 1000) < goes_on.reuse(900, "main", 1000)
    assert goes_on.reuse(900, "main", 100) < goes_on.reuse(900, "main", 10_000)


def test_reuse_on_a_declared_graph():
    graph = (Declared(tool="code", next=((0, 0.5), (1, 0.25))), Declared(tool="submit"))
    learner = learned(0, tools=("code", "submit"), graph=graph)
    shared = overlap(1000, learner.growth(900, "main").mean)
    assert learner.reuse(900, "main", 1000) == pytest.approx(0.75 * shared)
    learner.stepped(900, "main", at=9.0, work_s=1.0, prompt_tokens=1000, output_tokens=1, tool="submit")
    assert learner.reuse(900, "main", 1000) == 0.0, "a terminal step"
    learner.stepped(900, "main", at=9.0, work_s=1.0, prompt_tokens=1000, output_tokens=1, tool="strange")
    assert learner.reuse(900, "main", 1000) == 0.0, "off course, and nothing is known of its type"


# -- KVFlow: steps to execution ----------------------------------------------------------


def test_steps_until_a_sessions_turn_on_a_declared_graph():
    turns = (
        Declared(session="plan", next=((1, 1.0),)),
        Declared(session="code", next=((1, 0.5), (2, 0.5))),
        Declared(session="test", next=((0, 0.9),)),
    )
    assert [steps_until(turns, 0, name) for name in ("code", "test", "plan", "nobody")] == [1, 2, 3, inf]
    assert steps_until((Declared(next=((1, 1.0),)), Declared()), 0, "main") == 1
    assert steps_until((Declared(),), 0, "main") == inf
    assert steps_until((Declared(next=((0, 0.0),)),), 0, "main") == inf


def test_steps_until_a_sessions_turn_are_learned_where_agents_take_turns():
    """Three agents in a ring. After the first one's step the second is next, and the first one last."""
    learner = Learner()
    learner.began(1, Kind("t", "ring"))
    for turn in range(31):
        learner.stepped(1, "abc"[turn % 3], at=turn, work_s=1.0, prompt_tokens=9, output_tokens=1)
    assert [learner.steps_until(1, name) for name in "abc"] == [3, 1, 2]
    for turn in range(6):
        learner.stepped(1, "b", at=turn, work_s=1.0, prompt_tokens=9, output_tokens=1)
    assert learner.steps_until(1, "a") > 3, "it has missed its turn twice: as long again"
    assert learner.steps_until(2, "a") == 1.0


def test_the_only_session_is_always_next():
    assert learned(3).steps_until(900, "main") == 1.0


def test_what_the_paper_asks_for_survives_a_restart():
    learner = learned(30)
    again = decode(encode(learner), "test")
    assert again.reuse(900, "main", 1000) == learner.reuse(900, "main", 1000)
    assert again.latencies_s(900, "main") == learner.latencies_s(900, "main") != ()


def test_expected_length_of_a_declared_graph():
    # A loop left with probability 1/4: 4 steps; then one more.
    loop = (Declared(next=((0, 0.75), (1, 0.25))), Declared())
    assert expected_steps(loop) == pytest.approx(5.0, rel=1e-4)
    # Two steps in turn, left with probability 1/10 after the second: 20 in all.
    turns = (Declared(next=((1, 1.0),)), Declared(next=((0, 0.9),)))
    assert expected_steps(turns) == pytest.approx(20.0, rel=1e-2)
    assert expected_steps((Declared(next=((1, 1.0),)), Declared(next=((2, 0.5),)), Declared())) == 2.5


@pytest.mark.parametrize(
    "graph",
    [
        (),
        (Declared(next=((0, 1.0),)),),
        (Declared(next=((1, 1.0),)),),
        (Declared(next=((0, 0.6), (0, 0.6))),),
        (Declared(next=((0, -0.5),)),),
        (Declared(next=((0, float("nan")),)),),
        tuple(Declared() for _ in range(257)),
        tuple(Declared(next=((0, 0.1), (1, 0.1), (2, 0.1))) for _ in range(200)),
        (Declared(next=((1, 1.0),)), Declared(next=((0, 1.0),))),
    ],
)
def test_a_graph_without_end_or_sense_says_nothing(graph):
    assert expected_steps(graph) is None
