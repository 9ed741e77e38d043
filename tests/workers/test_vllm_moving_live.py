"""A session's KV moves from one real vLLM engine to another through a file; whatever fails leaves it where it was."""

from collections.abc import Iterator
from contextlib import AsyncExitStack

import pytest
from engine_rig import BLOCK, INCARNATION, KEY, Worker, started

from saga_core.kv import commands
from saga_core.kv.retention import Standing
from saga_vllm.control import Control, NoControl

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(300)]

TOKENS = 3000
WHOLE = TOKENS // BLOCK * BLOCK


@pytest.fixture(scope="module")
def workers(tmp_path_factory) -> Iterator[tuple[Worker, Worker]]:
    folder = tmp_path_factory.mktemp("engines")
    with started(folder) as old, started(folder) as new:
        yield old, new


@pytest.fixture
async def controls(workers):
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(Control(w.url, KEY, INCARNATION)) for w in workers]


async def test_it_moves_whole_and_the_answer_is_the_same(workers, controls, tmp_path) -> None:
    (old, new), (here, there) = workers, controls
    prompt, path = old.prompt(TOKENS), tmp_path / "1.main.kv"
    assert await old.step("1.main", prompt, tokens=12) == 0
    first = old.said
    sent = await here.ask(commands.Export(session="1.main", path=str(path)))
    assert isinstance(sent, commands.Moved)
    answered = (TOKENS + 11) // BLOCK * BLOCK
    assert sent.tokens == answered
    assert path.stat().st_size == sent.copied_bytes
    assert path.stat().st_mode & 0o777 == 0o600
    taken = await there.ask(commands.Adopt(session="1.main", path=str(path)))
    assert taken.tokens == answered
    assert taken.copied_bytes > 0
    held = (await there.ask(commands.Stats())).sessions["1.main"]
    assert held.blocks == answered // BLOCK
    await there.ask(commands.Retain(session="1.main", worth=(Standing.LIVE, 1.0)))
    await new.traffic(10_000)
    assert await new.step("1.main", prompt, tokens=12) == WHOLE
    assert new.said == first
    assert await old.step("1.main", prompt) == WHOLE, "until it is dropped there, it has two homes"
    again = await there.ask(commands.Adopt(session="1.main", path=str(path)))
    assert (again.tokens, again.copied_bytes) == (answered, 0), "said twice"


async def test_what_the_new_home_has_already_is_not_copied_again(workers, controls, tmp_path) -> None:
    (old, new), (here, there) = workers, controls
    system = old.prompt(1024)
    prompt = system + old.prompt(1000)
    await new.step("9.other", system)
    await old.step("2.main", prompt)
    path = tmp_path / "2.main.kv"
    await here.ask(commands.Export(session="2.main", path=str(path)))
    before = (await there.ask(commands.Stats())).sessions
    assert "2.main" not in before
    taken = await there.ask(commands.Adopt(session="2.main", path=str(path)))
    held = (await there.ask(commands.Stats())).sessions["2.main"]
    assert held.blocks == (taken.tokens - 1024) // BLOCK
    assert await new.step("2.main", prompt) == taken.tokens


async def test_a_move_that_fails_leaves_both_as_they_were(workers, controls, tmp_path) -> None:
    (old, new), (here, there) = workers, controls
    prompt, path = old.prompt(TOKENS), tmp_path / "3.main.kv"
    await old.step("3.main", prompt)
    with pytest.raises(NoControl, match="No such file"):
        await here.ask(commands.Export(session="3.main", path=str(tmp_path / "nowhere" / "x.kv")))
    with pytest.raises(NoControl, match=r"nothing of session 4\.none is here"):
        await here.ask(commands.Export(session="4.none", path=str(path)))
    await here.ask(commands.Export(session="3.main", path=str(path)))
    whole = path.read_bytes()
    free = (await there.ask(commands.Stats())).free
    for damage, said in (
        (whole[:-100], "damaged"),
        (whole[:-1] + bytes([whole[-1] ^ 1]), "damaged"),
        (b"\x00" * 100, "is not a session"),
        (whole.replace(b"bfloat16", b"bfloat17"), "another model or layout"),
        (b"", "is not a session"),
    ):
        path.write_bytes(damage)
        with pytest.raises(NoControl, match=said):
            await there.ask(commands.Adopt(session="3.main", path=str(path)))
    path.unlink()
    with pytest.raises(NoControl, match="No such file"):
        await there.ask(commands.Adopt(session="3.main", path=str(path)))
    held = await there.ask(commands.Stats())
    assert held.free == free
    assert "3.main" not in held.sessions
    assert await new.step("3.main", prompt) == 0
    assert await old.step("3.main", prompt) == WHOLE
    assert not list(tmp_path.iterdir()), "nothing half-written"
