"""Selectors: what they mean, and that no text makes them do anything but select or refuse."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saga_cli.selection import ranges, select
from saga_core.errors import UserError

IDS = st.lists(st.integers(min_value=1, max_value=300), unique=True)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("all", [1, 2, 3, 5, 9]),
        ("last", [9]),
        ("3", [3]),
        ("2-5", [2, 3, 5]),
        ("1,5,last", [1, 5, 9]),
        ("3, 1-2,2", [1, 2, 3]),
        ("4-100", [5, 9]),
    ],
)
def test_what_selectors_mean(text, meant):
    assert select(text, [5, 1, 2, 3, 9]) == meant


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "valid: last, all"),
        ("first", "valid: last, all"),
        ("1;2", "valid: last, all"),
        ("-3", "valid: last, all"),
        ("٣", "valid: last, all"),
        ("5-2", "runs backwards"),
        ("4", "no workflow 4 (have: 1-3, 5, 9)"),
        ("6-8", "no workflow 6-8 (have: 1-3, 5, 9)"),
    ],
)
def test_what_they_refuse_and_why(text, told):
    with pytest.raises(UserError) as refused:
        select(text, [1, 2, 3, 5, 9])
    assert told in str(refused.value)


@pytest.mark.parametrize("text", ["last", "1"])
def test_nothing_was_submitted_yet(text):
    with pytest.raises(UserError, match="none was submitted yet"):
        select(text, [])


def test_all_of_nothing_is_nothing():
    assert select("all", []) == []


@given(IDS)
def test_ranges_are_selectors_of_exactly_these_ids(ids):
    if ids:
        assert select(ranges(ids), ids) == sorted(ids)
        assert select(ranges(ids), range(1, 301)) == sorted(ids)


@given(st.text(max_size=12), IDS)
def test_any_text_selects_known_ids_or_is_a_usage_error(text, ids):
    try:
        chosen = select(text, ids)
    except UserError:
        return
    assert chosen == sorted(set(chosen))
    assert set(chosen) <= set(ids)


@given(st.integers(1, 300), st.integers(1, 300), IDS)
def test_a_range_is_all_the_known_ids_inside_it(low, high, ids):
    inside = sorted(i for i in ids if low <= i <= high)
    if low <= high and inside:
        assert select(f"{low}-{high}", ids) == inside
