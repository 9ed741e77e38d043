"""The language of `saga sim plan --target`: what it takes, what it says of the rest, and that no text breaks it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saga_core.errors import UserError
from saga_sim.targets import Metric, Target, parse, parse_all

TIMES = [metric for metric in Metric if metric is not Metric.SLO]
shares = st.floats(0, 1, exclude_min=True)
seconds = st.floats(1e-9, 1e9)
targets = st.one_of(
    st.builds(Target, metric=st.sampled_from(TIMES), limit=seconds, strict=st.booleans()),
    st.builds(Target, metric=st.just(Metric.SLO), limit=shares, strict=st.booleans()),
)


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("p95 <= 5m", Target(metric=Metric.P95, limit=300)),
        ("p95<=300", Target(metric=Metric.P95, limit=300)),
        ("TCT  P50 < 1h30m", Target(metric=Metric.P50, limit=5400, strict=True)),
        ("median ≤ 1.5h", Target(metric=Metric.P50, limit=5400)),
        ("geomean <= 2d", Target(metric=Metric.GEOMEAN, limit=172_800)),
        ("ttft p95 <= 250ms", Target(metric=Metric.TTFT_P95, limit=0.25)),
        ("TTFT mean <= 1m 2s", Target(metric=Metric.TTFT_MEAN, limit=62)),
        ("slo >= 95%", Target(metric=Metric.SLO, limit=0.95)),
        ("slo > .9", Target(metric=Metric.SLO, limit=0.9, strict=True)),
        ("slo ≥ 1", Target(metric=Metric.SLO, limit=1)),
    ],
)
def test_what_people_write(text, target):
    assert parse(text) == [target]


def test_several_joined_or_repeated():
    joined = parse_all(["p95 <= 5m AND slo >= 0.9 and ttft p95 < 2s"])
    assert joined == parse_all(["p95 <= 5m", "slo >= 0.9", "ttft p95 < 2s"])
    assert [target.metric for target in joined] == [Metric.P95, Metric.SLO, Metric.TTFT_P95]


TIME = "a time above 0, such as 300, 250ms, 5m, 1.5h or 1h30m"
METRICS = "p50, p95, p99, mean, geomean, ttft p50, ttft p95, ttft p99, ttft mean, slo"
SHARE = "a share above 0 and up to 1, such as 0.95 or 95%"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (
            "p90 <= 5m",
            f"target 'p90 <= 5m', at character 1: unknown metric 'p90' (valid: {METRICS})",
        ),
        (
            "p95 5m",
            "target 'p95 5m', at character 1: 'p95 5m' has no comparison (valid: METRIC <= LIMIT, such as 'p95 <= 5m')",
        ),
        (
            "p95 >= 5m",
            "target 'p95 >= 5m', at character 5: '>=' after p95: a time is bounded from above (valid: <= or <)",
        ),
        (
            "p95 == 5m",
            "target 'p95 == 5m', at character 5: '==' after p95: a time is bounded from above (valid: <= or <)",
        ),
        (
            "slo <= 1",
            "target 'slo <= 1', at character 5: '<=' after slo: a share is bounded from below (valid: >= or >)",
        ),
        ("p95 <= soon", f"target 'p95 <= soon', at character 8: 'soon' is not a time (valid: {TIME})"),
        (
            "p95 <= 5 weeks",
            f"target 'p95 <= 5 weeks', at character 8: '5 weeks' is not a time (valid: {TIME})",
        ),
        ("p95 <= -5", f"target 'p95 <= -5', at character 8: '-5' is not a time (valid: {TIME})"),
        (
            "p95 <= 0s",
            f"target 'p95 <= 0s', at character 8: '0s' cannot be reached or missed (valid: {TIME})",
        ),
        (
            "p95 <= 1e999",
            f"target 'p95 <= 1e999', at character 8: '1e999' cannot be reached or missed (valid: {TIME})",
        ),
        ("p95 <=", f"target 'p95 <=', at character 7: '' is not a time (valid: {TIME})"),
        ("slo >= 95", f"target 'slo >= 95', at character 8: '95' is out of range (valid: {SHARE})"),
        ("slo >= most", f"target 'slo >= most', at character 8: 'most' is not a share (valid: {SHARE})"),
        (
            "mean <= 5m and and p95 <= 1m",
            f"target 'mean <= 5m and and p95 <= 1m', at character 16: unknown metric 'and p95' (valid: {METRICS})",
        ),
        (
            "mean <= 5m and  ",
            "target 'mean <= 5m and  ', at character 17: nothing stands here (valid: a target such as 'p95 <= 5m')",
        ),
        ("", "target '', at character 1: nothing stands here (valid: a target such as 'p95 <= 5m')"),
    ],
)
def test_the_error_says_what_and_where_and_what_is_valid(text, error):
    with pytest.raises(UserError) as told:
        parse(text)
    assert str(told.value) == error


def test_no_target_and_two_for_one_metric_are_refused():
    with pytest.raises(UserError, match=r"^no target is given \(valid: for example --target 'p95 <= 5m'\)$"):
        parse_all([])
    with pytest.raises(UserError) as told:
        parse_all(["p95 <= 5m", "p95 < 60"])
    assert str(told.value) == "two targets for p95: 'p95 <= 300.0s' and 'p95 < 60.0s' (valid: one)"
    with pytest.raises(UserError, match="a target of 1001 characters"):
        parse("p" * 1001)


@given(st.lists(targets, min_size=1, max_size=6))
def test_what_is_written_is_read_back(wanted):
    assert parse(" and ".join(map(str, wanted))) == wanted


@given(st.text(max_size=60) | st.text(alphabet="p95 slomean<>=≤5m%.e-+dh", max_size=30))
def test_any_text_is_targets_or_an_error_with_a_place_in_it(text):
    found, error = _parsed(text)
    assert all(0 < target.limit < float("inf") for target in found)
    if error:
        head, _, rest = error.removeprefix(f"target '{text}', at character ").partition(":")
        assert 1 <= int(head) <= len(text) + 1
        assert "(valid: " in rest
    else:
        assert found


def _parsed(text):
    try:
        return parse(text), ""
    except UserError as error:
        return [], str(error)


@given(targets, st.floats(0, 1e10))
def test_what_meets_a_target_meets_every_easier_one(target, value):
    better = value * (1.1 if target.metric is Metric.SLO else 0.9)
    if target.met(value):
        assert target.met(better)
    assert target.met(target.limit) is not target.strict
    assert not target.met(None)
