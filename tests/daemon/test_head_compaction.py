"""Snapshots beside the head: whoever is killed when, or whatever power takes, a recovery finds what was promised."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from head_rig import running_head, until, workflow

from saga_core import snapshot
from saga_core.costs import CostTable
from saga_core.errors import ClusterError
from saga_core.events import (
    Fact,
    HeadStarted,
    Outcome,
    StepArrived,
    StepFinished,
    StepPlaced,
    WorkflowSubmitted,
)
from saga_core.ids import StepId, TenantId, WorkerId, WorkflowId
from saga_head import compaction
from saga_head.archive import KEEP, chain, journal_path, snapshot_path
from saga_head.compaction import Compactor, Order, compact, fold
from saga_head.journal import Journal, read

COSTS = CostTable(prefill_token_s=1e-3)


def order(folder: Path, number: int) -> Order:
    return Order(folder=str(folder), number=number, profile="saga", costs=COSTS)


class Life:
    """A journal and the book that a head has beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.journal = Journal(folder)
        self.book = self.journal.recover("saga", COSTS)
        self.at = self.journal.last_at

    def keep(self, *facts: Fact) -> None:
        for fact in facts:
            self.at += 0.25
            self.book.apply(fact, self.at)
            self.journal.append(fact, self.at)
        self.journal.flush()

    def work(self, steps: int = 1) -> None:
        """A new workflow takes so many steps, and begins one more."""
        flow = WorkflowId(self.book.last_workflow + 1)
        tenant = TenantId("t")
        self.keep(WorkflowSubmitted(workflow=flow, tenant=tenant, token=f"wf-{flow}", kind="replay"))
        for turn in range(steps + 1):
            step = StepId(self.book.last_step + 1)
            self.keep(
                StepArrived(step=step, tenant=tenant, model="m", workflow=flow, session="main", tool="bash"),
                StepPlaced(step=step, worker=WorkerId("n/0"), why="", gpus=1),
            )
            if turn < steps:
                self.keep(
                    StepFinished(
                        step=step,
                        outcome=Outcome.DONE,
                        prompt_tokens=100 * turn,
                        output_tokens=9,
                        tool="edit",
                    )
                )

    @property
    def seen(self) -> bytes:
        return snapshot.encode(self.book)


async def ended(life: Life) -> None:
    life.work()
    life.journal.turn()
    await life.journal.sync()


def recovered(folder: Path) -> bytes:
    """What a head finds there; twice, the second time behind a fact that the first one has kept."""
    first = Life(folder)
    found = first.seen
    first.keep(HeadStarted(incarnation=99, version="9"))
    first.journal.close()
    second = Life(folder)
    second.journal.close()
    assert second.seen == first.seen
    assert not list(folder.glob("*.after-*"))
    return found


async def test_the_next_journal_begins_at_once_and_has_its_name_when_the_last_is_on_the_disk(
    tmp_path: Path,
) -> None:
    life = Life(tmp_path)
    life.work()
    ended = life.journal.size
    life.journal.turn()
    life.work()
    assert (life.journal.number, journal_path(tmp_path, 1).exists()) == (1, False)
    assert [path.name for path in tmp_path.glob("*.after-*")] == [f"journal-00000001.after-{ended}"]
    assert journal_path(tmp_path, 0).stat().st_size == ended, "what came since is in the next one"
    life.journal.turn()
    assert life.journal.number == 1, "one after the other"
    await life.journal.sync()
    assert journal_path(tmp_path, 1).stat().st_size == life.journal.size
    assert not list(tmp_path.glob("*.after-*"))
    life.journal.turn()
    life.journal.close()
    assert chain(tmp_path) == (0, [0, 1, 2]), "closing waits for the disk as well"


async def test_a_snapshot_is_what_the_journals_before_come_to(tmp_path: Path) -> None:
    life = Life(tmp_path)
    for number in range(1, KEEP + 4):
        life.work(steps=3)
        before = life.seen
        life.journal.turn()
        await life.journal.sync()
        life.work()
        assert snapshot.encode(fold(order(tmp_path, number))) == before
        if number != 2:  # one that never came to be: the next one folds both
            compact(order(tmp_path, number))
            assert snapshot_path(tmp_path, number).read_bytes() == before
    life.journal.close()
    assert recovered(tmp_path) == life.seen
    names = sorted(path.name.partition(".")[0] for path in tmp_path.iterdir())
    last = KEEP + 3
    assert names == [f"journal-{n:08d}" for n in range(last - KEEP, last + 1)] + [
        f"snapshot-{n:08d}" for n in (last - 1, last)
    ]


async def test_a_recovery_that_began_before_the_snapshot_was_there_reads_on(tmp_path: Path) -> None:
    """However many journals have waited for it: what the snapshot before needs is not removed under a reader."""
    life = Life(tmp_path)
    for number in range(1, KEEP + 5):
        await ended(life)
        if number == 2:
            compact(order(tmp_path, 2))
    compact(order(tmp_path, KEEP + 4))
    life.journal.close()
    base, found = chain(tmp_path, below=KEEP + 4)
    assert (base, found) == (2, list(range(2, KEEP + 4)))
    assert chain(tmp_path) == (KEEP + 4, [KEEP + 4])
    assert recovered(tmp_path) == life.seen


async def test_a_head_killed_at_any_moment_finds_all_that_was_written(tmp_path: Path) -> None:
    """The folder as it is after each step, read by a new head. (What a process has written outlives it.)"""
    folder = tmp_path / "live"
    moments: dict[str, bytes] = {}

    def moment(name: str) -> None:
        shutil.copytree(folder, tmp_path / name)
        moments[name] = life.seen

    life = Life(folder)
    life.work()
    moment("before")
    life.journal.turn()
    moment("turned")
    life.work()
    moment("written to a journal without a name")
    (unnamed,) = folder.glob("*.after-*")
    os.link(unnamed, journal_path(folder, 1))
    moment("named, and the old name there")
    journal_path(folder, 1).unlink()
    await life.journal.sync()
    moment("named")
    (folder / ".snapshot-00000001.msgpack.77").write_bytes(b"half of")
    moment("a snapshot begun")
    compact(order(folder, 1))
    assert not (folder / ".snapshot-00000001.msgpack.77").exists()
    moment("a snapshot there")
    life.work()
    moment("later")
    life.journal.turn()
    life.work()
    moment("turned again")
    life.journal.close()
    assert {name: recovered(tmp_path / name) == seen for name, seen in moments.items()} == dict.fromkeys(
        moments, True
    )


async def test_a_loss_of_power_leaves_no_hole(tmp_path: Path) -> None:
    """Wherever the disk stopped in the old journal, that is the end; the new one is of use only behind all of it."""
    life = Life(tmp_path / "live")
    life.work(steps=2)
    path = journal_path(tmp_path / "live", 0)
    ends = [end for end, _, _ in read(path)]
    whole = path.read_bytes()
    life.journal.turn()
    life.work()
    shutil.copytree(tmp_path / "live", tmp_path / "as it was")
    life.journal.close()
    for cut in [*ends[3:], *(end + 5 for end in ends[3:-1])]:
        folder = tmp_path / str(cut)
        shutil.copytree(tmp_path / "as it was", folder)
        journal_path(folder, 0).write_bytes(whole[:cut])
        again = Life(folder)
        again.journal.close()
        if cut == len(whole):
            assert (chain(folder), again.seen) == ((0, [0, 1]), life.seen)
        else:
            facts = [fact for _, _, fact in read(journal_path(folder, 0))]
            assert len(facts) == sum(end <= cut for end in ends)
            assert chain(folder) == (0, [0])
            assert again.book.last_workflow == 1
        assert not list(folder.glob("*.after-*"))


async def test_who_waits_for_the_disk_waits_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    life = Life(tmp_path)
    life.work()
    life.journal.turn()
    life.work()
    waits: list[int] = []
    real = os.fsync

    def fsync(fd: int) -> None:
        waits.append(fd)
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    await asyncio.gather(*[life.journal.sync() for _ in range(20)])
    assert len(waits) == 3, "the journal that ended, the folder, the journal"
    life.work()
    await life.journal.sync()
    assert len(waits) == 4
    life.journal.close()


async def test_a_disk_that_fails_on_the_way_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    life = Life(tmp_path)
    life.work()
    life.journal.turn()
    for broken in ("fsync", "link", "open"):
        with monkeypatch.context() as failing:

            def refuse(*_: object, **__: object) -> int:
                raise OSError(5, "Input/output error")

            failing.setattr(os, broken, refuse)
            with pytest.raises(OSError, match="Input/output"):
                await life.journal.sync()
    await life.journal.sync()
    assert chain(tmp_path) == (0, [0, 1])
    life.journal.close()
    assert recovered(tmp_path) == life.seen


async def test_a_journal_of_another_head_is_not_written_over(tmp_path: Path) -> None:
    life = Life(tmp_path)
    life.work()
    journal_path(tmp_path, 1).write_bytes(b"another's")
    with pytest.raises(FileExistsError, match="journal-00000001"):
        life.journal.turn()
    life.work()
    assert life.journal.number == 0
    journal_path(tmp_path, 1).unlink()
    life.journal.turn()
    journal_path(tmp_path, 1).write_bytes(b"another's")
    with pytest.raises(FileExistsError):
        await life.journal.sync()
    assert journal_path(tmp_path, 1).read_bytes() == b"another's"
    life.journal.close()


async def test_a_journal_that_is_missing_is_an_error_for_whoever_reads(tmp_path: Path) -> None:
    life = Life(tmp_path)
    for _ in range(3):
        life.work()
        life.journal.turn()
        await life.journal.sync()
    life.journal.close()
    journal_path(tmp_path, 2).unlink()
    with pytest.raises(ClusterError, match=r"journal-00000002\.log is missing"):
        fold(order(tmp_path, 3))
    journal_path(tmp_path, 1).unlink()
    for read_it in (lambda: Life(tmp_path), lambda: fold(order(tmp_path, 4))):
        with pytest.raises(ClusterError, match=r"journal-00000001\.log is missing"):
            read_it()


async def test_one_that_comes_late_changes_nothing(tmp_path: Path) -> None:
    """It outlived its head, and the next one has taken the folder over."""
    life = Life(tmp_path)
    life.work()
    life.journal.turn()
    await life.journal.sync()
    life.work()
    new = Life(tmp_path)
    new.journal.rotate(new.book)
    compact(order(tmp_path, 1))
    compact(order(tmp_path, 1))
    new.work()
    new.journal.close()
    life.journal.close()
    assert recovered(tmp_path) == new.seen


# -- the process -------------------------------------------------------------------------------


async def test_the_process_makes_it_and_a_failure_is_made_good_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, dict]] = []
    for level in ("info", "warning"):
        monkeypatch.setattr(
            compaction.log, level, lambda _, level=level, **fields: told.append((level, fields))
        )
    life = Life(tmp_path)
    await ended(life)
    path = journal_path(tmp_path, 0)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b"?")
    compactor = Compactor(tmp_path, "saga", COSTS)
    compactor.begin(1)
    compactor.begin(1)
    assert told == [("info", {"waits_for": "the one before", "journal": 1})]
    await compactor.idle()
    level, fields = told[-1]
    assert level == "warning"
    assert "journal-00000000.log: damaged at byte" in fields["problem"]
    path.write_bytes(whole)
    await ended(life)
    seen = life.seen
    compactor.begin(2)
    await compactor.idle()
    assert told[-1] == ("info", {"journal": 2})
    assert snapshot_path(tmp_path, 2).read_bytes() == seen, "with the costs that the head weighs by"
    assert snapshot_path(tmp_path, 2).stat().st_mode & 0o777 == 0o600
    life.journal.close()


async def test_a_head_that_ends_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []
    real = subprocess.Popen

    def sleeper(command: list[str], **more: object) -> subprocess.Popen[bytes]:
        started.append(real([sys.executable, "-c", "import time; time.sleep(60)"], **more))
        return started[-1]

    monkeypatch.setattr(compaction.subprocess, "Popen", sleeper)
    compactor = Compactor(tmp_path, "saga", COSTS)
    await compactor.close()
    for prompt in (True, False):
        compactor = Compactor(tmp_path, "saga", COSTS)
        compactor.begin(1)
        if not prompt:
            await until(lambda: len(started) == 2, "the process is there")
        await asyncio.wait_for(compactor.close(), 20)
        assert started[-1].returncode == -9


async def test_a_head_has_its_journal_folded_and_survives_a_kill(tmp_path: Path) -> None:
    async with running_head(tmp_path, {"head.snapshot_bytes": 2048}) as head:
        flows = [await workflow(head, name=f"flow {number}" * 20) for number in range(12)]
        folder = tmp_path / "journal"
        await until(lambda: list(folder.glob("snapshot-*.msgpack")), "a snapshot")
        await head.kill()
        assert not any("problem" in line for line in head.lines), head.lines
        await head.start()
        for flow in flows:
            status, found = await head.call("GET", f"/saga/v1/workflows/{flow['id']}")
            assert (status, found["name"]) == (200, f"flow {flow['id'] - 1}" * 20)
