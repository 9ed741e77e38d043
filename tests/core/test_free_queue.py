"""The session-aware free queue against a plain list that is sorted anew at each look."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saga_core.kv.queue import Entry, FreeQueue
from saga_core.kv.retention import OVER, UNVALUED, Standing

WORTHS = [
    OVER,
    UNVALUED,
    (Standing.PAUSED, 0.0),
    *((Standing.LIVE, v / 2) for v in range(6)),
    (Standing.HELD, 0.0),
]


class Block(Entry):
    """A block of a number."""

    def __init__(self, number):
        super().__init__()
        self.number = number

    def __repr__(self):
        return f"b{self.number}"


class Model:
    """The same by a list: `[place, block, party name]`."""

    def __init__(self):
        self.free, self.worths, self.members, self.floors = [], {}, {}, {}
        self.newest = self.oldest = 0

    def worth(self, party):
        return max([self.floors[party], *(self.worths.get(s, UNVALUED) for s in self.members[party])])

    def order(self):
        return [row[1] for row in sorted(self.free, key=lambda row: (self.worth(row[2]), row[0]))]

    def append(self, block, party):
        self.newest += 1
        self.free.append((self.newest, block, party))

    def prepend(self, block, party):
        self.oldest -= 1
        self.free.append((self.oldest, block, party))

    def remove(self, block):
        self.free = [row for row in self.free if row[1] is not block]


class Pair:
    """Queue and model, changed together at random and compared."""

    def __init__(self, seed, sessions=8, blocks=60, parties=12, valued=True):
        self.rng = Random(seed)
        self.queue, self.model = FreeQueue(), Model()
        self.sessions = [f"s{i}" for i in range(sessions)]
        self.parties = {}
        for i in range(parties):
            floor = self.rng.choice([OVER, UNVALUED])
            self.parties[i] = self.queue.make_party(floor)
            self.model.floors[i], self.model.members[i] = floor, set()
            for session in self.rng.sample(self.sessions, self.rng.choice([0, 1, 1, 1, 2, 5])):
                self.join(i, session)
        self.parties["common"] = self.queue.common
        self.model.floors["common"], self.model.members["common"] = UNVALUED, set()
        self.used = [Block(i) for i in range(blocks)]
        deeds = [self.append] * 4 + [self.prepend, self.remove, self.pop, self.pop, self.member]
        self.deeds = deeds + ([self.value] * 4 + [self.forget] if valued else [])

    def join(self, party, session):
        self.queue.join(self.parties[party], session)
        self.model.members[party].add(session)

    def append(self):
        party = self.rng.choice(list(self.parties))
        for _ in range(min(len(self.used), self.rng.randint(1, 5))):
            block = self.used.pop(self.rng.randrange(len(self.used)))
            self.queue.append(block, self.parties[party])
            self.model.append(block, party)

    def prepend(self):
        if self.used:
            block, party = self.used.pop(), self.rng.choice(list(self.parties))
            self.queue.prepend(block, self.parties[party])
            self.model.prepend(block, party)

    def remove(self):
        if self.model.free:
            block = self.rng.choice(self.model.free)[1]
            self.queue.remove(block)
            self.model.remove(block)
            self.used.append(block)

    def pop(self):
        count = self.rng.randint(0, len(self.model.free))
        expected = self.model.order()[:count]
        if count and self.rng.random() < 0.5:
            assert self.queue.first() is expected[0]
        assert self.queue.pop(count) == expected
        for block in expected:
            self.model.remove(block)
        self.used += expected

    def member(self):
        party = self.rng.choice([name for name in self.parties if name != "common"])
        self.join(party, self.rng.choice(self.sessions))

    def value(self):
        session, worth = self.rng.choice(self.sessions), self.rng.choice(WORTHS)
        self.queue.value(session, worth)
        self.model.worths[session] = worth
        if worth == OVER and not any(session in members for members in self.model.members.values()):
            del self.model.worths[session]  # nothing to be over

    def forget(self):
        session = self.rng.choice(self.sessions)
        self.queue.forget(session)
        self.model.worths.pop(session, None)
        for members in self.model.members.values():
            members.discard(session)

    def play(self, deeds):
        for number in range(deeds):
            self.rng.choice(self.deeds)()
            self.queue.check()
            assert self.queue.count == len(self.model.free)
            if number % 7 == 0:
                assert list(self.queue) == self.model.order()


@given(st.integers(0, 1 << 32))
@settings(max_examples=60, deadline=None)
def test_every_entry_goes_in_the_order_of_worth_and_place(seed):
    Pair(seed).play(120)


def test_ten_thousand_deeds_lose_and_repeat_no_block():
    pair = Pair(1, sessions=40, blocks=200, parties=60)
    pair.play(10_000)
    everyone = {block.number for block in pair.used} | {row[1].number for row in pair.model.free}
    assert everyone == set(range(200))
    rest = pair.queue.pop(pair.queue.count)
    assert len({block.number for block in rest}) == len(rest)
    with pytest.raises(IndexError):
        pair.queue.pop(1)


def test_without_worths_it_is_least_recently_used_whatever_the_parties():
    pair = Pair(2, valued=False)
    pair.play(2000)
    assert pair.queue.pop(len(pair.model.free)) == [
        row[1] for row in sorted(pair.model.free, key=lambda row: row[0])
    ]


def filled(queue, session, count, floor=OVER):
    party = queue.make_party(floor)
    queue.join(party, session)
    blocks = [Block(f"{session}{i}") for i in range(count)]
    for block in reversed(blocks):
        queue.append(block, party)
    return party, blocks


def test_dead_then_paused_then_unknown_then_by_value_and_each_from_its_tail():
    queue = FreeQueue()
    blocks = {
        name: filled(queue, name, 2)[1] for name in ["high", "low", "dead", "paused", "held", "unknown"]
    }
    queue.value("high", (Standing.LIVE, 2.0))
    queue.value("low", (Standing.LIVE, 1.0))
    queue.value("dead", OVER)
    queue.value("paused", (Standing.PAUSED, 99.0))
    queue.value("held", (Standing.HELD, 0.0))
    order = ["dead", "paused", "unknown", "low", "high", "held"]
    assert queue.pop(12) == [block for name in order for block in reversed(blocks[name])]


def test_a_shared_prefix_outlives_its_first_owner_and_counts_once():
    queue = FreeQueue()
    prefix, shared = filled(queue, "first", 3, floor=UNVALUED)
    queue.join(prefix, "second")
    _, own = filled(queue, "first", 2)
    queue.value("first", (Standing.LIVE, 9.0))
    queue.value("second", (Standing.LIVE, 1.0))
    assert queue.count == 5
    queue.value("first", OVER)
    assert queue.pop(2) == own[::-1]
    assert queue.first() is shared[-1]
    queue.value("second", OVER)
    _, unknown = filled(queue, "third", 1)
    assert queue.pop(3) == shared[::-1], (
        "a prefix of everybody falls no lower than to its place in the LRU order"
    )
    assert queue.pop(1) == unknown


def test_a_worth_is_remembered_until_the_session_has_blocks_and_forgotten_with_it():
    queue = FreeQueue()
    queue.value("late", (Standing.LIVE, 1.0))
    _, other = filled(queue, "other", 1)
    party, late = filled(queue, "late", 1)
    assert queue.pop(1) == other
    queue.value("late", OVER)
    assert queue.pop(1) == late
    queue.dissolve(party)
    assert queue.sessions == 1
    queue.forget("other")
    queue.value("nobody", OVER)
    assert queue.sessions == 0


def test_no_number_is_refused():
    with pytest.raises(ValueError, match="worth of"):
        FreeQueue().value("s", (Standing.LIVE, float("nan")))


def test_the_heap_stays_bounded_under_many_changes_of_worth():
    queue = FreeQueue()
    for i in range(50):
        filled(queue, f"s{i}", 1)
    rng = Random(0)
    for _ in range(20_000):
        queue.value(f"s{rng.randrange(50)}", (Standing.LIVE, rng.random()))
    assert len(queue._heap) < 300
    assert all(len(filed[3].claims) < 100 for filed in queue._heap)
    queue.check()
