"""Nodes that are emptied: because somebody says so, or because their wall time ends.

Rules of this file
  1. That a node drains is a fact of the book, so that neither a restart of its daemon nor one of the head forgets it.
  2. Its sessions go elsewhere with their next step; steps in flight finish. Programs finish, or at the node's time are
     stopped and start again elsewhere; what is left then is broken off.
  3. Where no other worker serves a model, a node that drains goes on doing it for who is there (`saga_core.pool`).
  4. A drain that somebody asked for stands until it is taken back; one for the end of the wall time, or for the removal
     of a node, is over with the daemon.
"""

from __future__ import annotations

from collections.abc import Iterator

from saga_core import wire
from saga_core.actions import Action, Disconnect, Send
from saga_core.config import HeadConfig
from saga_core.desk import Desk
from saga_core.events import DrainAsked, DrainCause, NodeDrained, NodeDraining, NodeUndrained, UndrainAsked
from saga_core.fleet import Fleet, Node
from saga_core.ids import NodeId
from saga_core.mirror import ALIKE_S, Mirror
from saga_core.programs import Programs
from saga_core.records import Drain
from saga_core.states import DutyState, NodeState

LAST_S = 10.0
"""Before a node's end, everything is over there: the daemon stops its workers within 5 s, and Slurm's clock is not ours."""
REPEAT_S = 2.0
"""A shutdown that has not been followed is said again after this long."""


class Drains:
    """Which nodes are being emptied, and what is left of them."""

    def __init__(
        self, desk: Desk, fleet: Fleet, mirror: Mirror, programs: Programs, config: HeadConfig
    ) -> None:
        self.desk, self.fleet, self.mirror = desk, fleet, mirror
        self.programs, self.config = programs, config
        self._cut: dict[NodeId, float] = {}
        """Nodes whose time is over, and when they were last told to stop."""

    @property
    def all(self) -> dict[NodeId, Drain]:
        return self.desk.book.drains

    # -- what is asked -------------------------------------------------------------------

    def ask(self, asked: DrainAsked) -> None:
        """Empty a node; of one that is gone already, forget it if it shall be removed."""
        node = self.fleet.nodes.get(asked.node)
        if node is None:
            self.desk.ignore("unknown node", f"drain of {asked.node}")
            return
        if asked.remove and node.state is not NodeState.UP and not node.busy:
            self._forget(node)
            return
        cause = DrainCause.REMOVED if asked.remove else DrainCause.ASKED
        until = None if asked.within_s is None else self.desk.now + asked.within_s
        reason = asked.reason or ("it is removed" if asked.remove else "somebody asked for it")
        self._begin(node, cause, reason, until)

    def take_back(self, asked: UndrainAsked) -> None:
        """Let a node have sessions again."""
        if asked.node not in self.all:
            self.desk.ignore("not draining", f"end of the drain of {asked.node}")
            return
        self._end(asked.node, "somebody took it back")

    def _begin(self, node: Node, cause: DrainCause, reason: str, until: float | None) -> None:
        self._cut.pop(node.id, None)
        self.desk.record(NodeDraining(node=node.id, cause=cause, reason=reason, until=until))
        self.mirror.follow_duty(node)

    def _end(self, name: NodeId, reason: str) -> None:
        self._cut.pop(name, None)
        self.desk.record(NodeUndrained(node=name, reason=reason))
        node = self.fleet.nodes.get(name)
        if node is not None:
            self.mirror.follow_duty(node)

    def _forget(self, node: Node) -> None:
        if node.id in self.all:
            self._end(node.id, "it is removed")
        self.fleet.forget(node)

    # -- what happens to nodes -----------------------------------------------------------

    def left(self, node: Node) -> None:
        """Its daemon has said goodbye."""
        drain = self.all.get(node.id)
        if drain is not None and drain.cause is not DrainCause.ASKED:
            self._end(node.id, "its daemon has ended")

    def joined(self, node: Node) -> None:
        """A new daemon has the name: what was said of the end of the old one's wall time is past."""
        drain = self.all.get(node.id)
        if drain is not None and drain.cause is DrainCause.ENDS:
            self._end(node.id, "its daemon was started anew")

    # -- time ----------------------------------------------------------------------------

    def tick(self) -> Iterator[Action]:
        """Begin and end what the wall time asks for; say what is empty; break off what had its time."""
        for node in self.fleet.nodes.values():
            if node.ends_at is not None and node.state is NodeState.UP:
                self._watch_end(node, node.ends_at)
        for name, drain in list(self.all.items()):
            there = self.fleet.nodes.get(name)
            if there is None or there.state is not NodeState.UP:
                continue
            if drain.duty is DutyState.DRAINING:
                yield from self._empty(there, drain)
            if drain.duty is DutyState.DRAINED and drain.remove:
                yield from self._shut_down(there)

    def _watch_end(self, node: Node, ends_at: float) -> None:
        left_s = ends_at - self.desk.now
        near, drain = left_s <= self.config.drain_before_end_s, self.all.get(node.id)
        last = max(self.desk.now, ends_at - LAST_S)
        if drain is None:
            if near:
                self._begin(node, DrainCause.ENDS, f"its wall time ends in {max(0.0, left_s):.0f} s", last)
        elif not near:
            if drain.cause is DrainCause.ENDS:
                self._end(node.id, "its end was put off")
        elif drain.until is None or last < drain.until - ALIKE_S:
            self._begin(node, drain.cause, drain.reason, last)

    def _empty(self, node: Node, drain: Drain) -> Iterator[Action]:
        now, until = self.desk.now, drain.until
        if until is not None and now >= until - self.config.stop_grace_s:
            yield from self.programs.hand_on(node, self.desk.book, now)
        if until is not None and now >= until and node.id not in self._cut:
            self._cut[node.id] = now
            self.mirror.follow_duty(node)
            for worker in node.workers.values():
                if worker.placed:
                    yield Disconnect(worker.id, worker.leaving)
        if self._is_empty(node):
            self.desk.record(NodeDrained(node=node.id))

    def _is_empty(self, node: Node) -> bool:
        """Nothing runs there, and where nobody else serves a model nobody lives there or could come."""
        if node.programs or node.id in self.programs.at_node:
            return False
        for worker in node.workers.values():
            stands_in = worker.id in self.fleet.pools[worker.model].workers
            if worker.placed or (stands_in and (worker.homes or not worker.closed)):
                return False
        return True

    def _shut_down(self, node: Node) -> Iterator[Action]:
        told_at = self._cut.get(node.id, float("-inf"))
        if self.desk.now - told_at >= REPEAT_S:
            self._cut[node.id] = self.desk.now
            yield Send(node.id, wire.Shutdown(reason="the node is removed"))

    def check(self) -> None:
        """Raise AssertionError where the workers do not know what the book says."""
        for node in self.fleet.nodes.values():
            for worker in node.workers.values():
                assert bool(worker.leaving) == (node.id in self.all), (
                    f"{worker.id} does not know its node's duty"
                )
                assert worker.ends_at == node.ends_at, f"{worker.id} does not know its node's end"
