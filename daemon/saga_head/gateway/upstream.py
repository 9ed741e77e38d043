"""Connections to workers, kept alive between steps."""

import asyncio
import socket
from collections import deque
from collections.abc import Callable
from typing import cast

from saga_head.gateway.limits import Limits
from saga_head.gateway.relay import Relay

Address = tuple[str, int]


class WorkerLink(asyncio.Protocol):
    """One connection to a worker; carries one step at a time."""

    __slots__ = ("address", "idle_since_s", "pool", "relay", "reused", "transport")

    transport: asyncio.Transport

    def __init__(self, pool: "Pool", address: Address) -> None:
        self.pool = pool
        self.address = address
        self.relay: Relay | None = None
        self.reused = False
        self.idle_since_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's are none by class
        keep_watch(self.transport)

    def send(self, relay: Relay, head: bytes, body: bytes | bytearray | memoryview, end: bytes = b"") -> None:
        """Begin a step; `end` follows the body."""
        self.relay = relay
        if len(body) <= JOIN_BYTES:
            self.transport.write(b"".join((head, body, end)) if end else head + body)
        else:  # uvloop sends them in one call
            self.transport.writelines((head, body, end) if end else (head, body))

    def data_received(self, data: bytes) -> None:
        if self.relay is None:
            self.transport.abort()  # bytes nobody asked for: whose answer would they become?
        else:
            self.relay.feed(data)

    def connection_lost(self, exc: Exception | None) -> None:
        relay, self.relay = self.relay, None
        self.pool.forget(self)
        if relay is not None:
            relay.eof("" if exc is None else f"the connection to the worker broke: {exc}")


JOIN_BYTES = 8192  # measured: below it one joined write is cheaper than two


def keep_watch(transport: asyncio.Transport) -> None:
    """Notice a node that vanished without a FIN: first probe after 10 s of silence, dead after 25 s."""
    sock: socket.socket | None = transport.get_extra_info("socket")
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)


class Pool:
    """Idle connections by worker address, the freshest first."""

    def __init__(self, limits: Limits, clock: Callable[[], float]) -> None:
        self._limits = limits
        self._clock = clock
        self._idle: dict[Address, deque[WorkerLink]] = {}

    def take(self, address: Address) -> WorkerLink | None:
        """Return an idle connection that the worker has not given up yet, if there is one."""
        idle = self._idle.get(address)
        if not idle:
            return None
        oldest_s = self._clock() - self._limits.worker_idle_s
        while idle:
            link = idle.pop()
            if link.idle_since_s > oldest_s and not link.transport.is_closing():
                link.reused = True
                return link
            link.transport.abort()
        return None

    async def connect(self, address: Address) -> WorkerLink:
        """Open a connection; OSError (TimeoutError is one) where the worker does not answer."""
        loop = asyncio.get_running_loop()
        link = WorkerLink(self, address)
        try:
            async with asyncio.timeout(self._limits.connect_timeout_s):
                await loop.create_connection(lambda: link, *address)
        except BaseException:
            if hasattr(link, "transport"):  # given up in the very moment it opened
                link.transport.abort()
            raise
        return link

    def give(self, link: WorkerLink, *, reusable: bool) -> None:
        """Take a connection back after a whole reply."""
        link.relay = None
        transport = link.transport
        if not reusable or transport.is_closing() or transport.get_write_buffer_size():
            transport.abort()
            return
        idle = self._idle.get(link.address)
        if idle is None:
            idle = self._idle[link.address] = deque()
        if len(idle) >= self._limits.worker_idle_connections:
            transport.close()
            return
        transport.resume_reading()  # a slow client may have stopped it
        link.idle_since_s = self._clock()
        idle.append(link)

    def forget(self, link: WorkerLink) -> None:
        """Drop a closed connection."""
        idle = self._idle.get(link.address)
        if idle is not None:
            if link in idle:
                idle.remove(link)
            if not idle:
                del self._idle[link.address]

    def sweep(self) -> None:
        """Close what has been idle too long."""
        oldest_s = self._clock() - self._limits.worker_idle_s
        for idle in list(self._idle.values()):
            while idle and idle[0].idle_since_s <= oldest_s:
                idle.popleft().transport.abort()
        self._idle = {address: idle for address, idle in self._idle.items() if idle}

    def close(self) -> None:
        """Close every idle connection."""
        for idle in self._idle.values():
            for link in idle:
                link.transport.abort()
        self._idle.clear()

    @property
    def idle(self) -> int:
        """Idle connections, all workers together."""
        return sum(len(idle) for idle in self._idle.values())
