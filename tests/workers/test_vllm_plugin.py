"""The plugin's queue inside vLLM's own block pool, the hooks it uses, and what it does when one of them has changed."""

import warnings
from dataclasses import dataclass, field
from random import Random
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saga_core.kv import commands
from saga_core.kv.retention import OVER, Standing

pytestmark = pytest.mark.vllm

BLOCKS = 65
"""The null block included."""


@pytest.fixture(scope="module")
def vllm():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, while it is imported
        from vllm.v1.core import block_pool, kv_cache_utils

        from saga_vllm.plugin import hooks, keeper
    return SimpleNamespace(pool=block_pool, utils=kv_cache_utils, hooks=hooks, keeper=keeper)


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@dataclass
class Request:
    """As much of vLLM's as a pool and a keeper look at."""

    request_id: str
    session_id: str | None
    block_hashes: list[bytes] = field(default_factory=list)
    blocks: list = field(default_factory=list)


class Rig:
    """A real pool with the plugin in it, beside one of vLLM's as it comes: the same requests in both."""

    def __init__(self, vllm, *, seed=0, valued=True):
        self.vllm, self.rng, self.clock = vllm, Random(seed), Clock()
        self.pool = vllm.pool.BlockPool(BLOCKS, enable_caching=True, hash_block_size=16)
        self.keeper = vllm.keeper.Keeper(self.pool, 16, self.clock)
        self.valued = valued
        self.running: list[Request] = []
        self.contents: list[list[bytes]] = [[]]
        self.number = 0

    # What the scheduler does, in its order: look up, touch, allocate, tell the connector, store.

    def begin(self, session=None, hashes=None):
        self.number += 1
        session = session or self.rng.choice([None, *(f"{i // 2}.{i}" for i in range(8))])
        hashes = hashes if hashes is not None else self.prompt()
        found = []
        for one in hashes:
            hit = self.pool.get_cached_block(one, [0])
            if hit is None:
                break
            found += hit
        wanted = len(hashes) - len(found) + 1
        free = self.pool.get_num_free_blocks() - sum(block.ref_cnt == 0 for block in found)
        if wanted > free:
            return None
        request = Request(f"r{self.number}", session, list(hashes))
        self.keeper.arrived(request)
        self.pool.touch(found)
        request.blocks = found + self.pool.get_new_blocks(wanted)
        self.keeper.admitted(request, [request.blocks])
        self.store(request, len(found))
        self.running.append(request)
        return request

    def store(self, request, cached):
        for one, block in list(zip(request.block_hashes, request.blocks, strict=False))[cached:]:
            name = self.vllm.utils.make_block_hash_with_group_id(one, 0)
            if block.block_hash is None:
                self.pool._insert_block_hash(name, block, num_tokens=16)

    def prompt(self):
        """An extension of an earlier one, cut anywhere, or a new one."""
        base = self.rng.choice(self.contents)
        base = base[: self.rng.randint(0, len(base))]
        made = base + [self.rng.randbytes(32) for _ in range(self.rng.randint(0, 6))]
        self.contents = [*self.contents[-30:], made]
        return made[:20]

    def grow(self, request):
        """A decode step that needs one more block."""
        if not self.pool.get_num_free_blocks():
            return
        full = len(request.blocks) - 1
        request.block_hashes.append(self.rng.randbytes(32))
        request.blocks += self.pool.get_new_blocks(1)
        self.store(request, full)
        self.schedule(request, [request.blocks[-1].block_id])

    def schedule(self, request, ids):
        cached = SimpleNamespace(req_ids=[request.request_id], resumed_req_ids=set(), new_block_ids=[(ids,)])
        self.keeper.scheduled(SimpleNamespace(scheduled_cached_reqs=cached))

    def end(self, request, *, preempted=False):
        self.running.remove(request)
        if not preempted:
            self.keeper.finished(request)
        self.pool.free_blocks(reversed(request.blocks))

    def ask(self, command, incarnation=0):
        order = commands.Order(incarnation=incarnation, command=command)
        return commands.decode_answer(self.keeper.answer(commands.encode(order)))

    def order(self):
        session = self.rng.choice([f"{i // 2}.{i}" for i in range(8)])
        worth = self.rng.choice(
            [OVER, (Standing.LIVE, 1.0), (Standing.LIVE, 2.0), (Standing.HELD, float("inf"))]
        )
        match self.rng.randrange(4):
            case 0:
                self.ask(commands.Retain(session=session, worth=worth, ttl_s=self.rng.choice([None, 0.5])))
            case 1:
                self.ask(commands.Release(session=session))
            case 2:
                self.ask(commands.Drop(session=session))
            case _:
                self.ask(commands.Value(worths={session: worth, "9.9": None}))

    def deed(self):
        match self.rng.randrange(9 if self.valued else 7):
            case 0 | 1 | 2:
                self.begin()
            case 3 if self.running:
                self.grow(self.rng.choice(self.running))
            case 4 | 5 if self.running:
                self.end(self.rng.choice(self.running), preempted=self.rng.random() < 0.2)
            case 6 if self.rng.random() < 0.05:
                for request in list(self.running):
                    self.end(request)
                assert self.pool.reset_prefix_cache()
            case 7 | 8:
                self.order()
        self.clock.now += 0.1

    def check(self):
        """No block is lost or twice, and the count is exact."""
        used = {block.block_id for request in self.running for block in request.blocks}
        free = [block.block_id for block in self.pool.free_block_queue.get_all_free_blocks()]
        assert len(free) == len(set(free)) == self.pool.get_num_free_blocks()
        assert self.keeper.fault is not None or len(free) == self.keeper.order.count
        assert not used & set(free)
        assert used | set(free) == set(range(1, BLOCKS))
        assert all(self.pool.blocks[i].ref_cnt == 0 for i in free)


def test_ten_thousand_deeds_in_vllms_pool_lose_and_repeat_no_block(vllm):
    rig = Rig(vllm, seed=3)
    for number in range(10_000):
        rig.deed()
        if number % 20 == 0:
            rig.check()
            rig.keeper.order.check()
            assert rig.keeper.fault is None
    for request in list(rig.running):
        rig.end(request)
    rig.check()
    taken = rig.pool.get_new_blocks(BLOCKS - 1)
    assert {block.block_id for block in taken} == set(range(1, BLOCKS)), "every free block can be allocated"
    assert rig.keeper.order.sessions() == {}
    with pytest.raises(ValueError, match="Cannot get 1 free"):
        rig.pool.get_new_blocks(1)


@given(st.integers(0, 1 << 32))
@settings(max_examples=15, deadline=None)
def test_without_worths_the_pool_evicts_as_vllms_own(vllm, seed):
    """The same deeds in a pool of vLLM's: each request gets the same blocks."""
    ours, theirs = Rig(vllm, seed=seed, valued=False), Rig(vllm, seed=seed, valued=False)
    theirs.keeper.retreat("it is to be vLLM's own")
    order = theirs.pool.free_block_queue
    assert type(order) is vllm.utils.FreeKVCacheBlockQueue
    for _ in range(150):
        ours.deed()
        theirs.deed()
        blocks = [[b.block_id for b in request.blocks] for rig in (ours, theirs) for request in rig.running]
        half = len(blocks) // 2
        # A reset leaves vLLM's queue in the order of before, and ours as one list: blocks without content are equals.
        assert [len(b) for b in blocks[:half]] == [len(b) for b in blocks[half:]]
        hits = [
            [rig.pool.get_cached_block(h, [0]) is not None for h in rig.contents[-1]]
            for rig in (ours, theirs)
        ]
        assert hits[0] == hits[1]


def hashes(name, count):
    return [f"{name}{i}".encode().ljust(32, b".") for i in range(count)]


def test_a_preempted_requests_blocks_are_its_sessions_and_are_found_again(vllm):
    rig = Rig(vllm)
    rig.ask(commands.Retain(session="1.main", worth=(Standing.HELD, 1.0)))
    first = rig.begin("1.main", hashes("a", 20))
    rig.grow(first)
    rig.end(first, preempted=True)
    for number in range(30):
        rig.end(rig.begin("2.other", hashes(f"o{number}", 10)))
    again = rig.begin("1.main", first.block_hashes[:20])
    assert [block.block_id for block in again.blocks[:20]] == [b.block_id for b in first.blocks[:20]]
    rig.check()


def test_what_a_drop_gives_back_is_used_first_and_not_found(vllm):
    rig = Rig(vllm)
    rig.end(rig.begin("1.main", hashes("a", 10)))
    rig.end(rig.begin("2.main", hashes("b", 10)))
    assert rig.ask(commands.Drop(session="2.main")) == commands.Done(blocks=10)
    assert rig.pool.get_cached_block(hashes("b", 1)[0], [0]) is None
    rig.end(rig.begin("3.main", hashes("c", 50)))
    assert rig.pool.get_cached_block(hashes("a", 10)[9], [0]) is not None
    rig.check()


def test_what_a_compacted_prompt_leaves_out_goes_before_all_others(vllm):
    rig = Rig(vllm)
    rig.ask(commands.Retain(session="1.main", worth=(Standing.HELD, 1.0)))
    rig.end(rig.begin("2.other", hashes("o", 20)))
    rig.end(rig.begin("1.main", hashes("a", 30)))
    rig.end(rig.begin("1.main", hashes("title", 2)))  # beside the context: nothing is left
    rig.end(rig.begin("3.other", hashes("p", 12)))
    assert rig.pool.get_cached_block(hashes("a", 30)[29], [0]) is not None
    rig.end(rig.begin("1.main", hashes("a", 30)))
    rig.end(rig.begin("1.main", hashes("a", 10) + hashes("summary", 3)))
    rig.end(rig.begin("3.other", hashes("q", 15)))
    here = [rig.pool.get_cached_block(one, [0]) is not None for one in hashes("a", 30)]
    assert here == [True] * here.count(True) + [False] * here.count(False), "its tail first"
    assert 10 <= here.count(True) < 20
    summary = hashes("summary", 3)[2]
    assert rig.pool.get_cached_block(summary, [0]) is not None
    rig.keeper.order.check()


def test_a_snapshot_names_blocks_as_the_events_do(vllm):
    rig = Rig(vllm)
    rig.end(rig.begin("1.main", hashes("a", 5)))
    seen = rig.ask(commands.Snapshot())
    assert seen.block_tokens == 16
    (chain,) = seen.chains
    assert chain.session == "1.main"
    assert chain.blocks == [vllm.utils.maybe_convert_block_hash(h) for h in hashes("a", 5)]
    rig.pool.evict_blocks({rig.pool.get_cached_block(hashes("a", 5)[3], [0])[0].block_id})
    assert len(rig.ask(commands.Snapshot(sessions=["1.main", "9.none"])).chains[0].blocks) == 3


def test_a_fault_of_ours_gives_vllm_its_queue_back(vllm):
    rig = Rig(vllm, seed=5)
    for _ in range(200):
        rig.deed()
    rig.keeper.order.use = None  # whatever it may be
    while rig.keeper.fault is None:
        rig.begin("1.main")
        rig.end(rig.running[0])
    assert "NoneType" in rig.keeper.fault
    assert type(rig.pool.free_block_queue) is vllm.utils.FreeKVCacheBlockQueue
    answer = rig.ask(commands.Stats())
    assert answer == commands.Failed(reason=rig.keeper.fault)
    rig.valued = False
    for request in list(rig.running):
        rig.running.remove(request)
        rig.pool.free_blocks(reversed(request.blocks))
    rig.check()
    assert len(rig.pool.get_new_blocks(BLOCKS - 1)) == BLOCKS - 1


def test_an_order_for_another_incarnation_does_nothing(vllm):
    rig = Rig(vllm)
    rig.end(rig.begin("1.main", hashes("a", 5)))
    assert rig.ask(commands.Drop(session="1.main"), incarnation=7) == commands.Stale(incarnation=0)
    assert rig.ask(commands.Stats()).sessions["1.main"].blocks == 6 - 1


# -- the contract ------------------------------------------------------------------------


def test_every_hook_of_the_installed_vllm_is_as_we_know_it(vllm):
    assert vllm.hooks.changed() == []
    from vllm import __version__

    assert __version__.startswith(vllm.hooks.TESTED), (
        "put the new release there once the live tests pass on it"
    )


def test_a_changed_hook_is_named(vllm, monkeypatch):
    queue = vllm.utils.FreeKVCacheBlockQueue
    monkeypatch.setattr(queue, "append_n", lambda self, chunk: None)
    monkeypatch.setattr(queue, "steal", lambda self: None, raising=False)
    monkeypatch.delattr(vllm.pool.BlockPool, "evict_blocks")
    monkeypatch.setattr(vllm.pool.BlockPool, "reset_prefix_cache", lambda self: True)
    said = vllm.hooks.changed()
    assert len(said) == 4, said
    assert "vllm.v1.core.kv_cache_utils:FreeKVCacheBlockQueue.append_n(chunk) has no blocks" in said
    assert "vllm.v1.core.block_pool:BlockPool.evict_blocks is gone" in said
    assert "vllm.v1.core.kv_cache_utils:FreeKVCacheBlockQueue has new methods: steal" in said
    assert any("reset_prefix_cache has no self.cached_block_hash_to_block" in line for line in said)


def test_with_a_changed_hook_the_engine_keeps_its_queue_and_says_why(vllm, monkeypatch):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from saga_vllm.plugin.attachment import Attachment
    monkeypatch.setattr(vllm.hooks, "changed", lambda: ["x is gone"])
    control = Attachment()
    pool = vllm.pool.BlockPool(BLOCKS, enable_caching=True, hash_block_size=16)
    control.bind(pool, None, None)
    assert type(pool.free_block_queue) is vllm.utils.FreeKVCacheBlockQueue
    order = commands.encode(commands.Order(incarnation=0, command=commands.Stats()))
    answer = commands.decode_answer(control.order(order))
    assert answer == commands.Failed(reason="this vLLM is not the one that is known: x is gone")
    control.arrived(Request("r", "1.main"))
    control.finished(Request("r", "1.main"))


def test_an_adoption_that_a_copy_is_in_the_way_of_is_to_be_asked_for_again(vllm, monkeypatch):
    rig = Rig(vllm)
    header = SimpleNamespace(model="", block_tokens=16, hashes=(b"a" * 32, b"b" * 32), ranks=())
    monkeypatch.setattr("saga_vllm.plugin.moving.load", lambda _: (header, [b""]))
    rig.keeper.copying = lambda *_: True
    engine = SimpleNamespace(
        model_executor=SimpleNamespace(collective_rpc=lambda *_, **__: ()), scheduler=None
    )
    order = commands.Order(incarnation=0, command=commands.Adopt(session="1.main", path="/x"))
    answer = commands.decode_answer(rig.keeper.answer(commands.encode(order), engine))
    assert answer == commands.Failed(reason="blocks are on their way to host memory", again=True)
    assert rig.pool.get_num_free_blocks() == BLOCKS - 1
    assert rig.ask(commands.Export(session="1.main", path="/x")).again is False


def test_an_adoption_keeps_what_it_finds_though_that_would_go_first(vllm, monkeypatch):
    """A session that comes back to where it was: what it has left there is worth nothing before its step is there."""
    rig = Rig(vllm)
    whole = tuple(rig.rng.randbytes(32) for _ in range(20))
    rig.end(rig.begin("1.main", whole[:4]))
    rig.ask(commands.Value(worths={"1.main": OVER}))
    for number in range(2, 6):
        rig.ask(commands.Retain(session=f"{number}.main", worth=(Standing.LIVE, 1.0)))
        rig.end(rig.begin(f"{number}.main", [rig.rng.randbytes(32) for _ in range(12)]))
    header = SimpleNamespace(model="", block_tokens=16, hashes=whole, ranks=())
    monkeypatch.setattr("saga_vllm.plugin.moving.load", lambda _: (header, [b""]))
    engine = SimpleNamespace(
        model_executor=SimpleNamespace(collective_rpc=lambda *_, **__: ()), scheduler=None
    )

    def adopted():
        order = commands.Order(incarnation=0, command=commands.Adopt(session="1.main", path="/x"))
        return commands.decode_answer(rig.keeper.answer(commands.encode(order), engine))

    assert adopted().tokens == 20 * 16
    assert all(rig.keeper.find(name) is not None for name in whole)
    assert rig.keeper.order.sessions()["1.main"] == (20, 0)
    rig.check()
    running = rig.begin("9.main", [rig.rng.randbytes(32) for _ in range(50)])
    rig.ask(commands.Drop(session="1.main"))
    assert rig.begin("1.main", whole[:4]) is not None
    assert "are needed" in adopted().reason
    rig.end(running)
    rig.check()
    rig.keeper.order.check()
