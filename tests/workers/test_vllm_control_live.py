"""Session control inside one real vLLM engine: what is retained survives, what is dropped is gone."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator

import aiohttp
import pytest
from engine_rig import BLOCK, INCARNATION, KEY, POOL_TOKENS, Worker, started

from saga_core.kv import commands
from saga_core.kv.retention import Standing
from saga_vllm.control import Control, NoControl
from saga_vllm.kv_events import AllBlocksCleared, Batch, BlockRemoved, KvEvents

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(240)]

ANSWER_S = 0.005
"""What an order may take, with 100 live sessions in the engine (issue: 5 ms)."""


@pytest.fixture(scope="module")
def worker(tmp_path_factory) -> Iterator[Worker]:
    with started(tmp_path_factory.mktemp("engine")) as found:
        yield found


@pytest.fixture
async def control(worker: Worker) -> AsyncIterator[Control]:
    assert await worker.reset()
    async with Control(worker.url, KEY, INCARNATION) as found:
        yield found


def live(value: float) -> tuple[int, float]:
    return (Standing.LIVE, value)


async def test_it_is_on_and_says_what_it_holds(worker: Worker, control: Control) -> None:
    await worker.step("1.main", worker.prompt(100))
    held = await control.ask(commands.Stats())
    assert isinstance(held, commands.Holdings)
    assert (held.blocks, held.block_tokens, held.requests) == (POOL_TOKENS // BLOCK, BLOCK, 0)
    assert held.free == held.blocks, "all are free again"
    assert held.sessions["1.main"].blocks >= 3
    assert held.version.startswith("0.")


async def test_a_retained_session_outlives_what_least_recently_used_does_not(
    worker: Worker, control: Control
) -> None:
    prompt = worker.prompt(3000)
    whole = 3000 // BLOCK * BLOCK
    await worker.step("1.kept", prompt)
    assert await worker.step("1.kept", prompt) == whole
    await control.ask(commands.Retain(session="1.kept", worth=live(1.0)))
    await worker.traffic(20_000)
    assert await worker.step("1.kept", prompt) == whole
    await control.ask(commands.Release(session="1.kept"))
    await worker.traffic(20_000)
    assert await worker.step("1.kept", prompt) == 0, "vLLM's own order: least recently used"


async def test_dropped_it_is_gone_at_once_and_said_so(worker: Worker, control: Control) -> None:
    prompt = worker.prompt(3000)
    await worker.step("2.main", prompt)
    await control.ask(commands.Retain(session="2.main", worth=live(1.0)))
    events = KvEvents(f"ipc://{worker.scratch}/events", f"ipc://{worker.scratch}/replay", sync_s=0.3)
    try:
        done = await control.ask(commands.Drop(session="2.main"))
        assert done == commands.Done(blocks=3000 // BLOCK)
        removed = 0
        async with asyncio.timeout(10):
            async for batch in events:  # the engine is idle: nothing but the order makes it speak
                happened = batch.events if isinstance(batch, Batch) else ()
                for event in happened:
                    if isinstance(event, AllBlocksCleared):
                        removed = 0
                    elif isinstance(event, BlockRemoved):
                        removed += len(event.block_hashes)
                if removed == done.blocks:
                    break
    finally:
        events.close()
    assert await control.ask(commands.Drop(session="2.main")) == commands.Done(blocks=0), "said twice"
    assert await worker.step("2.main", prompt) == 0


async def test_the_least_valuable_leaves_first(worker: Worker, control: Control) -> None:
    dear, cheap = worker.prompt(2500), worker.prompt(2500)
    await worker.step("3.cheap", cheap)
    await worker.step("4.dear", dear)
    await worker.step("3.cheap", cheap)  # the cheap one is the most recently used
    worths = {"3.cheap": live(1.0), "4.dear": live(2.0)}
    await control.ask(commands.Value(worths=worths))
    await worker.step("5.big", worker.prompt(5000))
    assert await worker.step("4.dear", dear, priority=0) == 2500 // BLOCK * BLOCK
    assert await worker.step("3.cheap", cheap) < 2500 // BLOCK * BLOCK


async def test_a_sessions_tail_goes_before_its_head(worker: Worker, control: Control) -> None:
    prompt = worker.prompt(4000)
    await worker.step("6.main", prompt)
    await control.ask(commands.Retain(session="6.main", worth=live(1.0)))
    await worker.step("7.big", worker.prompt(6000))
    (chain,) = (await control.ask(commands.Snapshot(sessions=["6.main"]))).chains
    # 6000 tokens and one decoded need 188 blocks of 256; the head of 68 is left.
    assert 60 <= len(chain.blocks) <= 68
    assert await worker.step("6.main", prompt) == len(chain.blocks) * BLOCK


async def test_a_shared_system_prompt_outlives_its_first_owner(worker: Worker, control: Control) -> None:
    system = worker.prompt(1024)
    await worker.step("8.first", system + worker.prompt(1000))
    await worker.step("9.second", system + worker.prompt(1000))
    held = await control.ask(commands.Stats())
    assert held.sessions["8.first"].shared == held.sessions["9.second"].shared == 1024 // BLOCK
    await control.ask(commands.Retain(session="9.second", worth=live(1.0)))
    await control.ask(commands.Drop(session="8.first"))
    await worker.traffic(20_000)
    assert await worker.step("10.third", system + worker.prompt(100)) == 1024


async def test_what_a_compacted_session_leaves_out_goes_before_older_strangers(
    worker: Worker, control: Control
) -> None:
    stranger, long = worker.prompt(3000), worker.prompt(3000)
    await worker.step("17.stranger", stranger)
    await worker.step("18.main", long)
    await control.ask(commands.Retain(session="18.main", worth=live(1.0)))
    await worker.step("18.main", long[:512] + worker.prompt(100))
    await worker.step("19.other", worker.prompt(3500))
    assert await worker.step("17.stranger", stranger) == 3000 // BLOCK * BLOCK
    assert 512 <= await worker.step("18.main", long) < 2000


async def test_a_time_to_live_is_soft_and_ends(worker: Worker, control: Control) -> None:
    brief, lasting = worker.prompt(2000), worker.prompt(2000)
    await worker.step("11.brief", brief)
    await worker.step("12.lasting", lasting)
    await control.ask(commands.Retain(session="11.brief", worth=live(9.0), ttl_s=0.2))
    await control.ask(commands.Retain(session="12.lasting", worth=live(1.0), ttl_s=600.0))
    held = await control.ask(commands.Stats())
    assert held.sessions["11.brief"].value == 9.0
    await asyncio.sleep(0.2)  # its time has to pass
    await worker.traffic(8000)
    assert await worker.step("12.lasting", lasting) == 2000 // BLOCK * BLOCK
    assert await worker.step("11.brief", brief) == 0


async def test_a_preempted_session_stays_its_own(worker: Worker, control: Control) -> None:
    """Two answers that outgrow the pool: one is preempted, and what it had is still known as its own."""
    low, high = worker.prompt(3000), worker.prompt(3000)
    await control.ask(commands.Value(worths={"13.low": live(1.0), "14.high": live(2.0)}))
    async with aiohttp.ClientSession(worker.url) as http:
        before = await (await http.get("/metrics")).text()
        await asyncio.gather(
            worker.step("13.low", low, tokens=1300, priority=5), worker.step("14.high", high, tokens=1300)
        )
        after = await (await http.get("/metrics")).text()
    assert _preemptions(after) > _preemptions(before), "the pool was too large for this test"
    held = await control.ask(commands.Stats())
    assert held.free == held.blocks
    assert sum(h.blocks for h in held.sessions.values()) <= held.blocks
    assert {"13.low", "14.high"} <= held.sessions.keys()
    assert await worker.step("14.high", high) == 3000 // BLOCK * BLOCK


def _preemptions(metrics: str) -> float:
    lines = [line for line in metrics.splitlines() if line.startswith("vllm:num_preemptions_total")]
    return float(lines[0].rpartition(" ")[2])


async def test_after_a_reset_nothing_is_held_and_all_can_be_used(worker: Worker, control: Control) -> None:
    prompt = worker.prompt(3000)
    await worker.step("15.main", prompt)
    await control.ask(commands.Retain(session="15.main", worth=(Standing.HELD, 1.0)))
    assert await worker.reset()
    held = await control.ask(commands.Stats())
    assert (held.sessions, held.free) == ({}, held.blocks)
    other = worker.prompt(7000)  # a pool full of what the retained session had would leave no room for this
    await worker.step("16.main", other)
    await worker.traffic(2000)
    assert await worker.step("16.main", other) >= 5000, "the blocks of before the reset went first"
    assert await worker.step("15.main", prompt) == 0


async def test_with_a_hundred_sessions_an_order_takes_less_than_five_milliseconds(
    worker: Worker, control: Control
) -> None:
    for number in range(100):
        await worker.step(f"{100 + number}.main", worker.prompt(70))
    worths: dict[str, tuple[int, float] | None] = {f"{100 + n}.main": live(n) for n in range(100)}
    orders = {
        "retain": commands.Retain(session="100.main", worth=live(1.0), ttl_s=60.0),
        "value 100": commands.Value(worths=worths),
        "release": commands.Release(session="101.main"),
        "stats": commands.Stats(),
        "snapshot": commands.Snapshot(),
        "drop": commands.Drop(session="102.main"),
    }
    for name, order in orders.items():
        took_s = []
        for _ in range(15):
            began = time.perf_counter()
            await control.ask(order)
            took_s.append(time.perf_counter() - began)
        took_s.sort()
        print(f"{name}: median {took_s[7] * 1e3:.2f} ms, most {took_s[-1] * 1e3:.2f} ms")
        # A quarter of them undisturbed is enough: what else runs on the machine is not the engine's doing.
        assert took_s[3] < ANSWER_S, f"{name}: {took_s}"


async def test_orders_are_fenced_and_closed_to_strangers(worker: Worker, control: Control) -> None:
    async with Control(worker.url, KEY, INCARNATION - 1) as old:
        with pytest.raises(NoControl, match=f"this is incarnation {INCARNATION}, not {INCARNATION - 1}"):
            await old.ask(commands.Stats())
    async with Control(worker.url, "sk-other", INCARNATION) as stranger:
        with pytest.raises(NoControl, match="401"):
            await stranger.ask(commands.Stats())
    async with aiohttp.ClientSession(worker.url, headers={"Authorization": f"Bearer {KEY}"}) as http:
        for body in (b"", b"\xc1", b"\x00" * 2000):
            async with http.post(commands.PATH, data=body) as answer:
                said = commands.decode_answer(await answer.read())
                assert isinstance(said, commands.Failed)
                assert "not a word" in said.reason
        async with http.get(commands.PATH) as answer:
            assert answer.status == 405
    with pytest.raises(NoControl, match="worth of"):
        await control.ask(commands.Retain(session="1.x", worth=live(float("nan"))))
    assert isinstance(await control.ask(commands.Stats()), commands.Holdings), "it still works"
