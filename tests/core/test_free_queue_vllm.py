"""The session-aware free queue beside vLLM's own: the same blocks in the same order as long as nobody gives a worth."""

import warnings
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saga_core.kv.queue import Entry, FreeQueue

pytestmark = pytest.mark.vllm


@pytest.fixture(scope="module")
def vllm():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, while it is imported
        from vllm.v1.core import kv_cache_utils
    return kv_cache_utils


class Slot(Entry):
    """The entry of one of vLLM's blocks."""

    def __init__(self, block):
        super().__init__()
        self.block = block


@given(st.integers(0, 1 << 32))
@settings(max_examples=100, deadline=None)
def test_without_worths_it_is_vllms_free_queue(vllm, seed):
    rng = Random(seed)
    blocks = [vllm.KVCacheBlock(block_id=i) for i in range(rng.choice([1, 5, 60]))]
    theirs, ours = vllm.FreeKVCacheBlockQueue(blocks), FreeQueue()
    slots = [Slot(block) for block in blocks]
    parties = [ours.common, *(ours.make_party() for _ in range(5))]
    for number, party in enumerate(parties[1:]):
        ours.join(party, f"s{number // 2}")
    for slot in slots:
        ours.append(slot, ours.common)
    used = []
    for _ in range(80):
        match rng.choice(["take", "take", "touch", "free", "free", "free without content"]):
            case "take":
                count = rng.randint(0, theirs.num_free_blocks)
                taken = theirs.popleft_n(count)
                assert [slot.block for slot in ours.pop(count)] == taken
                used += taken
            case "touch":
                for block in rng.sample(blocks, len(blocks) // 4):
                    if slots[block.block_id].is_free:
                        theirs.remove(block)
                        ours.remove(slots[block.block_id])
                        used.append(block)
            case kind:
                rng.shuffle(used)
                count = rng.randint(0, len(used))
                freed, used = used[:count], used[count:]
                party = rng.choice(parties)
                if kind == "free":
                    theirs.append_n(freed)
                    for block in freed:
                        ours.append(slots[block.block_id], party)
                else:
                    theirs.prepend_n(freed)
                    for block in reversed(freed):
                        ours.prepend(slots[block.block_id], party)
        assert ours.count == theirs.num_free_blocks
        assert [slot.block for slot in ours] == theirs.get_all_free_blocks()
        ours.check()
