"""The order of chunks in host memory, under vLLM's own offloading manager."""

import warnings
from random import Random
from types import SimpleNamespace

import pytest

from saga_core.kv.retention import OVER, Standing

pytestmark = pytest.mark.vllm

CHUNKS = 24


@pytest.fixture(scope="module")
def vllm():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, while it is imported
        from vllm.v1.kv_offload import base
        from vllm.v1.kv_offload.cpu.manager import CPUOffloadingManager

        from saga_vllm.plugin.shelf import Shelf
    return SimpleNamespace(base=base, manager=CPUOffloadingManager, shelf=Shelf)


class Rig:
    def __init__(self, vllm, chunks=CHUNKS):
        self.vllm = vllm
        self.manager = vllm.manager(chunks, "Shelf", "saga_vllm.plugin.shelf")
        self.shelf = self.manager._policy
        assert type(self.shelf) is vllm.shelf
        self.number = 0

    def keys(self, name, count):
        return [
            self.vllm.base.make_offload_key(f"{name}{i}".encode().ljust(32, b"."), 0) for i in range(count)
        ]

    def request(self, session):
        self.number += 1
        context = self.vllm.base.ReqContext(req_id=f"r{self.number}")
        self.shelf.belongs(context.req_id, session)
        self.manager.on_new_request(context)
        return context

    def store(self, session, keys, *, done=True, success=True):
        context = self.request(session)
        planned = self.manager.prepare_store(keys, context)
        if planned is not None and done:
            self.manager.on_request_finished(context)
            self.manager.complete_store(planned.keys_to_store, context, success)
        return planned

    def here(self, keys):
        context = self.vllm.base.ReqContext(req_id="look")
        return [self.manager.lookup(key, context) is self.vllm.base.LookupResult.HIT for key in keys]


def test_the_least_valuable_session_goes_first_and_its_tail_before_its_head(vllm):
    rig = Rig(vllm)
    dear, cheap, plain = (rig.keys(name, 8) for name in ("dear", "cheap", "plain"))
    for session, keys in (("1.a", dear), ("2.b", cheap), ("3.c", plain)):
        rig.store(session, keys)
    rig.shelf.order.retain("1.a", (Standing.LIVE, 2.0))
    rig.shelf.order.retain("2.b", (Standing.LIVE, 1.0))
    rig.store("4.d", rig.keys("d", 8))
    assert (all(rig.here(dear)), all(rig.here(cheap)), any(rig.here(plain))) == (True, True, False)
    rig.shelf.order.retain("4.d", (Standing.HELD, 1.0))
    rig.store("5.e", rig.keys("e", 5))
    assert rig.here(cheap) == [True] * 3 + [False] * 5
    rig.shelf.order.retain("1.a", OVER)
    rig.store("6.f", rig.keys("f", 4))
    assert rig.here(dear) == [True] * 4 + [False] * 4


def test_without_worths_it_is_least_recently_used(vllm):
    rig = Rig(vllm)
    first, second, third = (rig.keys(name, 8) for name in "abc")
    for number, keys in enumerate((first, second, third)):
        rig.store(f"{number}.s", keys)
    again = rig.request("0.s")
    rig.manager.prepare_load(first, again)
    rig.manager.on_request_finished(again)
    rig.manager.complete_load(first, again)
    rig.store("9.s", rig.keys("d", 8))
    assert (all(rig.here(first)), any(rig.here(second)), all(rig.here(third))) == (True, False, True)


def test_what_is_being_copied_or_asked_for_stays(vllm):
    rig = Rig(vllm)
    read, mine = rig.keys("read", 10), rig.keys("mine", 10)
    rig.store("1.a", read)
    rig.store("2.b", mine)
    reader = rig.request("1.a")
    rig.manager.prepare_load(read, reader)
    assert rig.store("3.c", rig.keys("c", 15)) is None, "4 are empty, 10 could go"
    assert rig.store("2.b", mine + rig.keys("more", 6)) is None, "its own stay"
    assert all(rig.here(read + mine))
    rig.manager.complete_load(read, reader)
    assert rig.store("3.c", rig.keys("c", 15)) is not None


def test_a_chunk_is_never_lost_and_never_twice(vllm):
    rig, rng = Rig(vllm), Random(5)
    names = [rig.keys(f"s{i}", 12) for i in range(8)]
    worths = [OVER, (Standing.LIVE, 1.0), (Standing.LIVE, 2.0), (Standing.HELD, 1.0)]
    for _ in range(3000):
        which = rng.randrange(8)
        keys = names[rng.choice([which, which, 0])][: rng.randint(1, 12)]
        match rng.randrange(6):
            case 0 | 1 | 2:
                rig.store(f"{which}.s", keys, success=rng.random() < 0.9)
            case 3:
                found = [key for key, here in zip(keys, rig.here(keys), strict=True) if here]
                context = rig.request(f"{which}.s")
                rig.manager.prepare_load(found, context)
                rig.manager.on_request_finished(context)
                rig.manager.complete_load(found, context)
            case 4:
                rig.shelf.order.retain(f"{which}.s", rng.choice(worths))
            case _ if rng.random() < 0.02:
                rig.manager.reset_cache()
        rig.shelf._settle()
        rig.shelf.order.check()
        held = {chunk.chunk_id for chunk in rig.shelf._chunks.values()}
        assert len(held) == len(rig.shelf._chunks)
        assert rig.shelf.order.count == len(held) == rig.manager._num_evictable_cache_chunks
        assert rig.manager._get_num_free_chunks() + len(held) == CHUNKS


def test_blocks_that_are_still_read_for_the_tier_are_not_written_by_an_adoption(vllm):
    from saga_vllm.plugin.tier import SagaTierConnector

    tier = SimpleNamespace(scheduler=SimpleNamespace(_block_id_to_pending_jobs={3: {1}}))
    quiet = SimpleNamespace(finished_req_ids=set())
    assert SagaTierConnector._copying(tier, quiet, [2, 3])
    assert not SagaTierConnector._copying(tier, quiet, [2, 4])
    assert SagaTierConnector._copying(tier, SimpleNamespace(finished_req_ids={"r"}), [2, 4])
