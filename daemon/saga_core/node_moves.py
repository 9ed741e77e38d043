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
from saga_core.node_words import AdoptKv, ExportKv, Ignored, KvAdopted, KvExported, RemoveKv, SendHead
from saga_core.node_workers import Workers
from saga_core.states import WorkerState

KEEP_S = 60.0
"""A file that nobody has asked for longer is removed: a head waits for some seconds."""

Name = tuple[int, int]
"""Head and number of a move."""


@dataclass(slots=True, eq=False)
class Half:
    """What was asked for, and how it went."""

    begun_at: float
    answer: wire.Exported | wire.Adopted | None = None
    unwanted: bool = False
    """The head has ended the move while the engine was at it."""


class Moves:
    """Exports and adoptions of one node."""

    def __init__(self, desk: NodeDesk, node: NodeId, incarnation: int, workers: Workers) -> None:
        self.desk, self.node, self.incarnation, self.workers = desk, node, incarnation, workers
        self.exports: dict[Name, Half] = {}
        self.adoptions: dict[Name, Half] = {}

    # -- what the head wants -------------------------------------------------------------

    def export(self, want: wire.ExportSession, head: int) -> None:
        if self._is_stale(want, head) or self._is_known(self.exports, (want.head, want.move)):
            return
        why_not = self._why_not(want)
        if why_not:
            self._say(self._exported(KvExported(want.head, want.move, reason=why_not)))
            return
        self.exports[want.head, want.move] = Half(self.desk.now)
        self.desk.out.append(
            ExportKv(want.head, want.move, want.worker, want.incarnation, want.session, want.to)
        )

    def adopt(self, want: wire.AdoptSession, head: int) -> None:
        if self._is_stale(want, head) or self._is_known(self.adoptions, (want.head, want.move)):
            return
        why_not = self._why_not(want)
        if why_not:
            self._say(self._adopted(KvAdopted(want.head, want.move, reason=why_not)))
            return
        self.adoptions[want.head, want.move] = Half(self.desk.now)
        self.desk.out.append(
            AdoptKv(want.head, want.move, want.worker, want.incarnation, want.session, want.source)
        )

    def _is_stale(self, want: wire.ExportSession | wire.AdoptSession, head: int) -> bool:
        if want.head == head:
            return False
        self.desk.out.append(Ignored("stale", f"move {want.move} of head {want.head}"))
        return True

    def _is_known(self, halves: dict[Name, Half], name: Name) -> bool:
        half = halves.get(name)
        if half is not None and half.answer is not None:
            self._say(half.answer)
        return half is not None

    def _why_not(self, want: wire.ExportSession | wire.AdoptSession) -> str:
        worker = self.workers.all.get(want.worker)
        if worker is None or worker.incarnation != want.incarnation or worker.state is not WorkerState.READY:
            return f"{want.worker} incarnation {want.incarnation} is not there"
        return "" if worker.up is not None and worker.up.kv_token_bytes else f"{want.worker} cannot move KV"

    def end(self, want: wire.EndMove) -> None:
        name = (want.head, want.move)
        if name in self.exports:
            self._drop_export(name, self.exports[name])
        half = self.adoptions.get(name)
        if half is not None:
            half.unwanted = True
            if half.answer is not None:
                del self.adoptions[name]

    def _drop_export(self, name: Name, half: Half) -> None:
        half.unwanted = True
        if half.answer is not None:
            del self.exports[name]
            self.desk.out.append(RemoveKv(*name))

    # -- what the shell says -------------------------------------------------------------

    def on_exported(self, event: KvExported) -> None:
        name = (event.head, event.move)
        half = self.exports.get(name)
        if half is None or half.answer is not None:
            self.desk.out.append(Ignored("stale", f"export of move {event.move}"))
            return
        half.answer = self._exported(event)
        if half.unwanted:
            self._drop_export(name, half)
        else:
            self._say(half.answer)

    def on_adopted(self, event: KvAdopted) -> None:
        name = (event.head, event.move)
        half = self.adoptions.get(name)
        if half is None or half.answer is not None:
            self.desk.out.append(Ignored("stale", f"adoption of move {event.move}"))
            return
        half.answer = self._adopted(event)
        if half.unwanted:
            del self.adoptions[name]
        else:
            self._say(half.answer)

    def _exported(self, event: KvExported) -> wire.Exported:
        return wire.Exported(
            node=self.node, incarnation=self.incarnation, head=event.head, move=event.move,
            tokens=event.tokens, copied_bytes=event.copied_bytes, reason=event.reason,
        )  # fmt: skip

    def _adopted(self, event: KvAdopted) -> wire.Adopted:
        return wire.Adopted(
            node=self.node, incarnation=self.incarnation, head=event.head, move=event.move,
            tokens=event.tokens, copied_bytes=event.copied_bytes, reason=event.reason,
        )  # fmt: skip

    def _say(self, answer: wire.Exported | wire.Adopted) -> None:
        self.desk.out.append(SendHead(answer))

    # -- time ----------------------------------------------------------------------------

    def tick(self) -> None:
        """What nobody asks for any more is forgotten, and its file removed."""
        self._forget(self.desk.now - KEEP_S)

    def void(self) -> None:
        """Another head: it knows nothing of the moves of the one before."""
        self._forget(self.desk.now)

    def _forget(self, since: float) -> None:
        for name, half in list(self.exports.items()):
            if half.begun_at <= since:
                self._drop_export(name, half)
        for name, half in list(self.adoptions.items()):
            if half.begun_at <= since:
                half.unwanted = True
                if half.answer is not None:
                    del self.adoptions[name]

    def check(self) -> None:
        """Raise AssertionError where a file stays that nobody wants."""
        for half in (*self.exports.values(), *self.adoptions.values()):
            assert not (half.unwanted and half.answer is not None), "an unwanted half is kept"
