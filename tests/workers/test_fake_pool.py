"""The pool's order of reuse: by itself, and against vLLM's own pool, operation by operation."""

import random

import pytest

from saga_fake.driver import Driver
from saga_fake.engine import Engine, EngineShape
from saga_fake.kv_events import BlockRemoved
from saga_fake.pool import BlockPool
from saga_fake.reply import invented
from saga_fake.requests import EngineRequest


def test_blocks_without_content_are_used_again_first_in_the_order_given():
    pool = BlockPool(9, 16)
    taken = pool.take(4)
    pool.give_back(taken[::-1])
    assert pool.take(6) == [*taken[::-1], 5, 6]


def test_more_than_is_free_is_refused():
    with pytest.raises(ValueError, match="9 blocks wanted, 8 are free"):
        BlockPool(9, 16).take(9)


async def test_events_are_out_before_the_token_is_shown():
    published = []
    driver = Driver(Engine(EngineShape()), speed=float("inf"), publish=published.extend)
    tokens = [7] * 64
    request = EngineRequest(id="r", tokens=tokens, reply=invented(0, tokens), max_tokens=3)
    async for _ in driver.generate(request):
        assert published
    await driver.close()


@pytest.mark.vllm
def test_the_same_operations_give_the_same_blocks_as_in_vllm():
    block_pool = pytest.importorskip("vllm.v1.core.block_pool")
    kv_cache_utils = pytest.importorskip("vllm.v1.core.kv_cache_utils")
    for seed in range(30):
        follow_vllm(block_pool, kv_cache_utils, random.Random(seed))


def follow_vllm(block_pool, kv_cache_utils, rng):
    """Random takes, stores, hits and frees on both pools; every answer and every eviction must agree."""
    ours, theirs = BlockPool(24, 16), block_pool.BlockPool(24, True, 16, enable_kv_cache_events=True)
    held = []

    def key(content):
        return kv_cache_utils.make_block_hash_with_group_id(content.to_bytes(8, "big"), 0)

    for _ in range(200):
        assert ours.free_blocks == theirs.get_num_free_blocks()
        if held and rng.random() < 0.45:
            blocks = held.pop(rng.randrange(len(held)))
            ours.give_back(blocks[::-1])
            theirs.free_blocks([theirs.blocks[b] for b in blocks[::-1]])
            continue
        # A few families of content, so that copies and hits are common.
        family, length = rng.randrange(4), rng.randrange(1, 7)
        contents = [family * 100 + i for i in range(length)]
        hit = ours.lookup(contents[:-1])
        expected = []
        for content in contents[:-1]:
            found = theirs.get_cached_block(content.to_bytes(8, "big"), [0])
            if found is None:
                break
            expected += found
        assert hit == [block.block_id for block in expected]
        more = length - len(hit)
        if more > ours.free_blocks - ours.idle(hit):
            continue
        ours.touch(hit)
        theirs.touch(expected)
        new = ours.take(more)
        assert new == [block.block_id for block in theirs.get_new_blocks(more)]
        full = rng.randrange(more + 1)
        if full:
            stored = contents[len(hit) : len(hit) + full]
            ours.store(new[:full], stored, [0] * 16 * full, parent=None, session=None, salt=None)
            for block, content in zip(new, stored, strict=False):
                theirs._insert_block_hash(key(content), theirs.blocks[block], num_tokens=16)
        held.append([*hit, *new])
        ours.check()
    removed = [event.block_hashes for event in ours.take_events() if isinstance(event, BlockRemoved)]
    assert removed == [event.block_hashes for event in theirs.take_events()]
    assert removed
