"""Whatever the OpenAPI document allows, and what it does not, is answered as the document says: schemathesis against a
real head with an engine double. And a storm of streams that are left: nothing stays behind, and nobody gets another's."""

import asyncio
import json
import resource
from pathlib import Path

import aiohttp
import psutil
import schemathesis
from head_rig import HeadProcess, engine, node, running_head, until, workflow
from hypothesis import HealthCheck, Phase, given, settings
from msgspec.structs import replace
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from saga_fake.config import FakeConfig
from saga_fake.engine import EngineShape
from saga_fake.server import FakeServer
from saga_head.gateway.refusals import APIS

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
EXAMPLES = 9
"""Of each operation and mode: some 160 requests in all."""
COUNTS = ("saga_steps_running", "saga_steps_waiting")
STREAMS = 1000


async def test_the_document_lists_what_is_routed(tmp_path: Path) -> None:
    async with running_head(tmp_path) as head:
        status, document = await head.call("GET", "/openapi.json", key="")
    assert (status, document["openapi"]) == (200, "3.1.0")
    posts = {path for path, item in document["paths"].items() if "post" in item}
    assert posts == {*APIS, "/finish_session", "/programs/release"}
    rest = {path for path, item in document["paths"].items() if "post" not in item}
    assert rest == {
        "/health", "/metrics", "/openapi.json", "/v1/models", "/v1/models/{model}", "/v1/responses/{id}",
    }  # fmt: skip
    assert "security" not in document["paths"]["/finish_session"]["post"], "as for everything: a key"
    assert document["paths"]["/metrics"]["get"]["security"] == []
    assert set(document["paths"]["/v1/responses/{id}"]) == {"get", "delete"}
    fields = document["components"]["schemas"]["StepRequest"]
    assert fields["required"] == ["model"]
    assert {"messages", "stream", "session_id", "nvext"} <= fields["properties"].keys()


async def test_what_the_document_allows_is_answered_as_it_says(tmp_path: Path) -> None:
    async with engine(speed=10_000.0) as double, running_head(tmp_path) as head, node(head, double.url):
        _, document = await head.call("GET", "/openapi.json", key="")
        before = psutil.Process(head.pid).num_fds()
        # So that requests reach the worker too: of names made up, none is a model's.
        known = json.loads(json.dumps(document))
        known["components"]["schemas"]["StepRequest"]["properties"]["model"] = {"const": "m"}
        await asyncio.to_thread(_fuzz, known, head.access.url, head.access.api_key, GenerationMode.POSITIVE)
        await asyncio.to_thread(
            _fuzz, document, head.access.url, head.access.api_key, GenerationMode.NEGATIVE
        )
        await _quiet(head, before)


def _fuzz(document: dict, url: str, key: str, mode: GenerationMode) -> None:
    for found in schemathesis.openapi.from_dict(document).get_all_operations():
        operation = found.ok()
        if operation.body or mode is GenerationMode.POSITIVE:
            _fuzz_one(operation, mode, url, key)


def _fuzz_one(operation, mode: GenerationMode, url: str, key: str) -> None:
    @settings(
        max_examples=EXAMPLES, deadline=None, derandomize=True, database=None,
        phases=[Phase.generate], suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(case=operation.as_strategy(generation_mode=mode))
    def answered(case) -> None:
        case.call_and_validate(
            base_url=url, headers={"authorization": f"Bearer {key}"}, checks=CHECKS, timeout=20
        )

    answered()


async def _quiet(head: HeadProcess, fds: int) -> None:
    """Nothing of what was asked is left: no step, and no descriptor beyond those kept for a while."""
    figures: dict[str, float] = {}

    async def look() -> bool:
        async with head.http.get(f"{head.access.url}/metrics") as reply:
            lines = [line.split() for line in (await reply.text()).splitlines()]
        figures.update({name: float(value) for name, value, *_ in lines if name in COUNTS})
        return not (figures["saga_steps_running"] or figures["saga_steps_waiting"])

    for _ in range(400):
        if await look() and psutil.Process(head.pid).num_fds() <= fds + 4:
            return
        await asyncio.sleep(0.05)
    raise AssertionError(
        f"left: {figures['saga_steps_running']} steps, {psutil.Process(head.pid).num_fds() - fds} fds"
    )


async def test_a_thousand_streams_most_of_them_left_leave_nothing_and_mix_nothing(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 16384), hard))
    try:
        # All decode at one time, in steps of half a second: who leaves, leaves in the midst of an answer.
        shape = EngineShape(max_num_seqs=STREAMS, blocks=16 * STREAMS, step_tokens=65536)
        crowded = FakeServer(FakeConfig(models=("m",), api_key="k", speed=4.0, shape=shape))
        async with crowded as double, running_head(tmp_path) as head, node(head, double.url) as rig:
            rig.workers = [replace(w, capacity_tokens=10**8, max_seqs=STREAMS) for w in rig.workers]
            await rig.report()
            given = [await workflow(head) for _ in range(4)]
            before = psutil.Process(head.pid).num_fds()
            ends = await asyncio.wait_for(_storm(head, given), 60)
            stayed = [number for number in range(STREAMS) if _stays(number)]
            assert [number for number, text in enumerate(ends) if text is not None] == stayed
            await until(lambda: not double.engine.running, "the engine has nothing left to do")
            await _quiet(head, before)
            for place, one in enumerate(given):
                _, seen = await head.call("GET", f"/saga/v1/workflows/{one['id']}")
                assert seen["steps"] == sum(number % 4 == place for number in stayed)
            for number in stayed[::80]:  # what a prompt is answered with depends on it alone
                assert ends[number] == await _asked_alone(double, number)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _stays(number: int) -> bool:
    return number // 4 % 4 == 0


def _body(number: int) -> dict:
    prompt = [{"role": "user", "content": f"stream {number}"}]
    most = 6 if _stays(number) else 3000
    return {"model": "m", "stream": True, "max_tokens": most, "messages": prompt}


def _text(stream: str) -> str:
    """What was said in a whole stream."""
    events = [line[6:] for line in stream.splitlines() if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    return "".join(c["delta"].get("content") or "" for e in events[:-1] for c in json.loads(e)["choices"])


async def _asked_alone(double: FakeServer, number: int) -> str:
    url, key = f"{double.url}/v1/chat/completions", {"authorization": "Bearer k"}
    async with aiohttp.ClientSession() as http, http.post(url, json=_body(number), headers=key) as reply:
        return _text(await reply.text())


async def _storm(head: HeadProcess, given: list[dict]) -> list[str | None]:
    """All streams open at one time; then three of four are left at once, the others read to their ends."""
    opened, go = 0, asyncio.Event()

    async def one(http: aiohttp.ClientSession, number: int) -> str | None:
        nonlocal opened
        whose = given[number % 4]
        url, headers = f"{whose['base_url']}/chat/completions", {"x-saga-session-id": f"s{number}"}
        async with http.post(url, json=_body(number), headers=headers) as reply:
            opened += 1
            if opened == STREAMS:
                go.set()
            assert reply.status == 200
            assert reply.headers["x-saga-session-id"] == f"{whose['id']}.s{number}"
            await go.wait()
            if _stays(number):
                return _text(await reply.text())
            reply.close()
            return None

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as http:
        return list(await asyncio.gather(*(one(http, number) for number in range(STREAMS))))
