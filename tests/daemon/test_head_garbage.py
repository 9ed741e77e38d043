"""The cyclic collector: held off while a recovery loads, brief afterwards, and as before when the head has ended."""

from __future__ import annotations

import gc
from math import inf

import pytest

from saga_head import garbage


class Kept:
    """Something that the collector looks at."""

    def __init__(self) -> None:
        self.other: object = None


def test_nothing_is_collected_while_a_recovery_loads() -> None:
    with pytest.raises(ValueError, match="broken"), garbage.loading():  # noqa: PT012
        assert not gc.isenabled()
        raise ValueError("broken")
    assert gc.isenabled()


def test_what_was_there_is_not_looked_at_and_all_is_as_before_at_the_end() -> None:
    before, watching = gc.get_threshold(), list(gc.callbacks)
    there = Kept()
    with garbage.brief():
        assert gc.get_freeze_count() > 1000
        assert not any(found is there for found in gc.get_objects())
        assert gc.get_threshold() == garbage.THRESHOLDS
    assert gc.get_freeze_count() == 0
    assert any(found is there for found in gc.get_objects())
    assert (gc.get_threshold(), gc.callbacks) == (before, watching)


@pytest.mark.parametrize(("long_s", "frozen"), [(-1.0, True), (inf, False)])
def test_a_full_collection_that_took_long_freezes_what_it_found_alive(
    monkeypatch: pytest.MonkeyPatch, long_s: float, frozen: bool
) -> None:
    monkeypatch.setattr(garbage, "LONG_S", long_s)
    with garbage.brief():
        kept, dead = Kept(), Kept()
        dead.other = dead
        del dead
        gc.collect(0)
        gc.collect(1)
        assert any(found is kept for found in gc.get_objects()), "younger collections freeze nothing"
        assert gc.collect() >= 0
        assert any(found is kept for found in gc.get_objects()) is not frozen


def test_cycles_are_still_found_between_two_freezes() -> None:
    with garbage.brief():
        dead = [Kept() for _ in range(10)]
        for one in dead:
            one.other = one
        gc.collect()
        del dead, one
        assert gc.collect() >= 10
