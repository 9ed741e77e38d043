"""The node's end of the link to the head: one ZeroMQ DEALER with CURVE, one frame per message.

Rules of this file
  1. Sending never waits. Without a connection the newest message is kept, older ones are dropped and counted:
     the node repeats everything that matters.
  2. What cannot be read is counted and logged, never raised.
  3. libzmq gives up after a refused key: then we connect anew, with the keys that the access file has by then.

Facts of libzmq 4.3, seen on its socket monitor: a head that does not know our key answers, which ends in
HANDSHAKE_FAILED_AUTH and no further attempt; a head with another key of its own says nothing and closes, which is
HANDSHAKE_FAILED_NO_DETAIL and a new attempt after the pause.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, cast

import zmq
import zmq.asyncio
from zmq.utils.monitor import parse_monitor_message

from saga_core import wire
from saga_core.access import Access
from saga_core.errors import ProtocolError
from saga_core.ids import NodeId
from saga_node.tasks import Tasks
from saga_shell import log

HIGH_WATER: Final = 64
"""Messages on their way: a minute of reports."""
LINGER_MS: Final = 500
"""For the goodbye, when the head is slow."""
RECONNECT_MS, RECONNECT_MAX_MS = 100, 1000
HEARTBEAT_MS, HEARTBEAT_TIMEOUT_MS = 2000, 6000
"""A head whose machine is gone closes nothing; this finds it."""
REFUSALS: Final = 3
"""Failed handshakes in a row that are an answer and no accident (a head killed in the middle of one)."""

_REFUSED = {
    zmq.EVENT_HANDSHAKE_FAILED_AUTH,
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL,
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL,
}


class Link:
    """The connection to the head. Use on a running event loop; close it."""

    def __init__(
        self,
        node: NodeId,
        access: Access,
        *,
        hear: Callable[[wire.ToNode], None],
        refused: Callable[[], None],
    ) -> None:
        """`hear` gets what the head says; `refused` is called when the head (or who listens there) rejects our keys."""
        self._node, self._hear, self._refused = node, hear, refused
        self.dropped = self.garbage = self.refusals = 0
        self.connected = self.ever_connected = False
        self._held: bytes | None = None
        self._tasks = Tasks()
        self._context = zmq.asyncio.Context()
        self._open(access)

    def find(self, access: Access) -> None:
        """Connect to the head of `access`, if it is not the one we are connected to."""
        if _address(access) != _address(self.access):
            log.info("head-moved", control=access.control)
            self.reopen(access)

    def reopen(self, access: Access) -> None:
        """Begin a new connection."""
        self._shut()
        self._open(access)

    def send(self, message: wire.ToHead) -> None:
        """Send it now, or keep it until the head is back; dropped when a newer one comes first."""
        try:
            frame = wire.encode(message)
        except ProtocolError as error:
            log.error("message-not-sendable", reason=error)
            return
        if not self._put(frame):
            self.dropped += self._held is not None
            self._held = frame

    async def close(self) -> None:
        """Give the last message its moment and end."""
        self._shut(LINGER_MS)
        await self._tasks.finished()
        # A context waits for what its sockets linger on: not on the event loop.
        await asyncio.to_thread(self._context.term)

    def _open(self, access: Access) -> None:
        self.access = access
        self._socket = self._context.socket(zmq.DEALER)
        options: dict[int, int | bytes] = {
            zmq.IDENTITY: self._node.encode(),
            zmq.CURVE_PUBLICKEY: access.node_public.encode(),
            zmq.CURVE_SECRETKEY: access.node_secret.encode(),
            zmq.CURVE_SERVERKEY: access.head_public.encode(),
            zmq.SNDHWM: HIGH_WATER,
            zmq.IMMEDIATE: 1,  # without a connection a message is ours to keep, not a queue's
            zmq.MAXMSGSIZE: wire.MAX_MESSAGE_BYTES,
            zmq.RECONNECT_IVL: RECONNECT_MS,
            zmq.RECONNECT_IVL_MAX: RECONNECT_MAX_MS,
            zmq.HEARTBEAT_IVL: HEARTBEAT_MS,
            zmq.HEARTBEAT_TIMEOUT: HEARTBEAT_TIMEOUT_MS,
        }
        for option, value in options.items():
            self._socket.set(option, value)
        self._monitor = self._socket.get_monitor_socket()
        self._socket.connect(access.control)
        self._tasks.start(self._receive(self._socket), "link-receive")
        self._tasks.start(self._watch(self._monitor), "link-watch")

    def _shut(self, linger_ms: int = 0) -> None:
        self.connected = False
        self._tasks.cancel()
        self._socket.disable_monitor()
        self._monitor.close(linger=0)  # not by its task: one that is cancelled before it began closes nothing
        self._socket.close(linger=linger_ms)

    def _put(self, frame: bytes) -> bool:
        """Whether the socket took it. The future of a send that may not wait is done at once."""
        sent = cast("asyncio.Future[object]", self._socket.send(frame, flags=zmq.NOBLOCK))
        return sent.done() and sent.exception() is None

    async def _receive(self, socket: zmq.asyncio.Socket) -> None:
        while True:
            frames = await socket.recv_multipart()
            try:
                self._hear(wire.decode_to_node(frames[0] if len(frames) == 1 else b""))
            except ProtocolError as error:
                self.garbage += 1
                log.warning("message-unreadable", frames=len(frames), total=self.garbage, reason=error)

    async def _watch(self, monitor: zmq.asyncio.Socket) -> None:
        while True:
            event = parse_monitor_message(await monitor.recv_multipart())["event"]
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._on_connected()
            elif event == zmq.EVENT_DISCONNECTED and self.connected:
                self.connected = False
                log.warning("head-disconnected", control=self.access.control)
            elif event in _REFUSED:
                self._on_refused(final=event == zmq.EVENT_HANDSHAKE_FAILED_AUTH)

    def _on_connected(self) -> None:
        self.connected = self.ever_connected = True
        self.refusals = 0
        log.info("head-connected", control=self.access.control, dropped=self.dropped)
        held, self._held = self._held, None
        if held is not None and not self._put(held):
            self._held = held

    def _on_refused(self, *, final: bool) -> None:
        self.refusals += 1
        if final or self.refusals % REFUSALS == 0:
            self._refused()


def _address(access: Access) -> tuple[str, ...]:
    return access.control, access.head_public, access.node_public, access.node_secret
