"""Nodes and workers as their messages say: the head's mirror of facts, with the fences around it.

Rules of this file
  1. A message of an older incarnation, or older than one we have, changes nothing.
  2. A report is complete: a worker that is not in it is not there any more. Residency alone
     comes as changes, and `since` says upon which report they build; without that one the
     node is asked to begin anew.
  3. Facts only: what follows for steps and programs is `Head`'s business.
"""

from __future__ import annotations

from saga_core import states, wire
from saga_core.actions import Disconnect, Send
from saga_core.config import Config
from saga_core.desk import Desk
from saga_core.events import DrainCause, NodeJoined, NodeLost, WorkerLost, WorkerReady
from saga_core.fleet import Fleet, Node, Worker
from saga_core.ids import NodeId, WorkerId
from saga_core.states import NodeState, WorkerState

ALIKE_S = 1.0
"""Ends of a node that differ by less are one end, told over a link whose delay varies."""
SUSPECT_S = 1.0
"""After a failed connection, a worker is used again when a report at least this much later says ready."""


class Mirror:
    """Keeps `Fleet` as the nodes' messages say."""

    def __init__(self, desk: Desk, fleet: Fleet, config: Config) -> None:
        self.desk, self.fleet, self.config = desk, fleet, config
        self._facts: dict[WorkerId, wire.WorkerFact] = {}
        """What was mirrored last of each worker that is not lost."""

    # -- nodes ---------------------------------------------------------------------------

    def known(self, hello: wire.Hello) -> bool:
        """Whether the hello is of a daemon that is up here already; then it is only seen."""
        node = self.fleet.nodes.get(hello.node)
        if node is None or node.state is not NodeState.UP or node.incarnation != hello.incarnation:
            return False
        node.seen_at = self.desk.now
        return True

    def stale(self, hello: wire.Hello) -> bool:
        """Whether the hello is of an older daemon than the one we know, or of one that has left."""
        node = self.fleet.nodes.get(hello.node)
        if node is None:
            return False
        left = node.state is NodeState.LEFT and hello.incarnation == node.incarnation
        return left or hello.incarnation < node.incarnation

    def refuse(self, hello: wire.Hello) -> bool:
        """Answer a hello of another protocol; whether it was one."""
        if hello.protocol == wire.PROTOCOL:
            return False
        reason = (
            f"node {hello.node} speaks protocol {hello.protocol} (saga {hello.version}), "
            f"this head speaks {wire.PROTOCOL}: install the same version on both"
        )
        self.desk.do(Send(hello.node, wire.Refused(reason=reason)))
        return True

    def join(self, hello: wire.Hello) -> Node:
        """Take a node in, for the first time or again. An earlier incarnation must be lost already."""
        node = self.fleet.nodes.get(hello.node)
        if node is None:
            node = Node(hello.node, hello.incarnation, hello.host, self.desk.now)
            self.fleet.nodes[node.id] = node
        else:
            node.state = states.advance(states.NODE, node.state, "joined", what=f"node {node.id}")
        if node.incarnation != hello.incarnation:
            node.seq = 0
        node.incarnation, node.host = hello.incarnation, hello.host
        node.program_slots = hello.program_slots
        node.cpus, node.memory_bytes = hello.cpus, hello.memory_bytes
        node.seen_at, node.told = self.desk.now, 0
        self._follow_end(node, hello.ends_in_s)
        self.desk.record(NodeJoined(node=node.id, incarnation=node.incarnation, host=node.host))
        return node

    def welcome(self, hello: wire.Hello) -> None:
        welcome = wire.Welcome(
            protocol=wire.PROTOCOL,
            cluster=self.config.name,
            incarnation=hello.incarnation,
            head=self.desk.book.head,
            report_every_s=self.config.head.report_every_s,
        )
        self.desk.do(Send(hello.node, welcome))

    def silent(self) -> list[Node]:
        """Nodes that have said nothing for `node_timeout_s`."""
        limit = self.desk.now - self.config.head.node_timeout_s
        return [n for n in self.fleet.nodes.values() if n.state is NodeState.UP and n.seen_at < limit]

    def lose(self, node: Node, cause: str, reason: str) -> None:
        """`node` is gone, and all its workers with it. `cause` is one of the node table's."""
        node.state = states.advance(states.NODE, node.state, cause, what=f"node {node.id}")
        self.desk.record(NodeLost(node=node.id, reason=reason))
        for worker in node.workers.values():
            self._lose_worker(worker, f"node {node.id}: {reason}")
        node.programs = 0

    # -- reports -------------------------------------------------------------------------

    def accepts(self, report: wire.Report) -> Node | None:
        """The node of a report that is news; otherwise it has been answered or ignored."""
        node = self.fleet.nodes.get(report.node)
        if node is None or report.incarnation > node.incarnation:
            self._ask(report.node)
            return None
        if report.incarnation < node.incarnation or report.seq <= node.seq:
            self.desk.ignore("stale", f"report {report.seq} of {report.node}")
            return None
        if node.state is not NodeState.UP or report.since > node.told:
            self._ask(report.node)
            return None
        node.seq = node.told = report.seq
        node.seen_at = self.desk.now
        self._follow_end(node, report.ends_in_s)
        return node

    def _follow_end(self, node: Node, ends_in_s: float | None) -> None:
        """What a node says of its end is late by the link's delay: of much the same, the earliest is true."""
        ends_at = None if ends_in_s is None or ends_in_s != ends_in_s else self.desk.now + ends_in_s  # noqa: PLR0124
        if ends_at is not None and node.ends_at is not None and abs(ends_at - node.ends_at) < ALIKE_S:
            ends_at = min(ends_at, node.ends_at)
        if ends_at != node.ends_at:
            node.ends_at = ends_at
            self.follow_duty(node)

    def follow_duty(self, node: Node) -> None:
        """What the book says of `node`, and when it ends, holds for its workers."""
        for worker in node.workers.values():
            self._follow_node(worker, node)
            pool = self.fleet.pools[worker.model]
            if worker.id in pool.workers or worker.id in pool.leaving:
                pool.offer(worker)

    def _follow_node(self, worker: Worker, node: Node) -> None:
        drain = self.desk.book.drains.get(node.id)
        worker.ends_at = node.ends_at
        worker.leaving = "" if drain is None else f"its node drains: {drain.reason}"
        worker.closed = drain is not None and drain.cause is not DrainCause.ENDS
        worker.shut = drain is not None and drain.until is not None and self.desk.now >= drain.until

    def _ask(self, node: NodeId) -> None:
        self.desk.do(Send(node, wire.WhoAreYou()))

    def ack(self, node: Node) -> None:
        ack = wire.Ack(incarnation=node.incarnation, head=self.desk.book.head, seq=node.seq)
        self.desk.do(Send(node.id, ack))

    def follow(self, node: Node, report: wire.Report) -> None:
        """Mirror the workers and the residency of a report."""
        for fact in report.workers:
            if not self._stands(node, fact):
                self._on_worker(node, fact)
            elif fact.stirs:
                self._look_for_hang(node, node.workers[fact.worker])
        here = {fact.worker for fact in report.workers}
        for worker in [w for w in node.workers.values() if w.id not in here]:
            self._lose_worker(worker, f"node {node.id} no longer has it")
            if worker.placed == 0:
                self.fleet.remove(node, worker)
        for resident in report.resident:
            self._on_resident(node, resident)

    def _stands(self, node: Node, fact: wire.WorkerFact) -> bool:
        """Whether this very fact is mirrored already: said again, as most are, it changes nothing."""
        worker = node.workers.get(fact.worker)
        return worker is not None and worker.suspect_at is None and self._facts.get(fact.worker) == fact

    def _look_for_hang(self, node: Node, worker: Worker) -> None:
        """Steps are there, and its figures have not changed for long: what the node cannot see, if the engine stopped
        before it counted them.
        """
        quiet_s = self.desk.now - worker.stirred_at
        if worker.placed and worker.state is WorkerState.READY and quiet_s > self.config.node.stall_s:
            reason = f"it hangs: {worker.placed} steps sent, nothing done for {quiet_s:.0f} s"
            want = wire.RestartWorker(worker=worker.id, incarnation=worker.incarnation, reason=reason)
            self.desk.do(Send(node.id, want))

    def _on_worker(self, node: Node, fact: wire.WorkerFact) -> None:
        if node_of(fact.worker) != node.id:
            self.desk.ignore("not its worker", f"{fact.worker} said by {node.id}")
            return
        worker = node.workers.get(fact.worker) or self.fleet.add(node, fact.worker, fact.model)
        self._follow_node(worker, node)
        if fact.incarnation < worker.incarnation:
            self.desk.ignore("stale", f"{fact.worker} incarnation {fact.incarnation}")
            return
        before, restarted = (worker.state, worker.incarnation), fact.incarnation > worker.incarnation
        if restarted:
            self.fleet.void(worker)
            worker.suspect_at = None
        self.fleet.serve(worker, fact.model)
        states.advance(states.WORKER, worker.state, str(fact.state), what=f"worker {worker.id}")
        worker.accept(fact)
        self.fleet.adapters.follow(worker, fact)
        worker.stirred_at = self.desk.now
        self._facts[worker.id] = fact
        self._index(worker, before)

    def _lose_worker(self, worker: Worker, reason: str) -> None:
        before = (worker.state, worker.incarnation)
        self._facts.pop(worker.id, None)
        worker.state = states.advance(states.WORKER, worker.state, "lost", what=f"worker {worker.id}")
        worker.reason = reason
        self._index(worker, before)

    def _index(self, worker: Worker, before: tuple[WorkerState, int]) -> None:
        """Put the worker into its pool, or take it out, and keep the change as a fact."""
        pool = self.fleet.pool(worker.model)
        if worker.suspect_at is not None and self.desk.now - worker.suspect_at >= SUSPECT_S:
            worker.suspect_at = None
        ready = worker.state is WorkerState.READY
        if ready and worker.suspect_at is None:
            pool.offer(worker)
            pool.touch(worker)
        else:
            pool.remove(worker.id)
        if (worker.state, worker.incarnation) == before:
            return
        if before[0] is WorkerState.READY:
            self._tell_lost(worker, before[1])
        if ready:
            self.desk.record(
                WorkerReady(worker=worker.id, incarnation=worker.incarnation, model=worker.model)
            )

    def _tell_lost(self, worker: Worker, incarnation: int) -> None:
        reason = worker.reason or f"it is {worker.state}"
        if worker.state is WorkerState.READY:
            reason = f"it was restarted as {worker.incarnation}"
        self.desk.record(WorkerLost(worker=worker.id, incarnation=incarnation, reason=reason))
        if worker.state is not WorkerState.READY:
            # A restarted one has closed its connections itself, and new ones may be on their way.
            self.fleet.void(worker)
            self.desk.do(Disconnect(worker.id, reason))

    def _on_resident(self, node: Node, fact: wire.ResidentFact) -> None:
        """KV of sessions that are over is in the engines too; it is of no interest here."""
        worker = node.workers.get(fact.worker)
        if worker is None:
            self.desk.ignore("not its worker", f"residency at {fact.worker}")
        elif fact.session in self.desk.book.sessions and worker.state is WorkerState.READY:
            self.fleet.hold(worker, fact.session, fact.tokens)


def node_of(worker: WorkerId) -> NodeId:
    """The node a worker belongs to, by its name."""
    return NodeId(worker.rpartition("/")[0])
