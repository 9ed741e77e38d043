"""What is resident in one worker, from its KV events: block by block, session by session.

Rules of this file
  1. A block is known by its chained hash, so a chain of parents is a prefix.
  2. A session's chain is extended by the blocks stored under its name; what it shares with
     an earlier prompt is found through the parents and belongs to both.
  3. `tokens(session)` counts the leading blocks of its chain that are still there: KV
     without its beginning is of no use to anybody.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from saga_core.ids import SessionId

BlockHash = int | bytes
"""As vLLM 0.32 sends it: a 64-bit number, or bytes with VLLM_KV_EVENTS_USE_INT_BLOCK_HASHES=0."""
MAX_CHAIN = 1 << 16
"""Blocks in one chain; a million tokens in blocks of 16. Longer is a damaged event."""


@dataclass(slots=True, eq=False)
class _Block:
    parent: BlockHash | None
    tokens: int
    sessions: set[SessionId] = field(default_factory=set)


class Ledger:
    """Blocks and sessions of one worker."""

    def __init__(self) -> None:
        self._blocks: dict[BlockHash, _Block] = {}
        self._chains: dict[SessionId, list[BlockHash]] = {}
        self._changed: set[SessionId] = set()

    @property
    def blocks(self) -> int:
        """Number of blocks resident."""
        return len(self._blocks)

    @property
    def total_tokens(self) -> int:
        """Tokens resident, shared ones counted once."""
        return sum(block.tokens for block in self._blocks.values())

    def stored(
        self,
        hashes: Sequence[BlockHash],
        *,
        parent: BlockHash | None,
        block_tokens: int,
        session: SessionId | None,
    ) -> None:
        """Blocks `hashes`, each the child of the one before it and the first of `parent`, are here now."""
        before = parent
        for name in hashes:
            block = self._blocks.get(name)
            if block is None:
                self._blocks[name] = _Block(before, block_tokens)
            before = name
        if session is not None and hashes:
            self._follow(session, hashes[-1])

    def _follow(self, session: SessionId, tip: BlockHash) -> None:
        """`session` now ends in `tip`: walk to the root and own the whole way."""
        chain: list[BlockHash] = []
        at: BlockHash | None = tip
        while at is not None and len(chain) < MAX_CHAIN:
            block = self._blocks.get(at)
            if block is None:
                break
            chain.append(at)
            at = block.parent
        chain.reverse()
        if at is not None:
            # Its root is unknown to us (we came late): keep what we knew of its beginning.
            known = self._chains.get(session, [])
            chain = known[: known.index(at) + 1] + chain if at in known else chain
        self._drop(session)
        self._chains[session] = chain
        for name in chain:
            if name in self._blocks:
                self._blocks[name].sessions.add(session)
        self._changed.add(session)

    def removed(self, hashes: Iterable[BlockHash]) -> None:
        """These blocks are gone."""
        for name in hashes:
            block = self._blocks.pop(name, None)
            if block is not None:
                self._changed |= block.sessions

    def cleared(self) -> None:
        """Everything is gone: the cache was reset or the worker restarted."""
        self._blocks.clear()
        self._changed |= self._chains.keys()

    def tokens(self, session: SessionId) -> int:
        """Tokens of `session` that a next prompt of it would find, counted from its beginning."""
        total = 0
        for name in self._chains.get(session, ()):
            block = self._blocks.get(name)
            if block is None:
                break
            total += block.tokens
        return total

    def take_changes(self) -> dict[SessionId, int]:
        """Sessions whose residency changed since the last call, with their tokens now.

        A session with nothing left is named once more, with 0, and then forgotten.
        """
        changes = {session: self.tokens(session) for session in sorted(self._changed)}
        self._changed.clear()
        for session, tokens in changes.items():
            if tokens == 0:
                self._drop(session)
        return changes

    def _drop(self, session: SessionId) -> None:
        for name in self._chains.pop(session, ()):
            block = self._blocks.get(name)
            if block is not None:
                block.sessions.discard(session)

    def check(self) -> None:
        """Raise AssertionError where blocks and chains disagree."""
        for session, chain in self._chains.items():
            for name in chain:
                block = self._blocks.get(name)
                assert block is None or session in block.sessions
        for name, block in self._blocks.items():
            assert all(name in self._chains[s] for s in block.sessions)
