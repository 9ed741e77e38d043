"""One head at a time: claims, leases, and what a head that was stopped may still do (nothing)."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import sys
from pathlib import Path

import msgspec
import pytest
from head_rig import HeadProcess, running_head, until
from node_kit import NodeProcess, short_folder

from saga_core import access
from saga_core.book import Book
from saga_core.errors import ClusterError
from saga_core.events import WorkflowSubmitted
from saga_head import claim
from saga_head.app import SUPERSEDED_EXIT
from saga_head.claim import LEASE_S, Claim, Fence, Superseded, read, take
from saga_head.journal import Journal
from saga_shell.files import write_private

PROMPT = {"model": "m", "messages": [{"role": "user", "content": "hello " * 100}], "max_tokens": 4}


def stand(folder: Path, **more: object) -> Claim:
    """Write the claim of another head."""
    values = {"epoch": 5, "host": os.uname().nodename, "pid": 1} | more
    other = Claim(**values)
    (folder / claim.FILE).write_bytes(msgspec.json.encode(other))
    return other


def never(_: float) -> None:
    raise AssertionError("waited")


def test_the_first_head_of_a_folder_waits_for_nobody(tmp_path: Path) -> None:
    found, contested = take(tmp_path, locked=True, sleep=never)
    assert not contested
    assert read(tmp_path) == found
    assert (found.pid, found.host) == (os.getpid(), os.uname().nodename)
    assert stat.S_IMODE((tmp_path / claim.FILE).stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("before", "locked", "waits"),
    [
        ({}, True, False),  # the lock of this machine says that it is dead
        ({}, False, True),
        ({"host": "elsewhere"}, True, True),
        ({"host": "elsewhere"}, False, True),
        ({"host": "elsewhere", "released": True}, True, False),
        ({"released": True}, False, False),
    ],
)
def test_who_may_live_is_waited_for(tmp_path: Path, before: dict, locked: bool, waits: bool) -> None:
    stand(tmp_path, **before)
    waited: list[float] = []
    found, contested = take(tmp_path, locked=locked, sleep=waited.append)
    assert (contested, waited) == (waits, [LEASE_S] if waits else [])
    assert found.epoch > 5


def test_an_epoch_is_above_the_one_before_though_the_clock_is_behind(tmp_path: Path) -> None:
    before = stand(tmp_path, epoch=2**62)
    assert take(tmp_path, locked=True)[0].epoch == before.epoch + 1


def test_of_two_that_take_over_the_later_one_has_it(tmp_path: Path) -> None:
    stand(tmp_path, host="elsewhere")
    later: list[Claim] = []

    def other(_: float) -> None:
        later.append(take(tmp_path, locked=False, sleep=lambda _: None)[0])

    with pytest.raises(Superseded, match="has taken"):
        take(tmp_path, locked=True, sleep=other)
    assert read(tmp_path) == later[0]


def test_a_head_acts_for_one_lease_after_a_look_and_looks_again_before_it_goes_on(tmp_path: Path) -> None:
    now = [100.0]
    mine, _ = take(tmp_path, locked=True)
    fence = Fence(tmp_path, mine, lambda: now[0])
    stand(tmp_path, epoch=mine.epoch + 1, host="elsewhere", pid=77)
    now[0] += LEASE_S
    fence.check()
    now[0] += 0.1
    with pytest.raises(Superseded, match="pid 77 on elsewhere has taken"):
        fence.check()
    fence.release()
    assert not read(tmp_path).released, "it is another's"


def test_looking_renews_the_lease_from_before_it_began(tmp_path: Path) -> None:
    now = [100.0]
    mine, _ = take(tmp_path, locked=True)
    fence = Fence(tmp_path, mine, lambda: now[0])
    now[0] += 4
    fence.look()
    (tmp_path / claim.FILE).write_bytes(b"{")
    now[0] += LEASE_S
    fence.check()
    now[0] += 0.1
    with pytest.raises(ClusterError, match="is damaged"):
        fence.check()


def test_a_folder_that_was_removed_is_nobody_elses(tmp_path: Path) -> None:
    mine, _ = take(tmp_path, locked=True)
    (tmp_path / claim.FILE).unlink()
    fence = Fence(tmp_path, mine)
    fence.look()
    fence.release()
    assert read(tmp_path) is None


def test_release_says_so(tmp_path: Path) -> None:
    mine, _ = take(tmp_path, locked=True)
    Fence(tmp_path, mine).release()
    assert read(tmp_path).released


# -- the journal -----------------------------------------------------------------------------


def submitted(number: int) -> WorkflowSubmitted:
    return WorkflowSubmitted(workflow=number, tenant="t", token="", kind="replay")


def open_journal(folder: Path) -> tuple[Journal, Book]:
    journal = Journal(folder)
    return journal, journal.recover("saga")


def test_what_a_stopped_head_still_writes_is_in_a_file_nobody_goes_on_with(tmp_path: Path) -> None:
    old, _ = open_journal(tmp_path)
    old.append(submitted(1), 1.0)
    old.flush()
    new, book = open_journal(tmp_path)
    new.rotate(book)
    old.append(submitted(2), 2.0)
    old.flush()
    new.append(submitted(2), 3.0)
    new.close()
    old.close()
    third, book = open_journal(tmp_path)
    third.close()
    assert book.workflows.keys() == {1, 2}
    assert book.workflows[2].submitted_at == 3.0, "the new head's"


def test_a_stopped_head_cannot_put_its_snapshot_in_place_of_the_new_one(tmp_path: Path) -> None:
    old, stale = open_journal(tmp_path)
    new, book = open_journal(tmp_path)
    new.rotate(book)
    stale.apply(submitted(1), 1.0)
    with pytest.raises(FileExistsError):
        old.rotate(stale)
    old.close()
    new.close()
    third, book = open_journal(tmp_path)
    third.close()
    assert book.workflows == {}


def test_nothing_is_written_by_a_head_that_may_not(tmp_path: Path) -> None:
    journal, book = open_journal(tmp_path)
    journal.flush()

    def refuse() -> None:
        raise Superseded("no")

    journal.may_write = refuse
    journal.append(submitted(1), 1.0)
    for write in (journal.flush, lambda: journal.rotate(book)):
        with pytest.raises(Superseded):
            write()
    journal.may_write = lambda: None
    journal.close()


def test_a_new_file_never_takes_the_place_of_another(tmp_path: Path) -> None:
    write_private(tmp_path / "a", b"1", new=True)
    with pytest.raises(FileExistsError):
        write_private(tmp_path / "a", b"2", new=True)
    assert (tmp_path / "a").read_bytes() == b"1"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


# -- processes -------------------------------------------------------------------------------


async def test_a_head_that_is_taken_over_while_it_lives_ends_by_itself(tmp_path: Path) -> None:
    async with running_head(tmp_path) as old:
        epoch = old.access.epoch
        async with second(old) as new:
            assert old.process is not None
            assert await asyncio.wait_for(old.process.wait(), LEASE_S) == SUPERSEDED_EXIT
            assert (await new.call("GET", "/saga/v1/cluster"))[0] == 200
            assert new.access.epoch > epoch
        await until(lambda: any("has taken" in line for line in old.lines), "it says why")


def second(first: HeadProcess):
    """Another head of the same folder, which takes it over."""
    return running_head(first.folder, first.settings, more=("--take-over",))


SETTINGS: dict[str, object] = {
    "workers.engine": "fake", "workers.model": "m", "workers.max_model_len": 4096, "workers.kv_tokens": 8192,
    "node.head_timeout_s": 1.0, "node.probe_every_s": 0.2,
}  # fmt: skip


async def step(head: HeadProcess, flow: dict, number: int = 0) -> int:
    """One call of a workflow, at the head's present address."""
    url = f"{head.access.url}/s/{flow['api_key']}/v1/chat/completions"
    body = PROMPT | {"messages": [{"role": "user", "content": f"{number} " * 50}]}
    async with head.http.post(url, json=body) as response:
        await response.read()
        return response.status


async def test_a_stopped_head_is_replaced_and_does_nothing_when_it_wakes(tmp_path: Path) -> None:
    """Its node goes to the new head, its workflows go on there; the old head, woken, ends and has written nothing."""
    folder = tmp_path / "cluster"
    folder.mkdir()
    with short_folder() as runtime:
        async with running_head(folder, SETTINGS) as old:
            node = NodeProcess(folder, runtime)
            try:
                await node.start()
                await until_ready(old)
                status, flow = await old.call("POST", "/saga/v1/workflows", {"kind": "replay"})
                assert (status, await step(old, flow)) == (201, 200)
                journal = folder / "journal" / "journal-00000000.log"
                await until(lambda: b"StepFinished" in journal.read_bytes(), "the group commit")
                os.kill(old.pid, signal.SIGSTOP)
                size = journal.stat().st_size
                async with second(old) as new:
                    await until_ready(new)
                    assert await step(new, flow, 1) == 200, "the same token, the same workflow"
                    os.kill(old.pid, signal.SIGCONT)
                    assert old.process is not None
                    assert await asyncio.wait_for(old.process.wait(), 10) == SUPERSEDED_EXIT
                    assert journal.stat().st_size == size, "not a byte more"
                    assert new.access.pid == new.pid
                    assert await step(new, flow, 2) == 200
                    _, found = await new.call("GET", f"/saga/v1/workflows/{flow['id']}")
                    assert found["steps"] == 3, "the one at the old head too"
            except BaseException:
                sys.stderr.write(node.log)
                raise
            finally:
                await node.clean()


async def until_ready(head: HeadProcess) -> None:
    for _ in range(1500):
        _, cluster = await head.call("GET", "/saga/v1/cluster")
        if any(worker["state"] == "ready" for worker in cluster["workers"]):
            return
        await asyncio.sleep(0.02)
    raise AssertionError("no worker is ready")


async def test_a_clean_end_is_known_and_a_kill_on_this_machine_too(tmp_path: Path) -> None:
    async with running_head(tmp_path) as head:
        await head.kill(signal.SIGTERM)
        assert read(tmp_path).released
        for end in (signal.SIGKILL, signal.SIGTERM):
            began = asyncio.get_running_loop().time()
            await head.start()
            assert asyncio.get_running_loop().time() - began < LEASE_S, "nobody is waited for"
            await head.kill(end)
    assert access.FILE
