import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from trace_makers import TRACE_FILES, chain, needs_traces, step, workflow, workflows

from saga_core.errors import UserError
from saga_sim.trace import load_trace, shared_tokens
from saga_sim.trace.checks import faults
from saga_sim.trace.records import Tool
from saga_sim.trace.scale import (
    Scaling,
    clamp_gaps,
    cut_at_user_gap,
    fit_context,
    rescale,
    scale_time,
    scale_tokens,
    take_first,
)

QUICK = settings(max_examples=25, deadline=None)


def appended(made):
    """Which steps extend their context parent's whole prompt."""
    return [
        s.ctx_parent is not None and shared_tokens(made, s) == made.steps[s.ctx_parent].prompt_tokens
        for s in made.steps
    ]


def longest(made):
    return max(s.prompt_tokens + s.output_tokens for s in made.steps)


@given(workflows(), st.floats(0.001, 50))
@QUICK
def test_scaled_tokens_pass_the_checks_and_keep_what_was_appended(made, factor):
    scaled = scale_tokens(made, factor)
    assert list(faults(scaled)) == []
    assert all(after for before, after in zip(appended(made), appended(scaled), strict=True) if before)
    for before, after in zip(made.steps, scaled.steps, strict=True):
        assert after.parents == before.parents
        assert after.output_tokens == max(1, int(before.output_tokens * factor))


@given(workflows(), st.integers(60, 9000))
@QUICK
def test_a_fitted_workflow_fits_and_passes_the_checks(made, limit):
    fitted = fit_context(made, limit)
    assert list(faults(fitted)) == []
    assert longest(fitted) <= limit
    if longest(made) <= limit:
        assert fitted == made


@given(workflows(), st.integers(300, 9000))
@QUICK
def test_fitting_wastes_little_of_the_context(made, limit):
    assume(longest(made) > limit)
    assert longest(fit_context(made, limit)) >= limit - 2 * len(made.steps) - 2


@given(workflows(), st.floats(0.0001, 1000))
@QUICK
def test_scaled_times_pass_the_checks(made, factor):
    assert list(faults(scale_time(made, factor))) == []


@given(workflows(), st.floats(0, 100))
@QUICK
def test_clamped_gaps_pass_the_checks_and_stay_below(made, limit):
    clamped = clamp_gaps(made, limit)
    assert list(faults(clamped)) == []
    assert all(s.gap_s is None or s.gap_s <= limit for s in clamped.steps)
    assert all(s.tool is None or (s.tool.latency_s or 0) <= limit for s in clamped.steps)


@given(workflows(), st.floats(0, 3000))
@QUICK
def test_a_cut_workflow_passes_the_checks_and_keeps_its_start(made, limit):
    cut = cut_at_user_gap(made, limit)
    assert list(faults(cut)) == []
    assert cut.steps[0] == made.steps[0]
    assert len(cut.steps) <= len(made.steps)


@given(workflows(), st.integers(200, 5000), st.floats(0.01, 10), st.floats(0.05, 3))
@QUICK
def test_all_changes_together_pass_the_checks(made, limit, time, tokens):
    scaling = Scaling(cut_gap_s=100, max_gap_s=50, tokens=tokens, time=time, max_context=limit)
    (scaled,) = rescale([made], scaling)
    assert list(faults(scaled)) == []
    assert longest(scaled) <= limit


@needs_traces
@pytest.mark.parametrize("name", ["swe-agent-demos", "openhands-examples", "tau-bench-airline"])
def test_the_acceptance_traces_fit_a_16k_context(name):
    (path,) = [path for path in TRACE_FILES if path.name.startswith(name)]
    for made in rescale(load_trace(path), Scaling(max_context=16384, time=0.1)):
        assert list(faults(made)) == []
        assert longest(made) <= 16384


def test_fitting_scales_the_whole_workflow_by_one_factor():
    fitted = fit_context(chain(steps=10, first=1000, grow=1000, output=100), 5050)
    assert [s.prompt_tokens for s in fitted.steps] == [500 * (i + 1) for i in range(10)]
    assert [s.new_prompt_tokens for s in fitted.steps] == [500] * 10
    assert {s.output_tokens for s in fitted.steps} == {50}


def test_what_cannot_fit_says_what_it_needs():
    with pytest.raises(
        UserError, match=r"'w/1' cannot fit a context of 20 tokens: its 50 steps need at least 51"
    ):
        fit_context(chain(steps=50), 20)


@pytest.mark.parametrize("factor", [0.0, -1.0, float("inf"), float("nan")])
def test_scales_must_be_positive(factor):
    with pytest.raises(UserError, match="above 0"):
        scale_tokens(chain(), factor)
    with pytest.raises(UserError, match="above 0"):
        scale_time(chain(), factor)


def test_a_scale_beyond_the_format_is_refused():
    with pytest.raises(UserError, match="makes a step of 16000000000 tokens"):
        scale_tokens(chain(steps=1), 1.6e8)


def test_a_negative_clamp_and_an_empty_take_are_refused():
    with pytest.raises(UserError, match="negative"):
        clamp_gaps(chain(), -1)
    with pytest.raises(UserError, match="cannot take 0"):
        take_first([chain()], 0)


def test_taking_reads_no_further_than_asked():
    def endless():
        while True:
            yield chain()

    assert len(take_first(endless(), 3)) == 3


def test_clamping_what_is_short_enough_keeps_the_measured_times():
    timed = workflow(step(0, 9, ts_s=0.0, llm_s=1.0), step(1, 19, 10, ts_s=3.0, gap_s=2.0))
    assert clamp_gaps(timed, 2.0) == timed
    assert clamp_gaps(timed, 1.0).steps[1].ts_s is None


def test_a_cut_drops_what_followed_the_absent_person_and_keeps_the_rest():
    away = Tool(kind="user", name=None, latency_s=4000.0)
    made = workflow(
        step(0, 100),
        step(1, 110, 10, tool=away),
        step(2, 60, ctx=None, parents=[0], agent="sub"),
        step(3, 120, 10, ctx=1, parents=[1], gap_s=4000.0),
        step(4, 70, 10, ctx=2, parents=[2], agent="sub"),
        step(5, 130, 10, ctx=3, parents=[3, 4]),
    )
    cut = cut_at_user_gap(made, 600)
    assert [(s.id, s.agent, s.ctx_parent, s.parents) for s in cut.steps] == [
        (0, "main", None, ()), (1, "main", 0, (0,)), (2, "sub", None, (0,)), (3, "sub", 2, (2,)),
    ]  # fmt: skip
    assert cut_at_user_gap(made, 5000) == made


def test_arrivals_scale_with_the_time():
    assert scale_time(replace(chain(), arrival_s=100.0), 0.25).arrival_s == 25.0


def test_a_gap_follows_the_scaled_times_so_that_rounding_does_not_grow():
    rounded = workflow(step(0, 9, ts_s=0.0, llm_s=1.0), step(1, 19, 10, ts_s=3.0, gap_s=2.009))
    assert list(faults(rounded)) == []
    assert list(faults(scale_time(rounded, 50.0))) == []
