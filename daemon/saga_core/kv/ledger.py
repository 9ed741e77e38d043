"""What is resident in one worker, from its KV events: block by block, session by session.

Rules of this file
  1. A block is known by its chained hash, so a chain of parents is a prefix.
  2. A session's chain is extended by the blocks stored under its name; what it shares with
     an earlier prompt is found through the parents and belongs to both.
  3. `tokens(session)` counts the leading blocks of its chain that are still there: KV
     without its beginning is of no use to anybody.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from saga_core.ids import SessionId

BlockHash = int | bytes
"""As vLLM 0.32 sends it: a 64-bit number, or bytes with VLLM_KV_EVENTS_USE_INT_BLOCK_HASHES=0."""
MAX_CHAIN = 1 << 16
"""Blocks in one chain; a million tokens in blocks of 16. Longer is a damaged event."""


@dataclass(slots=True, eq=False)
class _Block:
    parent: BlockHash | None
    tokens: int


class Ledger:
    """Blocks and sessions of one worker."""

    def __init__(self) -> None:
        self._blocks: dict[BlockHash, _Block] = {}
        self._chains: dict[SessionId, list[BlockHash]] = {}
        self._owners: dict[BlockHash, set[SessionId]] = {}
        """The inverse of the chains, also for blocks that are gone: they may come back."""
        self._changed: set[SessionId] = set()

    @property
    def blocks(self) -> int:
        """Number of blocks resident."""
        return len(self._blocks)

    @property
    def sessions(self) -> Collection[SessionId]:
        """Those that something is or was known of."""
        return self._chains.keys()

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
            if name not in self._blocks:
                self._blocks[name] = _Block(before, block_tokens)
                self._changed |= self._owners.get(name, set())
            before = name
        if session is not None and hashes:
            self._changed.add(session)
            if not self._extend(session, parent, hashes):
                self._follow(session, hashes[-1])

    def _extend(self, session: SessionId, parent: BlockHash | None, hashes: Sequence[BlockHash]) -> bool:
        """The usual case, while a step decodes: new blocks right behind the chain as it is."""
        chain = self._chains.get(session)
        if not chain or chain[-1] != parent or len(chain) + len(hashes) > MAX_CHAIN:
            return False
        if any(session in self._owners.get(name, ()) for name in hashes) or len(set(hashes)) < len(hashes):
            return False
        chain.extend(hashes)
        self._own(session, hashes)
        return True

    def _follow(self, session: SessionId, tip: BlockHash) -> None:
        """`session` now ends in `tip`: walk to the root and own the whole way."""
        way: dict[BlockHash, None] = {}
        at: BlockHash | None = tip
        while at is not None and at in self._blocks and at not in way and len(way) < MAX_CHAIN:
            way[at] = None
            at = self._blocks[at].parent
        chain = list(reversed(way))
        known = self._chains.get(session, [])
        if at is not None and at in known:
            # Its root is gone or unknown to us (we came late): keep what we knew of its beginning.
            start = known[: known.index(at) + 1]
            chain = [name for name in start if name not in way] + chain
        chain = chain[:MAX_CHAIN]  # what lies behind its beginning helps nobody
        self._drop(session)
        self._chains[session] = chain
        self._own(session, chain)

    def _own(self, session: SessionId, chain: Iterable[BlockHash]) -> None:
        for name in chain:
            self._owners.setdefault(name, set()).add(session)

    def removed(self, hashes: Iterable[BlockHash]) -> None:
        """These blocks are gone."""
        for name in hashes:
            if self._blocks.pop(name, None) is not None:
                self._changed |= self._owners.get(name, set())

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
            owners = self._owners[name]
            owners.discard(session)
            if not owners:
                del self._owners[name]

    def check(self) -> None:
        """Raise AssertionError where blocks and chains disagree."""
        owners: dict[BlockHash, set[SessionId]] = {}
        for session, chain in self._chains.items():
            assert len(set(chain)) == len(chain) <= MAX_CHAIN, f"the chain of {session} bites its tail"
            for name in chain:
                owners.setdefault(name, set()).add(session)
        assert owners == self._owners, "chains and their inverse disagree"
