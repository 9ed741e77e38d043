"""What a simulated worker tells its node of its sessions: the leading tokens of each that are in its cache.

The live node learns this block by block from KV events (`saga_core.kv.ledger`); here the cache is asked for the sessions
of the streams that changed, which comes to the same.
"""

from __future__ import annotations

from saga_core.ids import SessionId
from saga_sim.cache import Cache
from saga_sim.engine import Request
from saga_sim.streams import Stream


class Residence:
    """Sessions of one worker, and which of them have news."""

    def __init__(self, cache: Cache, block_tokens: int) -> None:
        self._cache, self._block_tokens = cache, block_tokens
        self._chains: dict[SessionId, tuple[Stream, int]] = {}
        self._owners: dict[Stream, dict[SessionId, None]] = {}
        self._changed: dict[SessionId, None] = {}

    def note(self, request: Request) -> None:
        """Blocks of the session of `request` were stored under its name."""
        session = SessionId(request.session)
        if not session or request.stored == request.found:
            return  # all that it has was there before, stored under other names or already noted
        self.hold(session, request.stream, request.stored)

    def hold(self, session: SessionId, own: Stream, blocks: int) -> None:
        """The first `blocks` blocks of that stream were stored under the name of `session`."""
        chain = (own, blocks)
        known = self._chains.get(session)
        if known == chain:
            return
        self._changed[session] = None
        if known is None or known[0] is not own:
            self._drop(session)
            for stream, _, _ in own.pieces(blocks):
                self._owners.setdefault(stream, {})[session] = None
            self._owners.setdefault(own, {})[session] = None
        self._chains[session] = chain

    def leading(self, session: SessionId) -> tuple[Stream, int] | None:
        """The leading blocks of the session's context that are here; None: there are none."""
        chain = self._chains.get(session)
        blocks = self._cache.cached(chain[0].pieces(chain[1])) if chain is not None else 0
        return (chain[0], blocks) if chain is not None and blocks else None

    def news(self) -> dict[SessionId, int]:
        """Sessions whose residency may have changed since the last call, with their tokens now.

        A session of which nothing is left is named once more, with 0, and then forgotten.
        """
        for stream in self._cache.changed:
            self._changed.update(self._owners.get(stream, {}))
        self._cache.changed.clear()
        changes = {session: self._tokens(session) for session in sorted(self._changed)}
        self._changed.clear()
        for session, tokens in changes.items():
            if not tokens:
                self._drop(session)
        return changes

    def _tokens(self, session: SessionId) -> int:
        chain = self._chains.get(session)
        if chain is None:
            return 0
        stream, blocks = chain
        return self._cache.cached(stream.pieces(blocks)) * self._block_tokens

    def _drop(self, session: SessionId) -> None:
        chain = self._chains.pop(session, None)
        if chain is None:
            return
        for stream in [chain[0], *(piece[0] for piece in chain[0].trunk)]:
            owners = self._owners.get(stream)
            if owners is not None:
                owners.pop(session, None)
                if not owners:
                    del self._owners[stream]
