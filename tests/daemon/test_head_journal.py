"""The journal: what was kept is there again, whatever happened to the file in between."""

import errno
import os
from pathlib import Path

import pytest

from saga_core import snapshot
from saga_core.book import Book
from saga_core.errors import ClusterError
from saga_core.events import (
    HeadStarted,
    Outcome,
    ProfileChanged,
    StepArrived,
    StepFinished,
    StepPlaced,
    WorkflowEnded,
    WorkflowSubmitted,
)
from saga_core.ids import StepId, TenantId, WorkerId, WorkflowId
from saga_core.states import WorkflowState
from saga_core.views import ProgramSpec
from saga_head import journal as journal_module
from saga_head.journal import KEEP, Journal, Torn, read
from saga_shell.files import write_private


def submitted(number: int = 1, **more: object) -> WorkflowSubmitted:
    return WorkflowSubmitted(
        workflow=WorkflowId(number), tenant=TenantId("default"), token=f"t{number}", kind="replay", **more
    )


FACTS = [
    HeadStarted(incarnation=7, version="1"),
    submitted(1),
    submitted(2, program=ProgramSpec(argv=["a", "b"], cwd="/", env={"K": "V"}), log="/x/2.log", key="mine"),
    ProfileChanged(profile="sticky"),
    StepArrived(
        step=StepId(1), tenant=TenantId("default"), model="m", workflow=WorkflowId(1), session="main"
    ),
    StepPlaced(step=StepId(1), worker=WorkerId("n/0"), why="turn 0"),
    StepFinished(step=StepId(1), outcome=Outcome.DONE, prompt_tokens=10, cached_tokens=4, output_tokens=2),
    StepArrived(
        step=StepId(2), tenant=TenantId("default"), model="m", workflow=WorkflowId(2), session="main"
    ),
    WorkflowEnded(workflow=WorkflowId(1), state=WorkflowState.DONE),
]


def seen(book: Book) -> bytes:
    return snapshot.encode(book)


def fill(folder: Path, facts: list = FACTS) -> Book:
    journal = Journal(folder)
    book = journal.recover("saga-paper")
    for at, fact in enumerate(facts, start=100):
        book.apply(fact, float(at))
        journal.append(fact, float(at))
    journal.close()
    return book


def test_what_was_kept_is_recovered(tmp_path: Path) -> None:
    book = fill(tmp_path)
    again = Journal(tmp_path)
    assert seen(again.recover("saga-paper")) == seen(book)
    assert again.last_at == 100.0 + len(FACTS) - 1
    again.close()


def test_facts_come_back_as_they_were(tmp_path: Path) -> None:
    fill(tmp_path)
    assert [fact for _, _, fact in read(tmp_path / "journal-00000000.log")] == FACTS


def test_files_are_private(tmp_path: Path) -> None:
    fill(tmp_path / "j")
    assert (tmp_path / "j").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "j" / "journal-00000000.log").stat().st_mode & 0o777 == 0o600


def test_a_torn_end_is_cut_off_wherever_it_tore(tmp_path: Path) -> None:
    fill(tmp_path / "whole")
    data = (tmp_path / "whole" / "journal-00000000.log").read_bytes()
    ends = [end for end, _, _ in read(tmp_path / "whole" / "journal-00000000.log")]
    for cut in range(len(data)):
        folder = tmp_path / "torn"
        folder.mkdir(exist_ok=True)
        path = folder / "journal-00000000.log"
        path.write_bytes(data[:cut])
        journal = Journal(folder)
        journal.recover("saga-paper")
        journal.append(FACTS[0], 999.0)  # the next record follows the last whole one
        journal.close()
        kept = sum(end <= cut for end in ends)
        assert [fact for _, _, fact in read(path)] == [*FACTS[:kept], FACTS[0]]


def test_a_flipped_bit_at_the_end_loses_that_record_alone(tmp_path: Path) -> None:
    fill(tmp_path)
    path = tmp_path / "journal-00000000.log"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    Journal(tmp_path).recover("saga-paper")
    assert [fact for _, _, fact in read(path)] == FACTS[:-1]


def test_damage_before_newer_journals_is_an_error_with_file_and_place(tmp_path: Path) -> None:
    fill(tmp_path)
    (tmp_path / "journal-00000001.log").write_bytes(b"saga-journal 1\n")
    path = tmp_path / "journal-00000000.log"
    data = bytearray(path.read_bytes())
    data[20] ^= 1
    path.write_bytes(data)
    with pytest.raises(ClusterError, match=r"journal-00000000\.log: damaged at byte 15"):
        Journal(tmp_path).recover("saga-paper")


def test_a_stranger_among_the_journals_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "j.log").write_bytes(b"nothing of ours")
    with pytest.raises(Torn):
        list(read(tmp_path / "j.log"))


def test_a_snapshot_takes_the_journals_place(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    book = journal.recover("saga-paper")
    for number in range(1, KEEP + 5):
        book.apply(submitted(number), float(number))
        journal.append(submitted(number), float(number))
        journal.rotate(book)
    journal.append(FACTS[0], 50.0)
    book.apply(FACTS[0], 50.0)
    journal.close()
    assert len(list(tmp_path.glob("journal-*.log"))) == KEEP + 1
    assert len(list(tmp_path.glob("snapshot-*"))) == 2
    again = Journal(tmp_path)
    assert seen(again.recover("saga-paper")) == seen(book)
    again.close()


def test_a_crash_between_snapshot_and_next_journal_loses_nothing(tmp_path: Path) -> None:
    book = fill(tmp_path)
    write_private(tmp_path / "snapshot-00000001.msgpack", snapshot.encode(book))
    again = Journal(tmp_path)
    assert seen(again.recover("saga-paper")) == seen(book)
    again.close()


async def test_a_full_disk_keeps_facts_in_memory_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path)
    journal.recover("saga-paper")
    journal.flush()
    with monkeypatch.context() as full:

        def refuse(*_: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        full.setattr(os, "write", refuse)
        journal.append(FACTS[0], 1.0)
        journal.flush()
        assert "No space left" in journal.problem
        with pytest.raises(OSError, match="No space left"):
            await journal.sync()
        with pytest.raises(OSError, match="No space left"):
            journal.rotate(Book("sticky"))
    await journal.sync()
    assert journal.problem == ""
    journal.close()
    assert [fact for _, _, fact in read(tmp_path / "journal-00000000.log")] == FACTS[:1]


def test_a_short_write_is_finished_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path)
    journal.recover("saga-paper")
    for fact in FACTS:
        journal.append(fact, 1.0)
    real = os.write
    with monkeypatch.context() as short:
        short.setattr(os, "write", lambda fd, data: real(fd, bytes(data[:10])))
        journal.flush()
    journal.close()
    assert [fact for _, _, fact in read(tmp_path / "journal-00000000.log")] == FACTS


def test_too_much_in_memory_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "MAX_BUFFER_BYTES", 100)
    journal = Journal(tmp_path)
    journal.recover("saga-paper")
    for fact in FACTS:
        journal.append(fact, 1.0)

    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(os, "write", refuse)
        with pytest.raises(ClusterError, match="bytes are waiting"):
            journal.flush()
    journal.close()


def test_an_unusable_folder_is_a_cluster_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ClusterError, match="journal in"):
        Journal(tmp_path / "file").recover("saga-paper")


def test_a_private_write_is_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "secret"
    write_private(path, b"old")
    assert path.stat().st_mode & 0o777 == 0o600

    def fail(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="No space"):
            write_private(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["secret"]
