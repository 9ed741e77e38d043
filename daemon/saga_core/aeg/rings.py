"""The latest values of something, in order of size: an empirical distribution that forgets."""

from __future__ import annotations

from bisect import bisect_right, insort


class Ring:
    """At most `limit` values; the oldest goes first."""

    __slots__ = ("latest", "limit", "oldest", "ordered")

    def __init__(self, limit: int, values: list[float] | None = None) -> None:
        self.limit = limit
        self.latest: list[float] = list(values or ())[-limit:]
        self.oldest = 0
        self.ordered: list[float] = sorted(self.latest)

    def add(self, value: float) -> None:
        latest = self.latest
        if len(latest) < self.limit:
            latest.append(value)
        else:
            old = latest[self.oldest]
            latest[self.oldest] = value
            self.oldest = (self.oldest + 1) % self.limit
            ordered = self.ordered
            del ordered[bisect_right(ordered, old) - 1]
        insort(self.ordered, value)

    def above(self, value: float) -> int:
        """Index in `ordered` of the first one greater than `value`."""
        return bisect_right(self.ordered, value)

    def values(self) -> list[float]:
        """Oldest first: a ring made of them is this one again."""
        return self.latest[self.oldest :] + self.latest[: self.oldest]
