"""What the head says that sessions are worth is told to the engine; what a start was tried for is said to the head."""

import asyncio
import sys

import pytest
from node_kit import StrawHead, complete, short_folder, started, until

from saga_core import wire
from saga_core.config import NodeConfig, WorkersConfig
from saga_core.kv import commands
from saga_core.kv.retention import Standing
from saga_core.node_words import SetWorths, WorkerExited, WorkerUp
from saga_node import engines
from saga_node.processes import Processes
from saga_node.supervisor import Supervisor
from saga_node.teller import Teller
from saga_vllm.control import Control, NoControl
from saga_vllm.diagnose import plugin_fault
from saga_vllm.launch import PRIORITY_FLAGS, Launch

FAKE = {"workers.kv_tokens": 4096, "workers.max_model_len": 2048}


@pytest.fixture
async def head():
    with short_folder() as folder:
        async with StrawHead(folder / "c") as found:
            yield found


@pytest.fixture
def runtime(head):
    folder = head.folder.parent / "run"
    folder.mkdir()
    return folder


def control(worker):
    return Control(f"http://{worker.host}:{worker.port}", worker.key, worker.incarnation)


async def worths(head, worker, version, since=0, **said):
    await head.send(
        "n1",
        wire.Worths(
            head=head.number, worker=worker.worker, incarnation=worker.incarnation, since=since, version=version,
            worths={name.replace("_", "."): worth for name, worth in said.items()},
        ),
    )  # fmt: skip
    await until(
        lambda: any(isinstance(m, wire.Valued) and m.version == version for m in head.heard), "valued"
    )


async def held(asked, session, worth):
    """Until the engine says that `session` is worth `worth`."""
    for _ in range(100):
        said = (await asked.ask(commands.Stats())).sessions.get(session)
        if said is not None and (said.standing, said.value) == worth:
            return said
    raise AssertionError(f"{session} is {said}, not {worth}")


async def test_worths_reach_the_engine_and_its_capabilities_the_head(head, runtime):
    async with started(head, runtime, **FAKE | {"workers.extra_args": PRIORITY_FLAGS}):
        worker = await head.ready("n1/0")
        assert worker.values
        found = {c.name: c.works for c in worker.capabilities}
        assert found == {
            "prefix hits": True, "events": True, "session control": True, "tiers": None, "priority": True,
            "moving": True,
        }  # fmt: skip
        await complete(worker, "1.main", "x" * 900)
        await until(lambda: head.resident.get(("n1/0", "1.main")), "resident")
        assert ("n1/0", "0.saga-probe") not in head.resident
        async with control(worker) as asked:
            await worths(head, worker, 1, **{"1_main": (int(Standing.HELD), float("inf"))})
            assert (await held(asked, "1.main", (Standing.HELD, float("inf")))).blocks
            await worths(head, worker, 2, since=1, **{"1_main": (int(Standing.LIVE), 0.5)})
            await held(asked, "1.main", (Standing.LIVE, 0.5))
            await worths(head, worker, 3, since=2, **{"1_main": None})
            await held(asked, "1.main", (Standing.UNKNOWN, 0.0))


async def test_an_engine_without_session_control_serves_and_takes_no_worths(head, runtime):
    async with started(head, runtime, **FAKE | {"workers.session_control": False}):
        worker = await head.ready("n1/0")
        assert not worker.values
        tried = {c.name: c for c in worker.capabilities}
        assert tried["session control"] == wire.Capability(
            "session control", None, "workers.session_control is off"
        )
        assert tried["prefix hits"].works
        assert (await complete(worker, "1.main", "x" * 90))["usage"]["completion_tokens"] == 4


async def test_an_engine_that_has_none_though_it_was_asked_for_serves_all_the_same(head, runtime):
    async with started(head, runtime, **FAKE | {"workers.extra_args": ["--no-control"]}):
        worker = await head.ready("n1/0")
        assert not worker.values
        tried = {c.name: c for c in worker.capabilities}["session control"]
        assert tried.works is False
        assert "404" in tried.detail


class Asked:
    """The way to an engine that has what is to be loaded of `1.main`, and of nobody else."""

    def __init__(self):
        self.orders = []

    async def ask(self, command):
        self.orders.append(command)
        if isinstance(command, commands.Prefetch):
            if command.session != "1.main":
                raise NoControl("nothing fits")
            return commands.Done(blocks=7)
        return commands.Done()


async def test_who_returns_soon_is_loaded_once_after_the_worths_were_told():
    asked = Asked()
    teller = Teller("n1/0", asked)
    running = asyncio.create_task(teller.run())
    teller.tell({"1.main": (3, 0.5)}, soon=["2.main", "1.main"])
    await until(lambda: teller.loaded_blocks == 7, "loaded")
    teller.tell({}, soon=["1.main"])
    await until(lambda: teller.loaded_blocks == 14, "loaded again")
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert asked.orders == [
        commands.Value(worths={"1.main": (3, 0.5)}),
        *(commands.Prefetch(session=name) for name in ("2.main", "1.main", "1.main")),
    ]


DIED_OF_US = """INFO non-default args: {'kv_connector': 'SagaConnector', 'middleware': ['saga_vllm.plugin.front.SessionControl']}
(EngineCore pid=7) ERROR 11-22 17:58:20 [core.py:1510] Traceback (most recent call last):
(EngineCore pid=7) ERROR 11-22 17:58:20 [core.py:1510]   File "/x/saga_vllm/plugin/connector.py", line 30, in <module>
(EngineCore pid=7) ERROR 11-22 17:58:20 [core.py:1510]     from vllm.gone import SupportsHMA
(EngineCore pid=7) ERROR 11-22 17:58:20 [core.py:1510] ImportError: cannot import name 'SupportsHMA'
RuntimeError: Engine core initialization failed. See root cause above.
"""


@pytest.mark.parametrize(
    ("log", "said"),
    [
        (DIED_OF_US, "ImportError: cannot import name 'SupportsHMA'"),
        ("x.py: error: unrecognized arguments: --middleware a.b", "unrecognized arguments: --middleware"),
        ("ValueError: KV connector SagaConnector is incompatible with x", "is incompatible with x"),
        ("ModuleNotFoundError: No module named 'saga_core'", "No module named 'saga_core'"),
        (DIED_OF_US.splitlines()[0] + "\nValueError: max seq len (9) is too large", ""),
        ("x.py: error: unrecognized arguments: --nonsense", ""),
        ("", ""),
    ],
)
def test_a_start_that_died_of_the_plugin_is_told_from_others(log, said):
    found = plugin_fault(log)
    assert said in found
    assert bool(found) == bool(said)


class Broken(engines.Fake):
    """An engine that dies in our plugin's code whenever it has it."""

    def __init__(self, config, plugin):
        super().__init__(config)
        self.plugin, self.starts = plugin, []

    def render(self, seat):
        launch = super().render(seat)
        self.starts.append(seat.control)
        return Launch((sys.executable, str(self.plugin)), launch.env) if seat.control else launch


async def test_it_is_then_started_without_it(tmp_path):
    plugin = tmp_path / "saga_vllm" / "plugin" / "connector.py"
    plugin.parent.mkdir(parents=True)
    plugin.write_text("from nowhere import SupportsHMA\n")
    config = WorkersConfig(engine="fake", model="m", max_model_len=2048, kv_tokens=4096)
    engine, said = Broken(config, plugin), []
    with short_folder() as folder:
        processes = Processes(folder)
        workers = Supervisor(
            engine, processes, config=NodeConfig(probe_every_s=0.1), shares=engines.shares(config),
            host="127.0.0.1", log_folder=tmp_path / "log", tell=said.append,
        )  # fmt: skip
        try:
            workers.spawn("n1/0", 1)
            up = await until(lambda: next((e for e in said if isinstance(e, WorkerUp)), None), "ready")
            assert not up.values
            tried = {c.name: c for c in up.capabilities}["session control"]
            assert tried.works is None
            assert "did not start with session control: ModuleNotFoundError" in tried.detail
            assert engine.starts == [True, False]
            assert [e for e in said if isinstance(e, WorkerExited)] == [], "one incarnation all along"
            # Nobody is there to take it: nothing happens.
            workers.set_worths(SetWorths("n1/0", 1, {"1.main": (3, 1.0)}))
        finally:
            await workers.close()
            await processes.close()
