"""The gates of all models, where the profile has any: which there are, who asks, and by which account it is sorted.

What a gate decides stands in it until `saga_core.steps` takes it and does it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace as replaced
from functools import partial

from saga_core.accounts import Account, Accounts
from saga_core.book import Session, Step
from saga_core.decisions import Decisions
from saga_core.desk import Desk
from saga_core.events import StepFinished
from saga_core.fleet import Pool
from saga_core.gate import Gate
from saga_core.ids import SessionId, StepId, WorkflowId
from saga_core.policy.ordering import virtual_finish
from saga_core.policy.profiles import Profile


def claimant(step: Step, session: Session | None) -> SessionId:
    """Who asks for memory: the session, or the step itself where it has none."""
    return session.id if session is not None else SessionId(f"step-{step.id}")


class Gates:
    """A gate per model, made when the first step asks at it."""

    def __init__(self, desk: Desk, decisions: Decisions) -> None:
        self.desk, self.decisions = desk, decisions
        self.by_model: dict[str, Gate] = {}
        """None where the profile has no gate."""
        self._guests: dict[WorkflowId, dict[str, Account]] = {}
        """What workflows go by at the gates of models that they did not begin with."""

    def __iter__(self) -> Iterator[Gate]:
        return iter(self.by_model.values())

    @property
    def _accounts(self) -> Accounts:
        return self.desk.book.accounts

    @property
    def waiting(self) -> int:
        """Steps held back, at all of them."""
        return sum(gate.waiting for gate in self)

    def holds(self, step: Step) -> bool:
        """Whether `step` waits at one."""
        gate = self.by_model.get(step.model)
        return gate is not None and gate.holds(step.id)

    def at(self, model: str, pool: Pool, profile: Profile) -> Gate:
        """The gate of `model`, whose workers are `pool`; `profile` has one."""
        assert profile.admission is not None, f"profile {profile} has no gate"
        gate = self.by_model.get(model)
        if gate is None:
            gate = self.by_model[model] = Gate(
                pool,
                profile.admission,
                profile.key,
                profile.victim,
                self.decisions,
                partial(self._accounts.virtual_s, model) if profile.due is virtual_finish else None,
                profile.due,
                lambda workflow: self._accounts.left_s(workflow, self.desk.now),
            )
        gate.attach(pool)
        return gate

    def ask(self, step: Step, session: Session | None, gate: Gate) -> None:
        """`step` asks at the gate of its model to be let in."""
        account = self._account(step, session)
        gate.ask(
            step.id,
            claimant(step, session),
            account,
            step.body_bytes,
            self.desk.now,
            step.expected_tokens,
        )

    def _account(self, step: Step, session: Session | None) -> Account:
        """By which the gate of the step's model sorts it. A workflow's own is of the model that it began with.

        At the gate of another one, where virtual time is another, it came with its first step there.
        """
        own = self._accounts.of(step.workflow) if step.workflow is not None else None
        born_v = self._accounts.virtual_s(step.model)
        if session is None or own is None:
            return Account(WorkflowId(0), step.arrived_at, born_v, 0.0)
        if self._accounts.model_of(own.workflow) == step.model:
            return own
        guest = self._guests.setdefault(own.workflow, {}).setdefault(step.model, replaced(own, born_v=born_v))
        guest.expected_s, guest.attained_s = own.expected_s, own.attained_s
        return guest

    def land(
        self, step: Step, end: StepFinished | None, again_s: float = 0.0, *, over: bool = True
    ) -> Gate | None:
        """Tell the gate that `step` has left its worker or waits no more. Unless it is `over` it asks again."""
        gate = self.by_model.get(step.model)
        if gate is None:
            return None
        gate.land(
            step.id,
            self.desk.now,
            prompt_tokens=end.prompt_tokens if end is not None else None,
            cached_tokens=(end.cached_tokens or 0) if end is not None else 0,
            output_tokens=(end.output_tokens or 0) if end is not None else 0,
            again_s=again_s,
        )
        if over and step.workflow is None:
            gate.leave(claimant(step, None), self.desk.now)
        return gate

    def late(self, limit: float, most: int) -> list[StepId]:
        """Who has waited since `limit` or longer at gates that have no worker; at most so many."""
        late: list[StepId] = []
        for gate in [g for g in self if g.waiting and not g.pool]:
            late += gate.late(limit, most - len(late))
        return late

    def forget(self, workflow: WorkflowId) -> None:
        """`workflow` is over: what it went by as a guest is of no use."""
        self._guests.pop(workflow, None)

    def close(self) -> list[StepId]:
        """Have no gates; returns who was held at them, by number."""
        held = sorted(step for gate in self for step, _ in gate.held())
        self.by_model.clear()
        return held

    def check(self) -> None:
        """Raise AssertionError where a claim is of nobody who is there."""
        book = self.desk.book
        strays = {claimant(step, None) for step in book.steps.values() if step.workflow is None}
        for gate in self:
            gate.check()
            assert gate.claims.keys() <= book.sessions.keys() | strays, "a claim outlives its step"
