"""The cyclic collector: held off while a recovery loads, brief afterwards, and as before when the head has ended."""

from __future__ import annotations

import gc

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


def test_a_full_collection_freezes_what_it_found_alive_and_younger_ones_do_not() -> None:
    with garbage.brief():
        kept = Kept()
        gc.collect(0)
        gc.collect(1)
        assert any(found is kept for found in gc.get_objects())
        gc.collect()
        assert not any(found is kept for found in gc.get_objects())


def test_no_collection_has_much_to_look_at_however_much_there_is() -> None:
    """Also the first one after a recovery of much: Python would put it off until a quarter more is there."""
    recovered = [Kept() for _ in range(100_000)]
    sizes: list[int] = []

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            sizes.append(sum(map(len, map(gc.get_objects, range(info["generation"] + 1)))))

    with garbage.brief():
        gc.callbacks.append(note)
        more = [Kept() for _ in range(100_000)]
        gc.callbacks.remove(note)
    assert len(recovered) == len(more)
    most = 2 * (1 + garbage.THRESHOLDS[2]) * (1 + garbage.THRESHOLDS[1]) * garbage.THRESHOLDS[0]
    assert max(sizes) < most
    assert sum(sizes) > 100_000, "but all is looked at once"


def test_cycles_are_found_between_two_full_collections() -> None:
    with garbage.brief():
        dead = [Kept() for _ in range(10)]
        for one in dead:
            one.other = one
        del dead, one
        assert gc.collect() >= 10
