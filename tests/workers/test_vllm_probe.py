"""Readiness: a worker is ready when it serves our names to our key only, and the key goes to nobody else."""

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web

from saga_vllm.listener import listener_is_ours
from saga_vllm.metrics import KvPool
from saga_vllm.probe import NotReady, Ready, probe, wait_ready

KEY = "sk-ours"
METRICS = (Path(__file__).parent / "data/vllm-0.32-metrics.txt").read_text()


@dataclass
class Server:
    """A server that answers like vLLM, but for what a test breaks."""

    health: int = 200
    checks_key: bool = True
    models: object = field(default_factory=lambda: {"data": [{"id": "agent", "max_model_len": 4096}]})
    metrics: str = METRICS
    silent: bool = False
    keys_seen: list[str] = field(default_factory=list)
    url: str = ""

    async def answer(self, request: web.Request) -> web.Response:
        if self.silent:
            await asyncio.sleep(60)
        if key := request.headers.get("Authorization"):
            self.keys_seen.append(key.removeprefix("Bearer "))
        match request.path:
            case "/health":
                return web.Response(status=self.health)
            case "/metrics":
                return web.Response(text=self.metrics)
            case "/v1/models" if self.checks_key and self.keys_seen[-1] != KEY:
                return web.json_response({"error": "Unauthorized"}, status=401)
            case "/v1/models" if isinstance(self.models, str):
                return web.Response(text=self.models)
            case "/v1/models":
                return web.json_response(self.models)
            case _:
                return web.Response(status=404)

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Server"]:
        server = web.Server(self.answer)
        runner = web.ServerRunner(server, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            await runner.cleanup()


async def ask(server: Server, names=("agent",), **options) -> Ready | NotReady:
    async with server.running():
        return await probe(server.url, KEY, names, **options)


async def test_adapters_are_names_beside_ours_and_need_no_length() -> None:
    cards = [
        {"id": "agent", "max_model_len": 4096, "parent": None},
        {"id": "lora-b", "parent": "agent", "max_model_len": None},
        {"id": "lora-a", "parent": "agent", "max_model_len": None},
    ]
    found = await ask(Server(models={"data": cards}))
    assert isinstance(found, Ready)
    assert (found.max_model_len, found.adapters) == (4096, ("lora-a", "lora-b"))


async def test_ready() -> None:
    assert await ask(Server()) == Ready(max_model_len=4096, pool=KvPool(blocks=256, block_tokens=32))


async def test_a_server_that_takes_any_key_never_sees_ours() -> None:
    server = Server(checks_key=False)
    assert await ask(server) == NotReady("GET /v1/models gave 200 and not 401")
    assert KEY not in server.keys_seen


@pytest.mark.parametrize(
    ("server", "names", "says"),
    [
        (Server(health=503), ["agent"], "GET /health gave 503 and not 200"),
        (Server(), ["agent", "gpt"], "serves agent and not gpt"),
        (Server(models="<html>"), ["agent"], "gave no JSON"),
        (Server(models={"data": [{"id": "agent"}]}), ["agent"], "no list of models with their max_model_len"),
        (Server(models=[]), ["agent"], "no list of models"),
        (Server(metrics=""), ["agent"], "does not say the size of the KV pool"),
        (Server(metrics="x" * (5 << 20)), ["agent"], "gave more than 4194304 bytes"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_not_ready_says_why(server: Server, names: list[str], says: str) -> None:
    answer = await ask(server, names)
    assert isinstance(answer, NotReady)
    assert says in answer.reason


async def test_a_silent_server_and_none_at_all() -> None:
    assert await ask(Server(silent=True), timeout_s=0.2) == NotReady("no answer within 0.2 s")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening, as vLLM while it loads
        answer = await probe(f"http://127.0.0.1:{taken.getsockname()[1]}", KEY, ["agent"])
    assert isinstance(answer, NotReady)
    assert "Cannot connect" in answer.reason


async def test_waiting_ends_when_it_is_ready_or_too_late() -> None:
    server = Server(health=503)
    async with server.running():
        late = await wait_ready(server.url, KEY, ["agent"], deadline_s=0.1, every_s=0.02)
        assert late == NotReady("GET /health gave 503 and not 200")
        waiting = asyncio.create_task(wait_ready(server.url, KEY, ["agent"], deadline_s=10, every_s=0.02))
        server.health = 200
        assert isinstance(await waiting, Ready)


LISTEN = """
import socket, sys
server = socket.create_server((sys.argv[1], 0))
print(server.getsockname()[1], flush=True)
sys.stdin.read()
"""


@contextmanager
def a_listener(*, host: str = "127.0.0.1", in_a_child: bool = False):
    # In a session of its own: only its descent tells whose it is.
    start = ["sh", "-c", 'setsid "$@"; :', "sh"] if in_a_child else []
    process = subprocess.Popen(
        [*start, sys.executable, "-c", LISTEN, host],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        yield process.pid, int(process.stdout.readline())
    finally:
        process.communicate()


@pytest.mark.parametrize("in_a_child", [False, True])
def test_our_listener_is_known_and_a_strangers_is_not(in_a_child: bool) -> None:
    with a_listener(in_a_child=in_a_child) as (pid, port), a_listener() as (other_pid, other_port):
        assert listener_is_ours(port, pid)
        assert not listener_is_ours(other_port, pid)
        assert not listener_is_ours(port, other_pid)
        assert not listener_is_ours(port, pid, host="127.0.0.2")


def test_an_orphan_of_the_group_still_is_ours() -> None:
    """The process that we started is gone, its child listens on."""
    command = [
        "sh",
        "-c",
        'exec 3<&0; "$@" <&3 3<&- & exit 0',
        "sh",
        sys.executable,
        "-c",
        LISTEN,
        "127.0.0.1",
    ]
    shell = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
    try:
        port = int(shell.stdout.readline())
        assert shell.wait(10) == 0
        assert listener_is_ours(port, shell.pid)
    finally:
        shell.communicate()


def test_a_wildcard_socket_is_not_taken_for_the_address_we_asked_for() -> None:
    with a_listener(host="0.0.0.0") as (pid, port):
        assert not listener_is_ours(port, pid)
        assert listener_is_ours(port, pid, host="0.0.0.0")


def test_a_connection_that_outlived_its_listener_is_no_listener() -> None:
    server = socket.create_server(("127.0.0.1", 0))
    port = server.getsockname()[1]
    with socket.create_connection(("127.0.0.1", port)), server.accept()[0]:
        server.close()
        assert not listener_is_ours(port, os.getpid())


def test_a_port_bound_and_not_listening_is_nobodys() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        assert not listener_is_ours(bound.getsockname()[1], os.getpid())
        bound.listen()
        assert listener_is_ours(bound.getsockname()[1], os.getpid())
