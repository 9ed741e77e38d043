"""The head as a process: real HTTP, real ZeroMQ with CURVE, real engine doubles, real kills."""

import asyncio
import functools
import json
import os
import resource
import signal
import stat
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from head_rig import HeadProcess, RigNode, engine, node, running_head, until, workflow

from saga_core import wire
from saga_core.states import WorkerState
from saga_fake.config import FakeConfig
from saga_fake.faults import Fault, Mode
from saga_fake.server import FakeServer

PROMPT = {"model": "m", "messages": [{"role": "user", "content": "hello " * 400}], "max_tokens": 4}


@pytest.fixture
async def head(tmp_path: Path) -> AsyncIterator[HeadProcess]:
    async with running_head(tmp_path) as found:
        yield found


async def view(head: HeadProcess, number: int) -> dict:
    status, found = await head.call("GET", f"/saga/v1/workflows/{number}")
    assert status == 200, found
    return found


async def ask(head: HeadProcess, accepted: dict, body: dict | None = None) -> tuple[int, dict, dict]:
    url = accepted["base_url"] + "/chat/completions"
    headers = {"Authorization": f"Bearer {accepted['api_key']}"}
    async with head.http.post(url, json=body or PROMPT, headers=headers) as response:
        return response.status, await response.json(), {k.lower(): v for k, v in response.headers.items()}


async def test_secrets_are_private_and_stay_over_restarts(head: HeadProcess) -> None:
    for name in ("access.json", "keys.json", "head.lock"):
        assert stat.S_IMODE((head.folder / name).stat().st_mode) == 0o600, name
    old = head.access
    assert await head.kill(signal.SIGTERM) == 0
    await head.start()
    again = head.access
    assert (again.admin_key, again.api_key, again.head_public) == (
        old.admin_key,
        old.api_key,
        old.head_public,
    )
    assert (again.url, again.control) == (old.url, old.control), "clients and nodes find it where it was"
    command = Path(f"/proc/{head.pid}/cmdline").read_bytes().decode()
    assert not [key for key in (old.admin_key, old.api_key, old.node_secret) if key in command]
    assert not [line for line in head.lines for key in (old.admin_key, old.api_key) if key in line]


async def test_a_second_head_on_the_folder_is_refused(head: HeadProcess) -> None:
    second = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "saga_head", "--cluster-dir", str(head.folder), stderr=asyncio.subprocess.PIPE
    )
    _, error = await second.communicate()
    assert second.returncode == 1
    assert f"already running on {head.folder}: pid {head.pid}" in error.decode()
    assert (await head.call("GET", "/saga/v1/cluster"))[0] == 200


async def test_a_taken_port_is_named(tmp_path: Path, head: HeadProcess) -> None:
    port = int(head.access.url.rpartition(":")[2])
    folder = tmp_path / "other"
    folder.mkdir()
    (folder / "settings.json").write_text(json.dumps({"head.port": port}))
    other = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "saga_head", "--cluster-dir", str(folder), stderr=asyncio.subprocess.PIPE
    )
    _, error = await other.communicate()
    assert other.returncode == 1
    assert f"gateway port 127.0.0.1:{port}: Address already in use" in error.decode()
    assert "Traceback" not in error.decode()


async def test_unknown_settings_are_refused_with_the_valid_ones(tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text(json.dumps({"head.prot": 1}))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "saga_head", "--cluster-dir", str(tmp_path), stderr=asyncio.subprocess.PIPE
    )
    _, error = await process.communicate()
    assert process.returncode == 2
    assert "unknown setting 'head.prot'" in error.decode()
    assert "head.port" in error.decode()


async def test_keys_are_asked_for(head: HeadProcess) -> None:
    status, error = await head.call("GET", "/saga/v1/cluster", key="wrong")
    assert (status, error["error"]["code"]) == (401, "401")
    status, error = await head.call("GET", "/v1/models", key="wrong")
    assert (status, error["error"]["code"]) == (401, "invalid_api_key")
    status, error = await head.call("POST", "/v1/chat/completions", PROMPT, key="wrong")
    assert (status, error["error"]["type"]) == (401, "authentication_error")
    status, _ = await head.call("GET", "/v1/models", key=head.access.api_key)
    assert status == 200


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "says"),
    [
        (
            "PUT",
            "/saga/v1/profile",
            {"profile": "lur"},
            400,
            "unknown profile 'lur' (have: kvflow, las, least-loaded,",
        ),
        ("PUT", "/saga/v1/profile", {"profil": "x"}, 400, "profil"),
        ("GET", "/saga/v1/workflows/99", None, 404, "no workflow 99 is known"),
        ("GET", "/saga/v1/workflows/x%2Fy", None, 404, "no workflow x/y is known"),
        ("POST", "/saga/v1/workflows", {"kind": "job"}, 400, "unknown kind 'job'"),
        ("POST", "/saga/v1/workflows", {"kind": "program"}, 400, "goes with kind 'program'"),
        ("POST", "/saga/v1/workflows", {"program": {"argv": [], "cwd": "/"}}, 400, "argv is empty"),
        ("POST", "/saga/v1/workflows", {"kind": 3}, 400, "Expected `str`"),
        ("DELETE", "/saga/v1/workflows", None, 405, "Method Not Allowed"),
        ("GET", "/nowhere", None, 404, "/nowhere: Not Found"),
    ],
)
async def test_mistakes_are_explained(
    head: HeadProcess, method: str, path: str, body: object, status: int, says: str
) -> None:
    got, answer = await head.call(method, path, body)
    assert got == status
    assert says in answer["error"]["message"]


async def test_steps_go_home_and_are_counted(tmp_path: Path) -> None:
    async with (
        running_head(tmp_path, {"profile": "saga-paper"}) as head,
        engine() as one,
        engine() as two,
        node(head, one.url, two.url) as rig,
    ):
        accepted = await workflow(head, name="demo", agent_type="swe")
        status, _, first = await ask(head, accepted)
        assert status == 200
        assert first["x-saga-session-id"] == "1.main"
        assert first["x-request-id"] == "saga-1"
        status, answer, second = await ask(head, accepted)
        assert second["x-saga-worker"] == first["x-saga-worker"]
        assert "home" in second["x-saga-decision"]
        assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] > 0
        found = await view(head, 1)
        assert (found["steps"], found["state"], found["home"]) == (2, "tool", first["x-saga-worker"])
        assert found["cached_tokens"] > 0
        assert found["sessions"][0]["context_tokens"] == answer["usage"]["total_tokens"]
        index = int(first["x-saga-worker"].rpartition("/")[2])
        await rig.report(rig.resident(index, "1.main", 77))
        await until(lambda: len(rig.saw(wire.Ack)) >= 3, "this report, or one after it, is acknowledged")
        assert (await view(head, 1))["sessions"][0]["resident_tokens"] == 77
        acks = len(rig.saw(wire.Ack))
        await rig.report(rig.resident(index, "1.main", 0))
        await until(
            lambda: len(rig.saw(wire.Ack)) > acks + 1, "this report, or one after it, is acknowledged"
        )
        status, _, third = await ask(head, accepted)
        assert "nothing resident at home" in third["x-saga-decision"]


async def test_errors_before_a_worker_is_asked(head: HeadProcess) -> None:
    async with engine() as one, node(head, one.url):
        accepted = await workflow(head)
        status, answer, headers = await ask(head, accepted, {**PROMPT, "model": "gpt-5"})
        assert (status, answer["error"]["code"]) == (404, "model_not_found")
        assert "'gpt-5' does not exist (have: m)" in answer["error"]["message"]
        assert headers["x-request-id"]
        status, answer, _ = await ask(head, accepted, {**PROMPT, "messages": PROMPT["messages"] * 200})
        assert status == 400, "the engine's own error goes through"
        assert "maximum context length" in answer["error"]["message"]
        await head.call("POST", f"/saga/v1/workflows/{accepted['id']}/finish", {})
        status, answer, _ = await ask(head, accepted)
        assert (status, answer["error"]["code"]) == (409, "workflow_over")


async def test_calls_from_outside_form_workflows_by_their_own_names(head: HeadProcess) -> None:
    async with engine() as one, node(head, one.url):
        url, auth = (
            head.access.url + "/v1/chat/completions",
            {"Authorization": f"Bearer {head.access.api_key}"},
        )
        for _ in range(2):
            async with head.http.post(url, json=PROMPT, headers=auth | {"X-Session-ID": "s-1"}) as response:
                assert response.status == 200
        async with head.http.post(url, json=PROMPT, headers=auth) as response:
            assert response.status == 200
            assert "x-saga-session-id" not in response.headers
        final = auth | {"X-Session-ID": "s-1", "X-Saga-Session-Final": "1"}
        async with head.http.post(url, json=PROMPT, headers=final) as response:
            assert response.status == 200
        found = await view(head, 1)
        assert (found["name"], found["kind"], found["steps"], found["state"]) == ("s-1", "outside", 3, "done")


async def test_a_program_runs_with_its_own_endpoint(head: HeadProcess) -> None:
    async with engine() as one, node(head, one.url) as rig:
        spec = {"argv": ["agent", "--x"], "cwd": "/tmp", "env": {"MINE": "1"}}
        accepted = await workflow(head, kind="program", program=spec)
        await until(lambda: rig.saw(wire.RunProgram), "the node is asked to run it")
        want = rig.saw(wire.RunProgram)[0]
        assert (want.argv, want.cwd, want.env["MINE"]) == (["agent", "--x"], "/tmp", "1")
        assert want.env["OPENAI_BASE_URL"] == accepted["base_url"]
        assert want.env["OPENAI_API_KEY"] == accepted["api_key"]
        assert want.log == accepted["log"] == str(head.folder / "workflows" / "1.log")
        rig.programs = [wire.ProgramFact(workflow=want.workflow, attempt=1)]
        await rig.report()
        status, _, _ = await ask(head, accepted)
        assert status == 200
        rig.programs = [wire.ProgramFact(workflow=want.workflow, attempt=1, exited=True, exit_code=3)]
        await rig.report()
        await until(lambda: rig.saw(wire.ForgetProgram), "its end is recorded")
        found = await view(head, 1)
        assert (found["state"], found["exit_code"], found["reason"]) == ("failed", 3, "exit code 3")


async def test_kill_minus_nine_loses_no_accepted_workflow(head: HeadProcess) -> None:
    async with engine() as one, node(head, one.url) as rig:
        going = await workflow(head, name="going")
        program = await workflow(head, kind="program", program={"argv": ["a"], "cwd": "/"})
        assert (await ask(head, going))[0] == 200
        await until_kept(head, b"StepFinished")
        await until(lambda: rig.saw(wire.RunProgram), "the node is asked to run the program")
        rig.programs = [wire.ProgramFact(workflow=program["id"], attempt=1)]
        await rig.report()
        await until(lambda: len(rig.saw(wire.Ack)) >= 2, "acknowledged")
        await head.kill(signal.SIGKILL)
        rig.heard.clear()
        await head.start()
        await until(lambda: rig.saw(wire.WhoAreYou), "the new head asks who is there", 40)
        await until(lambda: rig.saw(wire.Welcome), "and takes the node in")
        status, answer, headers = await ask(head, going)
        assert status == 200, answer
        assert int(headers["x-request-id"].removeprefix("saga-")) > 1, "numbers are not given twice"
        assert (await view(head, going["id"]))["steps"] == 2
        found = await view(head, program["id"])
        assert found["state"] == "running"
        assert not rig.saw(wire.RunProgram), "a program that runs is not started again"


async def test_a_worker_lost_before_the_first_byte_is_replaced(head: HeadProcess) -> None:
    async with engine() as one, engine() as two, node(head, one.url, two.url) as rig:
        accepted = await workflow(head)
        _, _, first = await ask(head, accepted)
        dead = (one, two)[int(first["x-saga-worker"].rpartition("/")[2])]
        await dead.close()
        status, _, second = await ask(head, accepted)
        assert status == 200
        assert second["x-saga-worker"] != first["x-saga-worker"]
        text = await (await head.http.get(head.access.url + "/metrics")).text()
        assert "saga_steps_moved_total 1.0" in text
        assert 'saga_steps_total{outcome="done"} 2.0' in text
        assert rig.workers


async def test_a_stream_whose_worker_is_lost_goes_on_elsewhere(head: HeadProcess) -> None:
    async with engine() as one, engine() as two, node(head, one.url, two.url):
        said: list[str] = []
        for fault in (None, Fault(mode=Mode.CRASH_AFTER_CHUNKS, value=5)):
            accepted = await workflow(head)
            for server in (one, two) if fault else ():
                server.set_fault(fault)
                server._crash = functools.partial(crash, server, two if server is one else one)
            async with head.http.post(
                accepted["base_url"] + "/chat/completions",
                json={
                    "model": "m",
                    "stream": True,
                    "max_tokens": 40,
                    "messages": [{"role": "user", "content": "hi"}],
                },
                headers={"Authorization": f"Bearer {accepted['api_key']}"},
            ) as reply:
                step = reply.headers["x-request-id"].removeprefix("saga-")
                said.append(told(await reply.text()))
        assert said[0] == said[1]
        assert len(said[0].split()) == 40
        text = await (await head.http.get(head.access.url + "/metrics")).text()
        assert "saga_steps_resumed_total 1.0" in text
        assert 'saga_steps_total{outcome="done"} 2.0' in text
        _, why = await head.call("GET", f"/saga/v1/steps/{step}/explanation")
        lost, placed = why["decisions"][-2:]
        assert (lost["verdict"], placed["verdict"]) == ("lost", "let in")
        assert lost["worker"] != placed["worker"]
        assert "gone on with elsewhere" in lost["why"]
        assert "saga_steps_running 0.0" in text


def crash(ill: FakeServer, well: FakeServer) -> None:
    """One of them dies in its answer, and only one."""
    well.set_fault(Fault())
    ill._stop_in_place()


def told(stream: str) -> str:
    events = [json.loads(line[6:]) for line in stream.splitlines() if line.startswith("data: {")]
    return "".join(choice["delta"].get("content") or "" for event in events for choice in event["choices"])


async def test_a_silent_node_is_lost_and_its_steps_go_elsewhere(tmp_path: Path) -> None:
    settings: dict[str, object] = {"head.node_timeout_s": 0.5}
    hang = FakeServer(FakeConfig(models=("m",), api_key="k", fault=Fault(mode=Mode.HANG)))
    async with running_head(tmp_path, settings) as head, hang, engine() as well:
        quiet = RigNode(head.access, "n1")
        await quiet.serve(hang.url)
        accepted = await workflow(head)
        asking = asyncio.create_task(ask(head, accepted))
        async with node(head, well.url, name="n2"):
            status, _, headers = await asyncio.wait_for(asking, 20)
            assert status == 200
            assert headers["x-saga-worker"] == "n2/0"
            _, cluster = await head.call("GET", "/saga/v1/cluster")
            assert {n["id"]: n["state"] for n in cluster["nodes"]} == {"n1": "lost", "n2": "up"}
        await quiet.close()


async def test_cancelling_ends_the_steps_in_flight(head: HeadProcess) -> None:
    hang = FakeServer(FakeConfig(models=("m",), api_key="k", fault=Fault(mode=Mode.HANG)))
    async with hang, node(head, hang.url):
        accepted = await workflow(head)
        asking = asyncio.create_task(ask(head, accepted))
        await until_running(head, accepted["id"])
        status, found = await head.call("POST", f"/saga/v1/workflows/{accepted['id']}/cancel")
        assert (status, found["state"]) == (200, "cancelled")
        status, answer, _ = await asyncio.wait_for(asking, 10)
        assert status >= 400
        assert answer["error"]["message"]


async def until_kept(head: HeadProcess, fact: bytes) -> None:
    journal = head.folder / "journal" / "journal-00000000.log"
    await until(lambda: fact in journal.read_bytes(), f"{fact!r} is in the journal")


async def until_running(head: HeadProcess, number: int) -> None:
    for _ in range(500):
        if (await view(head, number))["running_steps"]:
            return
        await asyncio.sleep(0.02)
    raise AssertionError("no step is running")


async def test_a_full_disk_refuses_new_work_and_keeps_the_old(head: HeadProcess) -> None:
    async with engine() as one, node(head, one.url):
        accepted = await workflow(head)
        size = (head.folder / "journal" / "journal-00000000.log").stat().st_size
        old = resource.prlimit(head.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        status, answer = await head.call("POST", "/saga/v1/workflows", {"kind": "replay"})
        assert status == 503
        assert "journal-00000000.log" in answer["error"]["message"]
        assert (await ask(head, accepted))[0] == 200, "what was accepted goes on"
        resource.prlimit(head.pid, resource.RLIMIT_FSIZE, old)
        for _ in range(100):
            status, answer = await head.call("POST", "/saga/v1/workflows", {"kind": "replay"})
            if status == 201:
                break
            await asyncio.sleep(0.05)
        assert status == 201
        await head.kill(signal.SIGKILL)
        await head.start()
        _, listed = await head.call("GET", "/saga/v1/workflows?all=1")
        assert [w["steps"] for w in listed if w["id"] == accepted["id"]] == [1]
        assert [w["state"] for w in listed if w["id"] == 2] == ["cancelled"], "the refused one is over"


async def test_strangers_and_garbage_change_nothing(head: HeadProcess) -> None:
    stranger = RigNode(head.access, "evil", secret="stranger")
    await stranger.hello()
    async with engine() as one, node(head, one.url) as rig:
        for data in (b"", b"\xff" * 100, b"\x81\xa4type\xa3Foo", os.urandom(2000)):
            await rig.raw(data)
        late = RigNode(head.access, "n9")
        await late.hello(protocol=99)
        await until(lambda: late.saw(wire.Refused), "an old protocol is refused")
        assert "speaks protocol 99" in late.saw(wire.Refused)[0].reason
        await late.close()
        _, cluster = await head.call("GET", "/saga/v1/cluster")
        assert [n["id"] for n in cluster["nodes"]] == ["n1"]
    assert not stranger.heard
    await stranger.close()


async def test_down_stops_the_nodes_first(head: HeadProcess) -> None:
    rig = RigNode(head.access)
    await rig.serve()
    status, _ = await head.call("POST", "/saga/v1/shutdown", {})
    assert status == 202
    await until(lambda: rig.saw(wire.Shutdown), "the node is told")
    await rig.say(wire.Goodbye(node=rig.id, incarnation=rig.incarnation, reason="told to"))
    assert head.process is not None
    assert await asyncio.wait_for(head.process.wait(), 20) == 0
    assert not (head.folder / "access.json").exists()
    await rig.close()


async def test_profiles_change_while_running(head: HeadProcess) -> None:
    async with engine() as one, engine() as two, node(head, one.url, two.url) as rig:
        status, _ = await head.call("PUT", "/saga/v1/profile", {"profile": "round-robin"})
        assert status == 200
        accepted = await workflow(head)
        went = [(await ask(head, accepted))[2]["x-saga-worker"] for _ in range(4)]
        assert went == ["n1/0", "n1/1", "n1/0", "n1/1"]
        assert all(w.state is WorkerState.READY for w in rig.workers)
        await until_kept(head, b"ProfileChanged")
        await head.kill(signal.SIGKILL)
        await head.start()
        assert (await head.call("GET", "/saga/v1/cluster"))[1]["profile"] == "round-robin"
