"""Sessions of workers that soon end: those that do not come back by themselves are handed on before.

Who comes back takes its KV along anyway (`saga_core.moves`); this is for who is in a tool for longer than its node has.
"""

from __future__ import annotations

from collections.abc import Mapping
from heapq import nlargest

from saga_core.desk import Desk
from saga_core.fleet import Fleet, Worker
from saga_core.gate import Gate
from saga_core.moves import Moves

HAND_ON_S = 20.0
"""Before a node that drains is cut off: a session is moved within a second, and the longer one waits, the more have come
back by themselves."""
HANDED = 64
"""Sessions of a worker priced per tick for that, the largest first: 0.3 ms."""


class Leaving:
    """Hands sessions on."""

    def __init__(self, desk: Desk, fleet: Fleet, gates: Mapping[str, Gate], moves: Moves) -> None:
        self.desk, self.fleet, self.gates, self.moves = desk, fleet, gates, moves

    def tick(self) -> None:
        """Time passed: of nodes whose time is almost over, what does nothing goes to the emptiest room."""
        for name, drain in self.desk.book.drains.items():
            node = self.fleet.nodes.get(name)
            if node is None or drain.until is None or self.desk.now < drain.until - HAND_ON_S:
                continue
            for worker in node.workers.values():
                gate = self.gates.get(worker.model)
                if gate is not None and gate.rooms:
                    self._hand_on(worker, gate.floor.emptiest().worker)

    def _hand_on(self, worker: Worker, target: Worker) -> None:
        if target.leaving:
            return
        found = (self.desk.book.sessions[name] for name in worker.resident)
        idle = (session for session in found if session.home == worker.id and not session.running)
        for session in nlargest(HANDED, idle, key=lambda session: worker.resident[session.id]):
            self.moves.hand_on(session, target)
