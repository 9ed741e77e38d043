"""Host memory behind the pool: what goes there, what comes back, when, and what that costs."""

from dataclasses import replace
from random import Random

import pytest
from engine_twins import COSTS, shape
from hypothesis import given, settings
from hypothesis import strategies as st
from test_sim_engine import random_case

from saga_core.costs import CostTable
from saga_core.errors import UserError
from saga_sim.engine import NEVER, Engine, Request
from saga_sim.host import Host
from saga_sim.streams import Stream


@given(st.integers(0, 1 << 32))
@settings(max_examples=100, deadline=None)
def test_host_memory_holds_what_was_put_and_never_too_much(seed):
    rng = Random(seed)
    host, streams, put = Host(rng.choice([3, 10, 40])), [Stream() for _ in range(4)], set()
    for _ in range(60):
        stream, low = rng.choice(streams), rng.randrange(12)
        high = low + rng.randint(1, 6)
        if rng.random() < 0.6:
            host.put(stream, low, high)
            put |= {(stream, block) for block in range(low, high)}
            if host.used < host.blocks:
                assert host.lookup([(stream, low, high)]) == [(stream, low, high)]
        else:
            found = host.lookup([(stream, low, high)])
            host.touch(found)
            assert all((stream, block) in put for _, a, b in found for block in range(a, b))
        host.check()


def test_the_least_recently_used_run_loses_its_tail():
    host, a, b, c = Host(10), Stream(), Stream(), Stream()
    for low in (3, 2, 1, 0):  # as a pool evicts it: tail first
        host.put(a, low, low + 1)
    host.put(b, 0, 4)
    host.touch(host.lookup(a.pieces(4)))
    host.put(c, 0, 4)
    assert host.lookup(a.pieces(4)) == [(a, 0, 4)]
    assert host.lookup(b.pieces(4)) == [(b, 0, 2)]
    assert host.lookup(c.pieces(4)) == [(c, 0, 4)]


def engine_with(host_blocks, *, blocks=10, link=1000.0, seqs=4):
    limits = replace(
        shape(blocks=blocks, block=10, seqs=seqs, step=64),
        host_tokens=host_blocks * 10,
        link_tokens_per_s=link,
    )
    ended = {}
    return Engine(limits, CostTable(**COSTS), lambda request, at: ended.update({request.key: at})), ended


def run(engine, *requests, until=NEVER):
    for request, at in requests:
        while engine.next_at <= at:
            engine.advance(engine.next_at)
        engine.submit(request, at)
    while engine.next_at < min(until, NEVER):
        engine.advance(engine.next_at)
        engine.check()


def ask(key, stream, prompt, output=2):
    return Request(key=key, stream=stream, prompt_tokens=prompt, output_tokens=output, session=str(key))


def test_what_was_evicted_is_loaded_over_the_link_and_the_rest_computed():
    engine, ended = engine_with(20)
    a, b = Stream(), Stream()
    again = ask(2, a, 85)
    run(engine, (ask(0, a, 75), 0.0), (ask(1, b, 75), 10.0), (again, 20.0))
    # The pool of 10 blocks has the first two of a's 7; the other five take 50 ms to load.
    assert engine.totals.hit_tokens + engine.totals.host_hit_tokens == 70
    assert engine.totals.host_hit_tokens == engine.totals.loaded_tokens == again.cached_tokens - 20 == 50
    costs = CostTable(**COSTS)
    computed_s = costs.step_s + costs.chunk_s(70, 15)
    assert again.first_at == pytest.approx(20.0 + 50 / 1000.0 + computed_s)
    without, ended_without = engine_with(0)
    run(without, (ask(0, a, 75), 0.0), (ask(1, b, 75), 10.0), (ask(2, a, 85), 20.0))
    assert without.totals.host_hit_tokens == 0
    assert ended[2] < ended_without[2]


def test_the_batch_goes_on_while_something_is_loaded():
    engine, ended = engine_with(40, blocks=20, link=10.0)
    a, b, c = Stream(), Stream(), Stream()
    again, other = ask(2, a, 105), ask(3, c, 15, output=30)
    run(engine, (ask(0, a, 95), 0.0), (ask(1, b, 150), 10.0), (other, 20.0), (again, 20.1))
    assert engine.totals.loaded_tokens > 0
    assert ended[3] < again.first_at, "a short one is served while the long one is loaded"
    alone, ended_alone = engine_with(40, blocks=20, link=10.0)
    run(alone, (ask(3, Stream(), 15, output=30), 20.0))
    assert ended[3] == pytest.approx(ended_alone[3])


def test_loads_go_one_after_the_other():
    engine, _ = engine_with(60, blocks=30, link=100.0)
    streams = [Stream() for _ in range(4)]
    for number, stream in enumerate(streams):
        run(engine, (ask(number, stream, 105), 100.0 * number))
    first, second = ask(10, streams[0], 115), ask(11, streams[1], 115)
    run(engine, (first, 1000.0), (second, 1000.0))
    loaded_s = engine.totals.loaded_tokens / 100.0
    assert loaded_s >= 1.0
    assert second.first_at - 1000.0 >= loaded_s
    assert first.first_at < second.first_at


def test_who_is_preempted_or_aborted_while_loading_gives_its_blocks_back():
    engine, ended = engine_with(40, blocks=20, link=1.0)
    a, b = Stream(), Stream()
    run(engine, (ask(0, a, 95), 0.0), (ask(1, b, 185), 10.0))
    again = ask(2, a, 105)
    engine.submit(again, 20.0)
    engine.advance(engine.next_at)
    engine.check()
    assert engine.cache.free < 20
    engine.abort(again, 21.0)
    run(engine)
    assert engine.is_idle
    assert again.over
    assert 2 not in ended
    engine.check()


@given(st.integers(0, 1 << 32))
@settings(max_examples=300, deadline=None)
def test_with_host_memory_everything_ends_and_all_is_accounted_for(seed):
    limits, _, calls = random_case(seed)
    rng = Random(seed)
    limits = replace(
        limits,
        host_tokens=limits.capacity_tokens * rng.choice([1, 3]),
        link_tokens_per_s=rng.choice([50.0, 1e3, 1e6]),
        priority=rng.random() < 0.5,
    )
    ended = []
    engine = Engine(limits, CostTable(**COSTS), lambda request, _: ended.append(request.key))
    pending = sorted(range(len(calls)), key=lambda i: calls[i].at)
    while pending or engine.next_at < NEVER:
        if pending and calls[pending[0]].at < engine.next_at:
            call = calls[number := pending.pop(0)]
            request = ask(number, call.stream, call.prompt, call.output)
            request.priority = rng.randrange(3)
            engine.submit(request, call.at)
        else:
            engine.advance(engine.next_at)
        engine.check()
        if engine._loads.host is not None:
            engine._loads.host.check()
    assert sorted(ended) == list(range(len(calls)))
    assert engine.cache.free == engine.cache.blocks


def test_a_link_without_speed_is_refused():
    with pytest.raises(UserError, match="host memory"):
        engine_with(10, link=0.0)
