"""The paged KV pool with a prefix cache, in the order of vLLM 0.32's `BlockPool` with session control in it.

Rules of this file:
1. Block 0 is the null block and is never handed out, so a pool of n blocks holds n - 1.
2. A block in use has references; a block without is in the free queue, even while its content can still be found.
3. The free queue is popped at the front. Freed blocks with content go to the back (so the queue is LRU), those
   without go to the front. A request frees its tail first, so its head is kept the longest.
4. Once somebody says what sessions are worth, that decides first (`saga_core.kv.blocks`, as in the engine's plugin).
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from saga_core.kv.blocks import BlockOrder
from saga_fake.kv_events import AllBlocksCleared, BlockRemoved, BlockStored, KVEvent

MEDIUM = "GPU"
"""vLLM says "GPU" for its device pool on every platform, CPU included."""


@dataclass(slots=True)
class Block:
    """One block: who uses it and which content it can be found by."""

    references: int = 0
    content: int | None = None


class BlockPool:
    """Blocks, the prefix cache over them, and the events of both."""

    def __init__(self, blocks: int, block_tokens: int, now: Callable[[], float] = time.monotonic) -> None:
        """`now`: a clock in seconds, for times to live."""
        self.block_tokens = block_tokens
        self.events: list[KVEvent] = []
        self._blocks = [Block() for _ in range(blocks)]
        self.order = BlockOrder(blocks, now)
        self.order.free_empty(range(1, blocks))
        self._found: dict[int, dict[int, None]] = {}

    @property
    def capacity_blocks(self) -> int:
        return len(self._blocks) - 1

    @property
    def free_blocks(self) -> int:
        return self.order.count

    @property
    def usage(self) -> float:
        """Share of the pool that requests hold now, 0 to 1; cached but free blocks do not count."""
        return 1.0 - self.free_blocks / self.capacity_blocks

    def lookup(self, contents: Iterable[int]) -> list[int]:
        """Ids of the cached blocks for the longest known prefix of `contents`."""
        hit: list[int] = []
        for content in contents:
            copies = self._found.get(content)
            if copies is None:
                break
            hit.append(next(iter(copies)))
        return hit

    def idle(self, blocks: Iterable[int]) -> int:
        """How many of `blocks` are in the free queue: taking them costs free blocks as well."""
        return sum(1 for block in blocks if not self._blocks[block].references)

    def touch(self, blocks: Iterable[int]) -> None:
        """Take one more reference on each cached block."""
        for block in blocks:
            if not self._blocks[block].references:
                self.order.touch(block)
            self._blocks[block].references += 1

    def take(self, blocks: int) -> list[int]:
        """`blocks` new blocks from the front of the free queue, evicting what they hold.

        ValueError when fewer are free: ask `free_blocks` first.
        """
        if blocks > self.free_blocks:
            raise ValueError(f"{blocks} blocks wanted, {self.free_blocks} are free")
        taken = self.order.take(blocks)
        for block in taken:
            self._evict(block)
            self._blocks[block].references = 1
        return taken

    def give_back(self, blocks: Sequence[int]) -> None:
        """Drop one reference on each block; the first of them is evicted first (so pass a request's tail first)."""
        full: list[int] = []
        empty: list[int] = []
        for block in blocks:
            state = self._blocks[block]
            state.references -= 1
            if not state.references:
                (full if state.content is not None else empty).append(block)
        self.order.free_empty(empty)
        self.order.free(full)

    def use(self, session: str, blocks: Iterable[int]) -> None:
        """A request of `session` uses these blocks."""
        self.order.use(session, blocks)

    def drop(self, session: str) -> int:
        """Forget what `session` alone has and nobody uses; how many blocks that were."""
        dropped = self.order.drop(session)
        for block in dropped:
            self._evict(block)
        return len(dropped)

    def holds(self, content: int) -> bool:
        """Whether a block of this content can be found."""
        return content in self._found

    def store(
        self,
        blocks: Sequence[int],
        contents: Sequence[int],
        tokens: list[int],
        *,
        parent: int | None,
        session: str | None,
        salt: str | None,
    ) -> None:
        """Make full blocks findable and report them; `tokens` are the ids that they hold, in order."""
        for block, content in zip(blocks, contents, strict=True):
            self._blocks[block].content = content
            self._found.setdefault(content, {})[block] = None
        keys = [(salt,) if salt and parent is None and not i else None for i in range(len(blocks))]
        self.events.append(
            BlockStored(
                block_hashes=list(contents),
                parent_block_hash=parent,
                token_ids=tokens,
                block_size=self.block_tokens,
                lora_id=None,
                medium=MEDIUM,
                lora_name=None,
                extra_keys=keys,
                group_idx=0,
                session_id=session,
            )
        )

    def clear(self) -> bool:
        """Forget all cached content; False, and nothing done, while any block is in use (as in vLLM)."""
        if self.free_blocks != self.capacity_blocks:
            return False
        self._found.clear()
        for block in self._blocks:
            block.content = None
        self.order.reset()
        self.events.append(AllBlocksCleared())
        return True

    def take_events(self) -> list[KVEvent]:
        """The events since the last call."""
        events, self.events = self.events, []
        return events

    def check(self) -> None:
        """AssertionError unless references, free queue and cache agree: for tests."""
        for block, state in enumerate(self._blocks[1:], start=1):
            assert (state.references == 0) == self.order.is_free(block), f"block {block}: {state}"
            assert state.references >= 0, f"block {block}: {state}"
            if state.content is not None:
                assert block in self._found[state.content], f"block {block}: {state}"
        assert not self.order.is_free(0)
        self.order.check()
        assert all(
            self._blocks[block].content == content
            for content, copies in self._found.items()
            for block in copies
        )

    def _evict(self, block: int) -> None:
        content = self._blocks[block].content
        if content is None:
            return
        self._blocks[block].content = None
        copies = self._found[content]
        del copies[block]
        if not copies:
            del self._found[content]
        self.events.append(BlockRemoved(block_hashes=[content], medium=MEDIUM, group_idx=0))
