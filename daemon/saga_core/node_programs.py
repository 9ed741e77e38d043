"""The agent programs of a node: each attempt is started at most once, however often it is asked for."""

from __future__ import annotations

from collections import OrderedDict

from saga_core import wire
from saga_core.ids import WorkflowId
from saga_core.node_desk import NodeDesk
from saga_core.node_words import EndProgram, Ignored, ProgramExited, StartProgram

TOMBSTONES = 10_000
"""Ended programs remembered, so that a late request to run one again is recognised."""


class Programs:
    """What runs and what has ended, by workflow and attempt."""

    def __init__(self, desk: NodeDesk, *, incarnation: int, slots: int) -> None:
        self.desk, self.incarnation, self.slots = desk, incarnation, slots
        self.facts: dict[tuple[WorkflowId, int], wire.ProgramFact] = {}
        self.ending: set[tuple[WorkflowId, int]] = set()
        """Running ones that were told to end."""
        self.tombs: OrderedDict[tuple[WorkflowId, int], wire.ProgramFact] = OrderedDict()

    def run(self, want: wire.RunProgram) -> None:
        name = (want.workflow, want.attempt)
        if want.incarnation != self.incarnation or name in self.facts:
            self.desk.out.append(Ignored("stale", f"request to run workflow {want.workflow}"))
            return
        if name in self.tombs:  # the head has lost the fact that it told us to forget
            self.facts[name] = self.tombs.pop(name)
            self.desk.dirty = True
            return
        if sum(not fact.exited for fact in self.facts.values()) >= self.slots:
            self.desk.out.append(Ignored("no slot", f"request to run workflow {want.workflow}"))
            return
        self.facts[name] = wire.ProgramFact(workflow=want.workflow, attempt=want.attempt)
        self.desk.dirty = True
        self.desk.out.append(StartProgram(want))

    def on_exited(self, event: ProgramExited) -> None:
        name = (event.workflow, event.attempt)
        fact = self.facts.get(name)
        if fact is None or fact.exited:
            self.desk.out.append(Ignored("stale", f"exit of workflow {event.workflow}"))
            return
        self.ending.discard(name)
        self.facts[name] = wire.ProgramFact(
            workflow=event.workflow,
            attempt=event.attempt,
            exited=True,
            exit_code=event.exit_code,
            reason=event.reason,
        )
        self.desk.dirty = True

    def stop(self, want: wire.StopProgram) -> None:
        name = (want.workflow, want.attempt)
        fact = self.facts.get(name)
        if fact is None:
            # Never started here, or already forgotten: say that it is over, and never start it.
            never = wire.ProgramFact(
                workflow=want.workflow, attempt=want.attempt, exited=True, reason="it was not running"
            )
            self.facts[name] = self.tombs.pop(name, never)
            self.desk.dirty = True
        elif not fact.exited and name not in self.ending:
            self.ending.add(name)
            self.desk.out.append(EndProgram(want.workflow, want.attempt, want.grace_s))

    def forget(self, want: wire.ForgetProgram) -> None:
        name = (want.workflow, want.attempt)
        fact = self.facts.get(name)
        if fact is not None and fact.exited:
            self.tombs[name] = self.facts.pop(name)
        while len(self.tombs) > TOMBSTONES:
            self.tombs.popitem(last=False)

    def check(self) -> None:
        """Raise AssertionError where the state contradicts itself."""
        assert all(not self.facts[name].exited for name in self.ending)
        assert not self.facts.keys() & self.tombs.keys()
        assert len(self.tombs) <= TOMBSTONES
