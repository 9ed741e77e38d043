"""What KV is worth by profile: pure cases."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf

import pytest

from saga_core.aeg import Estimate, Kind, Learner
from saga_core.costs import CostTable
from saga_core.fleet import Worker
from saga_core.ids import NodeId, WorkerId
from saga_core.kv.retention import Standing
from saga_core.outlook import Home, Prospect
from saga_core.policy.keeping import LOOK_S, Away, by_density, by_steps, by_ttl, by_wa_lru
from saga_core.policy.profiles import PROFILES


@dataclass
class Scenery:
    """A worker on which somebody has been away for 100 s, and the largest context has 20,000 tokens."""

    used_share: float = 0.0
    idle_most_s: float = 100.0
    size_most_tokens: int = 20_000
    costs: CostTable = field(
        default_factory=lambda: CostTable(prefill_token_s=40e-6, attention_token2_s=1e-9)
    )


@dataclass
class Told:
    left_s: float = 9.0
    latest_s: float = 30.0
    again: float = 1.0
    turns: float = 1.0
    back: float = 1.0

    def left(self, for_s):
        return Estimate(self.left_s, 0.0, 0.0, "test", 20, self.left_s)

    def returns(self, for_s):
        return self.back

    def latency_s(self, share):
        return share * self.latest_s

    def reuse(self, cached_tokens):
        return self.again

    def steps(self):
        return self.turns


HERE = Scenery()


def away(for_s=0.0, left_s=9.0, *, tokens=10_000, since=100.0, **told):
    return Away(tokens, since, for_s, Told(left_s, **told))


def test_density_is_what_it_costs_again_over_the_time_until_the_return():
    worth, again_s = by_density(HERE, away(left_s=9.0))
    assert worth == (Standing.LIVE, pytest.approx(50e-6 / 10.0))
    assert again_s == LOOK_S


def test_long_contexts_and_early_returns_are_worth_more():
    usual = by_density(HERE, away()).worth
    assert by_density(HERE, away(tokens=50_000)).worth > usual
    assert by_density(HERE, away(left_s=2.0)).worth > usual
    assert by_density(HERE, away(left_s=90.0)).worth < usual


def test_who_may_never_return_is_worth_so_much_less():
    usual, half = by_density(HERE, away()).worth, by_density(HERE, away(back=0.5)).worth
    assert half == (Standing.LIVE, pytest.approx(usual[1] / 2))


def test_it_is_asked_again_when_the_time_away_has_doubled_or_half_of_a_shorter_rest_has_passed():
    late = [by_density(HERE, away(for_s, left_s=1000.0)).again_s for for_s in (0.0, 0.5, 1.0, 2.0, 64.0)]
    assert late == [1, 1, 1, 2, 64]
    soon = [by_density(HERE, away(50.0, left_s)).again_s for left_s in (50.0, 30.0, 5.0, 1.0)]
    assert soon == [50, 15, 2.5, 1]


def test_density_follows_what_is_left_of_the_learned_pauses():
    """A tool that takes a minute is worth more the nearer its end is. Unknown: as long again."""
    learner, kind = Learner(), Kind("t", "coder")
    at = 0.0
    learner.began(1, kind)
    for turn in range(40):
        learner.stepped(1, "s", at=at, work_s=1.0, prompt_tokens=100, output_tokens=10, tool="bash")
        at += 60.0 + turn % 3
        learner.returned(1, "s", at=at)
    learner.stepped(1, "s", at=at, work_s=1.0, prompt_tokens=100, output_tokens=10, tool="bash")

    def worth(workflow, for_s):
        return by_density(HERE, Away(1000, 0.0, for_s, Prospect(learner, workflow, "s"))).worth

    assert worth(1, 58.0) > worth(1, 5.0), "it is nearly back"
    assert worth(2, 2.0) > worth(2, 4.0) > worth(2, 64.0)


def test_a_ttl_holds_for_the_90th_percentile_of_the_tool_and_then_the_oldest_goes_first():
    held, again_s = by_ttl(HERE, away(for_s=10.0))
    assert (held[0], again_s) == (Standing.HELD, 17.0)
    past, again_s = by_ttl(HERE, away(for_s=27.0))
    assert (past, again_s) == ((Standing.LIVE, 100.0), inf)
    assert by_ttl(HERE, away(for_s=30.0, since=90.0)).worth < past


def test_where_nothing_is_known_of_a_tool_there_is_no_ttl():
    assert by_ttl(HERE, away(latest_s=0.0)).worth[0] is Standing.LIVE


# -- the SAGA paper ----------------------------------------------------------------------


def test_wa_lru_weighs_idle_time_reuse_and_size_by_the_largest_of_the_worker():
    worth, again_s = by_wa_lru(HERE, away(50.0, tokens=10_000, again=0.8, latest_s=0.0))
    assert worth == (Standing.LIVE, pytest.approx(-(0.3 * 0.5 + 0.5 * 0.2 + 0.2 * 0.5)))
    assert again_s == 50.0
    nobody = Scenery(idle_most_s=0.0, size_most_tokens=0)
    assert by_wa_lru(nobody, away(0.0, again=1.0, latest_s=0.0)).worth == (Standing.LIVE, 0.0)
    assert by_wa_lru(HERE, away(500.0, again=0.0, tokens=90_000)).worth[1] == pytest.approx(-1.0)


def test_within_the_ttl_of_its_tool_it_goes_when_there_is_no_other_and_pressure_halves_that():
    tool = {"latest_s": 40.0}  # its 95th percentile: 38 s
    assert by_wa_lru(HERE, away(37.0, **tool)).worth[0] is Standing.HELD
    assert by_wa_lru(HERE, away(37.5, **tool)).again_s == pytest.approx(0.5), "when its TTL is over"
    assert by_wa_lru(HERE, away(38.0, **tool)).worth[0] is Standing.LIVE
    full = Scenery(used_share=0.95)
    assert by_wa_lru(full, away(18.9, **tool)).worth[0] is Standing.HELD
    assert by_wa_lru(full, away(19.1, **tool)).worth[0] is Standing.LIVE
    assert by_wa_lru(HERE, away(299.0, latest_s=1e6)).worth[0] is Standing.HELD
    assert by_wa_lru(HERE, away(300.0, latest_s=1e6)).worth[0] is Standing.LIVE


def test_a_worker_at_one_moment():
    worker = Worker(WorkerId("n/0"), NodeId("n"), "m", capacity_tokens=1000, kv_usage=0.1)
    worker.resident = {"1.a": 300, "2.a": 400}
    home = Home(HERE.costs, worker, {"2.a": 400, "1.a": 300}, {"1.a": 8.0, "2.a": 3.0}, 10.0)
    assert (home.used_share, home.idle_most_s, home.size_most_tokens) == (0.7, 7.0, 400)
    worker.kv_usage = 0.9
    assert Home(HERE.costs, worker, {}, {}, 10.0).used_share == 0.9
    assert Home(HERE.costs, worker, {}, {}, 10.0).idle_most_s == 0.0


# -- KVFlow ------------------------------------------------------------------------------


def test_who_runs_again_in_fewer_steps_stays():
    worths = [by_steps(HERE, away(turns=turns)).worth for turns in (inf, 7.0, 2.0, 1.0)]
    assert worths == sorted(worths)
    assert by_steps(HERE, away(60.0)).again_s == 60.0


def test_profiles_that_never_heard_of_retention_have_no_rule():
    with_rule = {name for name, profile in PROFILES.items() if profile.retention is not None}
    assert {"saga", "saga-blind", "saga-paper", "kvflow", "ttl"} <= with_rule
    assert not with_rule & {
        "sticky",
        "round-robin",
        "least-loaded",
        "prefix-aware",
        "las",
        "thunder",
        "program-fcfs",
    }
