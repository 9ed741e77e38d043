"""What the gateway reads of tools and prompts while bytes pass, and what it writes into a body."""

import json

import pytest
from gateway_rig import SSE_END, SSE_HEAD, USAGE, Line, Request, chunk, event, gateway_rig, json_reply, post

from saga_head.gateway.asked import asked_of
from saga_head.gateway.body import decode_fields
from saga_head.gateway.port import OPENING_BYTES, Fields
from saga_head.gateway.prefix import prefix_of

CHAT = "/v1/chat/completions"
TOOLS = [{"type": "function", "function": {"name": "bash", "parameters": {}}}]
HI = [{"role": "user", "content": "hi"}]


def body(**more: object) -> bytes:
    return json.dumps({"model": "m", "messages": HI, **more}).encode()


def called(name: str, arguments: str = "{}") -> dict[str, object]:
    function = {"name": name, "arguments": arguments}
    return {"tool_calls": [{"id": "chatcmpl-tool-1", "type": "function", "index": 0, "function": function}]}


def answer(message: dict[str, object], finish: str) -> bytes:
    """As vLLM answers: the message before the usage, compact or not."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": None, **message},
        "finish_reason": finish,
    }
    return json.dumps({"id": "c", "object": "chat.completion", "choices": [choice], "usage": USAGE}).encode()


def delta(part: dict[str, object], finish: str | None = None) -> bytes:
    piece = {"id": "c", "choices": [{"index": 0, "delta": part, "finish_reason": finish}]}
    return chunk(b"data: " + json.dumps(piece, separators=(",", ":")).encode() + b"\n\n")


async def tool_of(reply: bytes | list[bytes], request: bytes, *, split: int = 0) -> str:
    """What the scheduler is told that `reply` asks for."""

    async def send(line: Line, _: Request) -> None:
        if isinstance(reply, bytes):
            await line.send(json_reply(reply))
            return
        await line.send(SSE_HEAD)
        for part in reply:
            await line.send(part)

    async with gateway_rig() as rig:
        rig.worker.answer = send
        status, _, _ = await rig.ask(post(request))
        assert status == 200
        return rig.scheduler.results[1].tool


LONG = json.dumps({"text": 'x "name": "evil" ' * 2000})


@pytest.mark.parametrize(
    ("reply", "tool"),
    [
        (answer(called("bash"), "tool_calls"), "bash"),
        (answer(called("edit", LONG), "tool_calls"), "edit"),
        (answer({"content": "done"}, "stop"), "-"),
        (answer({"content": "done", "tool_calls": []}, "stop"), "-"),
        (answer({"content": "cut o"}, "length"), ""),
        (answer({"content": '"tool_calls":[{"function":{"name":"evil"}}]'}, "stop"), "-"),
        (answer(called("a b-ü"), "tool_calls"), ""),  # escaped in JSON: not worth unescaping
        ([delta({"content": "I "}), delta(called("bash", "")), delta({}, "tool_calls"), SSE_END], "bash"),
        (
            [
                delta(called("edit", "")),
                *[delta({"content": "x" * 100})] * 60,
                delta({}, "tool_calls"),
                SSE_END,
            ],
            "edit",
        ),
        ([event("hello"), delta({}, "stop"), event("", USAGE), SSE_END], "-"),
    ],
)
async def test_the_tool_that_an_answer_asks_for_is_read_in_passing(reply, tool) -> None:
    assert await tool_of(reply, body(tools=TOOLS)) == tool


@pytest.mark.parametrize("tools", [{}, {"tools": None}, {"tools": []}])
async def test_who_offers_no_tools_is_not_searched_for_one(tools) -> None:
    assert await tool_of(answer(called("bash"), "tool_calls"), body(**tools)) == ""


@pytest.mark.parametrize(
    ("api", "data", "tool"),
    [
        (
            "/v1/messages",
            b'{"content_block":{"type":"tool_use","id":"toolu_1","name":"bash","input":{}}}',
            "bash",
        ),
        ("/v1/messages", b'{"stop_reason":"end_turn","usage":{}}', "-"),
        (
            "/v1/responses",
            b'{"type":"function_call","id":"fc_1","call_id":"call_1","name":"bash","arguments":""}',
            "bash",
        ),
    ],
)
def test_the_other_apis_say_it_in_their_own_words(api, data, tool) -> None:
    asked = asked_of(api, offered=True)
    assert asked is not None
    asked.read(data)
    assert asked.close(data) == tool


def test_a_name_torn_in_two_is_found_at_the_end_or_not_at_all() -> None:
    data = answer(called("bash"), "tool_calls")
    place = data.index(b'"bash"') + 3
    asked = asked_of(CHAT, offered=True)
    assert asked is not None
    assert not asked.read(data[:place])
    assert not asked.read(data[place:])
    assert asked.close(data[-2048:]) == "bash"
    assert asked.close(b"") == "bash"
    assert asked_of("/v1/completions", offered=True) is None


# -- what a prompt begins with ---------------------------------------------------------------


def prefix(**more: object) -> str:
    fields = decode_fields(body(**more))
    assert isinstance(fields, Fields)
    return prefix_of(fields)


SYSTEM = {"role": "system", "content": 'You are "careful".\n},{"role": "x"'}


def test_calls_of_one_program_have_one_prefix() -> None:
    first = prefix(messages=[SYSTEM, *HI], tools=TOOLS)
    assert len(first) == 16
    assert first == prefix(messages=[SYSTEM, {"role": "user", "content": "else"}, *HI], tools=TOOLS)
    assert first == prefix(messages=[SYSTEM], tools=TOOLS)
    assert first != prefix(messages=[{**SYSTEM, "content": "You are bold."}, *HI], tools=TOOLS)
    assert first != prefix(messages=[SYSTEM, *HI])
    assert first != prefix(messages=[SYSTEM, *HI], tools=TOOLS, model="other")
    assert prefix() == prefix(messages=[{"role": "user", "content": "what else"}])
    assert prefix(system="You are bold.") != prefix() != prefix(instructions="You are bold.")


def test_only_the_beginning_of_a_prompt_is_kept() -> None:
    """A waiting call must not keep a long body alive twice, nor a prefix depend on its end."""
    long = "x" * 2 * OPENING_BYTES
    fields = decode_fields(body(messages=[{"role": "system", "content": long}, *HI], tools=[long]))
    assert isinstance(fields, Fields)
    assert len(bytes(fields.messages)) == len(bytes(fields.tools)) == OPENING_BYTES
    assert prefix(messages=[{"role": "system", "content": long + "a"}]) == prefix(
        messages=[{"role": "system", "content": long + "b"}]
    )


# -- priority --------------------------------------------------------------------------------


@pytest.mark.parametrize("own", [{}, {"priority": -7}])
@pytest.mark.parametrize("size", [1, 50_000])
@pytest.mark.parametrize("space", [b"", b" \n"])
async def test_a_priority_takes_the_place_of_the_clients(own, size, space) -> None:
    sent = body(messages=[{"role": "user", "content": "}" * size}], **own)
    async with gateway_rig() as rig:
        rig.scheduler.target = rig.worker.target(priority=1700000000123)
        assert (await rig.ask(post(sent + space)))[0] == 200
        got = rig.worker.requests[0]
    assert json.loads(got.body) == json.loads(sent) | {"priority": 1700000000123}
    assert int(got.headers[b"content-length"]) == len(got.body)


@pytest.mark.parametrize(("path", "priority"), [(CHAT, None), ("/v1/embeddings", 5), ("/v1/messages", 5)])
async def test_without_one_the_body_passes_as_it_came(path, priority) -> None:
    sent = body(priority=3, nvext={"agent_hints": {"osl": 9, "later": [1]}, "annotations": ["a"]})
    async with gateway_rig() as rig:
        rig.scheduler.target = rig.worker.target(priority=priority)
        await rig.ask(post(sent, path=path))
        assert rig.worker.requests[0].body == sent


async def test_a_step_that_goes_elsewhere_takes_the_priority_of_its_new_place() -> None:
    dies = True

    async def send(line: Line, _: Request) -> None:
        nonlocal dies
        if dies:
            dies = False
            line.kill()
        else:
            await line.send(json_reply())

    async with gateway_rig() as rig:
        rig.worker.answer = send
        rig.scheduler.target = rig.worker.target(priority=5)

        def again(exchange, _: str) -> bool:
            exchange.dispatch(rig.worker.target(priority=6))
            return True

        rig.scheduler.on_lost = again
        assert (await rig.ask(post(body())))[0] == 200
        assert [json.loads(request.body)["priority"] for request in rig.worker.requests] == [5, 6]
