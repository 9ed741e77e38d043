"""The head's end of the control plane: a ZeroMQ ROUTER with CURVE.

Only holders of the cluster's node key get through the handshake (ZAP, RFC 27). Nothing here
blocks: a node that does not read loses messages, which are counted; wants are repeated anyway.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import zmq
import zmq.asyncio
from zmq.auth.asyncio import AsyncioAuthenticator

from saga_core import wire
from saga_core.errors import ClusterError, RemoteProtocolError
from saga_core.ids import NodeId
from saga_head.keys import Keys
from saga_shell import log

SEND_HWM = 1000
"""Messages that wait for one node: some minutes of acknowledgements, or a burst of programs."""
RECV_HWM = 10_000


class _KnownNodes:
    """ZAP decision: the one public key that all node daemons of this cluster share."""

    def __init__(self, node_public: str) -> None:
        self._known = node_public.encode()

    def callback(self, domain: str, key: bytes) -> bool:  # noqa: ARG002
        """`key` comes in Z85 (pyzmq 26). It is public: nothing is learnt from the time this takes."""
        return key == self._known


class Transport:
    """Messages from and to nodes."""

    def __init__(self, keys: Keys, handshake_s: float, received: Callable[[wire.ToHead], None]) -> None:
        self._keys, self._handshake_s, self._received = keys, handshake_s, received
        self._context: zmq.asyncio.Context | None = None
        self._auth: AsyncioAuthenticator | None = None
        self._socket: zmq.asyncio.Socket | None = None
        self._task: asyncio.Task[None] | None = None
        self.dropped = 0
        """Messages that a node was not there to take."""
        self.garbage = 0
        """Frames that were no message of ours."""

    def start(self, host: str, port: int) -> int:
        """Listen; the port in use. Raises `ClusterError` when the address cannot be had: then another may be tried."""
        self._context = zmq.asyncio.Context()
        self._auth = AsyncioAuthenticator(self._context)
        self._auth.start()
        self._auth.configure_curve_callback(
            domain="*", credentials_provider=_KnownNodes(self._keys.node_public)
        )
        socket = self._context.socket(zmq.ROUTER)
        socket.linger = 200
        socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        socket.set_hwm(SEND_HWM)
        socket.setsockopt(zmq.RCVHWM, RECV_HWM)
        socket.setsockopt(zmq.MAXMSGSIZE, wire.MAX_MESSAGE_BYTES + 1024)
        socket.setsockopt(zmq.HANDSHAKE_IVL, int(self._handshake_s * 1000))
        socket.curve_server = True
        socket.curve_publickey = self._keys.head_public.encode()
        socket.curve_secretkey = self._keys.head_secret.encode()
        self._socket = socket
        try:
            socket.bind(f"tcp://{host}:{port or '*'}")
        except zmq.ZMQError as error:
            self.close()
            raise ClusterError(f"control port {host}:{port}: {error.strerror}") from error
        endpoint = socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self._task = asyncio.create_task(self._receive(socket))
        return int(endpoint.rpartition(":")[2])

    async def _receive(self, socket: zmq.asyncio.Socket) -> None:
        while True:
            frames = await socket.recv_multipart()
            try:
                message = self._open(frames)
            except RemoteProtocolError as error:
                self.garbage += 1
                log.warning("garbage", peer=frames[0][:64], error=error)
                continue
            self._received(message)

    def _open(self, frames: list[bytes]) -> wire.ToHead:
        if len(frames) != 2:
            raise RemoteProtocolError(f"{len(frames)} frames, 2 are valid")
        message = wire.decode_to_head(frames[1])
        if message.node.encode() != frames[0]:
            raise RemoteProtocolError(f"speaks for node {message.node}")
        return message

    def send(self, node: NodeId, message: wire.ToNode) -> None:
        """Say it if the node is there to hear it; otherwise count it as dropped."""
        if self._socket is None:
            return
        future: Awaitable[object] = self._socket.send_multipart(
            [node.encode(), wire.encode(message)], flags=zmq.NOBLOCK
        )
        if isinstance(future, asyncio.Future):
            future.add_done_callback(self._sent)

    def _sent(self, future: asyncio.Future[object]) -> None:
        if future.cancelled() or future.exception() is not None:
            self.dropped += 1

    def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None
        if self._auth is not None:
            self._auth.stop()
            self._auth = None
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._context is not None:
            self._context.term()
            self._context = None
