"""The paper's graph against cases worked by hand."""

import pytest

from saga_core.aeg import Declared
from saga_core.aeg.hints import expected_steps
from saga_core.aeg.paper import Pattern, declared_reuse, overlap, reuse_probability


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


def test_reuse_on_a_declared_graph():
    graph = (Declared(tool="code", next=((0, 0.5), (1, 0.25))), Declared(tool="submit"))
    assert declared_reuse(graph, 0, 1000, 1000) == pytest.approx(0.375)
    assert declared_reuse(graph, 1, 1000, 1000) == 0.0


def test_inference_waits_for_thirty_workflows():
    pattern = Pattern()
    for _ in range(29):
        pattern.add(["read", "edit"])
    assert pattern.next_tool("read") is None
    pattern.add(["read", "edit"])
    assert pattern.next_tool("read") == "edit"
    assert pattern.reuse("read", 1000, 1000) == pytest.approx(0.5)


def test_an_edge_needs_seven_of_ten():
    pattern = Pattern()
    for _ in range(21):
        pattern.add(["read", "edit"])
    for _ in range(9):
        pattern.add(["read", "run"])
    assert pattern.edges("read") == {"edit": 0.7}
    for _ in range(1):
        pattern.add(["read", "run"])
    assert pattern.edges("read") == {}


def test_an_end_is_an_edge_but_no_successor():
    pattern = Pattern()
    for _ in range(30):
        pattern.add(["submit"])
    assert pattern.edges("submit") == {".": 1.0}
    assert pattern.next_tool("submit") is None
    assert pattern.reuse("submit", 1000, 0) == 0.0


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
