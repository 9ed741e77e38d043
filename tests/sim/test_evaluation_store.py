"""Results on disk: what a crash or a person did to the file costs single cells and no more."""

from __future__ import annotations

import pytest
from evaluation_makers import cell, result

from saga_core.errors import UserError
from saga_sim.evaluation.store import FILE, opened


def filled(folder, *keys):
    with opened(folder) as store:
        for at, key in enumerate(keys):
            store.add(result("sticky", [1.0 + at, 2.0, None], key=key))
    return folder / FILE


def test_what_was_added_is_there_after_opening_again(tmp_path):
    filled(tmp_path, "a", "b")
    with opened(tmp_path) as store:
        assert (len(store), store.dropped) == (2, 0)
        assert store.get("b").completions_s == (2.0, 2.0, None)
        assert store.get("a").cell == cell()
        assert store.get("c") is None


def test_results_can_be_read_and_added_in_turn(tmp_path):
    filled(tmp_path, "a")
    with opened(tmp_path) as store:
        assert store.get("a").completions_s[0] == 1.0
        store.add(result("sticky", [9.0], key="b"))
        assert store.get("a").completions_s[0] == 1.0
        assert store.get("b").completions_s == (9.0,)


def test_a_line_cut_short_is_dropped_and_the_next_one_is_whole(tmp_path):
    path = filled(tmp_path, "a", "b")
    path.write_bytes(path.read_bytes()[:-20])
    with opened(tmp_path) as store:
        assert (store.dropped, store.get("b")) == (1, None)
        store.add(result("sticky", [5.0], key="c"))
    with opened(tmp_path) as store:
        assert store.dropped == 0
        assert store.get("a").completions_s[0] == 1.0
        assert store.get("c").completions_s == (5.0,)


def test_a_whole_line_without_its_end_is_not_trusted(tmp_path):
    path = filled(tmp_path, "a")
    path.write_bytes(path.read_bytes()[:-1])
    with opened(tmp_path) as store:
        assert (store.dropped, store.get("a")) == (1, None)


@pytest.mark.parametrize(
    "damage", [b"\n", b"{}\n", b"nonsense\n", b'{"key": 3}\n', b"\xff\xfe\n", b"[" * 5000 + b"\n"]
)
def test_damage_in_the_middle_costs_one_line(tmp_path, damage):
    path = filled(tmp_path, "a", "b")
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + damage + second)
    with opened(tmp_path) as store:
        assert store.dropped == 1
        assert store.get("b").completions_s[0] == 2.0
    assert path.read_bytes() == first + second


def test_a_result_of_another_format_is_run_again_and_left_alone(tmp_path):
    path = tmp_path / FILE
    path.write_bytes(b'{"key":"old","figures":"of another time"}\n')
    with opened(tmp_path) as store:
        assert (store.get("old"), store.dropped) == (None, 0)
        store.add(result("sticky", [7.0], key="old"))
        assert store.get("old").completions_s == (7.0,)
    with opened(tmp_path) as store:
        assert store.get("old").completions_s == (7.0,), "the later line counts"


def test_one_evaluation_at_a_time(tmp_path):
    with opened(tmp_path), pytest.raises(UserError, match="another evaluation"), opened(tmp_path):
        pass


def test_a_folder_that_cannot_be_is_a_users_mistake(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"), opened(tmp_path / "file"):
        pass
