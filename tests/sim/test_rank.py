"""Which workflow is meant: ids, names of places, percentiles, numbers; anything else is refused before a run."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saga_core.errors import UserError
from saga_sim.rank import check, pick

IDS = ["a/1", "a/2", "b/1", "b/2"]
ORDER = [2, 0, 3, 1]


@pytest.mark.parametrize(
    ("text", "index"),
    [
        ("a/2", 1), ("slowest", 2), ("fastest", 1), ("median", 3), ("p100", 2), ("p95", 2), ("p75", 0),
        ("p50", 3), ("p0", 1), ("p12.5", 1), ("#1", 2), ("#4", 1),
    ],
)  # fmt: skip
def test_ids_and_ranks(text, index):
    assert pick(text, IDS, ORDER) == index


def test_an_id_goes_before_a_rank():
    assert pick("slowest", ["x", "slowest"], [0, 1]) == 1


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("a/3", "no workflow 'a/3', did you mean 'a/2'? (valid: a workflow's id, slowest, "),
        ("p101", "no workflow 'p101' (valid: "),
        ("#0", "no workflow '#0' among 4 (valid: #1 to #4)"),
        ("#5", "no workflow '#5' among 4 (valid: #1 to #4)"),
        ("", "no workflow '' (valid: "),
    ],
)
def test_the_rest_is_refused(text, error):
    with pytest.raises(UserError) as told:
        check(text, IDS)
    assert str(told.value).startswith(error)


@given(st.integers(1, 50), st.floats(0, 99.9).map(lambda share: f"p{share:.1f}"))
def test_a_percentile_is_a_workflow_that_at_most_that_share_is_below(count, text):
    order = list(range(count))[::-1]  # index i is the i-th fastest
    index = pick(text, [f"w/{i}" for i in range(count)], order)
    share = float(text[1:]) / 100
    assert index / count <= share + 1e-9
    assert (index + 1) / count >= share - 1e-9
