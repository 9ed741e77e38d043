"""A node's own address for the programs it runs, which stays when the head goes elsewhere.

Rules of this file
  1. Bytes go on as they come. Nothing is read in them but where a message ends, and whether its sender goes on.
  2. A call that no head has yet is held, for `hold_s` at most. One whose head went away without a byte of an answer is
     held again and asked of the next one: steps and reads only, `MOST_REPEATS` times at most.
  3. An answer that has begun is that head's to finish.
  4. What is held is bounded: by connection, and all together.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Final, cast

import httptools

from saga_node.tasks import Tasks
from saga_shell import log

HOST: Final = "127.0.0.1"
LOOK_S: Final = 0.1
"""Between two attempts to reach a head; a succession takes some tenths of a second (docs/slurm.md)."""
CONNECT_S: Final = 5.0
MOST_LINKS: Final = 4096
"""Connections of programs; 503 beyond. Each takes two descriptors."""
HELD_BYTES: Final = 4 * 1024 * 1024
"""Of one call: a prompt of a million tokens. A longer one goes on, but is not asked again."""
ALL_HELD_BYTES: Final = 256 * 1024 * 1024
MOST_REPEATS: Final = 3
"""A call that ends head after head is not given to every one."""
KEPT_ALIVE: Final = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 2),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
)
"""A head whose machine is gone closes nothing; this finds it within 11 s."""

Address = tuple[str, int]


class Endpoint:
    """Listens for programs on this node and relays to the head, wherever it is. Use on a running event loop; close it."""

    def __init__(self, find: Callable[[], Address | None], hold_s: float) -> None:
        """find: where the head says it is, read anew; None: nobody knows."""
        self._find, self.hold_s = find, hold_s
        self._head: Address | None = None
        self._server: asyncio.Server | None = None
        self._turn = asyncio.Lock()
        self.links: set[ProgramLink] = set()
        self.tasks = Tasks()
        self.held_bytes = 0
        self.url = ""

    async def start(self) -> None:
        """Listen; from here on `url` says where."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: ProgramLink(self), HOST, 0, backlog=1024)
        self.url = f"http://{HOST}:{self._server.sockets[0].getsockname()[1]}"

    async def close(self) -> None:
        """Break off what is open."""
        if self._server is not None:
            self._server.close()
        self.tasks.cancel()
        await self.tasks.finished()
        await asyncio.sleep(0)  # who was accepted just before is made known in the next round of the loop
        while self.links:
            for link in list(self.links):
                link.transport.abort()
            await asyncio.sleep(0)  # connection_lost comes in the next round

    def moved(self, head: Address | None) -> None:
        """New calls go there; None: where `find` says."""
        self._head = head

    def here(self, env: Mapping[str, str]) -> dict[str, str]:
        """A program's environment with this address in the place of the head's, which the head put into it."""
        theirs = env.get("SAGA_URL", "")
        if not theirs or not self.url:
            return dict(env)
        return {
            name: self.url + value[len(theirs) :]
            if value == theirs or value.startswith(f"{theirs}/")
            else value
            for name, value in env.items()
        }

    async def reach(self, link: ProgramLink, until: float) -> bool:
        """Connect `link` to the head, as soon as there is one; False when the loop's clock shows `until`.

        One at a time: a hundred held calls knock once.
        """
        loop = asyncio.get_running_loop()
        async with self._turn:
            while True:
                self._head = self._head or self._find()
                if self._head is not None and await self._connected(link, self._head):
                    return True
                self._head = None
                if loop.time() >= until:
                    return False
                await asyncio.sleep(LOOK_S)

    async def _connected(self, link: ProgramLink, head: Address) -> bool:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_S):
                await loop.create_connection(lambda: HeadLink(link), *head)
        except OSError:  # TimeoutError is one
            return False
        return True


class _Asked:
    """Where the requests of one connection begin and end (callbacks of llhttp)."""

    def __init__(self) -> None:
        self.parser = httptools.HttpRequestParser(self)
        self.owed = 0
        """Whole ones without a whole answer."""
        self.begun = False
        self.repeatable = False
        self._url = b""

    def on_message_begin(self) -> None:
        self.begun, self._url = True, b""

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_headers_complete(self) -> None:
        method, step = self.parser.get_method(), b"/v1/" in self._url and not self._url.startswith(b"/saga/")
        self.repeatable = not self.owed and (method in (b"GET", b"HEAD") or (method == b"POST" and step))

    def on_message_complete(self) -> None:
        self.begun = False
        self.owed += 1


class _Answered:
    """Where the answers of one connection begin and end."""

    def __init__(self) -> None:
        self.parser = httptools.HttpResponseParser(self)
        self.begun = False
        """One is there in part."""
        self.whole = 0
        """Finished ones that were not counted yet."""
        self.last = False
        """The head closes after this one."""

    def on_message_begin(self) -> None:
        self.begun = True

    def on_message_complete(self) -> None:
        self.begun = False
        if self.parser.get_status_code() >= HTTPStatus.OK:  # what comes before is none yet
            self.whole += 1
            self.last = not self.parser.should_keep_alive()


class ProgramLink(asyncio.Protocol):
    """One connection of a program, and its calls one after the other, whichever heads answer them."""

    transport: asyncio.Transport

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._asked = _Asked()
        self._opaque = False
        """No HTTP that we know: bytes go through, and nothing is asked again."""
        self._held = bytearray()
        self._kept = True
        """Whether all of the present call is held."""
        self._until: float | None = None
        self._repeats = 0
        self._head: HeadLink | None = None
        self._reaching: asyncio.Task[None] | None = None

    # the program

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._endpoint.links.add(self)
        if len(self._endpoint.links) > MOST_LINKS:
            self._refuse(f"too many connections of programs at this node (at most {MOST_LINKS})")

    def data_received(self, data: bytes) -> None:
        if not self._opaque:
            try:
                self._asked.parser.feed_data(data)
            except httptools.HttpParserError:
                self._opaque = True
        self._hold(data)
        if self._head is not None:
            self._head.transport.write(data)
        elif self._reaching is None:
            self._reach()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's
        self._endpoint.links.discard(self)
        self._drop()
        if self._reaching is not None:
            self._reaching.cancel()
        if self._head is not None:
            self._head.transport.abort()

    def pause_writing(self) -> None:
        if self._head is not None:
            self._head.transport.pause_reading()

    def resume_writing(self) -> None:
        if self._head is not None:
            self._head.transport.resume_reading()

    # the head

    def answered(self, data: bytes, answer: _Answered) -> None:
        """Bytes of the head's answer."""
        self._until, self._repeats = None, 0
        self.transport.write(data)
        self._asked.owed = max(0, self._asked.owed - answer.whole)
        if answer.whole:
            self._drop()
            # Where the next call began is not known if it came before the answer to this one.
            self._kept = not self._asked.owed and not self._asked.begun
        elif answer.begun:
            self._drop()
        answer.whole = 0
        if answer.last:
            self.transport.close()

    def lost(self, head: HeadLink, exc: Exception | None) -> None:
        """The head closed, or is gone."""
        if self._head is not head:
            return
        self._head = None
        if self.transport.is_closing():
            return
        owed = self._asked.owed or self._asked.begun
        if not self._opaque and not head.answer.begun:
            if not owed:
                self._kept = True
                return  # between two calls: the next one finds the next head
            if self._kept and self._asked.repeatable and self._repeats < MOST_REPEATS:
                self._repeats += 1
                self._endpoint.moved(None)
                self._reach(after_s=LOOK_S)
                return
        if exc is None:
            self.transport.close()
        else:
            self.transport.abort()

    # between them

    def _reach(self, after_s: float = 0.0) -> None:
        self._reaching = self._endpoint.tasks.start(self._reached(after_s), "reach the head")

    async def _reached(self, after_s: float) -> None:
        self._until = self._until or asyncio.get_running_loop().time() + self._endpoint.hold_s
        await asyncio.sleep(after_s)
        if not await self._endpoint.reach(self, self._until):
            self._reaching = None
            self._refuse(f"no head of this cluster answered for {self._endpoint.hold_s:g} s")

    def opened(self, head: HeadLink) -> None:
        """A head takes calls: it is given what was held."""
        self._reaching, self._head = None, head
        head.transport.write(bytes(self._held))
        self._limit()
        self.transport.resume_reading()

    def _hold(self, data: bytes) -> None:
        if not self._kept and self._head is not None:
            return
        self._held += data
        self._endpoint.held_bytes += len(data)
        self._limit()

    def _limit(self) -> None:
        """Beyond the bound: forget what the head has; read no more of what it has not."""
        if len(self._held) <= HELD_BYTES and self._endpoint.held_bytes <= ALL_HELD_BYTES:
            return
        if self._head is None:
            self.transport.pause_reading()
        else:
            self._kept = False
            self._drop()

    def _drop(self) -> None:
        self._endpoint.held_bytes -= len(self._held)
        self._held.clear()

    def _refuse(self, why: str) -> None:
        log.warning("call-refused", reason=why)
        body = (
            b'{"type":"error","error":{"type":"service_unavailable","code":"no_head","message":"%b"}}'
            % why.encode()
        )
        self.transport.write(
            b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 5\r\nconnection: close\r\n"
            b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
        )
        self.transport.close()


class HeadLink(asyncio.Protocol):
    """The connection to a head behind a program's."""

    transport: asyncio.Transport

    def __init__(self, program: ProgramLink) -> None:
        self._program = program
        self.answer = _Answered()
        self._opaque = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        connection = transport.get_extra_info("socket")
        for level, option, value in KEPT_ALIVE:
            connection.setsockopt(level, option, value)
        if self._program.transport.is_closing():
            self.transport.abort()
        else:
            self._program.opened(self)

    def data_received(self, data: bytes) -> None:
        if not self._opaque:
            try:
                self.answer.parser.feed_data(data)
            except httptools.HttpParserError:
                self._opaque = self.answer.begun = True
        self._program.answered(data, self.answer)

    def connection_lost(self, exc: Exception | None) -> None:
        self._program.lost(self, exc)

    def pause_writing(self) -> None:
        self._program.transport.pause_reading()

    def resume_writing(self) -> None:
        self._program.transport.resume_reading()
