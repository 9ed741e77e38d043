"""A pool that is told what sessions are worth: the order of eviction, and nothing else, changes."""

from random import Random

from engine_twins import COSTS
from hypothesis import given, settings
from hypothesis import strategies as st
from test_sim_engine import random_case

from saga_core.costs import CostTable
from saga_core.kv.retention import OVER, Standing
from saga_sim.cache import Cache
from saga_sim.engine import NEVER, Engine, Request
from saga_sim.streams import Contexts, Stream

LIVE = Standing.LIVE


class User:
    def __init__(self, session):
        self.held, self.session = [], session


def use(cache, session, stream, blocks):
    """One step of `session`: what is cached of its blocks is found, the rest computed, all let go."""
    user = User(session)
    hits = cache.lookup(stream.pieces(blocks))
    found = sum(high - low for _, low, high in hits)
    cache.touch(hits, user)
    cache.take(blocks - found)
    cache.store(stream.pieces(blocks, found), user)
    cache.release(user, 0)
    cache.check()
    return found


def owned(parent=None, fork=0):
    return Stream(parent, fork, owner=object.__new__(Contexts))


def test_the_least_worth_goes_first_from_its_tail():
    cache = Cache(30)
    streams = {name: owned() for name in ("high", "low", "dead", "paused", "unknown")}
    cache.values({"high": (LIVE, 2.0), "low": (LIVE, 1.0), "paused": (Standing.PAUSED, 9.0)})
    for name, stream in streams.items():
        use(cache, name, stream, 6)
    cache.values({"dead": OVER})
    for gone, left in [("dead", 2), ("paused", 4), ("unknown", 5), ("low", 1)]:
        cache.take(6 - left)
        cache.check()
        assert cache.cached(streams[gone].pieces(6)) == left
        cache.take(left)
    assert cache.cached(streams["high"].pieces(6)) == 6
    cache.take(6)
    assert cache.free == 0, "nothing is protected for good"


def test_a_session_that_is_kept_survives_the_traffic_of_others():
    for valued in (True, False):
        cache, mine = Cache(64), owned()
        if valued:
            cache.values({"mine": (LIVE, 1.0)})
        use(cache, "mine", mine, 24)
        for i in range(10):
            use(cache, f"other{i}", owned(), 16)
        assert cache.cached(mine.pieces(24)) == (24 if valued else 0)


def context(cache, session, stream, blocks):
    """A step of `session` whose prompt is those blocks."""
    cache.follow(session, stream.pieces(blocks))
    return use(cache, session, stream, blocks)


def test_what_the_next_prompt_leaves_out_goes_first():
    """Of an answer of 6 blocks the next prompt has 2; the rest is nobody's, however dear the session is."""
    cache, dear, cheap = Cache(40), owned(), owned()
    cache.values({"dear": (LIVE, 9.0), "cheap": (LIVE, 1.0)})
    context(cache, "dear", dear, 12)
    context(cache, "cheap", cheap, 12)
    onward = owned(dear, 8)
    context(cache, "dear", onward, 14)
    cache.take(cache.empty + 4)
    cache.check()
    assert cache.cached(dear.pieces(12)) == 8, "4 blocks that only the old answer had"
    assert cache.cached(onward.pieces(14)) == 14
    assert cache.cached(cheap.pieces(12)) == 12
    cache.take(3)
    assert cache.cached(cheap.pieces(12)) == 9


def test_what_another_session_still_goes_through_is_not_left():
    cache, trunk = Cache(40), owned()
    cache.values({"a": (LIVE, 9.0), "b": (LIVE, 9.0), "c": (LIVE, 1.0)})
    context(cache, "a", trunk, 12)
    context(cache, "b", owned(trunk, 10), 12)
    other = owned()
    context(cache, "c", other, 4)
    context(cache, "a", owned(trunk, 6), 8)
    cache.take(cache.empty + 2)
    cache.check()
    assert cache.cached(trunk.pieces(12)) == 10, "b needs 10 of the 12"
    cache.take(3)
    assert (cache.cached(trunk.pieces(12)), cache.cached(other.pieces(4))) == (10, 1)


def test_a_session_that_begins_anew_leaves_its_old_context():
    cache, old, cheap = Cache(30), owned(), owned()
    cache.values({"dear": (LIVE, 9.0), "cheap": (LIVE, 1.0)})
    context(cache, "dear", old, 10)
    context(cache, "cheap", cheap, 10)
    context(cache, "dear", owned(), 8)
    cache.take(cache.empty + 10)
    assert (cache.cached(old.pieces(10)), cache.cached(cheap.pieces(10))) == (0, 10)
    cache.values({"dear": OVER, "cheap": OVER})
    cache.take(18)
    cache.check()
    assert not cache._contexts
    assert not any(cache._reach.values())


def test_a_system_prompt_outlives_its_first_user_and_is_not_over_with_the_last():
    cache, prompt = Cache(20), Stream()
    cache.values({"a": (LIVE, 5.0), "b": (LIVE, 4.0)})
    a, b, unknown = owned(prompt, 4), owned(prompt, 4), owned()
    use(cache, "unknown", unknown, 8)
    use(cache, "a", a, 8)
    use(cache, "b", b, 8)
    cache.values({"a": OVER})
    cache.take(4)
    assert (cache.cached(b.pieces(8)), cache.cached(unknown.pieces(8))) == (8, 8)
    cache.values({"b": OVER})
    cache.take(8)
    assert (cache.cached(prompt.pieces(4)), cache.cached(unknown.pieces(8))) == (4, 4), "it was used later"


def test_sessions_that_are_over_leave_nothing_behind():
    cache = Cache(16)
    cache.values({})
    for i in range(40):
        cache.values({f"s{i}": (LIVE, float(i))})
        use(cache, f"s{i}", owned(), 8)
        cache.values({f"s{i}": OVER})
    assert cache._queue.sessions <= 3
    assert len(cache._parties) <= 2


def played(seed, worth):
    """A random case with `worth(rng)` given to a session now and then; when requests ended, and what was found."""
    limits, _, calls = random_case(seed)
    rng, told = Random(seed), []
    engine = Engine(
        limits, CostTable(**COSTS), lambda r, at: told.append((r.key, at, r.cached_tokens, r.preemptions))
    )
    pending = sorted(range(len(calls)), key=lambda i: calls[i].at)
    sessions = {}
    if worth is not None:
        engine.cache.values({})
    while pending or engine.next_at < NEVER:
        if pending and calls[pending[0]].at < engine.next_at:
            call = calls[number := pending.pop(0)]
            session = sessions.setdefault(call.stream, f"s{len(sessions)}")
            if worth is not None:
                engine.cache.values({session: worth(rng)})
            request = Request(
                key=number,
                stream=call.stream,
                prompt_tokens=call.prompt,
                output_tokens=call.output,
                session=session,
            )
            engine.submit(request, call.at)
        else:
            engine.advance(engine.next_at)
        engine.check()
    return told


@given(st.integers(0, 1 << 32))
@settings(max_examples=100, deadline=None)
def test_when_all_are_worth_the_same_nothing_changes(seed):
    same = played(seed, lambda _: (LIVE, 1.0))
    assert same == played(seed, None)


@given(st.integers(0, 1 << 32))
@settings(max_examples=100, deadline=None)
def test_whatever_they_are_worth_every_request_ends(seed):
    worths = [OVER, None, (Standing.PAUSED, 0.0), (LIVE, 1.0), (LIVE, 2.0), (Standing.HELD, 0.0)]
    told = played(seed, lambda rng: rng.choice(worths))
    assert sorted(key for key, *_ in told) == sorted(key for key, *_ in played(seed, None))
