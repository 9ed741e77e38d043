"""Each way to misbehave, and that no process is left behind."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time

import aiohttp
import pytest

from saga_core.errors import UserError
from saga_fake.config import FakeConfig
from saga_fake.faults import Fault, Mode, parse_fault
from saga_fake.server import FakeServer

STREAM = {"prompt": [7] * 20, "max_tokens": 4000, "stream": True}
SHORT = {"prompt": "x", "max_tokens": 3}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def command(port, *flags):
    return [sys.executable, "-m", "saga_fake", "--port", str(port), *flags]


@pytest.fixture
def spawn():
    children = []

    def start(*flags):
        port = free_port()
        child = subprocess.Popen(command(port, *flags), stderr=subprocess.PIPE, text=True)
        children.append(child)
        return child, f"http://127.0.0.1:{port}"

    yield start
    for child in children:
        child.kill()
        child.wait()
        child.stderr.close()


async def until(fact, limit_s=5.0):
    end = time.monotonic() + limit_s
    while not await fact():
        assert time.monotonic() < end, "waited too long"
        await asyncio.sleep(0.02)


async def healthy(http, limit_s=0.3):
    try:
        async with http.get("/health", timeout=aiohttp.ClientTimeout(limit_s)) as answer:
            return answer.status == 200
    except (aiohttp.ClientError, TimeoutError):
        return False


async def set_mode(http, mode, value=None):
    async with http.post(
        "/fake/mode", json={"mode": mode} | ({} if value is None else {"value": value})
    ) as answer:
        return answer.status


async def read_stream(http, events=None):
    """The events of a stream until it ends (or `events` of them), and whether it broke."""
    seen = []
    try:
        async with http.post("/v1/completions", json=STREAM) as answer:
            async for line in answer.content:
                if line.strip():
                    seen.append(line)
                if len(seen) == events:
                    return seen, False
    except aiohttp.ClientError:
        return seen, True
    return seen, False


async def serving(child, http):
    await until(lambda: healthy(http))
    assert child.poll() is None


async def test_crash_now(spawn):
    child, url = spawn()
    async with aiohttp.ClientSession(url) as http:
        await serving(child, http)
        await set_mode(http, "crash")
    assert child.wait(2) == 1


async def test_crash_after_chunks(spawn):
    child, url = spawn("--fault", "crash_after_chunks=5")
    async with aiohttp.ClientSession(url) as http:
        await serving(child, http)
        seen, broke = await read_stream(http)
    assert (len(seen), broke) == (5, True)
    assert child.wait(2) == 1


def test_bad_start(spawn):
    child, _ = spawn("--fault", "bad_start")
    assert child.wait(5) == 1
    assert "Engine core initialization failed" in child.stderr.read()


@pytest.mark.parametrize("flags", [["--fault", "crsh"], ["--speed", "0"], ["--num-blocks", "10"]])
def test_wrong_flags_say_what_is_valid(spawn, flags):
    child, _ = spawn(*flags)
    assert child.wait(5) == 2
    said = child.stderr.read()
    assert flags[0] in said
    assert "Traceback" not in said


async def test_slow_start(spawn):
    begin = time.monotonic()
    child, url = spawn("--fault", "slow_start=0.8")
    async with aiohttp.ClientSession(url) as http:
        await serving(child, http)
    assert time.monotonic() - begin > 0.8


def test_start_is_light():
    heavy = {"torch", "vllm", "transformers", "numpy", "prometheus_client", "openai"}
    words = f"import sys, saga_fake.__main__; print(sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


async def test_sigterm_ends_streams(spawn):
    child, url = spawn()
    async with aiohttp.ClientSession(url) as http:
        await serving(child, http)
        reading = asyncio.create_task(read_stream(http))
        await until(lambda: busy(http))
        child.send_signal(signal.SIGTERM)
        assert child.wait(10) == 0
        assert (await reading)[1]


async def busy(http):
    async with http.get("/load") as answer:
        return (await answer.json())["server_load"] > 0


async def test_it_goes_when_its_parent_dies():
    port = free_port()
    code = f"import subprocess, time; p = subprocess.Popen({command(port)!r}); print(p.pid, flush=True); time.sleep(60)"
    parent = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    child = int(parent.stdout.readline())
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http:
        try:
            await until(lambda: healthy(http))
        finally:
            parent.kill()
            parent.wait()
            parent.stdout.close()
        try:
            await until(lambda: gone(child), 2.0)
        except AssertionError:
            os.kill(child, signal.SIGKILL)  # the failure must not leave what it reports
            raise
        assert not await healthy(http)


async def gone(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] == "Z"  # an orphan that nobody reaps here
    except FileNotFoundError:
        return True


async def test_hang_answers_nobody_and_ends_with_ok():
    async with FakeServer(FakeConfig(speed=5)) as server, aiohttp.ClientSession(server.url) as http:
        reading = asyncio.create_task(read_stream(http, events=400))
        await until(lambda: busy(http))
        await set_mode(http, "hang")
        assert not await healthy(http)
        made = server.engine.totals.generation_tokens
        with pytest.raises(TimeoutError):
            async with http.post("/v1/completions", json=SHORT, timeout=aiohttp.ClientTimeout(0.2)):
                pass
        assert server.engine.totals.generation_tokens <= made + 1
        await set_mode(http, "ok")
        assert await healthy(http)
        await asyncio.wait_for(reading, 10)


async def test_slow_makes_every_step_longer():
    async with FakeServer(FakeConfig(speed=10)) as server, aiohttp.ClientSession(server.url) as http:
        took = []
        for factor in (1, 20):
            await set_mode(http, "slow", factor)
            begin = time.monotonic()
            async with http.post("/v1/completions", json=SHORT | {"max_tokens": 20}) as answer:
                await answer.read()
            took.append(time.monotonic() - begin)
    assert took[1] > 5 * took[0]


async def test_refuse_is_a_503_in_vllms_shape():
    async with (
        FakeServer(FakeConfig(fault=Fault(mode=Mode.REFUSE))) as server,
        aiohttp.ClientSession(server.url) as http,
    ):
        async with http.post("/v1/completions", json=SHORT) as answer:
            assert answer.status == 503
            error = (await answer.json())["error"]
        assert (error["type"], error["code"]) == ("Service Unavailable", 503)
        assert await healthy(http)


async def test_reset_breaks_the_stream_and_frees_the_kv():
    async with FakeServer(FakeConfig(speed=10)) as server, aiohttp.ClientSession(server.url) as http:
        await set_mode(http, "reset", 3)
        seen, broke = await read_stream(http)
        assert (len(seen), broke) == (3, True)

        async def idle():
            return server.engine.is_idle

        await until(idle)
        assert server.engine.pool.usage == 0
        await set_mode(http, "ok")
        seen, broke = await read_stream(http, events=10)
        assert (len(seen), broke) == (10, False)


async def test_clients_that_leave_write_nothing_to_stderr(spawn):
    child, url = spawn("--speed", "10")
    async with aiohttp.ClientSession(url) as http:
        await serving(child, http)

        async def leave(after_s):
            with contextlib.suppress(TimeoutError):
                async with http.post(
                    "/v1/completions", json=STREAM, timeout=aiohttp.ClientTimeout(after_s)
                ) as answer:
                    await answer.read()

        await asyncio.gather(*(leave(0.02 + i / 200) for i in range(30)))

        async def idle():
            return not await busy(http)

        await until(idle)
        await set_mode(http, "reset", 2)
        assert (await read_stream(http))[1]
    child.terminate()
    assert child.wait(2) == 0
    assert child.stderr.read().count("\n") == 1


async def test_in_place_a_crash_closes_the_port_and_spares_the_process():
    async with FakeServer(FakeConfig()) as server, aiohttp.ClientSession(server.url) as http:
        reading = asyncio.create_task(read_stream(http))
        await until(lambda: busy(http))
        server.set_fault(Fault(mode=Mode.CRASH))
        assert (await reading)[1]
        with pytest.raises(aiohttp.ClientConnectorError):
            await http.get("/health")


async def test_mode_needs_the_key_and_a_known_name():
    async with FakeServer(FakeConfig(api_key="k")) as server, aiohttp.ClientSession(server.url) as http:
        assert await set_mode(http, "crash") == 401
        http.headers["Authorization"] = "Bearer k"
        for body in (
            {"mode": "explode"},
            {"mode": "ok", "value": 3},
            {"mode": "slow", "value": -1},
            {"mode": "bad_start"},
        ):
            async with http.post("/fake/mode", json=body) as answer:
                assert answer.status == 400, body
                assert (await answer.json())["error"]["message"]
        assert server.fault.mode is Mode.OK


def test_fault_flags():
    assert parse_fault("slow=2.5") == Fault(mode=Mode.SLOW, value=2.5)
    assert parse_fault("reset").amount == 1
    with pytest.raises(UserError, match=r"slow=x.*crash_after_chunks"):
        parse_fault("slow=x")
    assert os.environ.get("SAGA_FAKE_FAULT") is None
