"""The pool of spans: cuts, copies, order; and what a worker tells its node, beside the live ledger."""

from random import Random

import pytest
from engine_twins import COSTS, Names, shape
from hypothesis import given, settings
from hypothesis import strategies as st

from saga_core.costs import CostTable
from saga_core.kv.ledger import Ledger
from saga_sim.cache import Cache
from saga_sim.engine import NEVER, Engine, Request
from saga_sim.residence import Residence
from saga_sim.streams import Stream


class Somebody:
    def __init__(self):
        self.held = []


def stored(cache, stream, blocks, start=0):
    who = Somebody()
    cache.take(blocks - start)
    cache.store(stream.pieces(blocks, start), who)
    return who


def test_the_tail_goes_first_and_the_oldest_before():
    cache, a, b = Cache(10), Stream(), Stream()
    cache.release(stored(cache, a, 4), 0)
    cache.release(stored(cache, b, 4), 0)
    cache.take(5)  # two empty ones, three of a's tail
    assert cache.cached(a.pieces(4)) == 1
    assert cache.cached(b.pieces(4)) == 4
    cache.check()


def test_what_is_held_is_never_evicted():
    cache, a = Cache(6), Stream()
    who = stored(cache, a, 4)
    assert cache.free == 2
    with pytest.raises(AssertionError, match="more blocks taken than were free"):
        cache.take(3)
    cache.release(who, 0)


def test_touching_a_part_splits_and_letting_go_joins():
    cache, a = Cache(10), Stream()
    cache.release(stored(cache, a, 6), 0)
    who = Somebody()
    cache.touch(cache.lookup(a.pieces(2)), who)
    cache.check()
    assert sorted((s.low, s.high, len(s.holders)) for s in cache.spans()) == [(0, 2, 1), (2, 6, 0)]
    assert cache.free == 8
    rest = Somebody()
    cache.touch(cache.lookup(a.pieces(6)), rest)
    cache.release(who, 0)
    cache.release(rest, 0)
    assert [(s.low, s.high) for s in cache.spans()] == [(0, 6)]
    cache.check()


def test_the_second_copy_is_found_when_the_first_is_gone():
    cache, a = Cache(8), Stream()
    first = stored(cache, a, 2)
    second = stored(cache, a, 2)
    cache.release(first, 0)
    cache.release(second, 0)
    cache.take(6)
    assert cache.cached(a.pieces(2)) == 2
    cache.take(1)
    assert cache.cached(a.pieces(2)) == 1
    cache.check()


def test_useful_blocks_are_those_of_unfinished_workflows():
    class Life:
        over = False

    cache, life = Cache(8), Life()
    cache.release(stored(cache, Stream(owner=life), 3), 0)
    cache.release(stored(cache, Stream(), 2), 0)
    assert cache.useful() == (5, 5)
    life.over = True
    assert cache.useful() == (2, 5)


@given(st.integers(0, 1 << 32))
@settings(max_examples=100, deadline=None)
def test_residency_is_what_the_ledger_says_of_the_same_blocks(seed):
    """Sessions that grow and fork in a small pool: after each call, tokens as the live ledger would count them."""
    random = Random(seed)
    limits = shape(blocks=random.choice([10, 25]), block=4, seqs=4, step=64)
    engine = Engine(limits, CostTable(**COSTS), lambda request, _: residence.note(request))
    residence = Residence(engine.cache, 4)
    known: dict[str, int] = {}
    names, ledger = Names(), Ledger()
    stream, fill, at = {"s0": Stream()}, {"s0": 0}, 0.0
    before: set[int] = set()
    for number in range(random.randint(1, 20)):
        session = random.choice(list(stream))
        if random.random() < 0.3:
            parent = stream[session]
            session = f"s{len(stream)}"
            stream[session], fill[session] = Stream(parent, fill[parent_name(stream, parent)] // 4 // 2), 0
            fill[session] = stream[session].fork * 4
        prompt = fill[session] + random.randint(1, 12)
        output = random.randint(1, 8)
        if prompt + output > limits.max_model_len_tokens:
            continue
        engine.submit(
            Request(
                key=number,
                stream=stream[session],
                prompt_tokens=prompt,
                output_tokens=output,
                session=session,
            ),
            at,
        )
        while engine.next_at < NEVER:
            at = engine.next_at
            engine.advance(at)
        at += 1.0
        fill[session] = prompt + output
        before = replay_into(
            ledger, engine, names, before, stream[session], session, (prompt + output - 1) // 4
        )
        known.update(residence.news())
        ledger.take_changes()
        for name in stream:
            assert known.get(name, 0) == ledger.tokens(name), (number, name)


def parent_name(streams, stream):
    return next(name for name, item in streams.items() if item is stream)


def replay_into(ledger, engine, names, before, stream, session, blocks):
    """Tell the ledger what left the pool and what came, as KV events would, and return what is there now."""
    now = {
        names.token(span.stream, block)
        for span in engine.cache.spans()
        for block in range(span.low, span.high)
    }
    chain = [names.token(s, b) for s, low, high in stream.pieces(blocks) for b in range(low, high)]
    ledger.removed(before - now)
    parent = None
    for name in chain:
        if name not in now:
            break
        if name not in before:
            ledger.stored([name], parent=parent, block_tokens=4, session=session)
        parent = name
    ledger.check()
    return now
