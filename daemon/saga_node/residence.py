"""From a worker's KV events to what the head is told: sessions and their resident tokens.

What is not certain is not claimed: after a hole in the events, or a restart, nothing is resident until it is
stored again. An engine with session control is asked instead (`mend`): what it says takes the place of all that was
heard, and only events from after its answer are added to it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from saga_core.ids import SessionId, WorkerId
from saga_core.kv.commands import Resident
from saga_core.kv.ledger import Ledger
from saga_core.node_words import Residency
from saga_vllm.kv_events import AllBlocksCleared, Batch, BlockRemoved, BlockStored, KvEvent, Lost, Restarted
from saga_vllm.proving import SESSION

DEVICE = (None, "GPU")
"""vLLM calls the pool that its kernels read "GPU" on every platform; "CPU" and "STORAGE" are tiers behind it."""
MOST_SINCE = 10_000
"""Batches kept while the engine is asked; as many as it keeps itself."""
FIRST_GROUP = (None, 0)
"""Models with several kinds of attention name each block once per group: one of them counts."""


class Residence:
    """The residency of one incarnation of a worker."""

    probed_tokens = 0
    """Told of under the name of the node's own trial of a start; no session has that name."""

    def __init__(self, worker: WorkerId, incarnation: int) -> None:
        self.worker, self.incarnation = worker, incarnation
        self.ledger = Ledger()
        self.can_ask = False
        """Whether somebody asks the engine and calls `mend` when this is torn."""
        self.torn = asyncio.Event()
        self.holes = self.healed = 0
        """Times that events were lost, or did not agree with the engine; and that it was asked and believed."""
        self._since: list[Batch] = []
        """What was heard since the tear."""
        self._void = False
        self._told = (0, 0)

    def hear(self, heard: Batch | Lost | Restarted) -> None:
        """Let it have happened."""
        if isinstance(heard, Batch):
            if self.torn.is_set():
                self._since.append(heard)
                if len(self._since) > MOST_SINCE:
                    self._give_up()
            for event in heard.events:
                self._apply(event)
        else:
            self.tear()
            if not self.can_ask or isinstance(heard, Restarted):
                self._give_up()

    def tear(self) -> None:
        """What was heard is not what is: a hole, or the engine says otherwise."""
        self.holes += 1
        self._since = []
        if self.can_ask:
            self.torn.set()

    def _give_up(self) -> None:
        """Nothing is resident until it is stored again."""
        self.ledger.cleared()
        self._void = True
        self._since = []
        self.torn.clear()

    def mend(self, resident: Resident) -> None:
        """All that is in the engine, as it says."""
        self.ledger.cleared()
        for session, blocks in ((chain.session, chain.blocks) for chain in resident.chains):
            if blocks and session != SESSION:
                self.ledger.stored(
                    blocks, parent=None, block_tokens=resident.block_tokens, session=SessionId(session)
                )
        for batch in self._since:
            if batch.at_s > resident.at_s:
                for event in batch.events:
                    self._apply(event)
        self.healed += 1
        self._since = []
        self.torn.clear()

    def differs(self, resident: Resident, asked: Iterable[str] = ()) -> dict[str, int]:
        """Sessions of which the engine says something else, with the tokens that it says: none of whom it is silent."""
        said = dict.fromkeys(asked, 0) | {
            chain.session: len(chain.blocks) * resident.block_tokens for chain in resident.chains
        }
        said.pop(SESSION, None)
        return {name: n for name, n in said.items() if self.ledger.tokens(SessionId(name)) != n}

    def _apply(self, event: KvEvent) -> None:
        if isinstance(event, AllBlocksCleared):
            self.ledger.cleared()
        elif event.medium not in DEVICE or event.group_idx not in FIRST_GROUP:
            return
        elif isinstance(event, BlockStored):
            self._stored(event)
        elif isinstance(event, BlockRemoved):
            self.ledger.removed(event.block_hashes)

    def _stored(self, event: BlockStored) -> None:
        session = event.session_id
        if session == SESSION:
            self.probed_tokens += len(event.block_hashes) * event.block_size
            session = None
        self.ledger.stored(
            event.block_hashes,
            parent=event.parent_block_hash,
            block_tokens=event.block_size,
            session=SessionId(session) if session else None,
        )

    def news(self) -> Residency | None:
        """What changed since the last call; None: nothing."""
        changes = self.ledger.take_changes()
        counts = (self.holes, self.healed)
        if not changes and not self._void and counts == self._told:
            return None
        reset, self._void, self._told = self._void, False, counts
        return Residency(self.worker, self.incarnation, changes, reset, *counts)
