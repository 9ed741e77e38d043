"""vLLM's free queue, in the order that sessions are worth: `saga_core.kv.blocks` behind the same methods."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from vllm.v1.core.kv_cache_utils import FreeKVCacheBlockQueue

from saga_core.kv.blocks import BlockOrder

if TYPE_CHECKING:
    from vllm.v1.core.block_pool import BlockPool
    from vllm.v1.core.kv_cache_utils import KVCacheBlock


class SessionQueue(FreeKVCacheBlockQueue):  # type: ignore[misc]
    """The free blocks of one `BlockPool`. Every one of them can be taken, whatever its session is worth."""

    def __init__(self, pool: BlockPool, now: Callable[[], float]) -> None:
        """Takes the pool's free blocks over; the caller then gives it to the pool in the place of its own queue."""
        # Not the one of the base: its list is what is replaced.
        self._pool = pool
        self._index = pool.cached_block_hash_to_block
        free = pool.free_block_queue.get_all_free_blocks()
        self._blocks = pool.blocks
        self.order = BlockOrder(len(pool.blocks), now)
        self.num_free_blocks = 0
        """Kept beside the order's own count, since vLLM reads it for each running request at each step."""
        for block in free:
            block.prev_free_block = block.next_free_block = None
        held = [block for block in free if block.block_hash is not None]
        self.prepend_n([block for block in free if block.block_hash is None])
        self.append_n(held)

    def popleft(self) -> KVCacheBlock:
        """The next free block. ValueError when there is none."""
        if not self.num_free_blocks:
            raise ValueError("No free blocks available")
        return self.popleft_n(1)[0]

    def popleft_n(self, n: int) -> list[KVCacheBlock]:
        """The next `n` free blocks, which vLLM then makes forget what they hold."""
        if n == 0:
            return []
        assert self.num_free_blocks >= n
        self.num_free_blocks -= n
        self.follow_reset()
        blocks = self._blocks
        return [blocks[number] for number in self.order.take(n)]

    def remove(self, block: KVCacheBlock) -> None:
        """A free block is found and used again. RuntimeError when it is not free."""
        try:
            self.order.touch(block.block_id)
        except ValueError:
            raise RuntimeError(f"remove() called on an invalid block: {block}") from None
        self.num_free_blocks -= 1

    def append(self, block: KVCacheBlock) -> None:
        """A block that can be found is free now."""
        self.append_n([block])

    def append_n(self, blocks: list[KVCacheBlock]) -> None:
        """These can be found and are free now; of equals the first goes first."""
        if blocks:
            self.order.free([block.block_id for block in blocks])
            self.num_free_blocks += len(blocks)

    def prepend_n(self, blocks: list[KVCacheBlock]) -> None:
        """These hold nothing and are free now; the first goes before all others."""
        if blocks:
            self.order.free_empty([block.block_id for block in blocks])
            self.num_free_blocks += len(blocks)

    def get_all_free_blocks(self) -> list[KVCacheBlock]:
        """All of them, the next to be given away first. It sorts: for tests."""
        return [self._blocks[number] for number in self.order]

    def iter_blocks_after(self, cursor: KVCacheBlock | None) -> Iterator[KVCacheBlock]:
        """All that go after `cursor`; None: all."""
        blocks = (self._blocks[number] for number in self.order)
        if cursor is not None:
            for block in blocks:
                if block is cursor:
                    break
        return blocks

    def follow_reset(self) -> None:
        """Notice that the pool's prefix cache was reset: it has a new index then, and no block holds anything."""
        if self._pool.cached_block_hash_to_block is not self._index:
            self._index = self._pool.cached_block_hash_to_block
            self.order.reset()
