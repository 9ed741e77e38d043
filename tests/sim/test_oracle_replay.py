"""The replay by runs of blocks, beside the same cache block by block; and what each rule does first."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracle_cases import COSTS, access, naive, peak, recording, recordings

from saga_core.errors import UserError
from saga_sim.oracle import ORACLES, RULES, compare, replay_cache
from saga_sim.oracle.brute import path

QUICK = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
ALL = {**RULES, **ORACLES}
SLACK = st.integers(0, 3)


def play(made, pool, name):
    return replay_cache(made, pool, ALL[name](), COSTS)


def next_use(made, block, number):
    """Where the block is found of use next; never, if it is computed anew before that without being looked up."""
    for later in range(number + 1, len(made.accesses)):
        if block in path(made.accesses[later]):
            looked = path(made.accesses[later])[: made.accesses[later].prompt_blocks]
            return later if block in looked else float("inf")
    return float("inf")


@given(recordings(accesses=14), SLACK)
@QUICK
def test_lru_evicts_what_a_block_exact_lru_evicts(made, slack):
    pool = peak(made) + slack
    missed = naive(made, pool, lambda block, last, number: (last, -block[1]))
    assert play(made, pool, "lru").missed_tokens == missed


@given(recordings(accesses=14), SLACK)
@QUICK
def test_farthest_use_evicts_what_a_block_exact_one_evicts(made, slack):
    pool = peak(made) + slack
    missed = naive(made, pool, lambda block, last, number: (-next_use(made, block, number), -block[1]))
    assert play(made, pool, "farthest").missed_tokens == missed


@given(recordings(accesses=14), st.integers(-4, 5), st.sampled_from(sorted(ALL)))
@QUICK
def test_every_looked_up_block_is_found_missed_or_new(made, slack, name):
    outcome = play(made, max(1, peak(made) + slack), name)
    assert outcome.looked_up_tokens == sum(a.prompt_blocks for a in made.accesses)
    parts = outcome.hit_tokens + outcome.missed_tokens + outcome.compulsory_tokens
    assert parts == outcome.looked_up_tokens
    assert (outcome.missed_s > 0) == (outcome.missed_tokens > 0)
    assert slack < 0 or outcome.uncached_blocks == 0


@given(recordings(), st.sampled_from(sorted(ALL)))
@QUICK
def test_a_pool_for_everything_misses_nothing(made, name):
    outcome = play(made, 200, name)
    assert outcome.missed_tokens == outcome.evicted_blocks == outcome.uncached_blocks == 0


@given(recordings(accesses=14), SLACK, st.sampled_from([16, 64]))
@QUICK
def test_larger_blocks_scale_tokens_and_nothing_else(made, slack, size):
    pool = peak(made) + slack
    large = recording(*made.accesses, ends=made.ends_s, block=size)
    for name in ("lru", "farthest"):
        assert play(large, pool, name).missed_tokens == size * play(made, pool, name).missed_tokens


def two_sessions(*, ends=None):
    """a then b, four blocks each; c needs three; then both come back, b first."""
    return recording(
        access("a", 0, 1, (1, 0, 4)), access("b", 2, 3, (2, 0, 4)), access("c", 4, 5, (3, 0, 3)),
        access("b", 100, 101, (2, 0, 4)), access("a", 102, 103, (1, 0, 4)),
        ends=ends,
    )  # fmt: skip


def test_lru_takes_the_tail_of_the_oldest_and_pays_only_for_that():
    outcome = play(two_sessions(), 8, "lru")
    assert outcome.missed_tokens == 3
    assert outcome.missed_s == pytest.approx(COSTS.chunk_s(1, 3))


def test_whole_session_lru_takes_all_of_the_oldest():
    assert play(two_sessions(), 8, "lru-session").missed_tokens == 4


def test_a_session_is_as_old_as_its_latest_step_wherever_that_was():
    """`a` went on in a new context; what it left is still its own, and `b` was let go longer ago."""
    made = recording(
        access("a", 0, 1, (1, 0, 4)), access("b", 2, 3, (2, 0, 4)), access("a", 4, 5, (3, 0, 2)),
        access("c", 6, 7, (4, 0, 3)), access("a", 8, 9, (1, 0, 4)),
    )  # fmt: skip
    assert play(made, 10, "lru-session").missed_tokens == 0
    assert play(made, 10, "lru").missed_tokens == 3


def test_lru_leaves_the_newer_part_of_a_stream_when_its_older_part_is_gone():
    """`a` comes back for its first two blocks only, so its tail is older than `b`, and its head newer."""
    made = recording(
        access("a", 0, 1, (1, 0, 4)), access("b", 2, 3, (2, 0, 4)), access("a", 4, 5, (1, 0, 2)),
        access("c", 6, 7, (3, 0, 3)), access("a", 8, 9, (1, 0, 2)), access("b", 10, 11, (2, 0, 4)),
    )  # fmt: skip
    assert play(made, 8, "lru").missed_tokens == 1


def test_a_whole_session_goes_with_what_it_branched_off_from_itself():
    """`a` left its own past after two blocks: both parts go, though one block was asked for. Not what `b` shares."""
    a, b, c = (1, 0, 2), (0, 0, 2), (5, 0, 1)
    made = recording(
        access("a", 0, 1, a, (2, 2, 4)), access("x", 2, 3, c), access("a", 4, 5, a),
    )  # fmt: skip
    assert play(made, 4, "lru-session").missed_tokens == 2
    shared = recording(
        access("b", 0, 1, b), access("a", 2, 3, b, (3, 2, 4)), access("x", 4, 5, c), access("b", 6, 7, b)
    )
    assert play(shared, 4, "lru-session").missed_tokens == 0


def test_density_gives_up_the_context_that_its_session_has_left():
    """`a` went on in a new context (compaction); its old one is nobody's, though its workflow lives and was last."""
    made = recording(
        access("b", 0, 1, (2, 0, 4)), access("a", 2, 3, (1, 0, 4)), access("a", 4, 5, (3, 0, 2)),
        access("c", 6, 7, (4, 0, 4)), access("b", 8, 9, (2, 0, 4)),
    )  # fmt: skip
    for name in ("density", "density-no-finish"):
        assert play(made, 10, name).missed_tokens == 0
    assert play(made, 10, "lru").missed_tokens == 4


def test_finish_aware_lru_takes_the_finished_workflow_first():
    made = recording(*two_sessions().accesses[:3], access("a", 9, 10, (1, 0, 4)), ends={"b": 3.5})
    assert play(made, 8, "lru-finish").missed_tokens == 0
    assert play(made, 8, "lru").missed_tokens == 3


def test_the_end_of_one_workflow_says_nothing_about_a_prompt_that_others_share():
    made = recording(
        access("a", 0, 1, (0, 0, 3)), access("b", 2, 3, (0, 0, 3)), access("c", 4, 5, (1, 0, 3)),
        access("d", 6, 7, (2, 0, 3)), access("e", 8, 9, (0, 0, 3)),
        ends={"a": 1.0, "b": 3.0, "c": 5.0},
    )  # fmt: skip
    for name in ("lru-finish", "density", "density-median"):
        assert play(made, 6, name).missed_tokens == 0
    assert play(made, 6, "lru").missed_tokens == 3


def test_explicit_wa_lru_knows_who_will_not_come_back():
    accesses = list(two_sessions().accesses)
    made = recording(*accesses[:3], accesses[4])
    assert play(made, 8, "wa-lru-explicit").missed_tokens == 0
    assert play(made, 8, "wa-lru-inferred").missed_tokens == 3


def test_inferred_wa_lru_learns_which_tool_ends_a_session():
    """Forty sessions stop after `done` and come back after `go`; then one of each stands at the edge."""
    made, at = [], 0
    for i in range(40):
        last = "done" if i % 2 else "go"
        made.append(access(f"w{i}", at, at + 1, (i, 0, 2), tool=last, tokens=2))
        if last == "go":
            made.append(access(f"w{i}", at + 2, at + 3, (i, 0, 2), tool="done", tokens=2))
        at += 4
    made += [
        access("x", at, at + 1, (100, 0, 4), tool="go", tokens=4),
        access("y", at + 2, at + 3, (101, 0, 4), tool="done", tokens=4),
        access("z", at + 4, at + 5, (102, 0, 4), tokens=4),
        access("x", at + 6, at + 7, (100, 0, 4), tokens=4),
    ]
    assert play(recording(*made), 8, "wa-lru-inferred").missed_tokens == 0
    assert play(recording(*made), 8, "lru").missed_tokens == 4


def test_density_keeps_what_returns_soon():
    """`fast` sessions return after a second, `slow` ones after a hundred; the older one is the fast one."""
    made, at = [], 0.0
    for i in range(20):
        tool, away = ("fast", 1) if i % 2 else ("slow", 100)
        made.append(access(f"w{i}", at, at + 1, (i, 0, 2), tool=tool))
        made.append(access(f"w{i}", at + 1 + away, at + 2 + away, (i, 0, 2), tool=""))
        at += 150
    ends = {f"w{i}": 150.0 * i + 149 for i in range(20)}
    made += [
        access("x", at, at + 1, (100, 0, 4), tool="fast"),
        access("y", at, at + 0.5, (101, 0, 4), tool="slow"),
        access("z", at + 1.5, at + 1.7, (102, 0, 4)),
        access("x", at + 2, at + 3, (100, 0, 4)),
        access("y", at + 100, at + 101, (101, 0, 4)),
    ]
    reversed_age = [*made[:-4], access("y", at, at + 1.2, (101, 0, 4), tool="slow"), *made[-3:]]
    for name in ("density", "density-median"):
        assert play(recording(*made, ends=ends), 8, name).missed_tokens == 4
        assert play(recording(*reversed_age, ends=ends), 8, name).missed_tokens == 4
    assert play(recording(*reversed_age, ends=ends), 8, "lru").missed_tokens == 8


def test_density_without_finish_knowledge_keeps_the_dead():
    made = recording(
        access("a", 0, 1, (1, 0, 4)), access("b", 2, 3, (2, 0, 4)), access("c", 4, 5, (3, 0, 3)),
        access("a", 9, 10, (1, 0, 4)), ends={"b": 3.0},
    )  # fmt: skip
    assert play(made, 8, "density").missed_tokens == 0
    assert play(made, 8, "density-no-finish").missed_tokens == 3


def test_cost_aware_oracle_gives_up_the_cheap_for_the_dear():
    """Both return at nearly the same time; the deep blocks of `a` cost far more than the shallow ones of `b`."""
    made = recording(
        access("a", 0, 1, (1, 0, 9)), access("b", 2, 3, (2, 0, 2)), access("c", 4, 5, (3, 0, 2)),
        access("b", 100, 101, (2, 0, 2)), access("a", 102, 103, (1, 0, 9)),
    )  # fmt: skip
    assert play(made, 11, "farthest-cost").missed_s < play(made, 11, "farthest").missed_s
    assert play(made, 11, "farthest-cost").missed_tokens == play(made, 11, "farthest").missed_tokens == 2


def test_what_runs_at_once_and_does_not_fit_is_computed_without_being_kept():
    made = recording(access("a", 0, 5, (1, 0, 6)), access("b", 1, 2, (2, 0, 6)), access("b", 6, 7, (2, 0, 6)))
    outcome = play(made, 8, "lru")
    assert outcome.uncached_blocks == 4
    assert (outcome.missed_tokens, outcome.hit_tokens) == (4, 2)


def test_held_blocks_are_never_taken():
    made = recording(
        access("a", 0, 9, (1, 0, 4)), access("b", 1, 2, (2, 0, 4)), access("c", 3, 4, (3, 0, 4)),
        access("a", 10, 11, (1, 0, 4)),
    )  # fmt: skip
    for name in ALL:
        assert play(made, 8, name).missed_tokens == 0


def test_ratios_are_to_the_best_oracle_and_none_without_any_miss():
    compared = compare(two_sessions(), 8, COSTS)
    assert compared.best_tokens == 3
    assert compared.ratio_tokens("lru-session") == pytest.approx(4 / 3)
    assert compared.ratio_s("farthest-cost") == pytest.approx(1.0)
    roomy = compare(two_sessions(), 20, COSTS, ["lru"])
    assert roomy.ratio_tokens("lru") is None
    assert roomy.ratio_s("lru") is None
    assert set(roomy.outcomes) == {"lru", *ORACLES}


def test_unknown_rules_and_empty_pools_are_refused():
    with pytest.raises(UserError, match="lur"):
        compare(two_sessions(), 8, COSTS, ["lur"])
    with pytest.raises(UserError, match="pool of 0 blocks"):
        play(two_sessions(), 0, "lru")
