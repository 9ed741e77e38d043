"""Agent programs and process trees, with real processes."""

import asyncio
import mmap
import os
import signal
import sys
from pathlib import Path

import psutil
import pytest
from node_kit import short_folder, until

from saga_core import wire
from saga_node import guard, runner
from saga_node.processes import Processes
from saga_node.runner import Runner, environment, exit_reason


@pytest.fixture
async def processes():
    with short_folder() as folder:
        found = Processes(folder)
        yield found
        await found.close()
        assert not guard.members([found.mark], [])
        assert not folder.exists()


def ended(pid: int) -> bool:
    """Whether it runs no more; an init process that reaps slowly leaves a zombie for a while."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


class Ran:
    """A runner, what it said, and short words for what a test wants of it."""

    def __init__(self, processes: Processes, folder: Path, slots: int = 8) -> None:
        self.folder, self.said = folder, {}
        self.runner = Runner(processes, slots, lambda e: self.said.__setitem__(e.workflow, e))

    def start(self, number: int, *argv: str, cwd: str | None = None, **env: str) -> Path:
        log = self.folder / "logs" / f"{number}.log"
        self.runner.start(
            wire.RunProgram(
                workflow=number,
                attempt=1,
                incarnation=1,
                argv=list(argv),
                cwd=cwd or str(self.folder),
                env=env,
                log=str(log),
            )
        )
        return log

    def python(self, number: int, code: str, **env: str) -> Path:
        return self.start(number, sys.executable, "-c", code, **env)

    async def over(self, number: int) -> tuple[int | None, str]:
        end = await until(lambda: self.said.get(number), f"program {number} over")
        return end.exit_code, end.reason


@pytest.fixture
async def ran(processes, tmp_path):
    found = Ran(processes, tmp_path)
    yield found
    await found.runner.close(0.1)


async def test_output_of_both_kinds_goes_to_a_private_log(ran):
    log = ran.python(1, "import sys; print('out', flush=True); print('err', file=sys.stderr)")
    assert await ran.over(1) == (0, "")
    assert log.read_text() == "out\nerr\n"
    assert oct(log.stat().st_mode)[-3:] == "600"


async def test_no_shell_reads_the_command_line(ran):
    log = ran.start(1, "echo", "$HOME; exit 7")
    assert await ran.over(1) == (0, "")
    assert log.read_text() == "$HOME; exit 7\n"


@pytest.mark.parametrize(
    ("argv", "cwd", "reason"),
    [
        (["/no/such/program"], None, "no such program: /no/such/program"),
        (["no-such-program"], None, "no such program: no-such-program"),
        (["true"], "/no/such/folder", "cwd /no/such/folder does not exist"),
        (["/"], None, "may not run / in"),
        ([], None, "no program given"),
        (["echo", "a\0b"], None, "cannot start echo: embedded null byte"),
    ],
)
async def test_what_cannot_be_started_says_why(ran, argv, cwd, reason):
    ran.start(1, *argv, cwd=cwd)
    code, said = await ran.over(1)
    assert code is None
    assert said.startswith(reason)


async def test_a_log_that_cannot_be_written_is_the_reason(ran):
    (ran.folder / "logs").write_text("in the way")
    ran.start(1, "true")
    code, said = await ran.over(1)
    assert code is None
    assert "cannot write the log" in said


async def test_a_stop_is_term_first(ran):
    log = ran.python(
        1,
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('bye', flush=True), sys.exit(0)))\n"
        "print('up', flush=True); time.sleep(60)",
    )
    await until(lambda: log.exists() and "up\n" in log.read_text(), "program up")
    ran.runner.end(1, 1, 10.0)
    assert await ran.over(1) == (0, "")
    assert log.read_text() == "up\nbye\n"


async def test_and_kill_after_the_grace(ran):
    log = ran.python(
        1,
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('up', flush=True); time.sleep(60)",
    )
    await until(lambda: log.exists() and "up\n" in log.read_text(), "program up")
    ran.runner.end(1, 1, 0.2)
    ran.runner.end(1, 1, 99.0)  # asking again changes nothing
    assert await ran.over(1) == (-9, "killed by SIGKILL")


async def test_what_a_program_leaves_behind_goes_with_it(ran, processes):
    left = (
        "import os, time\nif os.fork() == 0:\n os.setsid()\n print(os.getpid(), flush=True); time.sleep(60)"
    )
    log = ran.python(1, f"{left}\nwhile not open({str(ran.folder / 'logs/1.log')!r}).read(): pass")
    assert await ran.over(1) == (0, "")
    assert ended(int(log.read_text()))


async def test_beyond_the_slots_programs_wait_in_order(processes, tmp_path):
    ran = Ran(processes, tmp_path, slots=1)
    note = tmp_path / "order"
    first = ran.python(1, "import time; print('up', flush=True); time.sleep(60)")
    for number in (2, 3, 4):
        ran.python(number, f"open({str(note)!r}, 'a').write('{number}')")
    await until(lambda: first.exists() and first.read_text(), "the first up")
    ran.runner.end(3, 1, 1.0)
    assert await ran.over(3) == (None, "ended before it was started")
    assert not note.exists()
    ran.runner.end(1, 1, 5.0)
    await ran.over(4)
    assert note.read_text() == "24"


async def test_programs_are_ended_with_the_runner(ran):
    for number in (1, 2):
        ran.start(number, "sleep", "60")
    await asyncio.sleep(0)  # one still starts
    await ran.runner.close(2.0)
    assert {e.exit_code for e in ran.said.values()} == {-15}


def test_secrets_of_saga_are_not_inherited():
    inherited = {
        "HOME": "/h",
        "VLLM_API_KEY": "k",
        "SAGA_ADMIN_KEY": "k",
        "SAGA_NODE_SECRET": "k",
        "SAGA_CLUSTER_DIR": "/c",
        "OPENAI_API_KEY": "theirs",
    }
    given = {"OPENAI_API_KEY": "ours"}
    expected = {"HOME": "/h", "SAGA_CLUSTER_DIR": "/c", "OPENAI_API_KEY": "ours"}
    assert environment(inherited, given) == expected


@pytest.mark.parametrize(
    ("code", "words"), [(0, ""), (3, "exit code 3"), (-9, "killed by SIGKILL"), (-63, "killed by signal 63")]
)
def test_an_exit_in_words(code, words):
    assert exit_reason(code) == words
    assert runner.exit_reason(-signal.SIGTERM) == "killed by SIGTERM"


async def test_a_killed_guard_is_replaced_and_knows_what_lives(processes, tmp_path):
    output = os.open(tmp_path / "out", os.O_CREAT | os.O_WRONLY)
    tree = await processes.start(
        ["env", "-i", "sleep", "60"], env=os.environ, output=output
    )  # no mark any more
    os.close(output)
    processes._guard.kill()
    processes._guard.wait()
    processes.check_guard()
    assert processes._guard.poll() is None
    await processes.close()
    assert await asyncio.wait_for(tree.process.wait(), 2) == -9


async def test_the_guard_removes_files_in_shared_memory_that_nobody_else_uses(tmp_path):
    unused, used = (Path(f"/dev/shm/saga-test-{os.getpid()}-{i}") for i in range(2))
    for file in (unused, used):
        file.write_bytes(b"x" * 4096)
    with short_folder() as folder, used.open("r+b") as opened, mmap.mmap(opened.fileno(), 4096):
        processes = Processes(folder)
        processes.remember([unused, used])
        processes._guard.kill()
        processes._guard.wait()
        processes.check_guard()
        await processes.close()
        assert (unused.exists(), used.exists()) == (False, True)
    used.unlink()
