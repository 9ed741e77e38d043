"""Agent Fair Share: Eqs. 8 and 9 by hand, and under anything."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from saga_core.policy import fairshare
from saga_core.policy.fairshare import (
    LEAST_SLACK_S,
    STEPS,
    CompletionTimes,
    FairShare,
    deadline,
    fair_shares,
    priority,
    tenant_urgency,
    urgency,
)

SECONDS = st.floats(0, 1e6)


def test_a_workflow_is_as_urgent_as_its_work_over_its_slack():
    assert urgency(30.0, 60.0) == 0.5
    assert urgency(30.0, 20.0) == 1.5, "it cannot make it any more"
    assert urgency(0.0, 20.0) == 0.0


def test_at_and_after_the_deadline_slack_is_a_second():
    assert LEAST_SLACK_S == 1.0
    assert urgency(30.0, 0.0) == urgency(30.0, -500.0) == 30.0


def test_work_that_took_more_than_expected_is_not_urgent_but_never_less_than_that():
    assert urgency(-5.0, 10.0) == 0.0


def test_a_tenant_is_as_urgent_as_its_workflows_together():
    assert tenant_urgency([(30.0, 60.0), (10.0, 100.0), (5.0, 2.0)]) == pytest.approx(0.5 + 0.1 + 2.5)
    assert tenant_urgency([]) == 0.0


def test_shares_are_parts_of_all_urgency():
    assert fair_shares({"a": 3.0, "b": 1.0, "c": 0.0}) == {"a": 0.75, "b": 0.25, "c": 0.0}
    assert fair_shares({"a": 0.0, "b": 0.0}) == {"a": 0.5, "b": 0.5}, "nobody is urgent"
    assert fair_shares({}) == {}


@given(st.dictionaries(st.sampled_from("abcdef"), SECONDS, min_size=1))
def test_shares_are_a_whole_in_the_order_of_urgency(urgencies):
    shares = fair_shares(urgencies)
    assert sum(shares.values()) == pytest.approx(1.0)
    assert all(0.0 <= share <= 1.0 for share in shares.values())
    ranked = sorted(urgencies, key=lambda tenant: urgencies[tenant])
    assert [shares[t] for t in ranked] == sorted(shares.values())


def test_a_larger_share_is_a_smaller_number_for_the_engine():
    assert [priority(share) for share in (1.0, 0.75, 0.25, 0.0)] == [0, STEPS // 4, 3 * STEPS // 4, STEPS]
    assert (priority(7.0), priority(-1.0)) == (0, STEPS), "whatever comes, it stays a grade"


def test_a_deadline_is_the_declared_one_or_one_and_a_half_times_what_such_workflows_take():
    assert deadline(100.0, expected_tct_s=40.0, work_s=8.0, declared=130.0) == 130.0
    assert deadline(100.0, expected_tct_s=40.0, work_s=8.0) == 160.0
    assert deadline(100.0, expected_tct_s=0.0, work_s=8.0) == 120.0, "2.5 times the work, with no history"


def test_completion_times_are_of_the_latest_of_a_type(monkeypatch):
    times = CompletionTimes()
    assert times.expected_s("coder") == 0.0
    for tct_s in (10.0, 20.0):
        times.add("coder", tct_s)
    assert (times.expected_s("coder"), times.expected_s("browser")) == (15.0, 0.0)
    for _ in range(fairshare.TIMES):
        times.add("coder", 60.0)
    assert times.expected_s("coder") == 60.0
    monkeypatch.setattr(fairshare, "TYPES", 2)
    times.add("b", 1.0)
    times.add("coder", 60.0)
    times.add("c", 1.0)
    assert [times.expected_s(name) for name in ("coder", "b", "c")] == [60.0, 0.0, 1.0], (
        "the longest unseen goes"
    )


def test_a_tenants_share_follows_its_work_and_its_deadlines():
    shares = FairShare()
    shares.enter(1, "a", 100.0, 30.0, 40.0)  # 30 s of work in 60 s
    assert shares.share("a") == 1.0
    shares.enter(2, "b", 100.0, 90.0, 40.0)  # 90 s in 60 s
    assert (shares.share("a"), shares.share("b")) == (0.25, 0.75)
    shares.refresh({1: 20.0, 2: 20.0}.__getitem__, 60.0)  # both 20 s in 40 s
    assert (shares.share("a"), shares.share("b")) == (0.5, 0.5)
    shares.leave(1)
    assert shares.share("b") == 1.0
    assert 1 not in shares


def test_a_tenant_without_workflows_is_one_more_among_equals():
    shares = FairShare()
    assert shares.share("nobody") == 1.0
    shares.enter(1, "a", 100.0, 30.0, 40.0)
    assert shares.share("nobody") == 0.5


def test_with_more_workflows_than_an_epoch_takes_they_take_turns(monkeypatch):
    monkeypatch.setattr(fairshare, "PER_EPOCH", 2)
    shares, asked = FairShare(), []
    for number, tenant in ((1, "a"), (2, "b"), (3, "b"), (4, "a"), (5, "b")):
        shares.enter(number, tenant, 100.0, 1.0, 0.0)

    def remaining_s(workflow):
        asked.append(workflow)
        return 1.0

    for now in range(5):
        shares.refresh(remaining_s, float(now))
        shares.check()
    assert asked == [1, 2, 3, 4, 5, 1, 2, 3, 4, 5]


def test_one_tenant_is_not_looked_at():
    shares = FairShare()
    shares.enter(1, "a", 100.0, 1.0, 0.0)
    shares.refresh(lambda _: pytest.fail("nothing to share"), 1.0)


class SharesUnderFire(RuleBasedStateMachine):
    """Workflows come and go and are late; sums stay sums."""

    def __init__(self):
        super().__init__()
        self.shares, self.now, self.live = FairShare(), 0.0, {}

    @rule(number=st.integers(0, 8), tenant=st.sampled_from("abc"), slack=st.floats(-100, 100), work=SECONDS)
    def enter(self, number, tenant, slack, work):
        self.shares.enter(number, tenant, self.now + slack, work, self.now)
        self.live.setdefault(number, tenant)

    @rule(number=st.integers(0, 8))
    def leave(self, number):
        self.shares.leave(number)
        self.live.pop(number, None)

    @rule(after=st.floats(0, 1000), work=SECONDS)
    def refresh(self, after, work):
        self.now += after
        self.shares.refresh(lambda workflow: work * workflow, self.now)

    @invariant()
    def shares_are_a_whole(self):
        self.shares.check()
        tenants = set(self.live.values())
        told = {tenant: self.shares.share(tenant) for tenant in tenants}
        sums = {t: sum(s.grains for s in self.shares._stakes.values() if s.tenant == t) for t in tenants}
        assert told == pytest.approx(fair_shares(sums))
        assert all((number in self.shares) == (number in self.live) for number in range(9))


TestSharesUnderFire = SharesUnderFire.TestCase
