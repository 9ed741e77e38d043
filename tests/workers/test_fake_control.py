"""Session control of the engine double, by the daemon's own client."""

import aiohttp
import pytest

from saga_core.kv import commands
from saga_core.kv.retention import OVER, Standing
from saga_fake.config import FakeConfig
from saga_fake.engine import EngineShape
from saga_fake.server import FakeServer
from saga_vllm.control import Control, NoControl

KEY = "k"
BLOCK = 32
POOL = 64


@pytest.fixture
async def fake():
    shape = EngineShape(max_model_len_tokens=2000, block_tokens=BLOCK, blocks=POOL + 1)
    config = FakeConfig(api_key=KEY, speed=float("inf"), shape=shape, incarnation=5, models=("m",))
    async with FakeServer(config) as server:
        yield server


@pytest.fixture
async def control(fake):
    async with Control(fake.url, KEY, 5) as found:
        yield found


async def step(fake, session, prompt):
    body = {"model": "m", "prompt": prompt, "max_tokens": 1, "ignore_eos": True}
    headers = {"Authorization": f"Bearer {KEY}", "X-Session-ID": session}
    async with (
        aiohttp.ClientSession(fake.url, headers=headers) as http,
        http.post("/v1/completions", json=body) as answer,
    ):
        assert answer.status == 200, await answer.text()
        return (await answer.json())["usage"]["prompt_tokens_details"]["cached_tokens"]


async def others(fake, tokens):
    for number in range(tokens // 640):
        await step(fake, f"{number}.other", [number] * 640)


async def test_what_is_retained_survives_and_what_is_dropped_is_gone(fake, control):
    prompt = list(range(900))
    await step(fake, "1.main", prompt)
    await control.ask(commands.Retain(session="1.main", worth=(Standing.LIVE, 1.0)))
    await others(fake, 6400)
    assert await step(fake, "1.main", prompt) == 896
    held = await control.ask(commands.Stats())
    assert held.sessions["1.main"] == commands.Held(28, 0, Standing.LIVE, 1.0)
    assert (held.blocks, held.block_tokens, held.free) == (POOL, BLOCK, POOL)
    assert held.evicted > 0
    (chain,) = (await control.ask(commands.Snapshot(sessions=["1.main"]))).chains
    assert len(chain.blocks) == 28
    assert await control.ask(commands.Drop(session="1.main")) == commands.Done(blocks=28)
    assert (await control.ask(commands.Snapshot(sessions=["1.main"]))).chains == []
    assert await step(fake, "1.main", prompt) == 0


async def test_without_a_worth_the_least_recently_used_goes(fake, control):
    prompt = list(range(900))
    await step(fake, "1.main", prompt)
    await control.ask(commands.Value(worths={"1.main": (Standing.HELD, float("inf"))}))
    await control.ask(commands.Value(worths={"1.main": None}))
    await others(fake, 6400)
    assert await step(fake, "1.main", prompt) == 0


async def test_what_is_over_goes_before_what_nobody_spoke_of(fake, control):
    over, silent = list(range(600)), list(range(1000, 1600))
    await step(fake, "2.silent", silent)
    await step(fake, "1.over", over)
    await control.ask(commands.Value(worths={"1.over": OVER}))
    await others(fake, 1280)
    assert await step(fake, "2.silent", silent) == 576
    assert await step(fake, "1.over", over) < 576


async def test_an_adoption_keeps_what_it_finds_though_that_would_go_first(fake, control, tmp_path):
    """A session that comes back to where it was: what it has left there is worth nothing before its step is there."""
    prompt, path = [7] * 1600, str(tmp_path / "1.kv")
    await step(fake, "1.main", prompt)
    await control.ask(commands.Export(session="1.main", path=path))
    await control.ask(commands.Drop(session="1.main"))
    await step(fake, "1.main", prompt[:640])
    await control.ask(commands.Value(worths={"1.main": OVER}))
    for number in (2, 3):
        await step(fake, f"{number}.other", [number] * 640)
    taken = await control.ask(commands.Adopt(session="1.main", path=path))
    assert taken.tokens == 1600
    assert await step(fake, "1.main", prompt) == 1600 - BLOCK, (
        "all but the last block, which has to be computed"
    )
    assert (await control.ask(commands.Stats())).free == POOL


async def test_strangers_and_older_incarnations_are_refused(fake):
    async with Control(fake.url, "other", 5) as stranger:
        with pytest.raises(NoControl, match="401"):
            await stranger.ask(commands.Stats())
    async with Control(fake.url, KEY, 4) as old:
        with pytest.raises(NoControl, match="this is incarnation 5, not 4"):
            await old.ask(commands.Stats())
    async with Control("http://127.0.0.1:1", KEY, 4) as nobody:
        with pytest.raises(NoControl, match="session control: "):
            await nobody.ask(commands.Stats())


async def test_an_engine_without_it_says_so():
    async with FakeServer(FakeConfig(control=False)) as server, Control(server.url, "", 0) as control:
        with pytest.raises(NoControl, match="404"):
            await control.ask(commands.Stats())
