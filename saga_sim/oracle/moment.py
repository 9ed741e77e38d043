"""What a rule may look at when blocks have to go: the sessions as they stand now, and (for oracles) the rest of the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from saga_core.costs import CostTable
from saga_sim.oracle.accesses import Access, Recording
from saga_sim.oracle.rows import Row


@dataclass(slots=True, eq=False)
class SessionNow:
    """A session between or within its steps."""

    access: Access
    """Its latest."""
    number: int
    """Of that access in the recording."""
    ended: bool = False
    """Its workflow has finished."""
    rows: list[Row] = field(default_factory=list)


class Moment:
    """Now, in a replay. Only oracles read `next_of_session` and `starts_s` beyond `number`."""

    def __init__(self, recording: Recording, costs: CostTable) -> None:
        self.recording = recording
        self.costs = costs
        self.now_s = 0.0
        self.number = -1
        """Of the latest access."""
        self.sessions: dict[str, SessionNow] = {}
        self.starts_s = [access.start_s for access in recording.accesses]
        self.next_of_session = _next_of_session(recording.accesses)

    def block_s(self, block: int) -> float:
        """Seconds to compute the block at that position again."""
        size = self.recording.block_tokens
        return self.costs.chunk_s(block * size, size)

    def blocks_s(self, low: int, high: int) -> float:
        """Seconds to compute those blocks again behind what is in front of them."""
        size = self.recording.block_tokens
        return self.costs.chunk_s(low * size, (high - low) * size)

    def waiting(self, row: Row) -> list[SessionNow]:
        """The live sessions whose latest context includes the last block of `row`."""
        return [self.sessions[name] for name, reach in row.sessions.items() if reach >= row.end]

    def finished(self, row: Row) -> bool:
        """The one workflow that used `row` has finished. A row that several used is never finished."""
        return not row.shared and self.sessions[row.stairs[0].session].ended


def _next_of_session(accesses: Sequence[Access]) -> list[int | None]:
    """For each access the number of its session's next one."""
    found: list[int | None] = [None] * len(accesses)
    latest: dict[str, int] = {}
    for number, access in enumerate(accesses):
        if access.session in latest:
            found[latest[access.session]] = number
        latest[access.session] = number
    return found
