"""Workers under the supervisor, in this process: what needs a say in the choice of ports."""

import asyncio
import socket
import sys

import pytest
from aiohttp import web
from node_kit import short_folder, until

from saga_core.config import NodeConfig, WorkersConfig
from saga_core.errors import ClusterError, UserError
from saga_core.node_words import WorkerExited, WorkerUp
from saga_node import engines, models, places, supervisor
from saga_node.processes import Processes
from saga_node.supervisor import Supervisor

HOST = "127.0.0.1"


@pytest.fixture
async def processes():
    with short_folder() as folder:
        found = Processes(folder)
        yield found
        await found.close()


@pytest.fixture
async def stranger():
    """A server of somebody else's that says yes to everything, and remembers it."""
    asked = []

    async def answer(request):
        asked.append((request.path, request.headers.get("Authorization")))
        return web.json_response({"data": [{"id": "m", "max_model_len": 4096}]})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    web_runner = web.AppRunner(app)
    await web_runner.setup()
    site = web.TCPSite(web_runner, HOST, 0)
    await site.start()
    yield site._server.sockets[0].getsockname()[1], asked
    await web_runner.cleanup()


def supervise(processes, tmp_path, ports, *, extra=()):
    said = []
    config = WorkersConfig(engine="fake", model="m", max_model_len=4096, kv_tokens=8192, extra_args=extra)
    found = Supervisor(
        engines.engine(config),
        processes,
        config=NodeConfig(probe_every_s=0.1),
        shares=engines.shares(config),
        host=HOST,
        log_folder=tmp_path / "log",
        tell=said.append,
        free_port=lambda host: next(ports, None) or places.free_port(host),
    )
    return found, said


def of(kind, said):
    return next((e for e in said if isinstance(e, kind)), None)


async def test_a_taken_port_is_left_to_the_stranger_and_another_one_taken(processes, tmp_path, stranger):
    port, asked = stranger
    workers, said = supervise(processes, tmp_path, iter([port, port]))
    workers.spawn("n1/0", 1)
    up = await until(lambda: of(WorkerUp, said), "ready")
    assert up.port != port
    assert asked == []
    assert of(WorkerExited, said) is None
    await workers.close()


async def test_a_stranger_on_the_port_is_not_taken_for_ours_while_our_worker_loads(
    processes, tmp_path, stranger
):
    port, asked = stranger
    workers, said = supervise(processes, tmp_path, iter([port]), extra=("--fault", "slow_start=1.0"))
    workers.spawn("n1/0", 1)
    up = await until(lambda: of(WorkerUp, said), "ready")
    assert up.port != port
    assert asked == []
    await workers.close()


async def test_ports_that_are_always_taken_are_a_reason(processes, tmp_path, stranger, monkeypatch):
    monkeypatch.setattr(supervisor, "PORT_TRIES", 2)
    port, asked = stranger
    workers, said = supervise(processes, tmp_path, iter([port] * 2))
    workers.spawn("n1/0", 1)
    ended = await until(lambda: of(WorkerExited, said), "exit")
    assert ended.reason.startswith("the port was taken by another process")
    assert ended.reason.endswith("(2 times in a row)")
    assert asked == []
    await workers.close()


async def test_a_kill_during_the_start_is_answered_by_one_exit(processes, tmp_path):
    workers, said = supervise(processes, tmp_path, iter([]), extra=("--fault", "slow_start=60"))
    workers.spawn("n1/0", 1)
    workers.kill("n1/0", 1, "not wanted")
    workers.kill("n1/0", 1, "asked twice")
    workers.kill("n1/0", 7, "another incarnation")
    await until(lambda: of(WorkerExited, said), "exit")
    assert said == [WorkerExited("n1/0", 1, "not wanted")]
    await workers.close()
    assert not list(processes.folder.iterdir())


async def test_a_model_that_is_being_prepared_does_not_hold_up_the_end(processes, tmp_path):
    workers, said = supervise(processes, tmp_path, iter([]))
    began = asyncio.Event()

    async def forever(*_):
        began.set()
        await asyncio.Event().wait()

    workers._engine.prepare = forever
    workers.spawn("n1/0", 1)
    await began.wait()
    await asyncio.wait_for(workers.close(), 2)
    assert said == [WorkerExited("n1/0", 1, "the node daemon ends")]


async def test_an_engine_that_cannot_be_rendered_is_a_reason(processes, tmp_path):
    workers, said = supervise(processes, tmp_path, iter([]))

    def refuse(seat):
        raise UserError("block_tokens=16: a CPU worker takes multiples of 32")

    workers._engine.render = refuse
    workers.spawn("n1/0", 1)
    await until(lambda: of(WorkerExited, said), "exit")
    assert of(WorkerExited, said).reason == "block_tokens=16: a CPU worker takes multiples of 32"


def test_a_free_port_can_be_bound():
    with socket.socket() as taker:
        taker.bind((HOST, places.free_port(HOST)))


# -- demo models -------------------------------------------------------------------------


@pytest.fixture
def builds(tmp_path, monkeypatch):
    """Models are built in a cache of the test's, by a script of one line; the file counts how often."""
    count, code = tmp_path / "count", ["import sys; open(sys.argv[1], 'a').write('x')"]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(models, "build_command", lambda *_: [sys.executable, "-c", code[0], str(count)])
    monkeypatch.setattr(models, "is_built", lambda *_: count.exists())
    return count, code


async def test_a_demo_model_is_built_once_however_many_want_it(processes, tmp_path, builds):
    count, _ = builds
    found = await asyncio.gather(*(models.ensure("nano", processes, tmp_path) for _ in range(3)))
    assert found == [tmp_path / "cache" / "saga" / "models" / "nano"] * 3
    assert count.read_text() == "x"


async def test_a_model_that_cannot_be_built_says_why(processes, tmp_path, builds):
    builds[1][0] = "raise OSError(28, 'No space left on device')"
    with pytest.raises(
        ClusterError, match="cannot build the demo model nano: no space is left on the device"
    ):
        await models.ensure("nano", processes, tmp_path)
    assert "No space left" in (tmp_path / "model-nano.log").read_text()
