"""How the report writes numbers, escapes text, picks ticks and folds changes over time."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saga_sim.report import axis, notation
from saga_sim.report.markup import Markup, join, tag
from saga_sim.report.series import means


def plainly(written):
    return written.replace("\N{NO-BREAK SPACE}", " ").replace("\N{NARROW NO-BREAK SPACE}", " ")


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (None, "–"), (0, "0 s"), (0.0042, "4.2 ms"), (0.42, "0.42 s"), (0.996, "1.0 s"), (8.34, "8.3 s"),
        (9.96, "10 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (192, "3 min 12 s"), (3599.4, "59 min 59 s"),
        (3599.6, "1 h 00 min"), (7500, "2 h 05 min"), (86399, "1 d 00 h"), (273600, "3 d 04 h"),
    ],
)  # fmt: skip
def test_seconds(value, written):
    assert plainly(notation.seconds(value)) == written


@pytest.mark.parametrize(
    ("value", "written"),
    [(None, "–"), (1.0, "1.00"), (0.9571, "0.957"), (12.04, "12.0"), (123.4, "123"), (4321, "4321"), (0.0001, "0.0001")],
)  # fmt: skip
def test_ratio_has_three_digits(value, written):
    assert notation.ratio(value) == written


@pytest.mark.parametrize(
    ("value", "written"),
    [(None, "–"), (0, "0"), (8.25, "8.2"), (950, "950"), (999.6, "1 k"), (12_345, "12.3 k"), (999_600, "1 M"),
     (4_560_000, "4.56 M"), (7e12, "7000 G")],
)  # fmt: skip
def test_count(value, written):
    assert plainly(notation.count(value)) == written


def test_thousands_in_whole_counts():
    assert plainly(notation.plural(1204, "workflow")) == "1 204 workflows"
    assert plainly(notation.plural(1, "seed")) == "1 seed"
    assert plainly(notation.tick_seconds(5400)) == "1.5 h"
    assert plainly(notation.tick_seconds(0.02)) == "20 ms"


def test_text_of_strangers_is_escaped_and_harmless():
    evil = '</title><script>alert("1")</script>\u202e\x1b[31m&'
    made = tag("td", evil, title=evil)
    assert "<script" not in made
    assert "\u202e" not in made
    assert "\x1b" not in made
    assert made.startswith('<td title="&lt;/title&gt;')
    assert made.endswith("[31m&amp;</td>")


def test_markup_is_not_escaped_twice_and_nothing_is_left_out_but_none():
    assert join([tag("b", "a < b"), None, "c"]) == "<b>a &lt; b</b>c"
    assert (
        tag("line", x1=-0.01, y1=2.0, x2=2.25, class_="grid", d=None)
        == '<line x1="0" y1="2" x2="2.2" class="grid"/>'
    )
    assert isinstance(join(["x"]), Markup)
    assert plainly(tag("p", "1\N{NO-BREAK SPACE}s")) == "<p>1 s</p>"


POSITIVE = st.lists(st.floats(1e-3, 1e7), min_size=1, max_size=20)


@given(POSITIVE)
def test_log_axes_hold_their_values_and_their_labels_never_touch(values):
    for made in (axis.log_time("t", values), axis.ratios("r", values)):
        assert made.low <= min(values)
        assert max(values) <= made.high
        places = [made.place(tick) for tick in made.ticks]
        assert all(0 <= place <= 1 for place in places)
        assert all(b - a > 0.05 for a, b in pairwise(places))


@given(st.floats(0, 1e8))
def test_linear_axes_begin_at_nothing_and_have_few_round_ticks(most):
    for made in (axis.counts("n", most), axis.time("t", most)):
        assert made.low == 0
        assert made.high >= min(most, made.high)
        assert made.ticks[0] == 0
        assert len(made.ticks) <= axis.MOST_TICKS
    assert axis.counts("n", most).high >= most * (1 - 1e-9)


def test_a_ratio_axis_always_shows_one():
    for values in ([0.3, 0.4], [1.2, 3.0], [1.0], [0.999, 1.002], [1e-3, 1e3]):
        made = axis.ratios("r", values)
        assert made.low < 1 < made.high
        assert 1 in made.ticks


@given(st.lists(st.tuples(st.floats(-5, 120), st.floats(0, 60)), max_size=12), st.integers(1, 17))
def test_means_keep_the_area_under_the_spans(pieces, stretches):
    until_s = 100.0
    spans = [(start, start + length) for start, length in pieces]
    samples = means(spans, until_s, stretches)
    area = sum(sample.value for sample in samples) * until_s / stretches
    inside = sum(max(0.0, min(end, until_s) - max(start, 0.0)) for start, end in spans)
    assert area == pytest.approx(inside, abs=1e-6)
    assert all(sample.value > -1e-9 for sample in samples)


def test_means_of_one_span():
    assert [sample.value for sample in means([(1.0, 3.5)], 5.0, 5)] == [0, 1, 1, 0.5, 0]
    assert means([(0.0, 1.0)], 0.0) == ()
    assert [s.value for s in means([(4.0, float("inf"))], 5.0, 5)] == [0, 0, 0, 0, 1]
