"""What a pool's blocks are in: holdings, by the sessions that use them, and runs, while they are free."""

from __future__ import annotations

from saga_core.kv.queue import Entry, Party
from saga_core.kv.retention import OVER, Worth


class Run(Entry):
    """Free blocks of one holding, the next to go at the end; `live` of them still are."""

    __slots__ = ("blocks", "holding", "live")

    def __init__(self, blocks: list[int], holding: Holding | None) -> None:
        super().__init__()
        self.blocks, self.live = blocks, len(blocks)
        self.holding = holding
        """None: of no session."""


class Holding(Party):
    """Blocks that the same sessions use; `blocks` of them, free or not."""

    __slots__ = ("blocks", "owner")

    def __init__(self, floor: Worth = OVER, owner: str = "") -> None:
        super().__init__(floor)
        self.blocks = 0
        self.owner = owner
        """The session whose new blocks come here; "": none, several use it."""
