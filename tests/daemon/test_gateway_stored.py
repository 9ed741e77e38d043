"""Responses that continue others: kept by the gateway, sent whole, found by their own tenant alone, bounded."""

import json
from typing import Any

import pytest
from gateway_rig import SSE_HEAD, Line, Request, Rig, chunk, gateway_rig, json_reply, post
from hypothesis import given
from hypothesis import strategies as st

from saga_core.events import Outcome
from saga_head.gateway.port import Caller
from saga_head.gateway.stored import REPLY_BYTES, ResponseStore, Stored


def response(name: str, text: str, status: str = "completed") -> dict[str, Any]:
    content = [{"type": "output_text", "text": text, "annotations": []}]
    message = {
        "type": "message",
        "id": f"msg_{name}",
        "role": "assistant",
        "content": content,
        "status": status,
    }
    usage = {"input_tokens": 9, "output_tokens": 2, "input_tokens_details": {"cached_tokens": 4}}
    return {"id": name, "object": "response", "status": status, "output": [message], "usage": usage}


class Speaker:
    """A worker that answers `resp_1`, `resp_2`, …, streamed or not."""

    def __init__(self) -> None:
        self.count = 0
        self.status = "completed"

    async def __call__(self, line: Line, request: Request) -> None:
        self.count += 1
        said = response(f"resp_{self.count}", f"answer {self.count}", self.status)
        if not json.loads(request.body).get("stream"):
            await line.send(json_reply(json.dumps(said).encode()))
            return
        last = f"event: response.{self.status}\ndata: " + json.dumps(
            {"type": f"response.{self.status}", "response": said}
        )
        data = b'event: response.created\ndata: {"type":"response.created"}\n\n' + last.encode() + b"\n\n"
        await line.send(
            SSE_HEAD + b"".join(chunk(data[at : at + 40]) for at in range(0, len(data), 40)) + b"0\r\n\r\n"
        )


async def ask(rig: Rig, given: Any, version: str = "1.1", **more: Any) -> tuple[int, Any]:
    body = json.dumps({"model": "m", "input": given} | more).encode()
    status, _, reply = await rig.ask(post(body, path="/v1/responses", version=version))
    await rig.quiet()
    return status, reply


def sent(rig: Rig) -> Any:
    return json.loads(rig.worker.requests[-1].body)


@pytest.mark.parametrize(("stream", "version"), [(False, "1.1"), (True, "1.1"), (True, "1.0")])
async def test_a_response_is_continued_with_all_that_led_to_it(stream: bool, version: str) -> None:
    async with gateway_rig() as rig:
        rig.worker.answer = Speaker()
        await ask(rig, "one", version, stream=stream)
        assert rig.scheduler.results[1].response == "resp_1"
        await ask(
            rig, [{"role": "user", "content": "two"}], version, stream=stream, previous_response_id="resp_1"
        )
        await ask(rig, "three", version, stream=stream, previous_response_id="resp_2", temperature=0.5)
        body = sent(rig)
        assert "previous_response_id" not in body
        assert body["temperature"] == 0.5
        assert [item.get("id") or item["content"] for item in body["input"]] == [
            "one", "msg_resp_1", "two", "msg_resp_2", "three",
        ]  # fmt: skip
        assert rig.scheduler.calls[2].fields.previous_response_id == "resp_2"


async def test_branches_share_their_beginning() -> None:
    async with gateway_rig() as rig:
        rig.worker.answer = Speaker()
        for name in ("one", "two", "three"):
            before = {} if name == "one" else {"previous_response_id": "resp_1"}
            await ask(rig, name, **before)
        assert [item.get("id") or item["content"] for item in sent(rig)["input"]] == [
            "one",
            "msg_resp_1",
            "three",
        ]


async def test_what_is_not_to_be_stored_is_not() -> None:
    async with gateway_rig() as rig:
        rig.worker.answer = Speaker()
        await ask(rig, "one", store=False)
        assert rig.scheduler.results[1].response == ""
        status, reply = await ask(rig, "two", previous_response_id="resp_1")
        assert (status, json.loads(reply)["error"]["code"]) == (400, "previous_response_not_found")
        assert json.loads(reply)["error"]["param"] == "previous_response_id"
        assert len(rig.worker.requests) == 1


async def test_another_tenant_finds_nothing() -> None:
    async with gateway_rig() as rig:
        rig.worker.answer = Speaker()
        await ask(rig, "one")
        rig.scheduler.authenticate = lambda token, bearer: Caller("other", None)  # type: ignore[method-assign]
        assert (await ask(rig, "two", previous_response_id="resp_1"))[0] == 400


@pytest.mark.parametrize("status", ["failed", "in_progress"])
async def test_what_did_not_end_well_cannot_be_continued(status: str) -> None:
    async with gateway_rig() as rig:
        speaker = rig.worker.answer = Speaker()
        speaker.status = status
        await ask(rig, "one")
        assert (rig.scheduler.outcomes, len(rig.gateway.responses)) == ([Outcome.DONE], 0)


async def test_a_reply_that_is_too_long_is_passed_on_and_not_kept() -> None:
    async def long(line: Line, request: Request) -> None:
        await line.send(json_reply(json.dumps(response("resp_1", "x" * REPLY_BYTES)).encode()))

    async with gateway_rig() as rig:
        rig.worker.answer = long
        status, reply = await ask(rig, "one")
        assert (status, len(reply) > REPLY_BYTES, len(rig.gateway.responses)) == (200, True, 0)


@pytest.mark.parametrize("given", [5, None, {"a": 1}])
async def test_odd_input_is_for_the_worker_to_refuse(given: Any) -> None:
    async with gateway_rig() as rig:
        assert (await ask(rig, given))[0] == 200
        assert sent(rig)["input"] == given


@given(
    st.lists(
        st.tuples(st.integers(0, 1), st.integers(0, 12), st.integers(0, 12), st.integers(0, 300)), max_size=40
    )
)
def test_the_store_is_bounded_and_a_conversation_whole_or_unknown(
    steps: list[tuple[int, int, int, int]],
) -> None:
    store = ResponseStore(limit_bytes=2000)
    for tenant, name, before, size in steps:
        known = before < name and store.conversation(str(tenant), str(before)) is not None
        stored = Stored(str(before) if known else None, b"%d" % name + b" " * size, b'{"id":"x"}')
        store.keep(str(tenant), str(name), stored)
        assert store.held_bytes == sum(found.size_bytes for found in store._all.values()) <= 2000
        told = store.conversation(str(tenant), str(name))
        assert told is None or told[-1].split()[0] == b"%d" % name
    for tenant, name in list(store._all):
        store.forget(tenant, name)
    assert (store.held_bytes, len(store)) == (0, 0)
