"""One cell run: what a changed profile, a told item and a twist make of it."""

from __future__ import annotations

from statistics import fmean

import pytest
from evaluation_makers import cell

from saga_core.errors import UserError
from saga_core.policy.profiles import PROFILES
from saga_sim.evaluation.cells import run_cell


def ran(profile, work="swe", **more):
    return run_cell(cell(profile, work=work, workflows=24, workers=1, **more), None)


def test_a_changed_profile_runs_by_its_changes_and_leaves_nothing_behind():
    usual, changed = ran("saga", level=3.0), ran("saga+no-gate", level=3.0)
    assert usual.figures.trace_hash != changed.figures.trace_hash
    assert changed.figures.profile == "saga+no-gate"
    assert usual.figures.trace_hash == ran("saga", level=3.0).figures.trace_hash
    assert "saga+no-gate" not in PROFILES


def test_host_memory_stands_behind_the_workers_of_that_profile_alone():
    assert ran("sticky", level=4.0).figures.host_hit_tokens is None
    assert ran("sticky+host~2", level=4.0).figures.host_hit_tokens is not None


def test_an_item_is_told_where_there_is_one_and_asked_for():
    again = [ran(name, "swe-again").figures for name in ("saga", "saga+instance")]
    assert again[0].trace_hash != again[1].trace_hash, "the head's facts name the items"
    alone = [ran(name, "swe").figures.trace_hash for name in ("saga", "saga+instance")]
    assert alone[0] == alone[1]


def test_predictions_and_the_bound_are_kept_and_the_oracle_where_there_is_overload():
    found = ran("saga").figures
    assert {score.what for score in found.scores} >= {"next tool", "work at 0%", "return"}
    assert found.fairness.workflows == 24
    assert found.belady is not None
    assert ran("saga", level=0.3).figures.belady is None


def test_the_other_half_is_of_the_other_set():
    usual, then = ran("sticky"), ran("sticky", twist="then~web")
    assert {group.tenant for group in usual.figures.slowdowns.classes} == {"swe-bench-like"}
    assert {(group.tenant, group.workflows) for group in then.figures.slowdowns.classes} == {
        ("swe-bench-like", 12), ("webarena-like", 12)
    }  # fmt: skip


def test_slower_tools_take_longer_from_the_middle_on():
    usual, slow = ran("sticky", level=0.3), ran("sticky", level=0.3, twist="slow~10")
    longer = [b / a for a, b in zip(usual.completions_s, slow.completions_s, strict=True)]
    assert fmean(longer[12:]) > 1.3 * fmean(longer[:12])


def test_a_twist_that_there_is_not_is_refused():
    with pytest.raises(UserError, match="unknown twist"):
        ran("sticky", twist="upside-down")
    with pytest.raises(UserError, match="set"):
        ran("sticky", twist="then~nothing")


def test_in_overload_a_workflows_own_prompt_is_lost_and_one_that_all_share_is_not():
    def again_share(profile, work):
        found = run_cell(cell(profile, work=work, level=0.5, workflows=200, workers=1), None)
        return found.figures.again_share

    assert again_share("sticky", "web-own") > 0.1
    assert again_share("sticky", "web") < 0.01
    assert again_share("saga-blind", "web-own") < 0.03, "who is let in keeps what it has"
