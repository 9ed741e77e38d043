"""Who uses which block, and which goes next, against a model that looks at every block each time."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saga_core.kv.blocks import MOST_MEMBERS, BlockOrder
from saga_core.kv.retention import OVER, UNVALUED, Standing

EMPTY = (-1, 0.0)
"""Of blocks without content: below everything that can be found."""
WORTHS = [
    OVER,
    (Standing.PAUSED, 0.0),
    UNVALUED,
    *((Standing.LIVE, v / 2) for v in range(5)),
    (Standing.HELD, float("inf")),
]


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


class Block:
    """One block of the model: its users, whether several workflows used it, and its place among the free ones."""

    def __init__(self):
        self.users, self.several, self.owned = set(), False, False
        self.place, self.empty = None, False


class Model:
    def __init__(self, blocks):
        self.blocks = {i: Block() for i in range(blocks)}
        self.worths, self.until = {}, {}
        self.newest = self.oldest = 0

    def worth(self, block):
        if block.empty:
            return EMPTY
        floor = UNVALUED if block.several or not block.owned else OVER
        return max([floor, *(self.worths.get(user, UNVALUED) for user in block.users)])

    def order(self, now):
        for session in [s for s, end in self.until.items() if end <= now]:
            self.release(session)
        free = [(self.worth(b), b.place, i) for i, b in self.blocks.items() if b.place is not None]
        return [i for _, _, i in sorted(free)]

    def free(self, ids):
        for i in ids:
            self.newest += 1
            self.blocks[i].place = self.newest

    def empty(self, ids):
        for i in reversed(ids):
            self.oldest -= 1
            fresh = self.blocks[i] = Block()
            fresh.place, fresh.empty = self.oldest, True

    def take(self, ids):
        for i in ids:
            self.blocks[i] = Block()

    def use(self, session, ids):
        for block in (self.blocks[i] for i in ids):
            workflow = session.partition(".")[0]
            if session not in block.users:
                block.several |= any(user.partition(".")[0] != workflow for user in block.users)
            block.users.add(session)
            block.owned = True

    def leave(self, session, ids):
        left = [i for i in ids if self.blocks[i].place is not None and session in self.blocks[i].users]
        for i in left:
            self.blocks[i].users.discard(session)
        self.free(left)

    def end(self, session):
        self.worths.pop(session, None)
        self.until.pop(session, None)
        for block in self.blocks.values():
            block.users.discard(session)

    def retain(self, session, worth, until):
        self.until.pop(session, None)
        if worth[0] <= OVER[0]:
            self.end(session)
            return
        self.worths[session] = worth
        if until is not None:
            self.until[session] = until

    def release(self, session):
        self.worths.pop(session, None)
        self.until.pop(session, None)

    def drop(self, session):
        mine = [
            i
            for i, b in self.blocks.items()
            if b.users == {session} and b.place is not None and not b.several
        ]
        self.end(session)
        return mine


class Pair:
    """The order and the model, changed together at random and compared."""

    def __init__(self, seed, blocks=48, sessions=8):
        self.rng, self.clock = Random(seed), Clock()
        self.order = BlockOrder(blocks, self.clock)
        self.model = Model(blocks)
        self.sessions = [f"{i // 2}.{i}" for i in range(sessions)]
        self.used = set(range(blocks))
        self.deeds = [self.step] * 4 + [self.finish] * 3 + [
            self.find, self.find, self.retain, self.retain, self.release, self.drop, self.leave, self.leave,
            self.wait, self.reset,
        ]  # fmt: skip
        self.weights = [1] * (len(self.deeds) - 1) + [0.05]

    def step(self):
        """New blocks, of a session or of nobody."""
        count = self.rng.randint(0, min(8, self.order.count))
        expected = self.model.order(self.clock.now)[:count]
        assert self.order.take(count) == expected
        self.model.take(expected)
        self.used |= set(expected)
        if self.rng.random() < 0.9:
            session = self.rng.choice(self.sessions)
            self.order.use(session, expected)
            self.model.use(session, expected)

    def finish(self):
        ids = self.rng.sample(sorted(self.used), self.rng.randint(0, len(self.used)))
        self.used -= set(ids)
        if self.rng.random() < 0.8:
            self.order.free(ids)
            self.model.free(ids)
        else:
            self.order.free_empty(ids)
            self.model.empty(ids)

    def find(self):
        """A session finds blocks of others, free ones and some in use."""
        full = [i for i, b in self.model.blocks.items() if not b.empty]
        ids = self.rng.sample(full, min(len(full), self.rng.randint(0, 12)))
        for i in ids:
            if i not in self.used:
                self.order.touch(i)
                self.model.blocks[i].place = None
        self.used |= set(ids)
        session = self.rng.choice(self.sessions)
        self.order.use(session, ids)
        self.model.use(session, ids)

    def retain(self):
        session, worth = self.rng.choice(self.sessions), self.rng.choice(WORTHS)
        ttl_s = self.rng.choice([float("inf"), 0.0, 1.0, 5.0])
        self.order.retain(session, worth, ttl_s)
        self.model.retain(session, worth, self.clock.now + ttl_s if ttl_s < float("inf") else None)

    def release(self):
        session = self.rng.choice(self.sessions)
        self.order.release(session)
        self.model.release(session)

    def drop(self):
        session = self.rng.choice(self.sessions)
        expected, given_back = self.model.drop(session), self.order.drop(session)
        assert sorted(given_back) == sorted(expected)
        self.model.empty(given_back)

    def leave(self):
        """A session's next prompt leaves out some of what it had."""
        session = self.rng.choice(self.sessions)
        ids = self.rng.sample(sorted(self.model.blocks), self.rng.randint(0, 20))
        self.order.leave(session, ids)
        self.model.leave(session, ids)

    def wait(self):
        self.clock.now += self.rng.choice([0.1, 1.0, 3.0])

    def reset(self):
        self.finish_all()
        self.order.reset()
        expected = list(self.order)
        assert sorted(expected) == sorted(self.model.blocks)
        self.model.empty(expected)

    def finish_all(self):
        ids, self.used = sorted(self.used), set()
        self.order.free(ids)
        self.model.free(ids)

    def play(self, deeds, look_every=5):
        for number in range(deeds):
            self.rng.choices(self.deeds, self.weights)[0]()
            assert self.order.count == len(self.model.blocks) - len(self.used)
            if number % look_every == 0:
                self.order.check()
                self.order.take(0)  # times to live end when blocks are wanted
                assert list(self.order) == self.model.order(self.clock.now)


@given(st.integers(0, 1 << 32))
@settings(max_examples=60, deadline=None)
def test_it_goes_as_a_look_at_every_block_says(seed):
    Pair(seed).play(100)


def test_ten_thousand_deeds_lose_and_repeat_no_block():
    pair = Pair(7, blocks=120, sessions=24)
    pair.play(10_000, look_every=50)
    pair.finish_all()
    assert sorted(pair.order.take(120)) == list(range(120))
    with pytest.raises(IndexError):
        pair.order.take(1)
    pair.order.check()
    assert pair.order.sessions() == {}


def holding(order, session, ids, worth=None):
    order.use(session, ids)
    if worth is not None:
        order.retain(session, worth)


def test_a_shared_prefix_counts_once_and_as_its_dearest_user():
    order = BlockOrder(6, Clock())
    holding(order, "1.a", [0, 1, 2], (Standing.LIVE, 1.0))
    holding(order, "2.b", [0, 1, 3], (Standing.LIVE, 5.0))
    holding(order, "3.c", [4], (Standing.LIVE, 2.0))
    assert order.sessions() == {"1.a": (1, 2), "2.b": (1, 2), "3.c": (1, 0)}
    order.free((3, 1, 0, 2, 4, 5))
    assert list(order) == [5, 2, 4, 3, 1, 0]
    order.retain("2.b", OVER)
    assert list(order) == [3, 5, 1, 0, 2, 4], "its own is over; what 1.a shares is worth what that is"
    order.drop("1.a")
    assert list(order) == [2, 3, 1, 0, 5, 4], "what several workflows have used is nobody's to end"


def test_what_a_session_has_left_goes_first_unless_another_uses_it():
    order = BlockOrder(6, Clock())
    holding(order, "1.main", [0, 1, 2, 3], (Standing.HELD, 1.0))
    holding(order, "1.sub", [1], (Standing.LIVE, 1.0))
    order.free((5, 4, 3, 2, 1, 0))
    order.leave("1.main", [3, 2, 1])
    assert list(order) == [3, 2, 5, 4, 1, 0]
    assert order.sessions() == {"1.main": (1, 0), "1.sub": (1, 0)}
    order.touch(3)
    order.use("1.main", [3])
    order.free((3,))
    assert list(order) == [2, 5, 4, 1, 0, 3], "found again it is its own again"
    order.check()


def test_sub_agents_of_one_workflow_share_what_is_over_with_it():
    order = BlockOrder(4, Clock())
    holding(order, "1.main", [0, 1])
    holding(order, "1.sub", [0])
    order.free((3, 1, 0))
    order.retain("1.main", OVER)
    order.retain("1.sub", OVER)
    assert list(order) == [1, 0, 3]


def test_a_prompt_that_everybody_begins_with_forgets_who_was_not_valued():
    order = BlockOrder(2, Clock())
    order.retain("0.kept", (Standing.LIVE, 1.0))
    for number in range(3 * MOST_MEMBERS):
        holding(order, f"{number}.kept", [0, 1])
    assert order.queue.sessions <= MOST_MEMBERS
    (only,) = order.holdings()
    assert "0.kept" in only.members, "but never who was"
    assert only.worth == (Standing.LIVE, 1.0)
    order.check()


def test_nothing_is_kept_of_sessions_whose_blocks_are_gone():
    order = BlockOrder(4, Clock())
    for number in range(500):
        session = f"{number}.s"
        holding(order, session, [0, 1], (Standing.LIVE, 1.0))
        order.free([0, 1])
        order.retain(session, OVER) if number % 2 else order.release(session)
        assert order.take(2) == [0, 1]
    assert order.queue.sessions == 0
    assert order.sessions() == {}


@pytest.mark.parametrize("bad", [((Standing.LIVE, float("nan")), 1.0), ((Standing.LIVE, 1.0), float("nan"))])
def test_what_is_no_number_is_refused(bad):
    with pytest.raises(ValueError, match="session s: a worth of"):
        BlockOrder(2, Clock()).retain("s", *bad)
