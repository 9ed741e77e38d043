"""A simulated run against the oracle on its own accesses: what is recorded, what is counted, and that looking changes nothing."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from trace_makers import chain

from saga_core.errors import UserError
from saga_sim.costs import AGENT_CPU
from saga_sim.experiment import Arrivals, simulate
from saga_sim.faults import Faults
from saga_sim.oracle import RULES, Access, Recording, Run, Witness, belady, own_outcome, replay_cache
from saga_sim.oracle.causes import Cause, causes
from saga_sim.trace.synth import synthesise
from saga_sim.world import ClusterSpec

BLOCK = AGENT_CPU.shape.block_tokens
COSTS = AGENT_CPU.costs


def small(blocks, workers=1):
    shape = AGENT_CPU.shape
    tight = type(shape)(
        block_tokens=BLOCK, blocks=blocks, max_model_len_tokens=min(shape.max_model_len_tokens, blocks * BLOCK),
        max_num_seqs=shape.max_num_seqs, step_tokens=shape.step_tokens,
    )  # fmt: skip
    preset = type(AGENT_CPU)(
        **{name: getattr(AGENT_CPU, name) for name in AGENT_CPU.__slots__} | {"shape": tight}
    )
    return ClusterSpec(preset=preset, workers=workers, per_node=2)


def witnessed(work, spec, live, profile="sticky"):
    witness = Witness()
    figures, result = simulate(profile, work, spec, Arrivals(max_live=live), witness=witness)
    return figures, result, witness.recordings()


def loops(count, steps=4, first=900, gap_s=2.0, output=15):
    """Agents that come at once, each as long as its number says, so that they do not march in step."""
    return [
        chain(id=f"w/{i}", steps=steps, first=first + 97 * i, grow=120, output=output, gap_s=gap_s + i % 3) for i in range(count)
    ]  # fmt: skip


def test_looking_changes_nothing():
    work = loops(6)
    plain, _ = simulate("sticky", work, small(120), Arrivals(max_live=6))
    figures, _, _ = witnessed(work, small(120), 6)
    assert figures.trace_hash == plain.trace_hash
    assert plain.belady is None


@given(st.integers(2, 7), st.integers(2, 5), st.sampled_from([150, 250, 1000]))
@settings(max_examples=20, deadline=None)
def test_the_engines_own_misses_are_those_of_lru_on_the_same_accesses(count, steps, blocks):
    """Two independent ways to the same figure: the engine's cache block by block, and the replay's LRU by streams.

    Not quite the same: a replay holds all of a step's blocks from its start, where the engine takes them chunk by chunk.
    """
    figures, _, recordings = witnessed(loops(count, steps, output=2), small(blocks), count)
    own = own_outcome(recordings[0], COSTS)
    lru = replay_cache(recordings[0], blocks, RULES["lru"](), COSTS)
    assert own.missed_tokens == pytest.approx(lru.missed_tokens, rel=0.06, abs=4 * BLOCK)
    assert own.missed_s == pytest.approx(lru.missed_s, rel=0.06, abs=COSTS.chunk_s(1000, 4 * BLOCK))
    assert own.hit_tokens == figures.summary.cached_tokens


def test_a_pool_that_holds_all_has_only_compulsory_misses():
    figures, _, _ = witnessed(loops(3), small(1000), 3)
    got = figures.belady
    assert (got.again_tokens, got.oracle_tokens, got.ratio_s, got.ratio_tokens) == (0, 0, None, None)
    assert got.compulsory_tokens > 0


def test_a_tight_pool_makes_lru_pay_more_than_the_oracle():
    figures, _, recordings = witnessed(loops(8, steps=6), small(330), 8)
    got = figures.belady
    assert got.ratio_s > 1.05
    assert got.ratio_s == pytest.approx(got.again_s / got.oracle_s)
    assert got.again_tokens > got.oracle_tokens > 0
    assert got.reference == f"this run: sticky, seed 0, facts {figures.trace_hash}"
    assert got == belady(recordings, 330, COSTS, got.reference)


def test_workers_are_summed():
    figures, _, recordings = witnessed(loops(12, steps=6), small(330, workers=2), 12, "round-robin")
    assert len(recordings) == 2
    alone = [belady([recording], 330, COSTS, "") for recording in recordings]
    assert figures.belady.again_s == pytest.approx(sum(one.again_s for one in alone))
    assert figures.belady.oracle_s == pytest.approx(sum(one.oracle_s for one in alone))


def test_the_portions_are_all_of_it():
    figures, _, recordings = witnessed(loops(12, steps=6), small(330, workers=2), 12, "saga")
    got = figures.belady
    assert [portion.cause for portion in got.portions] == list(Cause)
    assert sum(portion.accesses for portion in got.portions) == sum(len(r.accesses) for r in recordings)
    assert sum(portion.again_s for portion in got.portions) == pytest.approx(got.again_s)
    assert sum(portion.oracle_s for portion in got.portions) == pytest.approx(got.oracle_s)
    by_cause = {portion.cause: portion for portion in got.portions}
    assert by_cause[Cause.FIRST].again_s == 0.0, "nobody shares anything, so nobody had computed it"
    assert by_cause[Cause.PAUSED].accesses > 0, "twelve contexts do not fit beside each other"
    assert by_cause[Cause.LONG].accesses == 0, "no tool takes minutes"


def test_a_preempted_step_is_two_accesses_and_what_it_computes_anew_counts():
    """One prompt fills the pool while another one decodes: the newest gives way, and comes back."""
    work = [chain(id=f"w/{i}", steps=1, first=1500, grow=1, output=400) for i in range(2)]
    figures, _, recordings = witnessed(work, small(110), 2)
    assert figures.preemptions
    assert len(recordings[0].accesses) == 2 + figures.preemptions
    assert own_outcome(recordings[0], COSTS).missed_tokens > 0
    assert all(access.end_s >= access.start_s for access in recordings[0].accesses)


def test_a_real_workload_is_recorded_whole():
    work = synthesise("demo", 8, 0)
    _, result, recordings = witnessed(work, ClusterSpec(preset=AGENT_CPU, workers=2, per_node=2), 8)
    accesses = [access for recording in recordings for access in recording.accesses]
    assert len(accesses) >= sum(len(run.steps) for run in result.runs)
    assert {access.workflow for access in accesses} == {str(number + 1) for number in range(8)}
    ended = set().union(*(recording.ends_s for recording in recordings))
    assert ended == {access.workflow for access in accesses}


def test_an_access_has_the_cause_that_lies_between_it_and_the_one_before():
    starts = [0.0, 12.0, 80.0, 90.0, 500.0, 1000.0]
    mine = [access(at, at + 1.0, 10, 9, 0) for at in starts]
    other = access(2.0, 3.0, 10, 9, 0, name="b", stream=1)
    recording = Recording(
        block_tokens=BLOCK, ends_s={}, accesses=tuple(sorted([*mine, other], key=lambda a: a.start_s))
    )
    pauses = {"a": [81.0, 700.0, 1001.0], "b": [13.0]}
    assert causes(recording, pauses) == [
        Cause.FIRST, Cause.FIRST, Cause.MINUTE, Cause.MINUTES, Cause.PAUSED, Cause.LONG, Cause.PAUSED,
    ]  # fmt: skip
    assert causes(recording, {})[4] is Cause.MOMENT


# -- by hand -----------------------------------------------------------------------------


def access(start_s, end_s, high, looked_up, found, *, name="a", stream=0):
    return Access(start_s=start_s, end_s=end_s, workflow=name, session=name, runs=(Run(stream, 0, high),), prompt_blocks=looked_up,
                  tokens=high * BLOCK, found_blocks=found)  # fmt: skip


def test_own_misses_by_hand():
    recording = Recording(
        block_tokens=BLOCK, ends_s={},
        accesses=(access(0, 1, 10, 9, 0), access(2, 3, 14, 13, 4), access(2.5, 4, 14, 13, 4, name="b")),
    )  # fmt: skip
    recording.check()
    got = own_outcome(recording, COSTS)
    # a: 9 never computed; a again: 10 were, 4 found, 3 new; b: beside it, so only the same 10 count for it.
    assert got.missed_tokens == (6 + 6) * BLOCK
    assert got.compulsory_tokens == (9 + 3 + 3) * BLOCK
    assert got.missed_s == pytest.approx(2 * COSTS.chunk_s(4 * BLOCK, 6 * BLOCK))


@pytest.mark.parametrize(("filled_s", "found"), [(None, 2), (3.0, 6)])
def test_what_is_taken_later_is_not_missing_before(filled_s, found):
    """A pool of ten: eight new blocks of b push out four of a's six, at once or only after a has come back for them."""
    pushing = replace(access(2, 9, 8, 7, 0, name="b", stream=1), filled_s=filled_s)
    back = access(2.5, 2.7, 6, 6, 6)
    late = access(8, 9, 1, 0, 0, name="c", stream=2)
    recording = Recording(
        block_tokens=BLOCK, ends_s={}, accesses=(access(0, 1, 6, 5, 0), pushing, back, late)
    )
    recording.check()
    played = replay_cache(recording, 10, RULES["lru"](), COSTS)
    assert played.hit_tokens == found * BLOCK
    assert played.missed_tokens == (6 - found) * BLOCK
    assert played.evicted_blocks >= 4


def test_a_prompt_of_many_chunks_is_filled_between_its_start_and_its_first_token():
    _, result, recordings = witnessed([chain(steps=1, first=9000, output=20)], small(400), 1)
    [only] = recordings[0].accesses
    first_s = only.start_s + result.runs[0].steps[0].ttft_s
    assert only.start_s < only.filled_s < first_s
    assert only.prompt_blocks == (9000 - 1) // BLOCK


def test_the_last_token_of_a_prompt_is_never_looked_up():
    _, _, recordings = witnessed([chain(steps=1, first=4 * BLOCK, output=20)], small(400), 1)
    assert recordings[0].accesses[0].prompt_blocks == 3


def test_accesses_that_contradict_themselves_are_refused():
    wrong = Recording(block_tokens=BLOCK, ends_s={}, accesses=(access(0, 1, 10, 9, 10),))
    with pytest.raises(UserError, match="10 blocks found of 9"):
        wrong.check()
    silent = Recording(
        block_tokens=BLOCK, ends_s={}, accesses=(replace(access(0, 1, 10, 9, 0), found_blocks=None),)
    )
    with pytest.raises(UserError, match="does not say what it found"):
        own_outcome(silent, COSTS)


def test_with_faults_there_is_no_ratio():
    with pytest.raises(UserError, match="without faults"):
        simulate("sticky", loops(2), small(300), Arrivals(), faults=Faults(), witness=Witness())
