"""The order in which host memory behind the pool gives its chunks away: by what their sessions are worth, as the pool.

vLLM's offloading takes it as a cache policy (`eviction_policy` with `cache_policy_module_path`). Its manager asks it
which chunks go; everything else (what is stored and loaded, when, where to) stays the manager's. A policy is told keys
and a request's id, not its session: that, and the worths, come from the connector, which is in the same process.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterable

from vllm.v1.kv_offload.base import OffloadKey, ReqContext
from vllm.v1.kv_offload.cpu.policies.base import CachePolicy, ChunkStatus

from saga_core.kv.blocks import BlockOrder

MOST_REQUESTS = 8192
"""Of which the session is remembered, the latest ones: far more than an engine has at once."""


class Shelf(CachePolicy):  # type: ignore[misc]
    """The chunks of one manager. A chunk is a block of `BlockOrder` under its number, free while no copy uses it."""

    def __init__(self, cache_capacity: int) -> None:
        super().__init__(cache_capacity)
        self.order = BlockOrder(cache_capacity, time.monotonic)
        self._chunks: dict[OffloadKey, ChunkStatus] = {}
        self._keys: list[OffloadKey] = [OffloadKey(b"")] * cache_capacity
        """Of each chunk in use, what it holds."""
        self._sessions: OrderedDict[str, str] = OrderedDict()
        self._missed: dict[OffloadKey, str] = {}
        """Whose request wants to store it: until it is there."""
        self._rested: list[int] = []
        """Chunks that are evictable from now on, in the order in which their copies ended: heads first."""

    def belongs(self, request: str, session: str) -> None:
        """What this request uses is of this session."""
        self._sessions[request] = session
        if len(self._sessions) > MOST_REQUESTS:
            self._sessions.popitem(last=False)

    def has(self, key: OffloadKey) -> bool:
        """Whether it can be loaded."""
        chunk = self._chunks.get(key)
        return chunk is not None and bool(chunk.is_ready)

    # -- what the manager tells ----------------------------------------------------------

    def get(self, key: OffloadKey) -> ChunkStatus | None:
        """What holds it."""
        return self._chunks.get(key)

    def insert(self, key: OffloadKey, chunk: ChunkStatus) -> None:
        """It is stored into this chunk."""
        self._chunks[key] = chunk
        self._keys[chunk.chunk_id] = key
        session = self._missed.pop(key, None)
        if session is not None:
            self.order.use(session, [chunk.chunk_id])
        if chunk.ref_cnt == 0:
            self._rested.append(chunk.chunk_id)

    def remove(self, key: OffloadKey) -> None:
        """It could not be stored."""
        self._settle()
        number = self._chunks.pop(key).chunk_id
        if self.order.is_free(number):
            self.order.touch(number)
        self.order.forget(number)

    def on_store_miss(self, keys: Iterable[OffloadKey], req_context: ReqContext) -> None:
        """A request is about to store these."""
        session = self._sessions.get(req_context.req_id)
        if len(self._missed) > self.cache_capacity:
            self._missed.clear()  # of stores that found no room
        if session is not None:
            self._missed.update(dict.fromkeys(keys, session))

    def touch(self, keys: Iterable[OffloadKey], req_context: ReqContext) -> None:
        """A request has used these, in the order of its prompt: its session's, and its tail goes first."""
        self._settle()
        numbers = [chunk.chunk_id for key in keys if (chunk := self._chunks.get(key)) is not None]
        resting = [number for number in numbers if self.order.is_free(number)]
        for number in resting:
            self.order.touch(number)
        session = self._sessions.get(req_context.req_id)
        if session is not None:
            self.order.use(session, numbers)
        self.order.free(resting[::-1])

    def mark_evictable(self, key: OffloadKey) -> None:
        """No copy uses it any more."""
        self._rested.append(self._chunks[key].chunk_id)

    def mark_non_evictable(self, key: OffloadKey) -> None:
        """A copy reads it."""
        self._settle()
        self.order.touch(self._chunks[key].chunk_id)

    def evict(self, n: int, protected: set[OffloadKey]) -> list[tuple[OffloadKey, ChunkStatus]] | None:
        """The `n` worth least, none of `protected`; None, and nothing done, when there are fewer."""
        self._settle()
        kept = [chunk.chunk_id for key in protected if (chunk := self._chunks.get(key)) is not None]
        kept = [number for number in kept if self.order.is_free(number)]
        if self.order.count - len(kept) < n:
            return None
        for number in kept:
            self.order.touch(number)
        taken = [self._keys[number] for number in self.order.take(n)]
        self.order.free(kept)
        return [(key, self._chunks.pop(key)) for key in taken]

    def clear(self) -> None:
        """Nothing is held any more. What sessions are worth still stands."""
        for key in list(self._chunks):
            self.remove(key)
        self._missed.clear()

    def _settle(self) -> None:
        """Copies of a request end head first; its tail is to go first."""
        if self._rested:
            self.order.free(self._rested[::-1])
            self._rested.clear()
