"""What one worker's engine was told of its sessions' KV, and how much of that is known to have arrived."""

from __future__ import annotations

from dataclasses import dataclass, field

from saga_core.ids import SessionId, WorkerId
from saga_core.kv.retention import OVER, Worth


@dataclass(slots=True, eq=False)
class Channel:
    """What one worker's engine was told."""

    worker: WorkerId
    incarnation: int
    base: int
    """The latest version before it was opened."""
    said: int = 0
    settled: int = 0
    """Latest version sent, and latest known to have arrived; 0: none."""
    said_at: float = 0.0
    news: dict[SessionId, None] = field(default_factory=dict)
    """To be looked at."""
    told: dict[SessionId, Worth] = field(default_factory=dict)
    unsettled: dict[SessionId, int] = field(default_factory=dict)
    """Those of `told` that may not have arrived, with the version that first carried it; 0: not sent yet."""
    soon: dict[SessionId, None] = field(default_factory=dict)
    """Whose steps are near, to be said with the next message."""
    away: dict[SessionId, int] = field(default_factory=dict)
    """Contexts in tokens of sessions at home here that wait for their tools, the longest away first."""

    @property
    def pending(self) -> bool:
        return bool(self.news or self.unsettled or not self.settled)

    def change(self, session: SessionId, worth: Worth) -> None:
        """Another worth is to be said."""
        self.told[session] = worth
        self.unsettled.pop(session, None)
        self.unsettled[session] = 0

    def settle(self, version: int) -> None:
        """Up to `version` all of it has arrived."""
        self.settled = version
        for session in [s for s, carried in self.unsettled.items() if 0 < carried <= version]:
            del self.unsettled[session]
            if self.told[session] == OVER:
                del self.told[session]

    def check(self, last: int) -> None:
        """Raise AssertionError where what is to be said and what was said disagree; `last`: the latest version."""
        name = self.worker
        assert self.unsettled.keys() <= self.told.keys(), name
        assert self.settled <= self.said <= last, name
        versions = [version or last + 1 for version in self.unsettled.values()]
        assert versions == sorted(versions), f"{name}: what was sent does not stand first"
        assert all(version > self.settled for version in versions), name
        over = [s for s, worth in self.told.items() if worth == OVER and s not in self.unsettled]
        assert not over, f"{name}: {over} are over and were told so"
