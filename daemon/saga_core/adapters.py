"""Names that workers serve beside their model's: adapters of it (LoRA), loaded into the same engine.

Rules of this file
  1. An adapter's steps are its model's steps: they share the engine, its KV memory, and so its pool and its gate.
  2. A name counts once every worker of the model serves it, of those that have been ready: then each of them is as
     good a place as for the model itself. Workers that differ belong to models of different names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from saga_core.ids import WorkerId
from saga_core.states import WorkerState
from saga_core.wire import WorkerFact

if TYPE_CHECKING:
    from saga_core.fleet import Worker

MOST: Final = 1024
"""Names of one worker: vLLM's own limit of adapters in memory is far below (--max-cpu-loras)."""


class Adapters:
    """Follows what ready workers say."""

    def __init__(self, workers: Mapping[WorkerId, Worker]) -> None:
        self._workers = workers
        self._models: dict[str, str] | None = None

    def follow(self, worker: Worker, fact: WorkerFact) -> None:
        """Mirror the names of a ready worker; one that starts again will have them again."""
        names = fact.adapters[:MOST]
        if fact.state is WorkerState.READY and worker.adapters != names:
            worker.adapters = names
            self.void()

    def void(self) -> None:
        """A worker came, went or serves another model."""
        self._models = None

    @property
    def models(self) -> Mapping[str, str]:
        """The model of each name that can be asked for."""
        if self._models is None:
            self._models = self._read()
        return self._models

    def _read(self) -> dict[str, str]:
        common: dict[str, set[str]] = {}
        for worker in self._workers.values():
            if worker.adapters is not None:
                names = set(worker.adapters)
                common[worker.model] = common[worker.model] & names if worker.model in common else names
        taken = {worker.model for worker in self._workers.values()}
        return {name: model for model in sorted(common, reverse=True) for name in common[model] - taken}

    def partly(self, name: str) -> list[WorkerId]:
        """Who serves `name` while others of the same model do not."""
        return sorted(w.id for w in self._workers.values() if w.adapters is not None and name in w.adapters)
