"""The node daemon as a process, against a head of straw over real ZeroMQ and engines in processes of their own."""

import asyncio
import os
import signal
import sys
import time

import psutil
import pytest
from node_kit import Keys, NodeProcess, StrawHead, complete, misbehave, short_folder, started, until

from saga_core import wire

ESCAPER = """
import os, subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import os, time; os.setsid(); print('escaped', flush=True); time.sleep(60)"])
time.sleep(60)
"""


@pytest.fixture
def runtime():
    with short_folder() as folder:
        yield folder


@pytest.fixture
async def head(tmp_path):
    async with StrawHead(tmp_path / "c") as head:
        yield head


async def test_two_workers_report_load_and_residency_and_sigterm_leaves_nothing(head, runtime):
    settings = {"workers.count": 2, "workers.extra_args": ["--lora-modules", "lora-a=/x"]}
    async with started(head, runtime, **settings) as node:
        first, second = await head.ready("n1/0"), await head.ready("n1/1")
        assert (first.model, first.adapters, second.adapters) == ("m", ("lora-a",), ("lora-a",))
        assert first.port != second.port
        assert first.key != second.key
        assert (first.capacity_tokens, first.max_model_len, first.max_seqs) == (8192, 4096, 128)
        assert oct(os.stat(next(runtime.iterdir())).st_mode)[-3:] == "700"

        await complete(first, "7.main", "word " * 200)
        await until(lambda: head.resident.get(("n1/0", "7.main"), 0) >= 64, "residency of 7.main")
        long = asyncio.create_task(complete(second, "8.main", "word", max_tokens=4000))
        await until(lambda: (w := head.worker("n1/1")) and w.running == 1, "load of n1/1")
        assert head.worker("n1/0").running == 0

        log = head.folder / "log" / "worker-n1-0.log"
        assert oct(log.stat().st_mode)[-3:] == "600"
        for secret in (first.key, second.key):
            assert secret not in node.log + log.read_text()
            assert not any(secret in " ".join(psutil.Process(p).cmdline()) for p in node.living())
        assert await node.stop() == 0
        await node.nothing_left(2)
        assert isinstance(head.heard[-1], wire.Goodbye)
        with pytest.raises(Exception):  # noqa: B017 - the worker is gone, in whatever way
            await long


async def test_a_killed_worker_comes_back_as_a_new_incarnation_with_nothing_resident(head, runtime):
    async with started(head, runtime) as node:
        before = await head.ready("n1/0")
        await complete(before, "7.main", "word " * 200)
        await until(lambda: head.resident.get(("n1/0", "7.main")), "residency of 7.main")
        os.killpg(_worker_pid(node, before), signal.SIGKILL)
        after = await head.ready("n1/0", after=before.incarnation)
        assert after.key != before.key
        assert "killed by SIGKILL" in head.reasons("n1/0")
        await until(lambda: head.resident["n1/0", "7.main"] == 0, "nothing resident")


async def test_a_hanging_worker_is_killed_and_started_again(head, runtime):
    async with started(head, runtime):
        before = await head.ready("n1/0")
        await misbehave(before, "hang")
        await head.ready("n1/0", after=before.incarnation)
        assert any("no answer to 2 probes" in reason for reason in head.reasons("n1/0"))


async def test_a_worker_that_cannot_start_says_why_and_is_tried_again(head, runtime):
    async with started(head, runtime, **{"workers.extra_args": ["--fault", "bad_start"]}):
        await until(lambda: (w := head.worker("n1/0")) and w.reason, "a reason")
        first = head.worker("n1/0")
        assert "Engine core initialization failed" in first.reason
        await until(lambda: head.worker("n1/0").incarnation > first.incarnation, "another start")


async def test_a_log_that_cannot_be_written_is_a_reason_and_no_crash(head, runtime):
    head.folder.mkdir()
    (head.folder / "log").write_text("in the way")
    async with started(head, runtime) as node:
        await until(lambda: (w := head.worker("n1/0")) and "cannot write the log" in w.reason, "a reason")
        assert node.process.returncode is None


async def test_a_full_disk_is_a_reason_and_no_crash(head, runtime):
    (head.folder / "log").mkdir(parents=True)
    (head.folder / "log" / "worker-n1-0.log").symlink_to("/dev/full")
    async with started(head, runtime) as node:
        await until(lambda: (w := head.worker("n1/0")) and "No space left" in w.reason, "a reason")
        (head.folder / "log" / "worker-n1-0.log").unlink()
        await head.ready("n1/0")
        assert node.process.returncode is None


async def test_programs_run_and_end_through_the_daemon(head, runtime, tmp_path):
    async with started(head, runtime, **{"workers.count": 0}):
        await until(lambda: any(isinstance(m, wire.Report) for m in head.heard), "a report")
        code = "import os; print(os.environ['WHO'], os.getcwd()); raise SystemExit(3)"
        log = await head.run_program("n1", 1, sys.executable, "-c", code, cwd=tmp_path, WHO="me")
        fact = await head.exited(1)
        assert (fact.exit_code, fact.reason) == (3, "exit code 3")
        assert log.read_text() == f"me {tmp_path}\n"
        await head.run_program("n1", 2, "sleep", "60", cwd=tmp_path)
        await until(lambda: head.program(2), "program 2")
        await head.send("n1", wire.StopProgram(workflow=2, attempt=1, grace_s=5.0))
        fact = await head.exited(2)
        assert (fact.exit_code, fact.reason) == (-15, "killed by SIGTERM")


async def test_kill_9_of_the_daemon_leaves_nothing_and_another_one_works(head, runtime, tmp_path):
    async with started(head, runtime, **{"workers.count": 2}) as node:
        await asyncio.gather(head.ready("n1/0"), head.ready("n1/1"))
        log = await head.run_program("n1", 1, sys.executable, "-c", ESCAPER, cwd=tmp_path)
        await until(lambda: log.exists() and "escaped" in log.read_text(), "a program that left its session")
        assert len(node.living()) >= 6  # daemon, guard, two workers, the program and its child
        node.process.kill()
        await node.process.wait()
        await node.nothing_left(2)
        before, worker = head.report.incarnation, head.worker("n1/0")
    again = NodeProcess(head.folder, runtime)
    await again.start()
    try:
        await head.ready("n1/0", after=worker.incarnation)
        assert head.report.incarnation > before
        assert await again.stop() == 0
        await again.nothing_left(2)
    finally:
        await again.clean()


async def test_the_head_may_go_and_come_back_elsewhere(tmp_path, runtime):
    patient = {"node.head_timeout_s": 60.0}  # the lost connection is enough to look for a newer head
    async with StrawHead(tmp_path / "c") as first, started(first, runtime, **patient):
        worker = await first.ready("n1/0")
        async with StrawHead(tmp_path / "c", number=2) as second:  # other port, other keys
            await first.__aexit__()
            second.write(epoch=2)
            same = await second.ready("n1/0")
            assert (same.incarnation, same.port, same.key) == (worker.incarnation, worker.port, worker.key)
            await first.__aenter__()


@pytest.mark.parametrize("wrong", ["head", "nodes"])
async def test_a_refused_key_is_said_and_ends_the_daemon(head, runtime, wrong):
    head.write(**{"workers.count": 0}, **{wrong: Keys()})
    async with started(head, runtime, write=False) as node:
        assert await asyncio.wait_for(node.process.wait(), 10) == 1
        assert "the head refused our key" in node.log
        assert "access.json is of another cluster" in node.log
        await node.nothing_left(2)


async def test_without_a_head_the_daemon_says_so(head, runtime):
    head.write(**{"node.register_timeout_s": 0.3})
    (head.folder / "access.json").unlink()
    async with started(head, runtime, write=False) as node:
        assert await asyncio.wait_for(node.process.wait(), 10) == 1
        assert "no access.json in" in node.log
        assert "is the head running?" in node.log


async def test_sigterm_while_waiting_for_the_head_ends_well(head, runtime):
    head.folder.mkdir()
    async with started(head, runtime, write=False) as node:
        await until(
            lambda: psutil.Process(node.process.pid).num_threads() >= 1 and _catches_term(node), "handlers"
        )
        assert await node.stop() == 0


async def test_settings_that_cannot_be_served_are_named(head, runtime):
    async with started(head, runtime, **{"workers.engine": "sglang"}) as node:
        assert await asyncio.wait_for(node.process.wait(), 10) == 1
        assert "unknown engine 'sglang' (have: fake, vllm)" in node.log


def _worker_pid(node: NodeProcess, worker: wire.WorkerFact) -> int:
    """The process that listens on the worker's port."""
    for pid in node.living():
        for connection in psutil.Process(pid).net_connections(kind="tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == worker.port:
                return pid
    raise AssertionError(f"nobody listens on {worker.port}")


def _catches_term(node: NodeProcess) -> bool:
    """Whether SIGTERM has a handler by now (SigCgt in proc(5))."""
    with open(f"/proc/{node.process.pid}/status") as status:
        caught = next(line for line in status if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) & 1 << (signal.SIGTERM - 1))


@pytest.mark.vllm
@pytest.mark.timeout(280)
async def test_a_real_vllm_worker_lives_dies_and_lives_again(head, runtime, capsys):
    settings = {
        "workers.engine": "vllm",
        "workers.model": "nano",
        "node.probe_every_s": 1.0,
        "node.silent_probes": 10,
        "head.stop_grace_s": 5.0,
    }
    async with started(head, runtime, **settings) as node:
        before = await _ready_vllm(head, 0, capsys, "start")
        assert before.capacity_tokens >= 8192
        answer = await complete(before, "7.main", "word " * 200)
        assert answer["usage"]["completion_tokens"] == 4
        await until(lambda: head.resident.get(("n1/0", "7.main"), 0) >= 32, "residency of 7.main")
        assert len(node.living()) >= 4  # daemon, guard, API server, engine
        os.killpg(_worker_pid(node, before), signal.SIGKILL)
        after = await _ready_vllm(head, before.incarnation, capsys, "restart after kill -9")
        await complete(after, "7.main", "word " * 200)
        ended = time.monotonic()
        assert await node.stop() == 0
        await node.nothing_left(2)
        with capsys.disabled():
            print(f"\nSIGTERM to nothing left: {time.monotonic() - ended:.1f} s")


async def _ready_vllm(head: StrawHead, after: int, capsys, what: str) -> wire.WorkerFact:
    began = time.monotonic()
    await until(
        lambda: (w := head.worker("n1/0")) and w.state == "ready" and w.incarnation > after, what, 120
    )
    with capsys.disabled():
        print(f"\n{what}: {time.monotonic() - began:.1f} s")
    return head.worker("n1/0")
