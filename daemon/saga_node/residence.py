"""From a worker's KV events to what the head is told: sessions and their resident tokens.

What is not certain is not claimed: after a hole in the events, or a restart, nothing is resident until it is
stored again.
"""

from __future__ import annotations

from saga_core.ids import SessionId, WorkerId
from saga_core.kv.ledger import Ledger
from saga_core.node_words import Residency
from saga_vllm.kv_events import AllBlocksCleared, Batch, BlockRemoved, BlockStored, KvEvent, Lost, Restarted
from saga_vllm.proving import SESSION

DEVICE = (None, "GPU")
"""vLLM calls the pool that its kernels read "GPU" on every platform; "CPU" and "STORAGE" are tiers behind it."""
FIRST_GROUP = (None, 0)
"""Models with several kinds of attention name each block once per group: one of them counts."""


class Residence:
    """The residency of one incarnation of a worker."""

    probed_tokens = 0
    """Told of under the name of the node's own trial of a start; no session has that name."""

    def __init__(self, worker: WorkerId, incarnation: int) -> None:
        self.worker, self.incarnation = worker, incarnation
        self.ledger = Ledger()
        self._void = False

    def hear(self, heard: Batch | Lost | Restarted) -> None:
        """Let it have happened."""
        if isinstance(heard, Batch):
            for event in heard.events:
                self._apply(event)
        else:
            self.ledger.cleared()
            self._void = True

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
        if not changes and not self._void:
            return None
        reset, self._void = self._void, False
        return Residency(self.worker, self.incarnation, changes, reset)
