"""An engine that is not ready for an adoption is asked again, for a while, and each order is answered once."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
from aiohttp import web

from saga_core.ids import NodeId, SessionId, WorkerId
from saga_core.kv import commands
from saga_core.wire import Half, MoveHalf
from saga_node import mover
from saga_vllm.control import Control

WANT = MoveHalf(
    head=1, move=7, half=Half.ADOPT, worker=WorkerId("n1/0"), incarnation=3, session=SessionId("5.main"),
    other=NodeId("n2"),
)  # fmt: skip
BUSY = commands.Failed(reason="blocks are on their way to host memory", again=True)
MOVED = commands.Moved(tokens=320, copied_bytes=4096)


@pytest.fixture
async def engine():
    """`answers`: what it says next, the last one for good; `asked`: how often it was."""
    state = SimpleNamespace(answers=[MOVED], asked=0)

    async def answer(request: web.Request) -> web.Response:
        state.asked += 1
        word = state.answers.pop(0) if len(state.answers) > 1 else state.answers[0]
        return web.Response(body=commands.encode(word))

    app = web.Application()
    app.router.add_post(commands.PATH, answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    state.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield state
    await runner.cleanup()


async def adopted(engine, tmp_path, answers, *, lost_after=10):
    """What the head is told of one adoption; the worker is gone after being looked for `lost_after` times."""
    engine.answers = list(answers)
    told, looked = asyncio.Queue(), 0

    async with Control(engine.url, "k", WANT.incarnation) as control:

        def find(worker: WorkerId, incarnation: int) -> Control | None:
            nonlocal looked
            looked += 1
            return control if (worker, incarnation) == ("n1/0", 3) and looked <= lost_after else None

        moving = mover.Mover(NodeId("n1"), tmp_path, SimpleNamespace(folder=tmp_path), find, told.put_nowait)
        moving.move(WANT)
        answer = await asyncio.wait_for(told.get(), 10.0)
        await moving.close()
    assert told.empty()
    return answer


async def test_an_engine_that_says_ask_again_is_asked_again(engine, tmp_path):
    answer = await adopted(engine, tmp_path, [BUSY, BUSY, MOVED])
    assert (answer.reason, answer.tokens, answer.copied_bytes) == ("", 320, 4096)
    assert engine.asked == 3


async def test_not_for_ever(engine, tmp_path, monkeypatch):
    monkeypatch.setattr(mover, "AGAIN_S", (0.0, 0.0))
    answer = await adopted(engine, tmp_path, [BUSY])
    assert BUSY.reason in answer.reason
    assert engine.asked == 3


async def test_a_refusal_for_good_is_believed_at_once(engine, tmp_path):
    answer = await adopted(engine, tmp_path, [commands.Failed(reason="another layout"), MOVED])
    assert "another layout" in answer.reason
    assert engine.asked == 1


async def test_the_next_incarnation_is_not_asked(engine, tmp_path):
    answer = await adopted(engine, tmp_path, [BUSY, MOVED], lost_after=1)
    assert "is not there" in answer.reason
    assert engine.asked == 1
