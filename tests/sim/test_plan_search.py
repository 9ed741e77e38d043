"""The search for a size: few questions when there is a threshold, an answer that holds where there is none."""

from __future__ import annotations

from math import ceil, log2

from hypothesis import given
from hypothesis import strategies as st

from saga_sim.search import Search


@given(st.integers(1, 10_000), st.data())
def test_a_threshold_is_found_with_two_logarithms_of_questions(most, data):
    threshold = data.draw(st.integers(1, most + 1))
    search = Search(lambda size: size >= threshold, most)
    assert search.answer() == (threshold if threshold <= most else None)
    assert search.against(threshold) == []
    assert len(search.tried) <= 2 * ceil(log2(most + 1)) + 2
    assert set(search.tried) <= set(range(1, most + 1))


@given(st.lists(st.booleans(), min_size=1, max_size=70))
def test_without_a_threshold_the_neighbours_still_speak_for_the_answer(enough):
    asked = []

    def meets(size):
        asked.append(size)
        return enough[size - 1]

    search = Search(meets, len(enough))
    answer = search.answer()
    assert len(asked) == len(set(asked)), "a size is simulated once"
    if answer is None:
        assert not enough[-1], "the largest size is always tried before giving up"
        return
    assert search.tried[answer]
    assert search.tried.get(answer - 1, False) is False
    assert answer == 1 or answer - 1 in search.tried
    assert answer == len(enough) or search.tried[answer + 1]
    for size in search.against(answer):
        assert enough[size - 1] is (size < answer)


def test_what_contradicts_the_answer_is_told():
    search = Search(lambda size: size in {2, 6, 7, 8}, 8)
    assert search.answer() == 6
    assert search.against(6) == [2]
    nothing = Search(lambda size: size == 1, 2)
    assert nothing.answer() is None
    assert nothing.against(None) == [1]


@given(st.integers(1, 3000), st.data())
def test_the_questions_left_are_never_more_than_said(most, data):
    threshold = data.draw(st.integers(1, most + 1))
    said: list[tuple[int, int]] = []

    def meets(size):
        said.append((len(search.tried), search.left()))
        return size >= threshold

    search = Search(meets, most)
    search.answer()
    assert all(len(search.tried) - before <= left for before, left in said)
    assert search.left() >= 0
