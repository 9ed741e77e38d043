"""`python -m saga_bench.held`: how long the head's loop is held while a snapshot takes the place of a journal.

A folder with a snapshot of so many workflows, and of a learner that is filled to its bounds, is recovered as the head does
it. Agents then step until the journal is as long as the setting says, and the next one begins. Meanwhile a task that wakes
every millisecond notes how long it was kept from it, by the wall and by the thread's processor time: on a busy machine
real time says how busy it is. For comparison the same in one go, as a head does it that takes a folder over.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import sys
import tempfile
from collections.abc import Iterator
from contextlib import asynccontextmanager, suppress
from math import log
from pathlib import Path
from time import perf_counter, thread_time
from typing import TYPE_CHECKING

import msgspec

from saga_bench.procfs import rss_mb, total_load
from saga_core import snapshot
from saga_core.accounts import Account, Service
from saga_core.aeg import Kind
from saga_core.aeg.hints import RATIOS, Trust
from saga_core.aeg.levels import LEVELS, PREFIX, Level, keys
from saga_core.aeg.live import Live
from saga_core.aeg.live import Session as Seen
from saga_core.aeg.memory import TENANTS, Memory
from saga_core.aeg.pauses import PAUSES
from saga_core.aeg.program import DISTANCES, PROGRAMS, TENANT_PROGRAMS, Program
from saga_core.aeg.program import TOOLS as PROGRAM_TOOLS
from saga_core.aeg.rings import Ring
from saga_core.aeg.sequel import CONTEXTS, Fork
from saga_core.aeg.sequel import MEMORY as SEEN
from saga_core.aeg.sequel import TOOLS as FORK_TOOLS
from saga_core.book import Book, Session, Workflow
from saga_core.config import Config
from saga_core.events import Fact, Outcome, StepArrived, StepFinished, StepPlaced
from saga_core.ids import StepId, TenantId, WorkerId, WorkflowId, session_id
from saga_core.states import WorkflowState
from saga_core.usage import HOUR_S, HOURS, Spent
from saga_head import garbage
from saga_head.archive import snapshot_path
from saga_head.compaction import Compactor
from saga_head.journal import Journal
from saga_shell.files import write_private

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

TENANT_COUNT = 10
WORKERS = 64
START_S = 1.7e9
FLUSH_FACTS = 64
"""Facts between two group commits: some 2,000 steps a second."""
WAKE_S = 0.001
QUIET_S = 1.0


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """One size. Milliseconds; `_cpu` is the loop's thread alone. load: the machine's load average."""

    workflows: int
    learner_full: bool
    snapshot_mb: float
    journal_mb: float
    steps: int
    recovery_s: float
    head_mb: float
    quiet_ms: float
    """The longest that the loop was held while nothing happened: the machine's own."""
    held_ms: float
    held_cpu_ms: float
    """While the next journal began and another process folded."""
    turn_ms: float
    at_once_cpu_ms: float
    """Held in one go: encoding and writing on the loop."""
    fold_s: float
    fold_cpu_s: float
    fold_mb: float
    load: float


# -- a book ------------------------------------------------------------------------------------


def full_learner(memory: Memory) -> None:
    """Fill what is remembered to its bounds."""
    for number in range(LEVELS):
        level = Level.new((PREFIX, f"t{number % TENANT_COUNT}", "swe", str(number)))
        for curve in (level.work, level.steps):
            for turn in range(curve.ring.limit):
                curve.add(log(1.0 + (turn * 37 + number) % 101))
            curve.draw()
        level.learned = level.work.ring.limit
        memory.shelf.levels[level.key] = level
    for number in range(PROGRAMS):
        name = f"t{number // TENANT_PROGRAMS}", f"type{number}"
        memory.programs.by_name[name] = _full_program()
    memory.programs.pool = _full_program()
    for number in range(TENANTS):
        memory.trusts[f"t{number}"] = Trust(Ring(RATIOS, [0.01 * turn for turn in range(RATIOS)]))


def _full_program() -> Program:
    program = Program(distances=Ring(DISTANCES, [float(turn % 7) for turn in range(DISTANCES)]))
    for number in range(PROGRAM_TOOLS):
        tool = program.tool(f"tool{number}")
        tool.pauses.ring = Ring(PAUSES, [0.1 + turn * 0.37 for turn in range(PAUSES)])
    each = SEEN // FORK_TOOLS
    for number in range(CONTEXTS):
        counts = {f"tool{tool}": each for tool in range(FORK_TOOLS)}
        past = f"tool{number % FORK_TOOLS}", f"tool{number // FORK_TOOLS}"
        program.sequel.forks[past] = Fork(SEEN, "tool0", counts)
    return program


def crowded_book(workflows: int, *, full: bool) -> Book:
    """So many workflows at work, a month of hours, and a learner that is full or knows but what is under way."""
    book = Book("saga")
    services: dict[str, Service] = {"m": Service()}
    memory = book.accounts.learner.memory
    if full:
        full_learner(memory)
    for number in range(1, workflows + 1):
        flow, tenant = WorkflowId(number), TenantId(f"t{number % TENANT_COUNT}")
        session = Session(session_id(flow, "main"), home=WorkerId(f"n{number % WORKERS}/0"), steps=4)
        book.workflows[flow] = Workflow(
            id=flow, tenant=tenant, kind="replay", token=f"wf-{number:032d}", submitted_at=START_S,
            agent_type="swe", started_at=START_S, active_at=START_S, sessions={"main": session}, steps=4,
            state=WorkflowState.RUNNING, story=["step"],
        )  # fmt: skip
        account = Account(flow, START_S, 0.0, 10.0, attained_s=2.0, kind=f"{tenant}\x1fswe")
        services["m"].accounts[flow] = account
        services["m"].weight += account.weight
        kind = Kind(tenant, "swe", "", f"{number:016x}")
        live = Live(kind, keys(kind, 900), steps=4, work_s=2.0, first_prompt_tokens=900, first_session="main")
        live.sessions["main"] = Seen(("bash", "edit"), "edit", START_S, 2_000, 100, 4, 4)
        memory.watch(number, live)
    book.accounts.services = services
    book.last_workflow = workflows
    first = int(START_S // HOUR_S) - HOURS
    tenants = [TenantId(f"t{number}") for number in range(TENANT_COUNT)]
    book.usage.hours = {first + hour: {tenant: Spent(1.0, 10) for tenant in tenants} for hour in range(HOURS)}
    return book


def steps(book: Book) -> Iterator[tuple[Fact, float]]:
    """Workflow after workflow takes a step, two facts a millisecond apart."""
    at, step, count = START_S + 10.0, book.last_step, len(book.workflows)
    while True:
        step += 1
        at += 0.002
        flow = WorkflowId(1 + step * 7919 % count)
        number, tenant = StepId(step), book.workflows[flow].tenant
        yield StepArrived(
            step=number, tenant=tenant, model="m", workflow=flow, session="main", body_bytes=9_000, tool="bash"
        ), at  # fmt: skip
        worker = WorkerId(f"n{flow % WORKERS}/0")
        yield StepPlaced(step=number, worker=worker, incarnation=1, gpus=1, why="affinity"), at
        yield StepFinished(
            step=number, outcome=Outcome.DONE, status=200, prompt_tokens=2_300, cached_tokens=2_000,
            output_tokens=150, tool="edit",
        ), at + 0.001  # fmt: skip


# -- the loop ----------------------------------------------------------------------------------


class _Pulse:
    """The longest times between two turns of the loop, beyond what was asked for."""

    def __init__(self) -> None:
        self.ms = 0.0
        self.cpu_ms = 0.0

    async def beat(self) -> None:
        while True:
            wall, cpu = perf_counter(), thread_time()
            await asyncio.sleep(WAKE_S)
            self.ms = max(self.ms, 1e3 * (perf_counter() - wall - WAKE_S))
            self.cpu_ms = max(self.cpu_ms, 1e3 * (thread_time() - cpu))


@asynccontextmanager
async def _pulse() -> AsyncIterator[_Pulse]:
    pulse = _Pulse()
    beating = asyncio.create_task(pulse.beat())
    await asyncio.sleep(0.01)
    try:
        yield pulse
    finally:
        beating.cancel()
        with suppress(asyncio.CancelledError):
            await beating


async def measure(workflows: int, *, full: bool, config: Config, folder: Path) -> Held:
    """One size, in this process."""
    write_private(snapshot_path(folder, 1), snapshot.encode(crowded_book(workflows, full=full)))
    journal = Journal(folder)
    began = perf_counter()
    with garbage.loading():
        book = journal.recover("saga")
    recovery_s = perf_counter() - began
    with garbage.brief():
        taken = await _fill(journal, book, config.head.snapshot_bytes)
        async with _pulse() as quiet:
            await asyncio.sleep(QUIET_S)
        head_mb, journal_mb = rss_mb(os.getpid()), journal.size / 2**20
        compactor = Compactor(folder, "saga", config.costs)
        async with _pulse() as pulse:
            began = thread_time()
            journal.turn()
            turn_ms = 1e3 * (thread_time() - began)
            await journal.sync()
            began = perf_counter()
            compactor.begin(journal.number)
            await compactor.idle()
            fold_s = perf_counter() - began
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        began = thread_time()
        journal.rotate(book)
        at_once_ms = 1e3 * (thread_time() - began)
        assert snapshot_path(folder, 2).read_bytes() == snapshot_path(folder, 3).read_bytes()
    journal.close()
    return Held(
        workflows=workflows,
        learner_full=full,
        snapshot_mb=round(snapshot_path(folder, 2).stat().st_size / 2**20, 1),
        journal_mb=round(journal_mb, 1),
        steps=taken,
        recovery_s=round(recovery_s, 2),
        head_mb=round(head_mb, 1),
        quiet_ms=round(quiet.ms, 2),
        held_ms=round(pulse.ms, 2),
        held_cpu_ms=round(pulse.cpu_ms, 2),
        turn_ms=round(turn_ms, 3),
        at_once_cpu_ms=round(at_once_ms, 1),
        fold_s=round(fold_s, 2),
        fold_cpu_s=round(used.ru_utime + used.ru_stime, 2),
        fold_mb=round(used.ru_maxrss / 1024, 1),
        load=total_load(),
    )


async def _fill(journal: Journal, book: Book, size: int) -> int:
    for number, (fact, at) in enumerate(steps(book)):
        book.apply(fact, at)
        journal.append(fact, at)
        if number % FLUSH_FACTS == 0:
            journal.flush()
        if journal.size >= size and type(fact) is StepFinished:
            await journal.sync()
            return number // 3 + 1
    raise AssertionError("agents do not end")


def main() -> int:
    """Measure one size and print it as JSON."""
    parser = argparse.ArgumentParser(prog="python -m saga_bench.held", description=__doc__)
    parser.add_argument("--workflows", type=int, default=1_000)
    parser.add_argument("--young", action="store_true", help="a learner that knows only what is under way")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="saga-held-") as folder:
        found = asyncio.run(
            measure(given.workflows, full=not given.young, config=Config(), folder=Path(folder))
        )
    print(msgspec.json.encode(found).decode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
