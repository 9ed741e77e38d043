"""Who is calling, on a head: roots of sub-agents, conversations that nobody names, responses, and what is said of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from head_rig import HeadProcess, RigNode, running_head, until

from saga_fake.config import FakeConfig
from saga_fake.server import FakeServer


@pytest.fixture
async def head(tmp_path: Path) -> AsyncIterator[HeadProcess]:
    engine = FakeServer(FakeConfig(models=("m",), api_key="k", speed=200.0, reply_tokens=8))
    async with running_head(tmp_path) as found, engine:
        node = RigNode(found.access)
        await node.serve(engine.url)
        reports = asyncio.create_task(node.reporting())
        try:
            yield found
        finally:
            reports.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reports
            await node.close()


async def ask(
    head: HeadProcess,
    path: str = "/v1/chat/completions",
    base: str = "",
    headers: dict[str, str] | None = None,
    **body: Any,
) -> tuple[dict, str]:
    url = (base.removesuffix("/v1") or head.access.url) + path
    told = {"Authorization": f"Bearer {head.access.api_key}"} | (headers or {})
    async with head.http.post(url, json={"model": "m"} | body, headers=told) as reply:
        assert reply.status == 200, await reply.text()
        return await reply.json(), reply.headers["x-saga-identity"]


async def workflows(head: HeadProcess) -> dict[str, dict]:
    return {w["name"]: w for w in (await head.call("GET", "/saga/v1/workflows"))[1]}


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


async def test_sub_agents_count_towards_their_root(head: HeadProcess) -> None:
    for session, parent in (("root", ""), ("child", "root"), ("grandchild", "child"), ("child", "")):
        headers = {"x-session-id": session} | ({"x-parent-session-id": parent} if parent else {})
        await ask(head, headers=headers, messages=[user("hi")])
    found = await workflows(head)
    assert found.keys() == {"root"}
    one = (await head.call("GET", f"/saga/v1/workflows/{found['root']['id']}"))[1]
    assert [s["id"].partition(".")[2] for s in one["sessions"]] == ["main", "child", "grandchild"]
    assert [s["steps"] for s in one["sessions"]] == [1, 2, 1]
    assert {s["rule"] for s in one["sessions"]} == {"x-session-id"}


@pytest.mark.parametrize("padding", [0, 40_000])
async def test_a_conversation_that_nobody_names(head: HeadProcess, padding: int) -> None:
    prompt = [user("fix the bug " + "x " * (padding // 40) + "y" * padding)]
    reply, rule = await ask(head, messages=prompt)
    assert rule == "none"
    for _ in range(2):
        prompt += [reply["choices"][0]["message"], user("go on")]
        reply, rule = await ask(head, messages=prompt)
        assert rule == "content"
    ((name, one),) = (await workflows(head)).items()
    assert (name.startswith("content-"), one["steps"]) == (True, 2)
    assert reply["usage"]["prompt_tokens_details"]["cached_tokens"] > 0
    text = (await head.http.get(f"{head.access.url}/metrics")).text
    assert 'saga_steps_identified_total{rule="content"} 2.0' in await text()
    explained = (await head.call("GET", f"/saga/v1/workflows/{one['id']}/explanation"))[1]
    assert explained["workflow"]["sessions"][0]["rule"] == "content"


async def test_a_client_that_leaves_while_its_prompt_is_read_leaves_nothing(head: HeadProcess) -> None:
    body = {"model": "m", "messages": [user("z" * 900_000)]}
    headers = {"Authorization": f"Bearer {head.access.api_key}"}
    for _ in range(5):
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(
                head.http.post(f"{head.access.url}/v1/chat/completions", json=body, headers=headers), 0.02
            )
    running = "saga_steps_running 0.0"

    async def quiet() -> bool:
        return running in await (await head.http.get(f"{head.access.url}/metrics")).text()

    seen = [False]

    async def watch() -> None:
        while not seen[0]:
            seen[0] = await quiet()

    watching = asyncio.create_task(watch())
    await until(lambda: seen[0], "no step is left")
    await watching


async def test_within_a_workflow_by_token_conversations_are_sessions(head: HeadProcess) -> None:
    accepted = (await head.call("POST", "/saga/v1/workflows", {"kind": "replay"}))[1]
    base, tools = accepted["base_url"], [{"type": "function", "function": {"name": "bash"}}]
    grown = [user("a"), {"role": "assistant", "content": "an answer"}, user("more")]
    rules = [
        (await ask(head, "/v1/chat/completions", base, messages=messages, tools=tools))[1]
        for messages in ([user("a")], [user("b")], grown)
    ]
    assert rules == ["token+content"] * 3
    one = (await head.call("GET", f"/saga/v1/workflows/{accepted['id']}"))[1]
    assert [s["steps"] for s in one["sessions"]] == [2, 1]
    assert one["sessions"][0]["id"].endswith(".main")


async def test_responses_that_continue_each_other_are_one_workflow(head: HeadProcess) -> None:
    first, rule = await ask(head, "/v1/responses", input="one")
    assert rule == "none"
    names = []
    for text in ("two", "three"):
        first, rule = await ask(head, "/v1/responses", input=text, previous_response_id=first["id"])
        names.append(rule)
    assert names == ["body.previous_response_id"] * 2
    ((_, one),) = (await workflows(head)).items()
    assert one["steps"] == 2
    stored = await head.call("GET", f"/v1/responses/{first['id']}", key=head.access.api_key)
    assert (stored[0], stored[1]["id"]) == (200, first["id"])
    assert (await head.call("DELETE", f"/v1/responses/{first['id']}", key=head.access.api_key))[0] == 200
    assert (await head.call("GET", f"/v1/responses/{first['id']}", key=head.access.api_key))[0] == 404
    assert (await head.call("GET", f"/v1/responses/{first['id']}", key="wrong"))[0] == 401


async def test_counting_and_embedding_are_nobodys_steps(head: HeadProcess) -> None:
    headers = {"x-session-id": "s"}
    counted, _ = await ask(head, "/v1/messages/count_tokens", headers=headers, messages=[user("hi")])
    assert counted["input_tokens"] > 0
    await ask(head, "/v1/embeddings", headers=headers, input="hi")
    assert await workflows(head) == {}


async def test_a_deadline_in_the_agentic_context_counts(head: HeadProcess) -> None:
    context = {"agentic_context": {"program_id": "p", "deadline_seconds": 500}}
    _, rule = await ask(head, messages=[user("hi")], vllm_xargs=context)
    assert rule == "agentic-context"
    slack_s = (await workflows(head))["p"]["slack_s"]
    assert 0 < slack_s <= 500


@pytest.mark.parametrize("path", ["/finish_session", "/programs/release"])
async def test_who_says_that_it_is_over_ends_its_workflow_and_nobody_elses(
    head: HeadProcess, path: str
) -> None:
    flow = {"x-llm-d-inference-fairness-id": "flow"}
    assert (await ask(head, headers=flow, messages=[user("hi")]))[1] == "llm-d"
    kin = {"x-session-id": "child", "x-parent-session-id": "root"}
    for headers in ({"x-session-id": "root"}, kin):
        await ask(head, headers=headers, messages=[user("hi")])

    async def end(key: str, headers: dict[str, str] | None = None, **said: str) -> tuple[int, dict]:
        told = {"Authorization": f"Bearer {key}"} | (headers or {})
        async with head.http.post(head.access.url + path, json=said, headers=told) as reply:
            return reply.status, await reply.json()

    key = head.access.api_key
    assert (await end("sk-wrong", session_id="root"))[0] == 401
    assert (await end(key))[0] == 400
    status, told = await end(key, session_id="child")
    assert (status, told["ended"]) == (200, False)
    assert "part of 'root'" in told["reason"]
    assert {w["state"] for w in (await workflows(head)).values()} == {"tool"}, "nothing ended"
    assert (await end(key, program_id="root"))[1]["ended"]
    assert (await end(key, headers=flow))[1]["ended"]
    assert not (await end(key, program_id="root"))[1]["ended"], "it is over already"
    assert not await workflows(head), "none lives"
