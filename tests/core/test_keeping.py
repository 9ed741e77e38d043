"""What KV is worth by profile: pure cases."""

from __future__ import annotations

from math import inf

import pytest

from saga_core.aeg import Estimate, Kind, Learner
from saga_core.costs import CostTable
from saga_core.kv.retention import Standing
from saga_core.policy.keeping import LOOK_S, Away, by_density, by_ttl
from saga_core.policy.profiles import PROFILES

COSTS = CostTable(prefill_token_s=40e-6, attention_token2_s=1e-9)


def away(for_s=0.0, left_s=9.0, *, tokens=10_000, high_s=30.0, samples=20, since=100.0):
    return Away(tokens, since, for_s, lambda _: Estimate(left_s, 0.0, high_s, "test", samples, left_s))


def test_density_is_what_it_costs_again_over_the_time_until_the_return():
    worth, again_s = by_density(COSTS, away(left_s=9.0))
    assert worth == (Standing.LIVE, pytest.approx(50e-6 / 10.0))
    assert again_s == LOOK_S


def test_long_contexts_and_early_returns_are_worth_more():
    usual = by_density(COSTS, away()).worth
    assert by_density(COSTS, away(tokens=50_000)).worth > usual
    assert by_density(COSTS, away(left_s=2.0)).worth > usual
    assert by_density(COSTS, away(left_s=90.0)).worth < usual


def test_it_is_asked_again_when_the_time_away_has_doubled_or_half_of_a_shorter_rest_has_passed():
    late = [by_density(COSTS, away(for_s, left_s=1000.0)).again_s for for_s in (0.0, 0.5, 1.0, 2.0, 64.0)]
    assert late == [1, 1, 1, 2, 64]
    soon = [by_density(COSTS, away(50.0, left_s)).again_s for left_s in (50.0, 30.0, 5.0, 1.0)]
    assert soon == [50, 15, 2.5, 1]


def test_density_follows_what_is_left_of_the_learned_pauses():
    """A tool that takes a minute is worth more the nearer its end is. Unknown: as long again."""
    learner, kind = Learner(), Kind("t", "coder")
    at = 0.0
    learner.began(1, kind, at)
    for turn in range(40):
        learner.stepped(1, "s", at=at, work_s=1.0, prompt_tokens=100, output_tokens=10, tool="bash")
        at += 60.0 + turn % 3
        learner.returned(1, "s", at=at)
    learner.stepped(1, "s", at=at, work_s=1.0, prompt_tokens=100, output_tokens=10, tool="bash")

    def worth(workflow, for_s):
        return by_density(COSTS, Away(1000, 0.0, for_s, lambda s: learner.return_in(workflow, "s", s))).worth

    assert worth(1, 58.0) > worth(1, 5.0), "it is nearly back"
    assert worth(2, 2.0) > worth(2, 4.0) > worth(2, 64.0)


def test_a_ttl_holds_for_the_90th_percentile_of_the_tool_and_then_the_oldest_goes_first():
    held, again_s = by_ttl(COSTS, away(for_s=10.0, high_s=30.0))
    assert (held[0], again_s) == (Standing.HELD, 20.0)
    past, again_s = by_ttl(COSTS, away(for_s=30.0, high_s=30.0))
    assert (past, again_s) == ((Standing.LIVE, 100.0), inf)
    assert by_ttl(COSTS, away(for_s=30.0, since=90.0)).worth < past


def test_where_nothing_is_known_of_a_tool_there_is_no_ttl():
    assert by_ttl(COSTS, away(samples=0)).worth[0] is Standing.LIVE


def test_profiles_that_never_heard_of_retention_have_no_rule():
    with_rule = {name for name, profile in PROFILES.items() if profile.retention is not None}
    assert {"saga", "saga-blind", "ttl"} <= with_rule
    assert not with_rule & {
        "sticky",
        "round-robin",
        "least-loaded",
        "prefix-aware",
        "las",
        "thunder",
        "program-fcfs",
    }
