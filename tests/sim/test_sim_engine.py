"""The simulator's engine against the block-exact double: same cache hits, same eviction order, same times."""

from random import Random

import pytest
from engine_twins import Call, Names, contents, exact, queue_of, queue_of_exact, shape, simulate
from hypothesis import given, settings
from hypothesis import strategies as st

from saga_sim.streams import Stream


def random_case(seed: int, sizes=(1, 4, 16)):
    """Calls on streams that fork and grow. What a call generated is continued only when it has ended."""
    random = Random(seed)
    block = random.choice(sizes)
    limits = shape(
        blocks=random.choice([12, 30, 80]),
        block=block,
        seqs=random.choice([1, 2, 3, 8]),
        step=random.choice([8, 24, 64]) * max(1, block // 4),
    )
    room = limits.max_model_len_tokens
    root = Stream()
    streams, calls, at = [root], [], 0.0
    prompts, ends = {root: 0}, {root: 0}
    for _ in range(random.randint(1, 25)):
        at += random.choice([0.0001, 0.03, 0.3, 4.0]) * random.random()
        stream = random.choice(streams)
        if random.random() < 0.3:
            at += 1e4  # all that came before is over
            base = ends[stream]
        else:
            base = prompts[stream]
        if base != ends[stream] or random.random() < 0.3:
            stream = Stream(stream, random.randint(0, base // block))
            base = stream.fork * block
            streams.append(stream)
        if base >= room - 2:
            prompts[stream] = ends[stream] = base
            continue
        prompt = random.randint(max(1, base), min(room - 1, max(1, base) + random.randint(1, room)))
        output = random.randint(1, min(room - prompt, 1 + room // 2))
        calls.append(Call(at, stream, prompt, output))
        prompts[stream], ends[stream] = prompt, prompt + output
    return limits, streams, calls


def same(limits, streams, calls):
    names = Names()
    ours, engine = simulate(limits, calls)
    theirs, double = exact(limits, calls, names)
    for number, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
        assert (mine.cached, mine.preemptions) == (other.cached, other.preemptions), (number, mine, other)
        assert mine.first_at == pytest.approx(other.first_at, rel=1e-9, abs=1e-9), number
        assert mine.done_at == pytest.approx(other.done_at, rel=1e-9, abs=1e-9), number
    first = contents(names, streams, limits.block_tokens, limits.blocks)
    assert queue_of(engine, names) == queue_of_exact(double, first)
    assert engine.totals.preemptions == double.totals.preemptions


@given(st.integers(0, 1 << 32))
@settings(max_examples=300, deadline=None)
def test_same_hits_times_and_eviction_order_as_the_block_exact_double(seed):
    same(*random_case(seed))
