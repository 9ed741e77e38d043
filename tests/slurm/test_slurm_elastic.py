"""When a cluster grows and shrinks: the decision alone, and a cluster of numbers that follows it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saga_core.errors import UserError
from saga_slurm.elastic import (
    Backoff,
    Decision,
    Demand,
    End,
    Grow,
    Hold,
    Joined,
    Limits,
    Pace,
    Phase,
    Release,
    Scene,
    decide,
)

PACE, NOBODY = Pace(), Backoff()
LIMITS = Limits(min_nodes=1, max_nodes=4)


def demand(*wanted: int, every_s: float = 10.0, until: float = 1000.0) -> Demand:
    """Figures up to now, the last one now; the first one has stood long enough."""
    found = Demand(keep_s=600.0)
    found.note(until - 600.0, wanted[0])
    for number, workers in enumerate(wanted):
        found.note(until - every_s * (len(wanted) - 1 - number), workers)
    return found


def scene(*joined: Joined, **changes) -> Scene:
    said = {"now": 1000.0, "ready": 1, "serves_s": 900.0, "base_nodes": 1, "joined": joined}
    return Scene(**{**said, **changes})


def node(tag: str = "a", phase: Phase = Phase.SERVING, **changes) -> Joined:
    unready = {"unready": 1} if phase is Phase.COMING else {}
    return Joined(tag=tag, phase=phase, **{**unready, **changes})


def decided(seen: Scene, wanted: Demand, *, limits: Limits = LIMITS, backoff: Backoff = NOBODY) -> Decision:
    return decide(seen, limits, PACE, wanted, backoff)


def test_it_asks_for_what_was_wanted_all_the_while() -> None:
    assert decided(scene(), demand(3, 3, 3)) == Grow(2, "3 workers are wanted, 1 are there or coming")
    assert isinstance(decided(scene(), demand(1, 1, 3)), Hold)  # a moment's need
    assert isinstance(decided(scene(), demand(3, 1, 3)), Hold)


def test_what_is_coming_counts_as_there() -> None:
    assert isinstance(decided(scene(node(phase=Phase.COMING)), demand(2)), Hold)
    assert isinstance(decided(scene(starting=1), demand(2)), Hold)
    found = decided(scene(node(phase=Phase.COMING, workers=2, unready=2), workers_per_node=2), demand(4))
    assert found == Grow(1, "4 workers are wanted, 3 are there or coming")


def test_never_above_the_most_that_is_allowed_nodes_that_leave_included() -> None:
    assert isinstance(decided(scene(), demand(9)), Grow)
    assert decided(scene(), demand(9)).nodes == 3  # type: ignore[union-attr]
    full = scene(node("a"), node("b"), node("c", Phase.LEAVING), ready=3)
    assert decided(full, demand(9)) == Hold("9 workers are wanted, 3 are there or coming: --max-nodes 4")


def test_the_least_is_asked_for_at_once() -> None:
    wanted = replace_limits(min_nodes=3)
    assert decided(scene(serves_s=None, ready=0), Demand(0.0), limits=wanted) == Grow(2, "--min-nodes 3")


def replace_limits(**changes) -> Limits:
    return Limits(**{"min_nodes": 1, "max_nodes": 4, **changes})


def test_nobody_knows_what_is_wanted_before_a_worker_is_there() -> None:
    assert isinstance(decided(scene(serves_s=None, ready=0), demand(5)), Hold)


def test_it_gives_back_what_was_too_much_all_the_while() -> None:
    seen = scene(node("a", asked_at=1.0), node("b", asked_at=2.0), ready=3)
    assert decided(seen, demand(2)) == Release(("b",), "at most 2 workers were wanted for 300 s")
    assert decided(seen, demand(1)) == Release(("b", "a"), "at most 1 workers were wanted for 300 s")
    assert isinstance(decided(seen, demand(3, *[1] * 20)), Hold)  # 190 s ago all were wanted
    assert isinstance(decided(seen, demand(1), limits=replace_limits(min_nodes=3)), Hold)
    assert isinstance(decided(seen, demand(0), limits=replace_limits(min_nodes=2)), Release)


def test_of_two_that_goes_which_costs_less() -> None:
    waits = node("a", Phase.COMING, asked_at=1.0)
    works, rests = node("b", steps=4, asked_at=3.0), node("c", asked_at=2.0)
    assert decided(scene(waits, works, rests, ready=3), demand(3)).tags == ("a",)  # type: ignore[union-attr]
    assert decided(scene(works, rests, ready=3), demand(2)).tags == ("c",)  # type: ignore[union-attr]


def test_a_large_node_stays_while_half_of_it_is_wanted() -> None:
    big = node(workers=4)
    assert isinstance(decided(scene(big, ready=8, workers_per_node=4), demand(6)), Hold)
    assert isinstance(decided(scene(big, ready=8, workers_per_node=4), demand(4)), Release)


def test_what_does_not_start_is_given_up_and_tried_again_later_and_later() -> None:
    late = scene(node(phase=Phase.COMING, began_at=300.0))
    found = decided(late, demand(2))
    assert isinstance(found, Release)
    assert found.failed
    once = NOBODY.after("it broke", 1000.0, PACE)
    assert isinstance(decided(scene(), demand(3), backoff=once), Hold)
    assert isinstance(decided(scene(now=1300.0), demand(3, until=1300.0), backoff=once), Grow)
    pauses = []
    for _ in range(6):
        once = once.after("again", 0.0, PACE)
        pauses.append(once.until)
    assert pauses == [600.0, 1200.0, 1800.0, 1800.0, 1800.0, 1800.0]


def test_a_node_is_not_worth_its_start_where_the_cluster_itself_ends() -> None:
    assert isinstance(decided(scene(ends_s=599.0), demand(3)), Hold)
    assert isinstance(decided(scene(ends_s=601.0), demand(3)), Grow)


def test_an_idle_cluster_ends_but_not_while_its_weights_load() -> None:
    limits = replace_limits(idle_timeout_s=60.0)
    assert isinstance(decided(scene(idle_s=60.0), demand(0), limits=limits), End)
    assert not isinstance(decided(scene(idle_s=59.0), demand(0), limits=limits), End)
    assert not isinstance(decided(scene(idle_s=None), demand(0), limits=limits), End)
    assert not isinstance(decided(scene(idle_s=500.0, serves_s=5.0), demand(0), limits=limits), End)
    assert not isinstance(decided(scene(idle_s=500.0, serves_s=None), demand(0), limits=limits), End)
    assert not isinstance(decided(scene(idle_s=9e9), demand(0)), End)
    assert limits.spare_s(PACE) == 30.0  # what joined leaves before


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"min_nodes": 2, "max_nodes": 1}, "--max-nodes 1 is less than the 2"),
        ({"min_nodes": 1, "max_nodes": 10**6}, "at most 100000"),
        ({"min_nodes": 1, "max_nodes": 1, "idle_timeout_s": 0.0}, "--idle-timeout"),
    ],
)
def test_limits_that_cannot_be(limits: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        Limits(**limits)


def test_a_silence_is_not_taken_for_no_demand() -> None:
    wanted = demand(3)
    wanted.forget()
    wanted.note(1000.0, 0)
    assert isinstance(decided(scene(node(), ready=2), wanted), Hold)


@dataclass
class World:
    """A cluster that does what is decided: nodes come after a delay, some never."""

    limits: Limits
    per_node: int
    delays: list[float | None]
    """Of each node that is asked for, until it serves; None: it fails after a while."""
    now: float = 0.0
    joined: dict[str, Joined] = field(default_factory=dict)
    backoff: Backoff = NOBODY
    wanted: Demand = field(default_factory=lambda: Demand(keep_s=PACE.spare_s))
    acts: list[tuple[float, Decision]] = field(default_factory=list)

    def scene(self) -> Scene:
        serving = sum(each.workers for each in self.joined.values() if each.phase is Phase.SERVING)
        return Scene(
            now=self.now, ready=self.per_node + serving, serves_s=self.now, base_nodes=1,
            joined=list(self.joined.values()), workers_per_node=self.per_node,
        )  # fmt: skip

    def step(self, wanted: int, every_s: float = 2.0) -> None:
        self.now += every_s
        self.wanted.note(self.now, wanted)
        self.come_and_go()
        decision = decide(self.scene(), self.limits, PACE, self.wanted, self.backoff)
        if isinstance(decision, Grow):
            assert self.now >= self.backoff.until
            for _ in range(decision.nodes):
                self.ask()
        elif isinstance(decision, Release):
            for tag in decision.tags:
                self.joined[tag] = replace(self.joined[tag], phase=Phase.LEAVING, began_at=self.now)
        if not isinstance(decision, Hold):
            self.acts.append((self.now, decision))
        assert self.scene().nodes <= self.limits.max_nodes
        assert not isinstance(decision, Release) or self.scene().staying_nodes >= self.limits.min_nodes

    def ask(self) -> None:
        tag = f"{len(self.acts)}-{len(self.joined)}-{self.now}"
        self.joined[tag] = node(
            tag, Phase.COMING, workers=self.per_node, unready=self.per_node, asked_at=self.now
        )

    def come_and_go(self) -> None:
        for tag, each in list(self.joined.items()):
            delay_s = self.delays[sum(map(ord, tag)) % len(self.delays)]
            age_s = self.now - (each.began_at if each.phase is Phase.LEAVING else each.asked_at)  # type: ignore[operator]
            if each.phase is Phase.COMING and age_s > (20.0 if delay_s is None else delay_s):
                if delay_s is None:
                    del self.joined[tag]
                    self.backoff = self.backoff.after("failed", self.now, PACE)
                else:
                    self.joined[tag] = replace(each, phase=Phase.SERVING, unready=0)
                    self.backoff = NOBODY
            elif each.phase is Phase.LEAVING and age_s > 30.0:
                del self.joined[tag]


loads = st.lists(st.tuples(st.integers(0, 12), st.integers(1, 120)), min_size=1, max_size=6)
delays = st.lists(st.one_of(st.none(), st.floats(0.0, 400.0)), min_size=1, max_size=4)


@settings(max_examples=60, deadline=None)
@given(loads, delays, st.integers(1, 3), st.integers(1, 3), st.integers(0, 4))
def test_within_its_limits_whatever_happens(
    told: list[tuple[int, int]], waits: list[float | None], per_node: int, least: int, more: int
) -> None:
    world = World(Limits(min_nodes=least, max_nodes=least + more), per_node, waits)
    for wanted, looks in told:
        for _ in range(looks):
            world.step(wanted)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 12), st.floats(0.0, 400.0), st.integers(1, 3), st.integers(0, 6), st.data())
def test_a_constant_load_is_met_once_and_nothing_swings(
    load: int, delay_s: float, per_node: int, more: int, data: st.DataObject
) -> None:
    """Not even where the figure itself sways by a worker."""
    sways = data.draw(st.booleans())
    world = World(Limits(min_nodes=1, max_nodes=1 + more), per_node, [delay_s])
    for number in range(700):
        world.step(load + (number % 7 == 0 and sways))
    assert len(world.acts) <= 1
    enough = load <= world.scene().ready
    assert enough or world.scene().nodes == world.limits.max_nodes
