"""The retention rules against their sources: the paper's equations by hand, and the orders that they must give."""

import pytest

from saga_core.costs import CostTable
from saga_core.kv import retention
from saga_core.kv.retention import Standing


def test_wa_lru_weighs_reuse_most_then_idle_time_then_size():
    assert retention.wa_lru_score(1.0, 1.0, 0.0) == pytest.approx(0.3)
    assert retention.wa_lru_score(0.0, 0.0, 0.0) == pytest.approx(0.5)
    assert retention.wa_lru_score(0.0, 1.0, 1.0) == pytest.approx(0.2)
    assert retention.wa_lru_score(1.0, 0.0, 1.0) == pytest.approx(1.0)
    kept, gone = retention.wa_lru(0.1, 0.9, 0.2), retention.wa_lru(0.1, 0.1, 0.2)
    assert gone < kept < retention.wa_lru(1.0, 0.0, 1.0, within_ttl=True)


@pytest.mark.parametrize(
    ("base_s", "used", "ttl_s"),
    [
        (10.0, 0.0, 10.0),
        (10.0, 0.7, 10.0),
        (10.0, 0.8, 7.5),
        (10.0, 0.9, 5.0),
        (10.0, 1.0, 5.0),
        (1e4, 0.8, 300.0),
    ],
)
def test_the_ttl_is_halved_at_most_and_capped(base_s, used, ttl_s):
    assert retention.tool_ttl_s(base_s, used) == pytest.approx(ttl_s)


def test_percentiles_of_latencies():
    ordered = [float(i) for i in range(101)]
    assert retention.latency_percentile_s(ordered) == 95.0
    assert retention.latency_percentile_s(ordered, 0.9) == 90.0
    assert retention.latency_percentile_s([2.0, 4.0], 0.5) == 3.0
    assert retention.latency_percentile_s([7.0]) == 7.0
    assert retention.latency_percentile_s([]) is None


def test_density_prefers_long_contexts_that_return_soon():
    costs = CostTable()
    soon, late = (retention.density_of_context(costs, 8000, s) for s in (1.0, 100.0))
    longer = retention.density_of_context(costs, 30_000, 1.0)
    assert late < soon < longer
    assert retention.density(3.0, 2.0) == (Standing.LIVE, 1.0)
    assert retention.recompute_token_s(costs, 10_000) == pytest.approx(40e-6 + 13e-6)


def test_what_is_known_of_the_workflow_comes_before_any_value():
    worths = [
        retention.density(9e9, 0.0, Standing.OVER),
        retention.finish_aware_lru(9e9, Standing.PAUSED),
        retention.UNVALUED,
        retention.kvflow(1e9),
        retention.ttl_lru(0.0, expires_s=5.0, now_s=4.9),
    ]
    assert worths == sorted(worths)
    assert retention.ttl_lru(0.0, expires_s=5.0, now_s=5.0)[0] == Standing.LIVE
    assert retention.kvflow(3) < retention.kvflow(1)
    assert retention.lru(1.0) < retention.lru(2.0)
