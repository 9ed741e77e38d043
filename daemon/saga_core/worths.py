"""What sessions' KV is worth, worker by worker, and that their engines hear of it.

Rules of this file
  1. A session is worth something only at its home; what other workers still have of it is over there.
  2. What is said is a want: each message carries all that is not known to have arrived, builds upon what is, and is
     repeated. So a lost, late or repeated one changes nothing (docs/protocol.md).
  3. Soft state: a new head, a new incarnation of a worker or another profile begins with a message that voids all before.
  4. Only changes are looked at, and so many per epoch; what is left over waits its turn.
  5. A profile without a rule says nothing, and an engine that takes no worths is not told any.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from itertools import islice
from math import inf

from saga_core import wire
from saga_core.actions import Send
from saga_core.channel import Channel
from saga_core.desk import Desk
from saga_core.fleet import Fleet, Worker
from saga_core.gate import Gate
from saga_core.ids import SessionId, WorkerId, WorkflowId
from saga_core.kv.retention import OVER, Standing, Worth
from saga_core.outlook import Home, Prospect
from saga_core.policy.keeping import IN_LINE, Away, Retention
from saga_core.states import WorkerState

LOOKS = 128
"""Worths looked at per epoch, and channels: some 17 µs each, so half of the 5 ms that an epoch may take."""
UNSETTLED = 512
"""Worths in one message; more wait until these have arrived."""
REPEAT_S = 2.0
"""After so long without an answer it is said again, as other wants are."""
SLACK = 64
"""Plans that may be past beside as many as there are."""
WANTED = 1e15
"""Of a session whose step is on its worker, less the number of its turn: of those that wait in the engine's line, the
last one is served last. Turns are whole numbers far below, and other held sessions far below that."""
NEAR_S = 2.0
"""A step that is expected within so many seconds has what host memory has of its session loaded. A step that loads for
itself waits for it: 10,000 tokens of a 30B model are some 1 GB, 0.1 s over a link, more on a busy one. Loaded much
sooner it takes the place of others for longer."""
WHOLE = 0.9
"""Share of a context in the pool from which on nothing is loaded: answers' last blocks are never found."""
PAUSED: Worth = (Standing.PAUSED, 0.0)


class Worths:
    """The worths of all sessions, as far as engines are told them."""

    def __init__(self, desk: Desk, fleet: Fleet, gates: Mapping[str, Gate]) -> None:
        self.desk, self.fleet, self.gates = desk, fleet, gates
        self.rule: Retention | None = None
        self.channels: dict[WorkerId, Channel] = {}
        self._pending: dict[WorkerId, None] = {}
        """Channels with something to do; whose turn it is first."""
        self._since: dict[SessionId, float] = {}
        """When the latest step of a session ended."""
        self._turns: dict[SessionId, int] = {}
        """In which order the latest steps of sessions were sent to workers."""
        self._moves = 0
        self._again: dict[SessionId, float] = {}
        self._due: list[tuple[float, SessionId]] = []
        """When to look again; entries that `_again` does not confirm are past."""
        self._called: set[SessionId] = set()
        """Who was said to return soon since its latest step ended."""
        self._version = 0

    # -- what happens --------------------------------------------------------------------

    def follow(self, rule: Retention | None) -> None:
        """Another rule holds, or another head: whatever engines were told is void."""
        self.rule = rule
        self._since.clear()
        self._turns.clear()
        self._called.clear()
        self._again.clear()
        self._due.clear()
        for name in list(self.channels):
            self._open(name, self.channels[name].incarnation)

    def moved(self, session: SessionId, old: WorkerId | None, new: WorkerId) -> None:
        """A step of `session` goes to `new`; its home was `old`."""
        if self.rule is None:
            return
        self._moves += 1
        self._turns[session] = self._moves
        if old is not None and old != new:
            self._mark(session, old)
        self._mark(session, new)

    def rested(self, session: SessionId, home: WorkerId | None) -> None:
        """A step of `session` is over."""
        if self.rule is not None and home is not None:
            self._since[session] = self.desk.now
            self._called.discard(session)
            self._mark(session, home)
            self._forget_away(session, home)

    def paused(self, session: SessionId, home: WorkerId) -> None:
        """`session` does not return before it is resumed."""
        if self.rule is not None:
            self._mark(session, home)

    def over(self, session: SessionId, home: WorkerId | None) -> None:
        """Nothing of `session` is wanted any more."""
        self._since.pop(session, None)
        self._turns.pop(session, None)
        self._called.discard(session)
        self._again.pop(session, None)
        if self.rule is not None and home is not None:
            self._mark(session, home)
            self._forget_away(session, home)

    def _forget_away(self, session: SessionId, home: WorkerId) -> None:
        channel = self.channels.get(home)
        if channel is not None:
            channel.away.pop(session, None)

    def _mark(self, session: SessionId, worker: WorkerId) -> None:
        """What `session` is worth at `worker` is to be looked at."""
        channel = self.channels.get(worker)
        if channel is None:
            known = self.fleet.workers.get(worker)
            if known is None or not known.values:
                return
            channel = self._open(worker, known.incarnation)
        channel.news[session] = None
        self._pending[worker] = None

    def _open(self, name: WorkerId, incarnation: int) -> Channel:
        """A channel that begins with voiding what was said before; what is there is told anew."""
        channel = self.channels[name] = Channel(name, incarnation, self._version)
        worker = self.fleet.workers.get(name)
        if worker is not None and self.rule is not None:
            channel.news = dict.fromkeys(worker.resident)
        self._pending[name] = None
        return channel

    def arrived(self, answer: wire.Valued) -> None:
        """A node says up to which version a worker's engine was told."""
        channel = self.channels.get(answer.worker)
        if (
            channel is None
            or answer.head != self.desk.book.head
            or not max(channel.base, channel.settled) < answer.version <= channel.said
        ):
            self.desk.ignore("stale", f"worths {answer.version} of {answer.worker}")
            return
        channel.settle(answer.version)

    # -- what is said --------------------------------------------------------------------

    def tick(self) -> None:
        """Look at what has changed, and say what is new of it."""
        self._look_again()
        looks = LOOKS
        for name in list(islice(self._pending, LOOKS)):
            if looks <= 0:
                break
            del self._pending[name]
            channel = self._current(name)
            if channel is None:
                continue
            looks -= 1 + self._look(channel, looks)
            self._say(channel)
            if channel.pending:
                self._pending[name] = None
            elif self.rule is None:
                del self.channels[name]

    def _current(self, name: WorkerId) -> Channel | None:
        """The channel to a worker as it is now; none where it is not ready or takes no worths."""
        channel, worker = self.channels.get(name), self.fleet.workers.get(name)
        if channel is None:
            return None
        if worker is None or worker.state is not WorkerState.READY or not worker.values:
            del self.channels[name]
            return None
        if worker.incarnation == channel.incarnation:
            return channel
        fresh = self._open(name, worker.incarnation)
        del self._pending[name]
        fresh.news.update(channel.news)
        return fresh

    def _look_again(self) -> None:
        """At those whose worth falls with time."""
        looks = LOOKS
        while self._due and self._due[0][0] <= self.desk.now and looks:
            at, name = heapq.heappop(self._due)
            if self._again.get(name) != at:
                continue
            looks -= 1
            session = self.desk.book.sessions.get(name)
            if session is not None and session.home is not None:
                self._mark(name, session.home)

    def _look(self, channel: Channel, most: int) -> int:
        """Value what has changed; how much was looked at."""
        looked = list(islice(channel.news, most))
        for session in looked:
            del channel.news[session]
            if not self._is_away(session, channel.worker):
                channel.away.pop(session, None)
            else:
                channel.away[session] = self.desk.book.sessions[session].context_tokens
        scene = self._scene(channel)
        for session in looked:
            worth, told = self._worth(session, channel, scene), channel.told.get(session)
            if worth != told:
                channel.change(session, worth)
        return len(looked)

    def _scene(self, channel: Channel) -> Home:
        worker = self.fleet.workers[channel.worker]
        return Home(self.desk.book.accounts.costs, worker, channel.away, self._since, self.desk.now)

    def _is_away(self, name: SessionId, worker: WorkerId) -> bool:
        """Between two steps, at home on `worker`."""
        session = self.desk.book.sessions.get(name)
        if session is None or session.home != worker or session.running:
            return False
        return not self._is_paused(name, worker)

    def _worth(self, name: SessionId, channel: Channel, scene: Home) -> Worth:
        session = self.desk.book.sessions.get(name)
        if session is None or session.home != channel.worker or self.rule is None:
            return OVER
        self._again.pop(name, None)
        if name in channel.away:
            return self._rate(self.rule, name, scene, channel.away[name])
        if not session.placed and self._is_paused(name, channel.worker):
            return PAUSED
        return Standing.HELD, WANTED - (self._turns.get(name, 0) if self.rule in IN_LINE else 0)

    def _is_paused(self, session: SessionId, worker: WorkerId) -> bool:
        gate = self.gates.get(self.fleet.workers[worker].model)
        claim = gate.claims.get(session) if gate is not None else None
        return claim is not None and not claim.live

    def _rate(self, rule: Retention, name: SessionId, scene: Home, context_tokens: int) -> Worth:
        """By the profile's rule; and when to ask it again is noted."""
        number, _, own = name.partition(".")
        workflow, now = WorkflowId(int(number)), self.desk.now
        since = self._since.setdefault(name, self.desk.book.workflows[workflow].active_at)
        prospect = Prospect(self.desk.book.accounts.learner, workflow, own)
        rating = rule(scene, Away(context_tokens, since, now - since, prospect))
        if rating.again_s < inf:
            self._plan(name, now + rating.again_s)
        if scene.worker.host_tokens and self._is_near(
            name, scene.worker, context_tokens, prospect, now - since
        ):
            self._called.add(name)
            self.channels[scene.worker.id].soon[name] = None
        return rating.worth

    def _is_near(
        self, name: SessionId, worker: Worker, context_tokens: int, prospect: Prospect, for_s: float
    ) -> bool:
        """Whether its next step is expected soon, by history, and its KV is not in the pool."""
        if name in self._called or worker.resident.get(name, 0) >= WHOLE * context_tokens:
            return False
        left = prospect.left(for_s)
        return left.samples > 0 and left.median <= NEAR_S

    def _plan(self, name: SessionId, at: float) -> None:
        """Look at it again then. Where most plans are past, as tools come back sooner than feared, they are tidied."""
        self._again[name] = at
        heapq.heappush(self._due, (at, name))
        if len(self._due) > 4 * len(self._again) + SLACK:
            self._due = [(due, known) for known, due in self._again.items()]
            heapq.heapify(self._due)

    def _say(self, channel: Channel) -> None:
        """All that may not have arrived, if some of it is new or it is time to repeat it.

        What was sent before stands first in `unsettled`, what was not last.
        """
        some = list(islice(channel.unsettled.items(), UNSETTLED))
        new = bool(channel.soon) or (bool(some) and some[-1][1] == 0)
        late = self.desk.now - channel.said_at >= REPEAT_S
        if not new and channel.said and not (late and (some or not channel.settled)):
            return
        self._version += 1
        channel.said, channel.said_at = self._version, self.desk.now
        for session, version in some:
            channel.unsettled[session] = version or self._version
        worker = self.fleet.workers[channel.worker]
        message = wire.Worths(
            head=self.desk.book.head,
            worker=worker.id,
            incarnation=worker.incarnation,
            since=channel.settled,
            version=self._version,
            worths={session: channel.told[session] for session, _ in some},
            soon=list(channel.soon),
        )
        channel.soon.clear()
        self.desk.do(Send(worker.node, message))

    def check(self) -> None:
        """Raise AssertionError where what is to be said and what was said disagree."""
        for name, channel in self.channels.items():
            assert name in self._pending or not channel.pending, f"{name} has news that nobody looks at"
            channel.check(self._version)
            assert channel.away.keys() <= self.desk.book.sessions.keys() | channel.news.keys(), name
        assert self._since.keys() <= self.desk.book.sessions.keys(), "times of sessions that are over"
        assert self._turns.keys() <= self.desk.book.sessions.keys(), "turns of sessions that are over"
        assert self._called <= self.desk.book.sessions.keys(), "calls of sessions that are over"
        assert self._again.keys() <= self.desk.book.sessions.keys(), "plans for sessions that are over"
