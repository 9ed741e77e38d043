"""Steps that wait because no worker of their model is ready, in the order in which they began to."""

from __future__ import annotations

from itertools import islice, takewhile

from saga_core.ids import StepId


class Lobby:
    """Who waits, since when, and for which model."""

    def __init__(self) -> None:
        self.since: dict[StepId, float] = {}
        """Oldest first."""
        self._for: dict[str, dict[StepId, None]] = {}
        """The same by model."""

    def add(self, step: StepId, model: str, now: float) -> None:
        self.since[step] = now
        self._for.setdefault(model, {})[step] = None

    def remove(self, step: StepId, model: str) -> None:
        """It waits no more; one that does not wait does nothing."""
        if self.since.pop(step, None) is None:
            return
        queue = self._for[model]
        del queue[step]
        if not queue:
            del self._for[model]

    def of(self, model: str) -> list[StepId]:
        """Who waits for `model`."""
        return list(self._for.get(model, ()))

    def models(self) -> list[str]:
        """For which models somebody waits."""
        return list(self._for)

    def counts(self) -> dict[str, int]:
        """How many wait, by model."""
        return {model: len(steps) for model, steps in self._for.items()}

    def late(self, limit: float, most: int) -> list[StepId]:
        """Those that have waited since `limit` or longer; at most so many, those first who have for longest."""
        return [
            step for step, _ in islice(takewhile(lambda item: item[1] <= limit, self.since.items()), most)
        ]

    def check(self) -> None:
        """Raise AssertionError where the two orders disagree."""
        assert {s for queue in self._for.values() for s in queue} == self.since.keys(), (
            "waiting steps miscounted"
        )
        assert all(self._for.values()), "a model for which nobody waits"
