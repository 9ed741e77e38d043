"""The ledger against a naive one: chains as paths, a set of what is there, nothing kept in step."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saga_core.kv import ledger as ledger_module
from saga_core.kv.ledger import Ledger


def store(ledger, *hashes, parent=None, session="s", tokens=16):
    ledger.stored(hashes, parent=parent, block_tokens=tokens, session=session)
    ledger.check()


def test_a_prompt_is_resident_as_a_prefix():
    ledger = Ledger()
    store(ledger, 1, 2, 3)
    assert (ledger.tokens("s"), ledger.blocks, ledger.total_tokens) == (48, 3, 48)
    assert ledger.take_changes() == {"s": 48}
    assert ledger.take_changes() == {}


def test_a_hole_cuts_off_what_is_behind_it_and_closing_it_brings_it_back():
    ledger = Ledger()
    store(ledger, 1, 2, 3)
    ledger.take_changes()
    ledger.removed([2])
    assert ledger.take_changes() == {"s": 16}
    store(ledger, 2, parent=1, session="other")
    assert ledger.take_changes() == {"other": 32, "s": 48}
    ledger.removed([2])
    assert ledger.take_changes() == {"other": 16, "s": 16}


def test_eviction_from_the_tail_takes_the_tail_only():
    ledger = Ledger()
    store(ledger, 1, 2, 3)
    ledger.removed([3])
    assert ledger.tokens("s") == 32
    ledger.removed([2, 99])
    assert ledger.tokens("s") == 16


def test_a_shared_prefix_belongs_to_both_and_counts_once():
    ledger = Ledger()
    store(ledger, 1, 2, session="a")
    store(ledger, 3, parent=2, session="b")
    assert (ledger.tokens("a"), ledger.tokens("b"), ledger.total_tokens) == (32, 48, 48)
    ledger.take_changes()
    ledger.removed([1])
    assert ledger.take_changes() == {"a": 0, "b": 0}
    assert ledger.take_changes() == {}
    ledger.check()
    assert not ledger._owners, "sessions with nothing left are forgotten"


def test_decoding_extends_the_chain_without_walking_it(monkeypatch):
    ledger = Ledger()
    store(ledger, *range(100))
    monkeypatch.setattr(Ledger, "_follow", None)
    for name in range(100, 200):
        store(ledger, name, parent=name - 1)
    assert ledger.tokens("s") == 200 * 16


def test_a_session_that_branches_off_gives_up_its_old_branch():
    ledger = Ledger()
    store(ledger, 1, 2, 3)
    store(ledger, 9, parent=1)
    assert ledger.tokens("s") == 32
    ledger.take_changes()
    ledger.removed([3])
    assert ledger.take_changes() == {}


def test_a_mirror_that_came_late_keeps_what_it_knows():
    ledger = Ledger()
    store(ledger, 5, 6, parent=4)
    assert ledger.tokens("s") == 32
    store(ledger, 7, parent=6)
    assert ledger.tokens("s") == 48


def test_a_chain_whose_parent_is_gone_keeps_its_known_beginning():
    ledger = Ledger()
    store(ledger, 1, 2, 3)
    ledger.removed([3])
    store(ledger, 4, parent=3)  # the engine has 3 again, and we were not told
    assert ledger.tokens("s") == 32
    store(ledger, 3, parent=2, session=None)
    assert ledger.take_changes() == {"s": 64}


def test_clearing_names_every_session_once_with_nothing():
    ledger = Ledger()
    store(ledger, 1, session="a")
    store(ledger, 2, session="b")
    ledger.cleared()
    assert ledger.take_changes() == {"a": 0, "b": 0}
    assert (ledger.blocks, ledger.tokens("a"), ledger.take_changes()) == (0, 0, {})
    ledger.check()


@pytest.mark.parametrize("hashes", [(1, 1), (1, 2, 1)])
def test_damaged_events_make_no_circle(hashes):
    ledger = Ledger()
    store(ledger, *hashes, parent=2)
    store(ledger, 2, parent=1)
    assert ledger.tokens("s") <= 32


def test_a_chain_has_a_limit(monkeypatch):
    monkeypatch.setattr(ledger_module, "MAX_CHAIN", 10)
    ledger = Ledger()
    for name in range(30):
        store(ledger, name, parent=name - 1 if name else None)
    assert len(ledger._chains["s"]) == 10


class Naive:
    """The same, said simply; hashes are paths, so that a parent is known by its child's name."""

    def __init__(self):
        self.there, self.chains = set(), {}

    def stored(self, path, start, session):
        for end in range(start + 1, len(path) + 1):
            self.there.add(path[:end])
        if session is not None:
            self.chains[session] = path

    def tokens(self, session):
        path = self.chains.get(session, "")
        total = 0
        for end in range(1, len(path) + 1):
            if path[:end] not in self.there:
                break
            total += 4
        return total


PATHS = st.text("ab", min_size=1, max_size=6)
STORE = st.tuples(st.just("store"), PATHS, st.sampled_from(["s", "t", "u", None]))
REMOVE = st.tuples(st.just("remove"), PATHS, st.none())
CLEAR = st.tuples(st.just("clear"), st.none(), st.none())


@given(st.lists(STORE | STORE | REMOVE | REMOVE | CLEAR, max_size=40), st.booleans())
def test_the_ledger_agrees_with_the_naive_one(moves, often):
    """An engine stores what is not there yet behind what is, which is all a ledger can be told."""
    ledger, naive, told = Ledger(), Naive(), {}
    for what, path, session in moves:
        if what == "store":
            ends = [n for n in range(len(path) + 1) if all(path[:k] in naive.there for k in range(1, n + 1))]
            start = min(max(ends), len(path) - 1)
            hashes = [path[:end].encode() for end in range(start + 1, len(path) + 1)]
            parent = path[:start].encode() or None
            ledger.stored(hashes, parent=parent, block_tokens=4, session=session)
            naive.stored(path, start, session)
        elif what == "remove":
            ledger.removed([path.encode()])
            naive.there.discard(path)
        else:
            ledger.cleared()
            naive.there.clear()
        ledger.check()
        if often or what == "clear":
            changes = ledger.take_changes()
            told |= changes
            for name in naive.chains:
                assert told.get(name, 0) == naive.tokens(name), (name, changes)
            naive.chains = {s: c for s, c in naive.chains.items() if naive.tokens(s)}
    for name in naive.chains:
        assert ledger.tokens(name) == naive.tokens(name)
    assert ledger.blocks == len(naive.there)
    assert ledger.total_tokens == 4 * len(naive.there)
