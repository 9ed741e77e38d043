"""The simulator's engine against vLLM 0.32's own scheduler and block pool, decision by decision, in virtual time."""

import warnings
from collections import Counter
from dataclasses import replace as replace_fields
from random import Random

import pytest
from engine_twins import Names
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from test_sim_engine import random_case as streams_case
from trace_makers import TRACES, needs_traces, step, workflow
from vllm_twin import VLLM, Call, Labels, Ours, Theirs, calls_of, play

from saga_sim.costs import Shape
from saga_sim.trace.format import read_trace
from saga_sim.trace.scale import Scaling, rescale

pytestmark = pytest.mark.vllm


@pytest.fixture(scope="module")
def vllm(tmp_path_factory):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, while it is imported
        return VLLM(tmp_path_factory.mktemp("vllm") / "small")


def random_workflow(rng, number, room):
    """Chains, forks, cut prefixes, joins and fresh contexts, some behind a shared system prompt."""
    steps = []
    for i in range(rng.randint(1, 7)):
        ctx = rng.choice([None, *range(i), i - 1, i - 1, i - 1]) if i else None
        shared, more = 0, {}
        if ctx is None:
            if rng.random() < 0.6:
                more = {
                    "shared_prefix_group": rng.choice("gh"),
                    "shared_prefix_tokens": rng.randint(1, room // 2),
                }
        else:
            shared = steps[ctx].prompt_tokens
            if rng.random() < 0.25:
                shared = rng.randint(0, shared)
        if shared > room - 2:
            break
        new = rng.randint(1, max(1, min(room - shared - 1, rng.choice([3, room // 8 + 1, room]))))
        prompt = shared + new
        parents = () if ctx is None else sorted({ctx, rng.randrange(i)} if rng.random() < 0.2 else {ctx})
        output = rng.randint(1, max(1, min(room - prompt, rng.choice([2, room // 4 + 1, room]))))
        steps.append(step(i, prompt, new, output, ctx=ctx, parents=parents, **more))
    return workflow(*steps, id=f"w/{number}")


def random_case(seed):
    rng = Random(seed)
    block = rng.choice([1, 4, 16, 32])
    blocks = rng.choice([8, 12, 30, 80])
    seqs = rng.choice([1, 2, 3, 8])
    limits = Shape(
        block_tokens=block,
        blocks=blocks,
        max_model_len_tokens=rng.choice([blocks * block, max(4, blocks * block // 2)]),
        max_num_seqs=seqs,
        step_tokens=max(seqs, rng.choice([2, 8, 24, 64]) * max(1, block // 4)),
    )
    room = min(limits.max_model_len_tokens, 300)
    workflows = [random_workflow(rng, i, room) for i in range(rng.randint(1, 6))]
    calls = calls_of(workflows, block, rng)
    for call in calls:
        if rng.random() < 0.1:
            call.patience = rng.randint(1, 40)
    return limits, calls


def both(vllm, limits, calls, **more):
    labels = Labels()
    ours, theirs = Ours(limits, labels, **more), Theirs(vllm, limits, labels, **more)
    play(theirs, calls)
    play(ours, calls)
    return ours, theirs


def same(vllm, limits, calls, **more):
    ours, theirs = both(vllm, limits, calls, **more)
    mine, real = ours.log, theirs.log
    assert mine.admitted == real.admitted
    assert mine.preempted == real.preempted
    assert mine.chunks == real.chunks
    assert mine.finished == real.finished
    for at, pool in mine.pools.items():
        if at in real.pools:
            assert pool == real.pools[at], at
    assert ours.queue() == theirs.queue()
    return mine


@given(st.integers(0, 1 << 32))
@settings(max_examples=60, deadline=None)
def test_random_workflows_are_decided_as_vllm_decides(vllm, seed):
    same(vllm, *random_case(seed))


AGES = 1e4
"""Seconds that `streams_case` lets pass where all that came before is to be over."""


@given(st.integers(0, 1 << 32), st.sampled_from([1, 4, 16, 32]))
@settings(max_examples=60, deadline=None)
def test_streams_that_fork_at_any_time_are_decided_as_vllm_decides(vllm, seed, block):
    """Equal prompts at once, and streams continued without any order between their calls."""
    limits, _, timed = streams_case(seed, sizes=(block,))
    names, calls = Names(), []
    for number, call in enumerate(timed):
        tokens = names.tokens(call.stream, call.prompt + call.output, block)
        ages, rest_s = divmod(call.at, AGES)
        gap = 1 + int(20_000 * ages + 30 * rest_s)
        calls.append(Call(number, call.stream, call.prompt, call.output, tokens, (), gap))
    same(vllm, limits, calls)


def test_vllm_has_the_defaults_that_the_engine_counts_on(vllm):
    """What saga's workers do not set: a changed default of vLLM is to be seen here."""
    assert vllm.config.scheduler_config.watermark == 0.0
    assert vllm.config.scheduler_config.scheduler_reserve_full_isl


def with_priorities(limits, calls, seed, *, levels=3):
    """The same case under `--scheduling-policy priority`; with few levels many calls are equals."""
    rng = Random(seed)
    for call in calls:
        call.priority = rng.randrange(levels) - 1
    return replace_fields(limits, priority=True), calls


@given(st.integers(0, 1 << 32))
@settings(max_examples=80, deadline=None)
def test_random_priorities_are_decided_as_vllm_decides(vllm, seed):
    same(vllm, *with_priorities(*random_case(seed), seed))


# -- larger ones -------------------------------------------------------------------------

# The pool, by what 16 sequences of the workload hold at their ends: from no eviction at all to thrashing.
PRESSURES = {"ample": 4.0, "tight": 0.3, "thrashing": 0.12}


def team(seed, agents=24, turns=8, outputs=60):
    """Sessions of two programs that grow turn by turn behind their program's system prompt."""
    rng = Random(seed)
    workflows = []
    for i in range(agents):
        prompt = 96 + rng.randint(8, 120)
        more = {"shared_prefix_group": f"program-{i % 2}", "shared_prefix_tokens": 96}
        steps = [step(0, prompt, None, rng.randint(1, outputs), ctx=None, **more)]
        for turn in range(1, rng.randint(2, turns)):
            new = steps[-1].output_tokens + rng.randint(1, 90)
            prompt += new
            steps.append(step(turn, prompt, new, rng.randint(1, outputs)))
        workflows.append(workflow(*steps, id=f"team/{i}"))
    return calls_of(workflows, 16, rng, gap_steps=lambda _: rng.randint(1, 80))


def excerpt(name, take, tokens):
    """The first workflows of a recorded trace with shorter texts, all begun within some hundred engine steps."""
    rng = Random(name)
    scaling = Scaling(take=take, tokens=tokens, max_context=4000)
    chosen = [
        replace(each, steps=each.steps[:30])
        for each in rescale(read_trace(TRACES / f"{name}.jsonl.gz"), scaling)
    ]
    return calls_of(chosen, 16, rng, gap_steps=lambda step: rng.randint(1, 60 if step.parents else 200))


def shape_for(calls, pressure):
    """A pool for `pressure` of what 16 sequences of this workload hold, and at least for the longest."""
    sizes = [-(-len(call.tokens) // 16) for call in calls]
    blocks = max(*sizes, int(16 * pressure * sum(sizes) / len(sizes)))
    return Shape(
        block_tokens=16, blocks=blocks, max_model_len_tokens=blocks * 16, max_num_seqs=16, step_tokens=512
    )


@pytest.mark.parametrize("pressure", PRESSURES)
def test_a_team_of_agents_is_served_as_vllm_serves_it(vllm, pressure):
    calls = team(1)
    log = same(vllm, shape_for(calls, PRESSURES[pressure]), calls)
    assert bool(log.preempted) == (pressure != "ample")
    if pressure == "ample":
        found = first_hits(log)
        for call in calls:
            for parent in (calls[number] for number in call.after):
                # The last token was never an input, so a block that ends with it is not stored.
                assert found[call.number] == (parent.prompt + parent.output - 1) // 16 * 16


@pytest.mark.parametrize("pressure", ["tight", "thrashing"])
@pytest.mark.parametrize("levels", [2, 1000])
def test_a_team_with_priorities_is_served_as_vllm_serves_it(vllm, pressure, levels):
    calls = team(5, agents=40, turns=4, outputs=200)
    limits, calls = with_priorities(shape_for(calls, PRESSURES[pressure]), calls, 5, levels=levels)
    log = same(vllm, limits, calls)
    assert len(log.preempted) > 20
    fcfs = same(vllm, replace_fields(limits, priority=False), calls)
    assert log.admitted != fcfs.admitted


def test_storms_of_preemptions_hit_the_same_requests(vllm):
    calls = team(3, agents=40, turns=2, outputs=300)
    log = same(vllm, shape_for(calls, 0.25), calls)
    assert len(log.preempted) > 60
    assert max(Counter(call for _, call in log.preempted).values()) >= 4, "the same ones again and again"


@needs_traces
@pytest.mark.parametrize("pressure", ["tight", "thrashing"])
@pytest.mark.parametrize(
    ("name", "take", "tokens"),
    [("tau-bench-airline", 24, 0.25), ("swe-agent-demos", 20, 0.2), ("entire-cli", 12, 0.02)],
)
def test_recorded_workflows_are_served_as_vllm_serves_them(vllm, name, take, tokens, pressure):
    calls = excerpt(name, take, tokens)
    log = same(vllm, shape_for(calls, PRESSURES[pressure]), calls)
    assert any(cached > 500 for _, _, cached in log.admitted)


# -- where they differ -------------------------------------------------------------------


def first_hits(log):
    """Cached tokens of each call at its first admission."""
    found = {}
    for _, call, cached in log.admitted:
        found.setdefault(call, cached)
    return found


def test_overlapped_scheduling_finds_the_same_where_nothing_is_evicted(vllm):
    calls = team(1)
    limits, labels = shape_for(calls, PRESSURES["ample"]), Labels()
    ours = Ours(limits, labels, pools=False)
    theirs = Theirs(vllm, limits, labels, pools=False, overlapped=True)
    mine, real = play(ours, calls), play(theirs, calls)
    assert first_hits(mine) == first_hits(real)
    ends = {call: step for step, call in real.finished}
    assert all(0 <= ends[call] - step <= 1 + depth(calls, call) for step, call in mine.finished)


def depth(calls, number):
    """How many calls of its session came before."""
    return sum(1 + depth(calls, parent) for parent in calls[number].after)


@pytest.mark.parametrize("pressure", ["tight", "thrashing"])
def test_overlapped_scheduling_differs_by_little_under_pressure(vllm, pressure):
    """vLLM's default on a GPU schedules a step before the last one's tokens are there: all is one step later.

    Which block is evicted depends on such a step, so single calls differ, either way. Over 8 seeds the sums differ by
    1.5 % at most (docs/simulator-vs-vllm.md has the figures); the bound leaves room for other versions.
    """
    mine = real = 0
    for seed in range(8):
        calls = team(seed, agents=16, turns=6)
        limits, labels = shape_for(calls, PRESSURES[pressure]), Labels()
        ours = Ours(limits, labels, pools=False)
        theirs = Theirs(vllm, limits, labels, pools=False, overlapped=True)
        mine += sum(first_hits(play(ours, calls)).values())
        real += sum(first_hits(play(theirs, calls)).values())
    assert mine == pytest.approx(real, rel=0.05)


def test_what_a_running_request_generated_is_found_by_vllm_only(vllm):
    """A prompt that holds what another request is still generating: no agent can send it, and we store it later."""
    parent = step(0, 64, None, 200, ctx=None)
    child = step(1, 300, 236, 5)
    first, second = calls_of([workflow(parent, child)], 16, Random(0))
    first.gap, second.after, second.gap = 1, (), 101
    limits = shape_for([first, second], 4.0)
    ours, theirs = both(vllm, limits, [first, second])
    assert first_hits(ours.log)[1] == 64
    # Step 101 is the 100th token's; its KV and that of the prompt are there, in whole blocks.
    assert first_hits(theirs.log)[1] == (64 + 100) // 16 * 16
    assert ours.queue() != theirs.queue()
