"""The simulator's engine against vLLM 0.32's own scheduler and block pool, decision by decision, in virtual time."""

import warnings
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trace_makers import TRACES, needs_traces, step, workflow
from vllm_twin import VLLM, Labels, Ours, Theirs, calls_of, play

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
    block = rng.choice([1, 4, 16])
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
@settings(max_examples=100, deadline=None)
def test_random_workflows_are_decided_as_vllm_decides(vllm, seed):
    same(vllm, *random_case(seed))
