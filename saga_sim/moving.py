"""A session's KV between two simulated engines: what `saga_node.mover` and the engines' plugin do, in virtual time.

A file is what an export has found: blocks of a stream. Half of a move's time goes into writing it, half into reading it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from saga_core.ids import NodeId
from saga_core.node import Node
from saga_core.node_words import KvMoved, RemoveKv
from saga_core.policy.migration import Migration
from saga_core.wire import Half, MoveHalf
from saga_sim.cache import Cache, Span
from saga_sim.streams import Stream

if TYPE_CHECKING:
    from saga_sim.cluster import SimNode
    from saga_sim.worker import SimWorker

Files = dict[tuple[int, int], "File"]
"""By head and move: those of the whole cluster."""


@dataclass(frozen=True, slots=True)
class File:
    """The first `blocks` blocks of a session's context, written by an engine of `node`."""

    node: NodeId
    session: str
    stream: Stream
    blocks: int


@dataclass(slots=True, eq=False)
class Reader:
    """Holds what is read until all of it is there."""

    session: str
    held: list[Span] = field(default_factory=list)


def kv_token_bytes(policy: Migration, tokens_per_s: float) -> int:
    """What a token must weigh for the head to price a way of `tokens_per_s` right; 0: nothing can be moved."""
    return max(1, round(policy.shared_bytes_per_s / tokens_per_s)) if tokens_per_s else 0


def take_in(cache: Cache, file: File) -> int | None:
    """Have what a file holds in `cache`, as free blocks of its session: those that are new; None: too few are free."""
    pieces = list(file.stream.pieces(file.blocks))
    reader, hits = Reader(file.session), cache.lookup(pieces)
    found = sum(high - low for _, low, high in hits)
    cache.touch(hits, reader)
    missing = file.blocks - found
    fits = missing <= cache.free
    if fits and missing:
        cache.take(missing)
        cache.follow(file.session, pieces)
        cache.store(file.stream.pieces(file.blocks, found), reader)
    cache.release(reader, 0)
    return missing if fits else None


class Mover:
    """The halves of moves at one node; what it is asked it answers, if the node lives."""

    def __init__(self, node: SimNode, policy: Migration, tokens_per_s: float) -> None:
        self._node, self._policy, self._tokens_per_s = node, policy, tokens_per_s

    def move(self, want: MoveHalf) -> None:
        """Do that half; `KvMoved` follows."""
        if want.half is Half.EXPORT:
            self._export(want)
        else:
            self._adopt(want)

    def _export(self, want: MoveHalf) -> None:
        """Write what is there when it is asked."""
        worker = self._asked(want)
        here = worker.residence.leading(want.session) if worker is not None else None
        if worker is None or here is None:
            self._answer(want, reason=f"nothing of session {want.session} is here")
            return
        file = File(self._node.id, want.session, *here)
        tokens = file.blocks * worker.engine.shape.block_tokens
        what = (self._node.machine, want, file, tokens)
        self._node.clock.after(self._half_s(tokens), self._exported, what)

    def _exported(self, what: tuple[Node, MoveHalf, File, int]) -> None:
        machine, want, file, tokens = what
        if machine is not self._node.machine or self._node.down:
            return
        if self._asked(want) is None:
            self._answer(want, reason=f"{want.worker} is gone")
            return
        self._node.watcher.files[want.head, want.move] = file
        self._answer(want, tokens, tokens)

    def _adopt(self, want: MoveHalf) -> None:
        """Read the file."""
        file, worker = self._node.watcher.files.get((want.head, want.move)), self._asked(want)
        if file is None or worker is None:
            self._answer(want, reason="the file or the worker is gone")
            return
        tokens = file.blocks * worker.engine.shape.block_tokens
        self._node.clock.after(self._half_s(tokens), self._adopted, (self._node.machine, want, file))

    def _adopted(self, what: tuple[Node, MoveHalf, File]) -> None:
        machine, want, file = what
        if machine is not self._node.machine or self._node.down:
            return
        worker = self._asked(want)
        new = take_in(worker.engine.cache, file) if worker is not None else None
        if worker is None or new is None:
            self._answer(want, reason="it is gone, or too few blocks are free")
            return
        worker.residence.hold(want.session, file.stream, file.blocks)
        worker.stir()
        size = worker.engine.shape.block_tokens
        self._answer(want, file.blocks * size, new * size)

    def _answer(self, want: MoveHalf, tokens: int = 0, copied_bytes: int = 0, reason: str = "") -> None:
        self._node.handle(KvMoved(want.head, want.move, want.half, tokens, copied_bytes, reason))

    def remove(self, order: RemoveKv) -> None:
        """Nobody wants the file any more."""
        self._node.watcher.files.pop((order.head, order.move), None)

    def close(self) -> None:
        """The node is gone, and its files with it."""
        files = self._node.watcher.files
        for name in [name for name, file in files.items() if file.node == self._node.id]:
            del files[name]

    def _asked(self, want: MoveHalf) -> SimWorker | None:
        """The worker that it is meant for, if it is there and answers."""
        worker = self._node.workers[want.worker]
        current = self._node.machine.workers[want.worker].incarnation == want.incarnation
        return worker if worker.alive and not worker.hung and current else None

    def _half_s(self, tokens: int) -> float:
        """Of writing so many tokens, or of reading them."""
        return (self._policy.fixed_s + tokens / self._tokens_per_s) / 2
