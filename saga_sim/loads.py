"""Requests of one engine whose KV is on its way from host memory. One link, one load after the other."""

from __future__ import annotations

from dataclasses import dataclass

from saga_sim.cache import Cache
from saga_sim.costs import Shape
from saga_sim.host import Host
from saga_sim.requests import Request
from saga_sim.streams import Piece


@dataclass(slots=True)
class _Load:
    pieces: list[Piece]
    blocks: int
    ready_at: float


class Loads:
    """Loads under way, in the order in which they come in; without host memory there never is one."""

    def __init__(self, shape: Shape, cache: Cache) -> None:
        self._cache = cache
        self._block_tokens = shape.block_tokens
        self._block_s = shape.block_tokens / shape.link_tokens_per_s
        self._under_way: dict[Request, _Load] = {}
        self._link_free_at = 0.0
        self.host: Host | None = None
        if shape.host_tokens:
            self.host = Host(shape.host_tokens // shape.block_tokens)
            cache.spill = self.host.put

    def __len__(self) -> int:
        return len(self._under_way)

    def __contains__(self, request: Request) -> bool:
        return request in self._under_way

    @property
    def ready_at(self) -> float:
        """When the next one is there."""
        return next(iter(self._under_way.values())).ready_at

    def begin(self, request: Request, now: float) -> int:
        """Load what host memory has of its blocks behind those found in the pool; how many tokens that is.

        One token at least is left to be computed. Their room in the pool is taken at once, as vLLM does. The caller asked for it before.
        """
        assert self.host is not None
        last = (request.known_tokens - 1) // self._block_tokens
        pieces = self.host.lookup(request.stream.pieces(last, request.stored))
        blocks = sum(high - low for _, low, high in pieces)
        if blocks:
            self.host.touch(pieces)
            self._cache.take(blocks)
            self._link_free_at = max(now, self._link_free_at) + blocks * self._block_s
            self._under_way[request] = _Load(pieces, blocks, self._link_free_at)
        return blocks * self._block_tokens

    def landed(self, now: float) -> list[Request]:
        """Those that are there by now: their blocks can be found, and the rest of their prompts be computed."""
        landed = []
        while self._under_way and self.ready_at <= now:
            request, load = next(iter(self._under_way.items()))
            del self._under_way[request]
            self._cache.store(load.pieces, request)
            request.stored += load.blocks
            request.computed = request.stored * self._block_tokens
            landed.append(request)
        return landed

    def drop(self, request: Request) -> int:
        """It is not waited for any more; how many blocks it had taken, without content. The link stays busy with it."""
        load = self._under_way.pop(request, None)
        return 0 if load is None else load.blocks
