"""The gateway: one port, the hot path and the fallback server behind it."""

import asyncio
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus

from aiohttp import web

from saga_head.gateway.client import ClientLink, Stage
from saga_head.gateway.intake import BodyLedger
from saga_head.gateway.limits import Limits
from saga_head.gateway.port import Scheduler
from saga_head.gateway.stored import ResponseStore
from saga_head.gateway.upstream import Pool

SCRATCH_BYTES = 16 * 1024  # most requests in one read; the rest of a longer body is read into its own buffer
BACKLOG = 4096  # the kernel cuts it to net.core.somaxconn


@dataclass(frozen=True, slots=True)
class GatewayStats:
    """What is open now."""

    connections: int
    exchanges: int
    idle_worker_connections: int
    bodies_bytes: int
    spoken_bytes: int


class Gateway:
    """Serves `POST [/s/<token>]/v1/*` by relay to workers, everything else by `fallback`.

    `fallback` makes the protocol for one connection, e.g. an aiohttp `web.Server` (`AppRunner.server`).
    Its replies must say `Connection: close`, because only a fresh connection can come back to the hot path:
    pass the application to `close_after_reply()`.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        fallback: Callable[[], asyncio.Protocol],
        limits: Limits | None = None,
        clock: Callable[[], float] = time.monotonic,
        responses: ResponseStore | None = None,
    ) -> None:
        self.scheduler = scheduler
        self.fallback = fallback
        self.limits = limits or Limits()
        self.clock = clock
        self.responses = ResponseStore() if responses is None else responses
        self.pool = Pool(self.limits, clock)
        self.scratch = memoryview(bytearray(SCRATCH_BYTES))
        self.links: set[ClientLink] = set()
        self.exchanges = 0
        self.ledger = BodyLedger(self.limits.bodies_bytes)
        self.spoken = BodyLedger(self.limits.resumes_bytes)
        self.draining = False
        self._errors = itertools.count(1)
        self._server: asyncio.Server | None = None
        self._sweeping: asyncio.TimerHandle | None = None

    async def start(self, host: str, port: int) -> int:
        """Listen; return the port (port 0: one the system chose). OSError where it is taken."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: ClientLink(self), host, port, backlog=BACKLOG)
        self._sweep_later()
        bound: int = self._server.sockets[0].getsockname()[1]
        return bound

    def let_go(self) -> None:
        """Accept nothing new; let go of calls that no worker has and whose clients have heard nothing."""
        self.draining = True
        if self._server is not None:
            self._server.close()
        for link in list(self.links):
            link.let_go()

    @property
    def promised(self) -> int:
        """Calls without a worker that cannot be let go: their clients were told to wait."""
        return sum(link.promised for link in self.links)

    async def drain(self, timeout_s: float) -> bool:
        """Accept nothing new and let running exchanges finish; False where some were left at the deadline."""
        self.draining = True
        if self._server is not None:
            self._server.close()
        for link in [link for link in self.links if link.stage is Stage.HEAD]:
            link.transport.close()
        deadline_s = self.clock() + timeout_s
        while self.exchanges and self.clock() < deadline_s:  # noqa: ASYNC110 - once in a life, no event to keep
            await asyncio.sleep(DRAIN_POLL_S)
        return not self.exchanges

    async def close(self) -> None:
        """Close everything at once; running exchanges end as CLIENT_GONE."""
        self.draining = True
        if self._sweeping is not None:
            self._sweeping.cancel()
        if self._server is not None:
            self._server.close()
        for link in list(self.links):
            link.transport.abort()
        self.pool.close()
        while self.links:  # noqa: ASYNC110 - connection_lost comes in the next rounds of the loop
            await asyncio.sleep(0)

    def stats(self) -> GatewayStats:
        """Count what is open."""
        return GatewayStats(
            len(self.links), self.exchanges, self.pool.idle, self.ledger.held_bytes, self.spoken.held_bytes
        )

    def sweep(self) -> None:
        """Close what is overdue."""
        now_s = self.clock()
        for link in [link for link in self.links if link.deadline_s <= now_s]:
            link.overdue()
        self.pool.sweep()

    def _sweep_later(self) -> None:
        self._sweeping = asyncio.get_running_loop().call_later(self.limits.sweep_s, self._sweep_on)

    def _sweep_on(self) -> None:
        try:
            self.sweep()
        finally:
            self._sweep_later()

    def error_id(self) -> bytes:
        """Return a request id for an answer to something that never became a step."""
        return b"saga-e%d" % next(self._errors)


DRAIN_POLL_S = 0.02


async def _close(_: web.BaseRequest, response: web.StreamResponse) -> None:
    response.force_close()
    if response.status != HTTPStatus.SWITCHING_PROTOCOLS:
        response.headers["Connection"] = "close"  # aiohttp has set its own before this signal


def close_after_reply(app: web.Application) -> None:
    """Make every reply of the fallback application say `Connection: close`."""
    app.on_response_prepare.append(_close)
