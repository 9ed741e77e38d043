"""A node's halves of moves: sessions' KV written to files here, or read from them.

Rules of this file
  1. A half is done once; asked for again, it is answered again.
  2. Whoever has exported owns the file, and removes it: when the head says that nobody wants it, when another head says
     nothing of it, or `KEEP_S` after it was asked for. A file that is still being written is removed afterwards.
  3. What the shell is asked to do it answers, whatever happens to the worker.
"""

from __future__ import annotations

from dataclasses import dataclass

from saga_core import wire
from saga_core.ids import NodeId
from saga_core.node_desk import NodeDesk
from saga_core.node_words import Ignored, KvMoved, MoveKv, RemoveKv, SendHead
from saga_core.node_workers import Workers
from saga_core.states import WorkerState
from saga_core.wire import Half

KEEP_S = 60.0
"""A file that nobody has asked for longer is removed: a head waits for some seconds."""

Name = tuple[int, int, Half]
"""Head and number of a move, and which half of it."""


@dataclass(slots=True, eq=False)
class Asked:
    """A half that was asked for, and how it went."""

    begun_at: float
    answer: wire.HalfMoved | None = None
    unwanted: bool = False
    """The head has ended the move while the engine was at it."""


class Moves:
    """The halves of moves that one node does."""

    def __init__(self, desk: NodeDesk, node: NodeId, incarnation: int, workers: Workers) -> None:
        self.desk, self.node, self.incarnation, self.workers = desk, node, incarnation, workers
        self.asked: dict[Name, Asked] = {}

    # -- what the head wants -------------------------------------------------------------

    def ask(self, want: wire.MoveHalf, head: int) -> None:
        if want.head != head:
            self.desk.out.append(Ignored("stale", f"move {want.move} of head {want.head}"))
            return
        name = (want.head, want.move, want.half)
        asked, why_not = self.asked.get(name), self._why_not(want)
        if asked is not None:
            if asked.answer is not None:
                self._say(asked.answer)
        elif why_not:
            self._say(self._answer(KvMoved(*name, reason=why_not)))
        else:
            self.asked[name] = Asked(self.desk.now)
            self.desk.out.append(MoveKv(want))

    def _why_not(self, want: wire.MoveHalf) -> str:
        worker = self.workers.all.get(want.worker)
        if worker is None or worker.incarnation != want.incarnation or worker.state is not WorkerState.READY:
            return f"{want.worker} incarnation {want.incarnation} is not there"
        return "" if worker.up is not None and worker.up.kv_token_bytes else f"{want.worker} cannot move KV"

    def end(self, want: wire.EndMove) -> None:
        for half in Half:
            name = (want.head, want.move, half)
            if name in self.asked:
                self._drop(name, self.asked[name])

    def _drop(self, name: Name, asked: Asked) -> None:
        """Nobody wants it any more: it is forgotten as soon as the engine is not at it."""
        asked.unwanted = True
        if asked.answer is not None:
            del self.asked[name]
            head, move, half = name
            if half is Half.EXPORT:
                self.desk.out.append(RemoveKv(head, move))

    # -- what the shell says -------------------------------------------------------------

    def on_moved(self, event: KvMoved) -> None:
        name = (event.head, event.move, event.half)
        asked = self.asked.get(name)
        if asked is None or asked.answer is not None:
            self.desk.out.append(Ignored("stale", f"{event.half} of move {event.move}"))
            return
        asked.answer = self._answer(event)
        if asked.unwanted:
            self._drop(name, asked)
        else:
            self._say(asked.answer)

    def _answer(self, event: KvMoved) -> wire.HalfMoved:
        return wire.HalfMoved(
            node=self.node, incarnation=self.incarnation, head=event.head, move=event.move, half=event.half,
            tokens=event.tokens, copied_bytes=event.copied_bytes, reason=event.reason,
        )  # fmt: skip

    def _say(self, answer: wire.HalfMoved) -> None:
        self.desk.out.append(SendHead(answer))

    # -- time ----------------------------------------------------------------------------

    def tick(self) -> None:
        """What nobody asks for any more is forgotten, and its file removed."""
        self._forget(self.desk.now - KEEP_S)

    def void(self) -> None:
        """Another head: it knows nothing of the moves of the one before."""
        self._forget(self.desk.now)

    def _forget(self, since: float) -> None:
        for name, asked in list(self.asked.items()):
            if asked.begun_at <= since:
                self._drop(name, asked)

    def check(self) -> None:
        """Raise AssertionError where a file stays that nobody wants."""
        for asked in self.asked.values():
            assert not (asked.unwanted and asked.answer is not None), "an unwanted half is kept"
