"""Which models and adapters can be asked for, by what nodes have reported; what else is asked for is unknown."""

from __future__ import annotations

from msgspec.structs import replace

from saga_core import arrivals
from saga_core.actions import Refuse
from saga_core.desk import Desk
from saga_core.events import StepArrived
from saga_core.fleet import Fleet
from saga_core.ids import StepId


class Catalogue:
    """The names that steps may ask for."""

    def __init__(self, desk: Desk, fleet: Fleet) -> None:
        self.desk, self.fleet = desk, fleet
        self._settled_at = 0.0

    def unsettle(self, until: float) -> None:
        """The head was restarted: until then, a model that no worker serves may be one whose node has yet to report."""
        self._settled_at = until

    def settles(self) -> bool:
        """Whether that time has just passed; once."""
        if not 0.0 < self._settled_at <= self.desk.now:
            return False
        self._settled_at = 0.0
        return True

    def named(self, event: StepArrived) -> StepArrived:
        """`event` as one of a model's, where what it asks for is an adapter of it."""
        if event.model in self.fleet.pools:
            return event
        model = self.fleet.adapters.models.get(event.model)
        return event if model is None else replace(event, model=model, adapter=event.model)

    def lacks(self, model: str) -> bool:
        """Whether `model` is one that nobody serves; while no worker has been heard of, nobody knows."""
        models = self.fleet.pools
        return bool(models) and model not in models and self.desk.now >= self._settled_at

    def refusal(self, step: StepId, model: str) -> Refuse:
        """What to tell who asks for a model that is not in it."""
        adapters = self.fleet.adapters
        return arrivals.no_such_model(step, model, self.fleet.names(), adapters.partly(model))
